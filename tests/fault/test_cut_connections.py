"""The connection is lost before, during and after each statement of an instance's life.

A life is recorded once through a proxy (see `tests.scenario`); then it is lived again for each of
its statements and each moment, and the connection is cut there. Right after the cut no watermark
stands above a missing row; the passes that follow come to the same end as a life that nobody broke;
no connection and no lock is left. The ordinary run takes one of each kind of statement and two of
its three moments, --long all.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from daemon.errors import TransientError
from tests import mirror, scenario
from tests.in_process import a_pass, one
from tests.proxy import MOMENTS, Command, Moment, Proxy
from tests.scenario import Scenario

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]
Side = Literal["central", "local"]

pytestmark = pytest.mark.timeout(900)

_LIVES = 3
"""So many lives are tried for one cut."""


@dataclass(frozen=True)
class Stage:
    """A scenario whose connections pass a proxy on either side."""

    scenario: Scenario
    proxies: dict[str, Proxy]
    recorded: dict[str, tuple[Command, ...]]


@asynccontextmanager
async def _stage(databases: Databases, write_config: WriteConfig, *, empty: bool = False
) -> AsyncIterator[Stage]:  # fmt: skip
    async with AsyncExitStack() as stack:
        proxies, detours = {}, {}
        for side, server in databases._asdict().items():
            proxy = await stack.enter_async_context(Proxy(server["host"], server["port"]))
            proxies[side], detours[side] = proxy, {**server, "port": proxy.port}
        config = write_config(detours["central"], {"nunes": detours["local"]}, sync=scenario.SYNC)
        made = await stack.enter_async_context(Scenario(*databases, config, empty=empty))
        made.reset()
        for proxy in proxies.values():
            proxy.forget()
        await scenario.live_once(config)
        recorded = {side: tuple(proxy.commands) for side, proxy in proxies.items()}
        yield Stage(made, proxies, recorded)


def _kind(command: Command) -> str:
    """What a statement is, whatever its values."""
    return re.sub(r"'[^']*'|\d+|\(.*\)", "…", command.text, flags=re.DOTALL)


def _sample(commands: Sequence[Command], *, everything: bool, part: int = 0) -> list[Command]:
    """Some of each kind: its last one, where most has been done before. With another `part` (0, 1,
    2) another third of the kinds is left out."""
    if everything:
        return list(commands)
    kinds = {_kind(command): command for command in commands}.values()
    return [command for number, command in enumerate(kinds) if number % 3 != part]


def _nth_of_its_kind(command: Command, recorded: Sequence[Command]) -> int:
    kinds = [_kind(each) for each in recorded[: command.number + 1]]
    return kinds.count(_kind(command))


def _when_it_comes(kind: str, nth: int) -> Callable[[Command], bool]:
    """Passes the nth command of a kind."""
    seen = 0

    def test(command: Command) -> bool:
        nonlocal seen
        seen += _kind(command) == kind
        return seen == nth

    return test


async def _broken_life(
    stage: Stage, side: Side, command: Command, moment: Moment, *, half_open: bool = False
) -> str:
    """Live with a cut; what is wrong with it, or nothing.

    A life asks some things as often as the clock has it: one that does not come to the command's
    like is lived again, and cut at the one before.
    """
    nth = _nth_of_its_kind(command, stage.recorded[side])
    for earlier in range(min(nth, _LIVES)):
        wanted = _when_it_comes(_kind(command), nth - earlier)
        if (wrong := await _cut_life(stage, side, wanted, moment, half_open)) is not None:
            return wrong
    return "it came to no such statement"


async def _cut_life(
    stage: Stage, side: Side, wanted: Callable[[Command], bool], moment: Moment, half_open: bool
) -> str | None:
    """What is wrong with a life that is cut there; None when it did not come to be cut."""
    judge, proxy = stage.scenario, stage.proxies[side]
    judge.reset()
    for other in stage.proxies.values():
        other.forget()
    proxy.cut_at(wanted, moment, half_open=half_open)
    async with scenario.parts(judge.config) as built:
        instance = built.instances["nunes"]
        with suppress(TransientError):  # any other error is a failure of the test
            await scenario.live(instance)
        if wrong := judge.wrong():
            return f"right after the cut: {wrong}"
        await scenario.go_on(instance, judge)
    # Here it has said goodbye, unless that was what was cut.
    if wrong := judge.wrong():
        return f"after the end: {wrong}"
    return None if proxy.cut is None else await _left_behind(stage)


async def _left_behind(stage: Stage) -> str:
    """Connections and locks that outlive the parts that opened them."""
    for proxy in stage.proxies.values():
        proxy.forget()
    deadline = time.monotonic() + 5
    while True:
        left = {side: stage.scenario.connections(side) for side in stage.proxies}
        holder = stage.scenario.lock_holder()
        if not any(left.values()) and not holder:
            return ""
        if time.monotonic() > deadline:
            return f"left behind: connections {left}, the lock is held by {holder}"
        await asyncio.sleep(0.005)


async def _sweep(
    stage: Stage, side: Side, points: Sequence[tuple[Command, Moment]], *, half_open: bool = False
) -> None:
    broken = []
    for command, moment in points:
        wrong = await _broken_life(stage, side, command, moment, half_open=half_open)
        if wrong:
            broken.append(f"{moment} {side} {command.number} {command.text[:100]}: {wrong}")
    print(f"cut at {len(points)} of {len(stage.recorded[side])} statements")  # noqa: T201
    assert broken == [], "\n".join(broken)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("side", ["central", "local"])
async def test_a_connection_is_cut_at_each_statement(
    databases: Databases, write_config: WriteConfig, side: Side, moment: Moment,
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    everything = bool(pytestconfig.getoption("--long"))
    async with _stage(databases, write_config) as stage:
        assert len(stage.recorded["local"]) > 100, "it is a complete life"
        part = MOMENTS.index(moment)
        chosen = _sample(stage.recorded[side], everything=everything, part=part)
        await _sweep(stage, side, [(command, moment) for command in chosen])


@pytest.mark.parametrize("moment", ["before", "during"])
async def test_a_connection_is_lost_and_the_local_server_does_not_notice(
    databases: Databases, write_config: WriteConfig, moment: Moment, pytestconfig: pytest.Config
) -> None:
    """Its side goes on holding the lock and the rows: the daemon has to kill it."""
    everything = bool(pytestconfig.getoption("--long"))
    async with _stage(databases, write_config) as stage:
        part = MOMENTS.index(moment)
        chosen = _sample(stage.recorded["local"], everything=everything, part=part)
        chosen = chosen if everything else chosen[::2]
        # Its QUIT is the end of the daemon's life: there is nobody who could kill anything.
        points = [(command, moment) for command in chosen if command.text != "command 1"]
        await _sweep(stage, "local", points, half_open=True)


async def test_a_lost_connection_that_ends_by_itself_just_before_it_is_killed(
    databases: Databases, write_config: WriteConfig
) -> None:
    async with _stage(databases, write_config) as stage:
        judge, proxy = stage.scenario, stage.proxies["local"]
        judge.reset()

        def be_quicker(command: Command) -> None:
            if found := re.search(r"KILL CONNECTION (\d+)", command.text):
                mirror.run(databases.local, f"KILL {found[1]}")
                judge.wait_until_free()

        proxy.listener = be_quicker
        proxy.cut_at(lambda command: command.text.endswith("COMMIT"), "before", half_open=True)
        async with scenario.parts(judge.config) as built:
            instance = built.instances["nunes"]
            with pytest.raises(TransientError):
                await scenario.live(instance)
            await scenario.go_on(instance, judge)
        assert any("KILL" in command.text for command in proxy.commands)
        assert await _left_behind(stage) == ""


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_connection_is_cut_at_each_statement_of_the_first_start(
    databases: Databases, write_config: WriteConfig, moment: Moment, pytestconfig: pytest.Config
) -> None:
    """Every migration, each of its statements, and its record."""
    everything = bool(pytestconfig.getoption("--long"))
    async with _stage(databases, write_config, empty=True) as stage:
        recorded = stage.recorded["local"]
        migrating = [c for c in recorded if "migrate" in c.text]
        assert len(migrating) > 25
        await _sweep(stage, "local", [(c, moment) for c in migrating[:: 1 if everything else 6]])


def _is_only_the_end(command: Command) -> bool:
    return command.text.endswith("COMMIT") and not _is_all_at_once(command)


def _is_all_at_once(command: Command) -> bool:
    return command.text.endswith("COMMIT") and "START TRANSACTION" in command.text


@pytest.mark.parametrize(
    ("moment", "committed"), [("before", False), ("during", True), ("after", True)]
)
async def test_a_transaction_in_one_command_is_there_or_not(
    databases: Databases, write_config: WriteConfig, moment: Moment, committed: bool
) -> None:
    central, local = databases
    async with Proxy(str(local["host"]), int(str(local["port"]))) as proxy:
        config = write_config(central, {"nunes": {**local, "port": proxy.port}})
        mirror.insert_messages(central, range(1, 11))
        async with one(config) as instance:
            await a_pass(instance)
            mirror.insert_messages(central, range(11, 15))
            proxy.cut_at(_is_all_at_once, moment)
            # Behind the whole answer it is the next statement that meets it.
            with suppress(TransientError) if moment == "after" else pytest.raises(TransientError):
                await a_pass(instance)
            assert proxy.cut is not None
            await asyncio.sleep(0.5)  # until the server has seen it
            state = "SELECT last_synced_id FROM wpp_sync_state WHERE entity = 'messages'"
            watermark = 14 if committed else 10
            assert mirror.number(local, state) == watermark
            assert mirror.local_ids(local) == [*range(1, watermark + 1)]
            with suppress(TransientError):
                await a_pass(instance)
            await a_pass(instance)
        assert mirror.differences(central, local) == ""


@pytest.mark.parametrize(
    ("moment", "committed"), [("before", False), ("during", True), ("after", True)]
)
async def test_a_commit_whose_outcome_is_unknown_is_found_out(
    databases: Databases, write_config: WriteConfig, moment: Moment, committed: bool
) -> None:
    async with _stage(databases, write_config) as stage:
        judge, proxy = stage.scenario, stage.proxies["local"]
        judge.reset()
        begin = judge.look()
        proxy.cut_at(_is_only_the_end, moment)
        async with scenario.parts(judge.config) as built:
            instance = built.instances["nunes"]
            with pytest.raises(TransientError):
                await scenario.live(instance)
            now = judge.look()
            if committed:
                assert now.state["messages"][0] > begin.state["messages"][0]
                assert len(now.messages) > len(begin.messages)
            else:
                assert (now.messages, now.state) == (begin.messages, begin.state)
            assert judge.wrong() == ""
            await scenario.go_on(instance, judge)
        assert await _left_behind(stage) == ""
