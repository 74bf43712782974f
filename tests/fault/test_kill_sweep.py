"""The process is killed (-9) at each point of an instance's life, and started again.

The points are those of `tests.suspensions`: where a wait begins (so: each statement is sent and not
answered) and where it ends (each statement is answered and nothing has followed yet), in the pass
and in the tasks beside it. After each death the databases are looked at, a second process lives to
its end, and the outcome is compared with a life that nobody broke, value for value. The ordinary
run takes a sample, --long every point.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import scenario
from tests.scenario import Scenario
from tests.sweep import Live, lives

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

pytestmark = pytest.mark.timeout(1800)


def _death(judge: Scenario, live: Live, point: int) -> str:
    """What is wrong after a death and a second life, or nothing."""
    judge.reset()
    died = live(point)
    # Answers to statements that were sent together come in one piece or in several, so that a life
    # has more points or less. One that comes to no such point just lives on.
    ended_before = died.startswith("lived") and int(died.split()[1]) <= point
    if died != "killed 0" and not ended_before:
        return f"it should have been killed, but {died}"
    if wrong := judge.wrong():
        return f"after the death: {wrong}"
    # The server may still be busy with what the dead one asked, and hold its lock.
    judge.wait_until_free()
    lived = live(-1)
    if not lived.startswith("lived"):
        return f"the second life {lived}"
    if judge.look() != judge.end:
        return f"the end is another one: {judge.look()}"
    return judge.wrong()


@pytest.mark.parametrize(
    ("empty", "wanted"), [(False, 40), (True, 15)], ids=["copying", "first start"]
)
async def test_killed_at_each_point_of_its_life(
    databases: Databases, write_config: WriteConfig, empty: bool, wanted: int,
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    central, local = databases
    config = write_config(central, {"nunes": local}, sync=scenario.SYNC)
    async with Scenario(central, local, config, empty=empty) as judge:
        with lives(config, "copy") as live:
            judge.reset()
            lived = live(-1)
            assert lived.startswith("lived"), lived
            assert judge.look() == judge.end
            points = int(lived.split()[1])
            assert points > 300
            every = 1 if pytestconfig.getoption("--long") else points // wanted
            chosen = range(0, points, every)
            found = {point: _death(judge, live, point) for point in chosen}
    print(f"killed at {len(chosen)} of {points} points")  # noqa: T201 - the report's figure
    broken = [f"{point}: {wrong}" for point, wrong in found.items() if wrong]
    assert broken == [], "\n".join(broken)
