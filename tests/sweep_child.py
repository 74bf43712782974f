"""The process that the kill sweep kills: lives a life and dies at a given point.

    python -m tests.sweep_child CONFIG copy|migrate

For each line on standard input, a number, it forks a child that dies by SIGKILL at that point of
its life (-1: it lives to the end), and answers with a line: how the child ended, and at how many
points it came by. Forking is what makes a sweep of a thousand deaths short: all is imported once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog

from tests import scenario
from tests.suspensions import Suspensions


async def _migrate(config: Path) -> None:
    """Migrate and leave."""
    async with scenario.parts(config) as built:
        await built.instances["nunes"].migrate(asyncio.Event())


LIVES = {"copy": scenario.live_once, "migrate": _migrate}


async def _live(life: str, config: Path, die_at: int) -> int:
    def reached(number: int, _waits_for: object) -> None:
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    points = Suspensions(reached)
    points.watch(asyncio.get_running_loop())
    # A task of its own: this one was made before anybody counted.
    await asyncio.get_running_loop().create_task(LIVES[life](config))
    return points.count


def _fork(life: str, config: Path, die_at: int) -> str:
    """Runs one life in a child; `killed 0` or `lived <points>`, else how it failed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, str(asyncio.run(_live(life, config, die_at))).encode())
        except BaseException as error:  # noqa: BLE001 - told to the test, as all of it
            os.write(writing, f"{type(error).__name__}: {error}".encode()[:4000])
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = " ".join(answer.read().split())
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"killed {0 if os.WTERMSIG(status) == signal.SIGKILL else os.WTERMSIG(status)}"
    return f"{'lived' if os.WEXITSTATUS(status) == 0 else 'failed'} {said}"


def main() -> None:
    """Answer until there are no more questions."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    config = Path(sys.argv[1])
    for line in sys.stdin:
        print(_fork(sys.argv[2], config, int(line)), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
