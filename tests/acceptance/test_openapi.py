"""The control socket against its own description, with whatever schemathesis makes of it; and what
no client would send."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok

from tests import mirror
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]


class Forwarder(threading.Thread):
    """A TCP port that leads to a Unix socket, one connection after the other or beside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(str(self._path))
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
            back.start()
            self._pump(near, far)
            back.join()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._server.close()


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    forwarder = Forwarder(path)
    forwarder.start()
    try:
        yield forwarder.url
    finally:
        forwarder.close()


@pytest.fixture
def daemon(databases: Databases, write_config: WriteConfig) -> Iterator[DaemonProcess]:
    """One that copies a little, and has been asked nothing."""
    mirror.insert_messages(databases.central, range(1, 30))
    instances = {"nunes": databases.local}
    config = write_config(databases.central, instances, defaults={"poll_interval": "100ms"})
    with DaemonProcess(config) as running:
        running.wait_until(lambda: running.state() == "idle")
        yield running
        running.request("POST", "/v1/instances/nunes/resume", {})
        running.wait_until(lambda: running.state() == "idle")
        assert running.logged("request failed") == []


def test_the_description_names_every_verb(daemon: DaemonProcess) -> None:
    described = daemon.request("GET", "/v1/openapi.json").body
    verbs = {
        f"{method.upper()} {path}"
        for path, item in described["paths"].items()
        for method in item
        if method in {"get", "post"}
    }
    assert len(verbs) == 16
    for verb in verbs:
        method, path = verb.split()
        target = path.replace("{instance}", "nobody")
        answer = daemon.request(method, target, {} if method == "POST" else None)
        assert answer.status == (404 if "{instance}" in path else 200), verb


@pytest.mark.timeout(300)
def test_the_daemon_keeps_to_its_description(daemon: DaemonProcess) -> None:
    described = daemon.request("GET", "/v1/openapi.json").body
    # Most of what is made up should get past the name.
    name = described["components"]["parameters"]["Instance"]
    name["schema"] = {"anyOf": [{"enum": ["nunes"]}, {"type": "string", "minLength": 1}]}
    schema = schemathesis.openapi.from_dict(described)
    examples = settings(
        max_examples=25,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    asked: list[str] = []
    with reachable(daemon.socket) as url:
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()

            @examples
            @given(case=operation.as_strategy())
            def keeps(case: Any) -> None:
                asked.append(case.operation.label)
                case.call_and_validate(base_url=url)

            keeps()
    assert len(set(asked)) == 16


def test_a_fuzzed_socket_takes_nothing_down(daemon: DaemonProcess) -> None:
    draw = random.Random(5)
    starts = [
        b"POST /v1/instances/nunes/sync HTTP/1.1\r\nHost: d\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: d\r\n\r\n",
        b"POST /v1/instances/nunes/pause HTTP/1.1\r\nHost: d\r\nContent-Length: 9999999\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/instances/" + b"n" * 9000 + b"/sync HTTP/1.1\r\n\r\n",
        b"POST /v1/instances/%ff%00%c3/reset HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/instances/nunes/reset HTTP/1.1\r\nHost: d\r\nContent-Length: 40000\r\n\r\n"
        + b"[" * 40000,
        b"",
    ]
    for number in range(300):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.2)
            client.connect(str(daemon.socket))
            begin = draw.choice(starts)
            if draw.random() < 0.5:
                begin = begin[: draw.randrange(len(begin) + 1)]
            with suppress(OSError):
                client.sendall(begin + draw.randbytes(draw.choice([0, 3, 500])))
                if number % 3:
                    client.recv(4096)
    assert daemon.request("GET", "/v1/alive").status == 200
    assert daemon.state() == "idle"
