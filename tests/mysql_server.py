"""A private MySQL server beside the demo's MariaDB, by the same methods.

Its programs are those that `scripts/mysql` has unpacked into `.mysql/`; `missing()` says why there
are none. Everything that MariaDB's server class promises holds here too, with one exception:
`close()` kills, because MySQL takes more than a second to stop and nobody reads what it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from daemon.demo.server import HOST, PrivateServer, as_root, made_once, run_initialisation

HOME = Path(__file__).parents[1] / ".mysql"

# Written into the data directory; a server with another size would make its log anew at each start.
REDO_LOG_CAPACITY = "--innodb-redo-log-capacity=32M"
SERVER_OPTIONS = (
    f"--bind-address={HOST}",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--mysqlx=OFF",
    "--secure-file-priv=NULL",
    REDO_LOG_CAPACITY,
    "--innodb-flush-log-at-trx-commit=1",
    # No fsync, as MariaDB's here.
    "--innodb-flush-method=nosync",
    # What makes it small and quick: 215 MB instead of 350, and half a second until it answers.
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-buffer-size=1M",
    "--innodb-log-writer-threads=OFF",
    "--innodb-buffer-pool-load-at-startup=OFF",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
)

# `--initialize-insecure` makes root@localhost alone, without a password.
ACCOUNTS = f"""\
CREATE USER root@'{HOST}';
GRANT ALL ON *.* TO root@'{HOST}' WITH GRANT OPTION;
"""


def missing() -> str:
    """Why no MySQL server can be started here; empty where it can."""
    if (HOME / "ready").exists():
        return ""
    reason = HOME / "unavailable"
    return reason.read_text().strip() if reason.exists() else "run scripts/mysql"


def template(directory: Path) -> Path:
    """Return an initialised data directory inside `directory`, made by whoever asks first."""
    return made_once(directory / "mysql-template", _initialise)


def _initialise(directory: Path) -> None:
    accounts = directory.with_name(f"{directory.name}.sql")
    accounts.write_text(ACCOUNTS)
    command = [
        *_program(),
        "--initialize-insecure",
        f"--datadir={directory}",
        f"--init-file={accounts}",
        REDO_LOG_CAPACITY,
        # Else the system tablespace grows by 64 MB at once, and each copy with it.
        "--innodb-autoextend-increment=1",
        "--skip-log-bin",
        *as_root(),
    ]
    run_initialisation(command, directory)
    accounts.unlink()


def _program() -> tuple[str, ...]:
    """mysqld by the loader and the libraries that came with it, told where its own files lie."""
    root = HOME / "root"
    share = root / "usr/share/mysql"
    return (
        str(root / "usr/lib64/ld-linux-x86-64.so.2"),
        "--library-path",
        str(root / "usr/lib/x86_64-linux-gnu"),
        str(root / "usr/sbin/mysqld"),
        "--no-defaults",
        f"--lc-messages-dir={share}",
        f"--character-sets-dir={share / 'charsets'}",
        f"--plugin-dir={root / 'usr/lib/mysql/plugin'}",
    )


class MySQL(PrivateServer):
    """A private MySQL."""

    family = "MySQL"

    def _program(self) -> Sequence[str]:
        return (*_program(), *SERVER_OPTIONS)

    def _own_template(self) -> Path:
        return template(self.directory.parent)

    def close(self) -> None:
        """Kill the server for good and remove its socket. The data directory stays."""
        if self.running:
            self.kill()
        super().close()
