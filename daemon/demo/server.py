"""A private server: started in a tenth of a second, killed at will, never left behind.

The demo and the tests run real servers. Each has its own data directory (a copy of a template that
is initialised once), its own loopback port and its own unix socket, all three kept over restarts.
The kernel kills it when the process that started it dies, however that happens. It reads no
configuration file of the machine and is only ever ended by its process id.

Commits survive `kill()`: the redo log is handed to the operating system at every commit. They would
not survive a power cut, because the disk is not waited for; nothing here needs that.

`MariaDB` is the one that the demo needs. What is not its own is in `PrivateServer`, so that tests
can have another family's servers by the same methods.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from daemon.errors import WppSyncError

HOST = "127.0.0.1"

# Seconds a server may take until it accepts connections; a recovery after a kill is part of it.
START_TIMEOUT = 30.0

# Seconds a server may take to stop by itself before it is killed.
STOP_TIMEOUT = 30.0

# How many ports are tried when others take them before the server does.
PORT_ATTEMPTS = 5

# Seconds one `execute` may take.
CLIENT_TIMEOUT = 600.0

# What every server is started with. The log file size must be the template's own.
INNODB_LOG_FILE_SIZE = "--innodb-log-file-size=16M"
SERVER_OPTIONS = (
    f"--bind-address={HOST}",
    "--skip-networking=0",
    # Without it, every first connection waits for a name server.
    "--skip-name-resolve",
    "--performance-schema=0",
    "--innodb-buffer-pool-size=64M",
    INNODB_LOG_FILE_SIZE,
    "--innodb-flush-log-at-trx-commit=1",
    # No fsync: written pages are the kernel's, and the kernel outlives the process. The doublewrite
    # buffer stays on, because a SIGKILL can tear one 16 KiB page write.
    "--innodb-flush-method=nosync",
)

# Lines of an error log that a healthy server never writes.
CRASH_MARKS = ("got signal", "Assertion failure")

INSTALL_HINT = "install MariaDB: apt-get install mariadb-server-core mariadb-client-core"

# `mariadb-install-db` makes root@localhost, depending on its version some more, and an anonymous
# account that would shadow accounts with the host '%'.
ACCOUNTS = f"""\
DELETE FROM mysql.global_priv WHERE User = '';
REPLACE INTO mysql.global_priv
    SELECT '{HOST}', User, Priv FROM mysql.global_priv WHERE User = 'root' AND Host = 'localhost';
"""

# The new process asks the kernel to be killed together with its parent (1 is PR_SET_PDEATHSIG),
# makes sure that the parent did not die before it could ask, and becomes the server.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

# "Parent" means the parent's *thread* to the kernel. All servers are therefore started by one
# thread that lives as long as the process, whichever thread asks for it.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mariadb-spawner")


def program(name: str) -> str:
    """Return the path of one of MariaDB's programs, also where /usr/sbin is not in the PATH.

    Raises WppSyncError when it is not installed.
    """
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=places)
    if found is None:
        raise WppSyncError(f"{name} is not installed", hint=INSTALL_HINT, code="not_installed")
    return found


def template(directory: Path) -> Path:
    """Return an initialised data directory inside `directory`, made by whoever asks first.

    Processes that ask at the same time wait for one another. Raises WppSyncError when MariaDB is
    not installed or the initialisation fails.
    """
    return made_once(directory / "mariadb-template", _initialise)


def made_once(ready: Path, initialise: Callable[[Path], None]) -> Path:
    """Return `ready`, a directory that `initialise` makes for whoever asks first; the others wait.

    It is given a path beside `ready`, and the result is renamed: it is there whole or not.
    """
    ready.parent.mkdir(parents=True, exist_ok=True)
    with ready.with_name(f"{ready.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            unfinished = ready.with_name(f"{ready.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            initialise(unfinished)
            unfinished.rename(ready)
    return ready


def _initialise(directory: Path) -> None:
    accounts = directory.with_name(f"{directory.name}.sql")
    accounts.write_text(ACCOUNTS)
    command = [
        program("mariadb-install-db"),
        "--no-defaults",
        f"--datadir={directory}",
        f"--extra-file={accounts}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        INNODB_LOG_FILE_SIZE,
        *as_root(),
    ]
    run_initialisation(command, directory)
    accounts.unlink()


def run_initialisation(command: Sequence[str], directory: Path) -> None:
    """Run what fills an empty data directory. Raises WppSyncError with the end of what it says."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # See PrivateServer on temporary tables.
        env={**os.environ, "TMPDIR": str(directory.parent)},
    )
    if done.returncode != 0:
        said = done.stdout.decode(errors="backslashreplace")
        raise WppSyncError(
            f"{Path(command[0]).name} failed in {directory}:\n{_last_lines(said)}",
            hint="is there room on the disk, and may this user write there?",
            code="demo_server",
        )


