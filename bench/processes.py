"""Programs under measurement: one that runs to its end, and the daemon."""

from __future__ import annotations

import http.client
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from daemon.client import Client, instance_path
from daemon.errors import DaemonUnreachableError, NoDaemonError, WppSyncError

WPP_SYNC = (sys.executable, "-m", "daemon.cli")

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.02
_STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that has run to its end, with all that it started."""

    seconds: float
    peak_mb: float
    """The sum of its processes' peaks."""

    said: str


def run(
    command: Sequence[str], environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Ran:
    """Run it to its end. Raises WppSyncError with the end of what it said unless it ends with 0."""
    peaks: dict[int, float] = {}
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(environ),
            cwd=cwd,
            # A group of its own, which is ended as a whole when the bench is.
            start_new_session=True,
        ) as process:
            try:
                while not _ended(process.pid, _LOOK_SECONDS):
                    for pid in _family(process.pid):
                        peaks[pid] = max(_peak_mb(pid), peaks.get(pid, 0.0))
                seconds = time.monotonic() - began
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        output.seek(0)
        said = output.read()
    text = said.decode(errors="replace")
    if process.returncode != 0:
        last = "\n".join(text.strip().splitlines()[-5:])
        raise WppSyncError(f"{Path(command[0]).name} ended with {process.returncode}: {last}")
    return Ran(seconds, sum(peaks.values()), text)


def _ended(pid: int, seconds: float) -> bool:
    """Whether a child has ended, at the moment when it does, or not within these seconds."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Ours, without what would choose another configuration, or have Python compile all its modules
    each time: whoever has installed them finds them compiled."""
    left_out = ("WPP_", "PYTHONDONTWRITEBYTECODE")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**ours, **(more or {})}


def _family(pid: int) -> list[int]:
    """A process and its descendants, as far as they live."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in children for each in _family(int(child)))]


def _peak_mb(pid: int) -> float:
    return _status_mb(pid, "VmHWM")


def _status_mb(pid: int, key: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # A process that has ended and was not asked for its status has no memory any more.
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), 0.0)


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def write_config(
    path: Path,
    central: Mapping[str, object],
    instances: Mapping[str, Mapping[str, object]],
    **more: object,
) -> Path:
    """A configuration with everything else at its default."""
    document = {
        "central": dict(central),
        "instances": {name: dict(local) for name, local in instances.items()},
        "control": {"socket": str(path.with_suffix(".sock"))},
        "http": {"listen": "127.0.0.1:0"},
        **more,
    }
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    return path


class Daemon:
    """`wpp-sync run`; started on entry, ended with TERM on exit."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.client = Client(Path(yaml.safe_load(config.read_text())["control"]["socket"]))
        self._log = config.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*WPP_SYNC, "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(None),
                # A Ctrl-C at the terminal is for the bench, which ends it once.
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._running()
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        return self._running().pid

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def resident_mb(self) -> float:
        return _status_mb(self.pid, "VmRSS")

    def peak_mb(self) -> float:
        return _peak_mb(self.pid)

    def get(self, target: str) -> bytes:
        """A page of its TCP port."""
        host, _, port = str(self.client.alive()["http"]).rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("GET", target)
            return connection.getresponse().read()
        finally:
            connection.close()

    def metric(self, name: str, label: str = "") -> float:
        """The sum of the series of that name; `label` stands in their labels."""
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.get("/metrics").decode().splitlines()
            if line.startswith((f"{name} ", f"{name}{{")) and label in line
        )

    def instances(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/v1/status", timeout=60)["instances"]
        return found

    def wait_until_idle(self, seconds: float = 600.0) -> float:
        """Wait until all instances are; how long that took.

        One that is not is asked for alone: the status of a thousand takes the daemon longer than
        starting several of them, and would be most of what is measured.
        """
        waited_for = ""

        def idle() -> bool:
            nonlocal waited_for
            try:
                if waited_for and self.client.get(instance_path(waited_for))["state"] != "idle":
                    return False
                waiting = [each for each in self.instances() if each["state"] != "idle"]
            except (NoDaemonError, DaemonUnreachableError):
                return False  # not up yet
            waited_for = waiting[-1]["instance"] if waiting else ""
            return not waiting

        return self.wait_until(idle, seconds, every=0.1)

    def wait_until(
        self, condition: Callable[[], bool], seconds: float = 60.0, every: float = 0.02
    ) -> float:
        """How long it took. Raises WppSyncError when it takes too long, or the daemon ends."""
        began = time.monotonic()
        while not condition():
            if self._running().poll() is not None or time.monotonic() - began > seconds:
                said = self._log.read_text(errors="replace").splitlines()[-5:]
                raise WppSyncError(
                    "\n".join([f"the daemon is not so far in {seconds:g} s:", *said])
                )
            time.sleep(every)
        return time.monotonic() - began

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise WppSyncError("the daemon was not started")
        return self._process
