"""Other ways to copy an instance's messages, each as one would use it.

All of them write a table `messages` that is made like wpp_messages: the same columns and the same
indexes. What a rival prepares is not measured; what it runs is, as a whole process.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bench import processes, seed
from daemon.demo.server import program
from daemon.errors import WppSyncError

_ROOT = Path(__file__).resolve().parents[1]
_INSTALLED = _ROOT / ".rivals"

# Rows of one statement, or of one batch.
BATCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be copied: an instance's messages with `above` < id <= `last`."""

    central: seed.Server
    local: seed.Server
    instance: str
    last: int
    above: int = 0

    @property
    def where(self) -> str:
        return f"instance = '{self.instance}' AND id > {self.above} AND id <= {self.last}"


class Rival(ABC):
    """One way to do the job."""

    name: str
    what: str
    """The program or package that it is made of."""

    slow = False
    """Takes so long that it gets fewer rows and rounds."""

    @abstractmethod
    def why_not(self) -> str:
        """Why it cannot run here; empty if it can."""

    @abstractmethod
    def version(self) -> str:
        """Of `what`."""

    def prepare(self, job: Job, work: Path) -> None:  # noqa: B027 - most have nothing to prepare
        """What is there before the clock runs."""

    @abstractmethod
    def run(self, job: Job, work: Path) -> processes.Ran:
        """Do the job. Raises WppSyncError when that fails."""


class DumpPipe(Rival):
    name = "mariadb-dump | mariadb"
    what = "mariadb-dump"

    def why_not(self) -> str:
        return "" if _dump() else _unavailable("mariadb-dump is not installed")

    def version(self) -> str:
        return version_in(_first_line([str(_dump()), "--version"]))

    def run(self, job: Job, work: Path) -> processes.Ran:
        dump = [
            str(_dump()),
            *_client_options(job.central),
            *("--single-transaction", "--no-create-info", "--skip-triggers", "--replace"),
            f"--where={job.where}",
            str(job.central["database"]),
            "messages",
        ]
        pipe = f"set -o pipefail; {shlex.join(dump)} | {shlex.join(_client(job.local))}"
        return processes.run(["bash", "-c", pipe])


class UpsertFile(Rival):
    """The writing alone: the statements are there already."""

    name = "prepared upserts | mariadb"
    what = "mariadb"

    def why_not(self) -> str:
        return ""

    def version(self) -> str:
        return version_in(_first_line([program("mariadb"), "--version"]))

    def prepare(self, job: Job, work: Path) -> None:
        path = _statements(job, work)
        if path.exists():
            return
        # As the server quotes it: NULL, or a text between quotes.
        values = ", ',', ".join(f"QUOTE({name.strip()})" for name in seed.COLUMNS.split(","))
        sql = f"SELECT CONCAT('(', {values}, ')') FROM messages WHERE {job.where} ORDER BY id"
        rows = [line for (line,) in _raw(job.central, sql)]
        with path.open("w") as file:
            for first in range(0, len(rows), BATCH_ROWS):
                chunk = ",\n".join(rows[first : first + BATCH_ROWS])
                file.write(f"{upsert('messages')} VALUES\n{chunk}\n{ON_DUPLICATE};\n")

    def run(self, job: Job, work: Path) -> processes.Ran:
        command = f"{shlex.join(_client(job.local))} < {shlex.quote(str(_statements(job, work)))}"
        return processes.run(["bash", "-c", command])


class Afternoon(Rival):
    """What one would write in an afternoon: bench/afternoon.py."""

    name = "plain asyncmy loop"
    what = "asyncmy"

    def why_not(self) -> str:
        return ""

    def version(self) -> str:
        from importlib.metadata import version

        return version("asyncmy")

    def run(self, job: Job, work: Path) -> processes.Ran:
        told = json.dumps([dict(job.central), dict(job.local), job.instance, job.above, job.last])
        return processes.run([sys.executable, "-m", "bench.afternoon", told], cwd=_ROOT)


