"""Lives that end by SIGKILL at a chosen point: see `tests.sweep_child`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon_process import environment

Live = Callable[[int], str]


@contextmanager
def lives(config: Path, life: str) -> Iterator[Live]:
    """A function that has a process live, and die at a point (-1: not); it returns how it ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.sweep_child", str(config), life],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment(), text=True,
    ) as process:  # fmt: skip

        def live(die_at: int) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{die_at}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield live
        assert process.stdin is not None
        process.stdin.close()