def client(config: Mapping[str, object], sql: str, *options: str) -> bytes:
    """Run SQL with the `mariadb` command-line client and return what it printed (--batch).

    `config` holds user and password, socket or host and port, and optionally database: what
    `MariaDB.config` returns. Raises WppSyncError with the client's message when a statement fails.
    """
    command = [
        program("mariadb"),
        "--no-defaults",
        "--default-character-set=utf8mb4",
        "--batch",
        # The statements contain whatever the rows contain; nothing in them is a client command.
        "--binary-mode",
        # A private server is on this machine; for TLS, every client reads all certificates anew.
        "--skip-ssl",
        f"--user={config['user']}",
        *options,
    ]
    if config.get("socket"):
        command += ["--protocol=socket", f"--socket={config['socket']}"]
    else:
        command += ["--protocol=tcp", f"--host={config['host']}", f"--port={config['port']}"]
    if config.get("database"):
        command.append(f"--database={config['database']}")
    # Not on the command line, where every user of the machine can read it.
    environ = {**os.environ, "MYSQL_PWD": str(config.get("password", ""))}
    try:
        done = subprocess.run(
            command,
            check=False,
            input=sql.encode(),
            capture_output=True,
            env=environ,
            timeout=CLIENT_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise WppSyncError(
            f"the mariadb client did not finish within {CLIENT_TIMEOUT:.0f} s", code="demo_server"
        ) from None
    if done.returncode != 0:
        # Before its message the client repeats the whole statement, which may be megabytes long.
        said = "\n" + done.stderr.decode(errors="backslashreplace").strip()
        message = said.rpartition("\nERROR ")[2].strip()
        raise WppSyncError(f"the mariadb client failed: {message}", code="demo_server")
    return done.stdout


class PrivateServer(ABC):
    """One private server. `directory` is its own; whoever made it removes it after `close()`.

    Usable as a context manager: started on entry, stopped on exit. The methods block for the
    fraction of a second that a server needs; they may be called from any thread, one at a time.
    """

    family: str
    """What the server is called in messages: MariaDB."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        options: Sequence[str] = (),
        template: Path | None = None,
    ) -> None:
        """`options` are further arguments of the server and win over its class's own.

        `template` is an initialised data directory; without it, servers in sibling directories
        share one in their parent directory.
        """
        self.name = name
        self.directory = directory
        self.datadir = directory / "data"
        self.error_log = directory / "error.log"
        # A server that starts deletes whatever looks like a temporary table in there: in /tmp,
        # other servers' too, in the middle of their queries.
        self._temporary = directory / "tmp"
        self._options = tuple(options)
        self._template = template
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._ended_by_itself = ""
        # The path of a unix socket may have 107 bytes; a test's directory is often longer.
        self._socket_directory = Path(tempfile.mkdtemp(prefix="wpp-", dir="/tmp"))
        self._tidy = weakref.finalize(
            self, shutil.rmtree, self._socket_directory, ignore_errors=True
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _program(self) -> Sequence[str]:
        """The server's program with the options that its family needs, `--no-defaults` first."""

    @abstractmethod
    def _own_template(self) -> Path:
        """An initialised data directory beside the server's own, made if need be."""

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused server is running too."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id. Raises WppSyncError when it does not run."""
        return self._running_process().pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; known from the first start on, and kept."""
        return self._port

    @property
    def socket(self) -> Path:
        """The unix socket's path; shorter than 100 characters, and kept."""
        return self._socket_directory / "s"

    def start(self) -> None:
        """Start the server and return when it accepts connections; does nothing if it runs.

        Raises WppSyncError with the last lines of its error log when it does not come up.
        """
        if self.running:
            return
        if not self.datadir.exists():
            self._copy_template()
        # A port that was given away already (in a config file, say) is not changed any more.
        keep_port = self._port != 0
        for attempt in count(1):
            if not keep_port:
                self._port = _free_port()
            try:
                self._start_once()
                return
            except WppSyncError as error:
                # Somebody else may have taken the port after we looked.
                taken = "Address already in use" in error.message
                if keep_port or not taken or attempt == PORT_ATTEMPTS:
                    raise

    def stop(self) -> None:
        """Shut the server down cleanly, or kill it if that takes too long."""
        process = self._process
        if process is None or process.poll() is not None:
            self._note_end()
            return
        process.terminate()
        # A paused server acts on a SIGTERM only once it is woken.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def kill(self) -> None:
        """Kill -9: what a crash of the server looks like."""
        process = self._running_process()
        process.kill()
        process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop cleanly and start again, on the same port and socket."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): the kernel goes on accepting, and nobody answers."""
        process = self._running_process()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._running_process().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the server for good and remove its socket. The data directory stays."""
        self.stop()
        self._tidy()

    def execute(self, sql: str, database: str = "") -> str:
        """Run statements as root in the `mariadb` client and return its tab-separated output.

        For setting things up and looking at them. Raises WppSyncError when a statement fails.
        """
        config: dict[str, object] = {"socket": self.socket, "user": "root", "database": database}
        try:
            return client(config, sql).decode(errors="backslashreplace")
        except WppSyncError as error:
            raise WppSyncError(f"{self.name}: {error.message}", code=error.code) from None

    def create_database(self, database: str) -> dict[str, object]:
        """Create an empty database with the server's own character set; return its `config`."""
        quoted = database.replace("`", "``")
        self.execute(f"CREATE DATABASE `{quoted}`")
        return self.config(database)

    def config(self, database: str, user: str = "root", password: str = "") -> dict[str, object]:
        """Return how to reach `database`, by the keys of a server in config.yaml."""
        return {
            "host": HOST,
            "port": self.port,
            "database": database,
            "user": user,
            "password": password,
        }

    def crashes(self) -> list[str]:
        """Return what the server should not have done: crash lines of its log, ends of its own."""
        self._note_end()
        log = self.error_log.read_text(errors="replace") if self.error_log.exists() else ""
        found = [line for line in log.splitlines() if any(mark in line for mark in CRASH_MARKS)]
        return [*found, self._ended_by_itself] if self._ended_by_itself else found

    def _copy_template(self) -> None:
        source = self._template or self._own_template()
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        # cp clones where the file system can, which shutil does not.
        command = ["cp", "-a", "--reflink=auto", str(source), str(unfinished)]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode != 0:
            said = done.stderr.decode(errors="backslashreplace").strip()
            raise WppSyncError(
                f"cannot copy the empty database of {self.name}: {said}",
                hint="is there room on the disk?",
                code="demo_server",
            )
        unfinished.rename(self.datadir)

    def _start_once(self) -> None:
        self._note_end()
        self._temporary.mkdir(exist_ok=True)
        log_before = self.error_log.stat().st_size if self.error_log.exists() else 0
        command = [
            *self._program(),
            *as_root(),
            f"--datadir={self.datadir}",
            f"--tmpdir={self._temporary}",
            f"--socket={self.socket}",
            f"--port={self._port}",
            f"--pid-file={self.directory / 'pid'}",
            f"--log-error={self.error_log}",
            *self._options,
        ]
        process = _spawner.submit(_spawn, command).result()
        self._process = process
        deadline = time.monotonic() + START_TIMEOUT
        while not self._greets():
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
                continue
            if process.poll() is None:
                process.kill()
            process.wait()
            self._process = None
            with contextlib.suppress(FileNotFoundError), self.error_log.open("rb") as log:
                log.seek(log_before)
                said = log.read().decode(errors="backslashreplace")
                raise WppSyncError(
                    f"the {self.family} server {self.name} does not start:\n{_last_lines(said)}",
                    hint=f"its whole log is {self.error_log}",
                    code="demo_server",
                )
            raise WppSyncError(
                f"the {self.family} server {self.name} ended with status {process.returncode} "
                "and wrote no log",
                hint=f"may this user run {command[0]} and write to {self.directory}?",
                code="demo_server",
            )

    def _greets(self) -> bool:
        """Whether the server sends its greeting; connecting alone proves only a kernel."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket))
                return probe.recv(1) != b""
            except OSError:
                return False

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise WppSyncError(
                f"the {self.family} server {self.name} does not run",
                hint=f"its log is {self.error_log}",
                code="demo_server",
            )
        return self._process

    def _note_end(self) -> None:
        """Keep for `crashes()` that the process ended although nobody here ended it."""
        if self._process is not None and self._process.poll() is not None:
            self._ended_by_itself = f"{self.name} ended with status {self._process.returncode}"
            self._process = None


class MariaDB(PrivateServer):
    """A private MariaDB."""

    family = "MariaDB"

    def _program(self) -> Sequence[str]:
        return (program("mariadbd"), "--no-defaults", *SERVER_OPTIONS)

    def _own_template(self) -> Path:
        return template(self.directory.parent)


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    wrapped = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
    return subprocess.Popen(
        wrapped,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A Ctrl-C at the terminal is for the demo, which then stops its servers in order.
        start_new_session=True,
    )


def _free_port() -> int:
    """Return a free port below those that the kernel gives to outgoing connections.

    Otherwise a client's connection could take the port while its server is down.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    highest = int(limits[0]) - 1
    lowest = min(10_000, highest - 1_000)
    # Not the seeded generator of the process: two processes must not draw the same ports.
    draw = random.SystemRandom()
    for _ in range(200):
        port = draw.randint(lowest, highest)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise WppSyncError(f"no free TCP port between {lowest} and {highest}", code="demo_server")


def as_root() -> tuple[str, ...]:
    """The option without which a server refuses to run as root."""
    return ("--user=root",) if os.geteuid() == 0 else ()


def _last_lines(text: str, count: int = 15) -> str:
    return "\n".join(text.rstrip().splitlines()[-count:])
