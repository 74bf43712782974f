"""The daemon as its operator meets it: a process, a socket, a port, signals and a log.

`DaemonProcess` runs the real `wpp-sync run` as a child; `run_cli` runs any other verb to its end.
A child never outlives the block that started it.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.request import urlopen

import yaml
from prometheus_client.parser import text_string_to_metric_families

COMMAND = (sys.executable, "-m", "daemon.cli")

# Seconds until a started daemon answers, and until a stopped one has left.
START_SECONDS = 15.0
STOP_SECONDS = 40.0

# Ends like the real command, and leaves the peak of its memory (kB) in the file it was told.
_MEASURED = """
import atexit, re, sys
def leave(path=sys.argv.pop(1)):
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)
    open(path, "w").write(peak)
atexit.register(leave)
from daemon.cli import main
main()
"""


class Answer(NamedTuple):
    """What came back from the control socket."""

    status: int
    body: dict[str, Any]
    content_type: str


class Sample(NamedTuple):
    """One value of /metrics."""

    labels: dict[str, str]
    value: float


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: ours, without what would choose another configuration."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WPP_")}
    return {**ours, **(extra or {})}


def run_cli(
    *arguments: str | Path,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run `wpp-sync` with these arguments to its end. Raises TimeoutExpired after `seconds`."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(environ),
        cwd=cwd,
        timeout=seconds,
    )


def peak_memory(*arguments: str | Path, note: Path, seconds: float = 100.0) -> float:
    """Run `wpp-sync` with these arguments, which must succeed; the peak of its memory in MB.

    `note` is a file that the child may write.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(note), *map(str, arguments)],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(),
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(note.read_text()) / 1024


def ask(path: Path, method: str, target: str, body: bytes | None = None) -> Answer:
    """One raw HTTP request to a unix socket. Raises OSError when nobody answers there."""
    connection = _UnixConnection(path)
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    return Answer(response.status, json.loads(content), response.getheader("Content-Type") or "")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("daemon", timeout=30.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class DaemonProcess:
    """One daemon with its configuration; may be started again after it ended.

    As a context manager it is started on entry, and killed on exit if it still runs. Whatever a
    test does to its surroundings, an error that nobody foresaw fails the test.
    """

    def __init__(self, config: Path, through: Sequence[str] = ()) -> None:
        """`through` is a command that becomes the one behind it."""
        document = yaml.safe_load(config.read_text())
        self.config = config
        self._through = tuple(through)
        self.socket = Path(document["control"]["socket"])
        self.log_file = self.socket.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self.log_file.exists():
            print(self.log_file.read_text()[-8000:])  # noqa: T201 - pytest shows it with a failure
        elif kind is None:
            assert self.logged("instance loop broke") == []
        if self.running:
            self.kill()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when its control socket answers."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._through, *COMMAND, "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(),
            )
        self.wait_until(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        assert self.running, f"the daemon ended by itself:\n{self.log_file.read_text()[-4000:]}"
        try:
            return self.request("GET", "/v1/status").status == 200
        except OSError:
            return False

    def stop(self) -> int:
        """TERM; its exit code."""
        self.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Kill -9, at whatever instruction it is."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """TERM, without waiting for the end."""
        self._send(signal.SIGTERM)

    def hup(self) -> None:
        self._send(signal.SIGHUP)

    def usr1(self) -> None:
        self._send(signal.SIGUSR1)

    def interrupt(self) -> None:
        """What Ctrl-C sends."""
        self._send(signal.SIGINT)

    def pause(self) -> None:
        """Freeze it: it keeps its connections and its lock, and does nothing."""
        self._send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def request(self, method: str, target: str, body: object = None) -> Answer:
        """One request to the control socket, `body` as JSON."""
        content = None if body is None else json.dumps(body).encode()
        return ask(self.socket, method, target, content)

    def status(self, instance: str = "nunes") -> dict[str, Any]:
        """What the control socket says of one instance."""
        answer = self.request("GET", f"/v1/instances/{instance}")
        assert answer.status == 200, answer
        return answer.body

    def state(self, instance: str = "nunes") -> str:
        """starting, idle, backoff, …"""
        return str(self.status(instance)["state"])

    def watermark(self, entity: str = "messages", instance: str = "nunes") -> int:
        """`last_synced_id` as the daemon tells it; -1 while it does not know, as in the moment when
        it takes an instance over."""
        told = self.entity(entity, instance)["last_synced_id"]
        return -1 if told is None else int(told)

    def entity(self, entity: str = "messages", instance: str = "nunes") -> dict[str, Any]:
        """One entity's part of the status."""
        parts = self.status(instance)["sync_state"]
        found: dict[str, Any] = next(part for part in parts if part["entity"] == entity)
        return found

    def metrics_text(self) -> str:
        """/metrics as it stands."""
        started = [event for event in self.log() if event["event"] == "started"]
        with urlopen(f"http://{started[-1]['http']}/metrics", timeout=10) as response:
            text: str = response.read().decode()
        return text

    def metrics(self) -> dict[str, list[Sample]]:
        """Every series of /metrics, by name."""
        found: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(self.metrics_text()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(Sample(sample.labels, sample.value))
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of that name with these labels."""
        return sum(
            sample.value
            for sample in self.metrics().get(name, [])
            if labels.items() <= sample.labels.items()
        )

    def log(self) -> list[dict[str, Any]]:
        """Everything logged since the first start, one dictionary an event.

        Every line must be JSON: a traceback or a stray print fails the test.
        """
        lines = self.log_file.read_text().splitlines(keepends=True)
        # The last line may be half written.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's events of that name."""
        return [line for line in self.log() if line["event"] == event]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 20.0) -> float:
        """Wait until the condition holds; how many seconds that took. Fails after `seconds`."""
        began = time.monotonic()
        while not condition():
            waited = time.monotonic() - began
            if waited > seconds:
                said = self.log_file.read_text()[-4000:]
                raise AssertionError(f"not within {seconds:g} s; the daemon's log:\n{said}")
            time.sleep(0.02)
        return time.monotonic() - began
