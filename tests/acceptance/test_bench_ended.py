"""The bench is ended by a signal to its process alone: it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_SECONDS = 60.0


def _started(directory: Path) -> bool:
    """The servers' first files are there: one of them is about to start, or has."""
    return any(directory.glob("wpp-bench-*/*/central/data"))


def _copying(directory: Path) -> bool:
    """`wpp-sync sync` runs, or is about to: its configuration is there."""
    return any(directory.glob("wpp-bench-*/*/sync-*.yaml"))


def _serving(directory: Path) -> bool:
    """The daemon runs, or is about to."""
    return any(directory.glob("wpp-bench-*/*/daemon-*.sock"))


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short name: the daemon's socket lies below."""
    with tempfile.TemporaryDirectory(prefix="wpp-ended-", dir="/tmp") as path:
        yield Path(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("measure", "moment"),
    [("whole-process", _started), ("whole-process", _copying), ("latency", _serving)],
    ids=["servers", "a program", "the daemon"],
)
def test_nothing_is_left(
    measure: str, moment: Callable[[Path], bool], number: signal.Signals, directory: Path
) -> None:
    bench = subprocess.Popen(
        [sys.executable, "-m", "bench", "--quick", "--only", measure],
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _until(lambda: moment(directory) or bench.poll() is not None)
        # Into whatever comes next: the moment itself is not the only one.
        time.sleep(0.1)
        bench.send_signal(number)
        bench.send_signal(number)  # as timeout(1) does: to the process, and to its group
        out, err = bench.communicate(timeout=_SECONDS)
    finally:
        bench.kill()
        bench.wait()
    assert bench.returncode == 128 + number
    assert (out, err.splitlines()) == ("", [f"{measure} …", f"ended by {number.name}"])
    assert not list(directory.glob("wpp-bench-*"))
    # A killed process is there until its new parent has buried it.
    _until(lambda: not _of(directory))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)


def _of(directory: Path) -> list[str]:
    """The processes whose command lines name the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(directory) in line:
            found.append(line)
    return found
