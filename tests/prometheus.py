"""A private Prometheus, started in a fraction of a second and never left behind; and its promtool.

Their programs are those that `scripts/prometheus` has unpacked into `.prometheus/`; `missing()`
says why there are none, and `needs_prometheus` skips the tests that cannot do without.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from daemon.demo.server import DIE_WITH_PARENT, HOST

HOME = Path(__file__).parents[1] / ".prometheus"
NO_PROMETHEUS = "there is no Prometheus"
JOB = "wpp-sync"

# Seconds until a started one answers, and until a stopped one has left.
START_SECONDS = 20.0
STOP_SECONDS = 10.0

# How many ports are tried when others take them before it does.
PORT_ATTEMPTS = 5


def missing() -> str:
    """Why no Prometheus can be started here; empty where it can."""
    if (HOME / "ready").exists():
        return ""
    reason = HOME / "unavailable"
    return reason.read_text().strip() if reason.exists() else "run scripts/prometheus"


needs_prometheus = pytest.mark.skipif(
    bool(missing()), reason=f"{NO_PROMETHEUS}: {missing() or 'it is there'}"
)


def _program(name: str) -> str:
    return str(HOME / "root/usr/bin" / name)


def promtool(
    *arguments: str | Path, said: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run promtool to its end; `said` is its standard input."""
    return subprocess.run(
        [_program("promtool"), *map(str, arguments)],
        check=False,
        capture_output=True,
        input=said,
        text=True,
        cwd=cwd,
        timeout=60,
    )


class Prometheus:
    """One Prometheus that scrapes these targets (host:port) as the job `wpp-sync`.

    As a context manager it is started on entry and ended on exit. `directory` is its own, and
    whoever made it removes it. Rules are evaluated as often as targets are scraped.
    """

    def __init__(
        self,
        directory: Path,
        targets: Sequence[str],
        rules: Sequence[Path] = (),
        scrape_interval: str = "1s",
    ) -> None:
        self._address = ""
        self._log_file = directory / "prometheus.log"
        self._data = directory / "data"
        self._config = directory / "prometheus.yml"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        document = {
            "global": {
                "scrape_interval": scrape_interval,
                "scrape_timeout": scrape_interval,
                "evaluation_interval": scrape_interval,
            },
            "rule_files": [str(path.absolute()) for path in rules],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": list(targets)}]}],
        }
        self._config.write_text(yaml.safe_dump(document))

    @property
    def url(self) -> str:
        return f"http://{self._address}"

    def __enter__(self) -> Self:
        for _ in range(PORT_ATTEMPTS):
            if self._start():
                return self
        raise AssertionError(f"Prometheus does not start:\n{self._said()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # --- asking -----------------------------------------------------------------------------------

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What the expression is now: `[{"metric": {…}, "value": [time, "1"]}, …]`."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def wait_for(self, expression: str, seconds: float) -> list[dict[str, Any]]:
        """What the expression is, once it is anything at all. Fails after `seconds`."""
        return self._wait(lambda: self.query(expression), seconds, expression)

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are pending or firing: labels, annotations, state, value."""
        found: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return found

    def _get(self, what: str, **arguments: str) -> dict[str, Any]:
        try:
            with urlopen(
                f"http://{self._address}/api/v1/{what}?{urlencode(arguments)}", timeout=30
            ) as answer:
                document: Mapping[str, Any] = json.load(answer)
        except HTTPError as error:
            with error:
                raise AssertionError(f"{arguments}: {error.read().decode()}") from None
        data: dict[str, Any] = document["data"]
        return data

    def _wait(
        self, look: Callable[[], list[dict[str, Any]]], seconds: float, what: str
    ) -> list[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < deadline, f"nothing within {seconds:g} s: {what}"
            time.sleep(0.1)
        return found

    # --- starting ---------------------------------------------------------------------------------

    def _start(self) -> bool:
        """False when it ended, because somebody took its port or otherwise."""
        with socket.socket() as free:
            free.bind((HOST, 0))
            self._address = f"{HOST}:{free.getsockname()[1]}"
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    # It dies with us, however we do.
                    *(sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid())),
                    _program("prometheus"),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._data}",
                    f"--web.listen-address={self._address}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "GOMAXPROCS": "1"},
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None:
            if self._ready():
                return True
            if time.monotonic() > deadline:
                self._process.kill()
                self._process.wait()
            time.sleep(0.05)
        return False

    def _ready(self) -> bool:
        try:
            with urlopen(f"http://{self._address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _said(self) -> str:
        return self._log_file.read_text()[-4000:]