class Sling(Rival):
    name = what = "sling"
    slow = True

    def why_not(self) -> str:
        return "" if self._program() else _not_from_pypi("sling")

    def version(self) -> str:
        return _distribution_version("sling", "sling-linux-amd64")

    def run(self, job: Job, work: Path) -> processes.Ran:
        command = [
            str(self._program()),
            *("run", "--src-conn", _url("mariadb", job.central)),
            *("--src-stream", f"{job.central['database']}.messages", "--where", job.where),
            *("--tgt-conn", _url("mariadb", job.local)),
            *("--tgt-object", f"{job.local['database']}.messages"),
            *("--mode", "incremental", "--primary-key", "id", "--update-key", "id"),
        ]
        home = {"SLING_DISABLE_TELEMETRY": "true", "SLING_HOME_DIR": str(work / "sling")}
        return processes.run(command, home)

    def _program(self) -> Path | None:
        return next(
            _INSTALLED.glob("sling/lib/*/site-packages/sling_linux_amd64/bin/sling-*"), None
        )


class Dlt(Rival):
    """bench/dlt_copy.py."""

    name = what = "dlt"
    slow = True

    def why_not(self) -> str:
        return "" if self._installed() else _not_from_pypi("dlt")

    def version(self) -> str:
        return _distribution_version("dlt", "dlt")

    def run(self, job: Job, work: Path) -> processes.Ran:
        told = json.dumps(
            {
                "central": _url("mysql+pymysql", job.central),
                "local": _url("mysql+pymysql", job.local),
                "dataset": job.local["database"],
                "instance": job.instance,
                "above": job.above,
                "last": job.last,
                "pipelines": str(work / "dlt"),
            }
        )
        script = str(Path(__file__).with_name("dlt_copy.py"))
        quiet = {"RUNTIME__DLTHUB_TELEMETRY": "false", "HOME": str(work)}
        return processes.run([str(_INSTALLED / "dlt/bin/python"), script, told], quiet, cwd=work)

    def _installed(self) -> bool:
        return (_INSTALLED / "dlt/.installed").exists()


RIVALS: tuple[Rival, ...] = (DumpPipe(), UpsertFile(), Afternoon(), Sling(), Dlt())


def version_in(said: str) -> str:
    """The version of MariaDB in what a client of its says of itself; all of it without one."""
    found = re.search(r"\d+\.\d+\.\d+-MariaDB[^\s,]*", said)
    return found[0] if found else said


def upsert(table: str) -> str:
    return f"INSERT INTO {table} ({seed.COLUMNS})"


ON_DUPLICATE = "ON DUPLICATE KEY UPDATE " + ", ".join(
    f"{name} = VALUES({name})" for name in map(str.strip, seed.COLUMNS.split(",")) if name != "id"
)


def _dump() -> Path | None:
    found = shutil.which("mariadb-dump")
    own = _INSTALLED / "root/usr/bin/mariadb-dump"
    return Path(found) if found else own if own.exists() else None


def _unavailable(otherwise: str) -> str:
    try:
        return (_INSTALLED / "unavailable").read_text().strip()
    except FileNotFoundError:
        return otherwise


def _not_from_pypi(name: str) -> str:
    log = _INSTALLED / name / "log"
    said = log.read_text().strip().splitlines() if log.exists() else []
    return said[-1] if said else f"{name} is not in .rivals/: run ./scripts/rivals"


def _statements(job: Job, work: Path) -> Path:
    return work / f"upserts-{job.instance}-{job.above}-{job.last}.sql"


def _client(server: seed.Server) -> list[str]:
    return [program("mariadb"), *_client_options(server), str(server["database"])]


def _client_options(server: seed.Server) -> tuple[str, ...]:
    return (
        "--no-defaults",
        "--default-character-set=utf8mb4",
        "--protocol=tcp",
        f"--host={server['host']}",
        f"--port={server['port']}",
        f"--user={server['user']}",
    )


def _raw(server: seed.Server, sql: str) -> list[list[str]]:
    """What a statement answers, its backslashes as they are."""
    command = [*_client(server), "--batch", "--raw", "--skip-column-names", f"--execute={sql}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [[line] for line in done.stdout.splitlines()]


def _url(scheme: str, server: seed.Server) -> str:
    user, password = quote(str(server["user"])), quote(str(server["password"]))
    name = f"{user}:{password}" if password else user
    return f"{scheme}://{name}@{server['host']}:{server['port']}/{server['database']}"


def _distribution_version(environment: str, package: str) -> str:
    pattern = f"{environment}/lib/*/site-packages/{package.replace('-', '_')}-*.dist-info"
    found = next(_INSTALLED.glob(pattern), None)
    if found is None:
        raise WppSyncError(f"{package} is not in .rivals/")
    return found.name.removesuffix(".dist-info").rpartition("-")[2]


def _first_line(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0].strip()
