"""What the service manager is told, and that it is told while its socket is full."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.systemd import EXTEND, Notifier, heartbeat


@pytest.mark.parametrize(
    ("stalled", "migrating", "finishing", "expected"),
    [
        ([], [], False, ["STATUS=2 instances: 2 idle", "WATCHDOG=1"]),
        ([], ["ALTER …"], False, ["STATUS=migrating ALTER …", "WATCHDOG=1", EXTEND]),
        ([], [], True, ["STATUS=2 instances: 2 idle", "WATCHDOG=1", EXTEND]),
        (["nunes"], [], False, ["STATUS=stalled: nunes"]),
        (["nunes"], ["ALTER …"], False, ["STATUS=stalled: nunes"]),
        # The others' batches are waited for: sync.shutdown_timeout bounds it, nothing else.
        (["nunes"], [], True, ["STATUS=stalled: nunes", EXTEND]),
    ],
)
def test_what_a_heartbeat_says(
    stalled: list[str], migrating: list[str], finishing: bool, expected: list[str]
) -> None:
    states = ["idle", "idle"]
    told = heartbeat(
        watched=True, states=states, stalled=stalled, migrating=migrating, finishing=finishing
    )
    assert told == expected


class Full:
    """The manager's socket, with no room for another message."""

    def __init__(self, path: Path) -> None:
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.bind(str(path))
        self.before = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            filler.connect(str(path))
            while True:
                try:
                    filler.send(b"STATUS=of others")
                except BlockingIOError:
                    break
                self.before += 1

    def drain(self) -> list[str]:
        """What had come in."""
        self.receiver.setblocking(False)
        found = []
        while True:
            try:
                found.append(self.receiver.recv(65536).decode())
            except BlockingIOError:
                return found[self.before :]


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wpp-", dir="/tmp") as directory:
        yield Path(directory) / "notify"


@pytest.mark.parametrize("line", ["READY=1", "RELOADING=1", "STOPPING=1"])
def test_what_the_manager_waits_for_waits_for_room(path: Path, line: str) -> None:
    full = Full(path)
    with full.receiver:
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        # Room for one, a moment later.
        later = threading.Timer(0.3, full.receiver.recv, [65536])
        later.start()
        notifier.tell(line)
        later.join()
        full.before -= 1
        assert full.drain() == [line]


def test_nobody_waits_long_for_a_manager(path: Path) -> None:
    full = Full(path)
    with full.receiver:
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        began = time.monotonic()
        notifier.tell("WATCHDOG=1")
        assert time.monotonic() - began < 0.5, "it is said again soon"
        notifier.tell("READY=1")
        assert 0.9 < time.monotonic() - began < 5
        assert full.drain() == []
    notifier.tell("READY=1")  # nobody is there any more
