"""The control socket's path, while several daemons want it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from daemon import doors
from daemon.config import Control
from daemon.errors import WppSyncError
from daemon.http.connections import Connection


@pytest.fixture
def path() -> Iterator[Path]:
    """Short enough for a socket."""
    runtime = Path(tempfile.mkdtemp(prefix="wpp-run-", dir="/tmp"))
    yield runtime / "control.sock"
    shutil.rmtree(runtime)


def opened(path: Path) -> asyncio.Task[doors._ControlDoor]:
    return asyncio.ensure_future(doors._ControlDoor.open(web.Application(), Control(socket=path)))


async def left(door: doors._ControlDoor) -> None:
    door.unlink()
    await door.close(asyncio.Event())


async def test_a_socket_that_is_not_listened_on_yet_is_not_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, bound = asyncio.Event(), asyncio.Event()
    visitors = doors._Door._visitors

    async def slow(door: doors._Door) -> Callable[[], Connection]:
        bound.set()
        await go_on.wait()
        return await visitors(door)

    monkeypatch.setattr(doors._Door, "_visitors", slow)
    first = opened(path)
    await bound.wait()
    second = opened(path)
    await asyncio.sleep(0.2)
    go_on.set()
    door = await first
    with pytest.raises(WppSyncError, match="another daemon answers") as caught:
        await second
    assert caught.value.code == "already_running"
    assert door.stands
    await left(door)
    assert os.listdir(path.parent) == []


async def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(WppSyncError, match="is no socket") as caught:
        await opened(path)
    assert (caught.value.code, path.read_text()) == ("control_socket", "mine")
    assert "choose another control.socket" in caught.value.hint
    with pytest.raises(WppSyncError, match="Not a directory") as caught:
        await opened(path / "control.sock")
    assert caught.value.code == "control_socket"


async def test_a_socket_that_may_not_be_opened_is_told_with_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may open all, so what it would be told is played."""
    door = await opened(path)

    async def closed(_path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asyncio, "open_unix_connection", closed)
    with pytest.raises(WppSyncError, match="Permission denied") as caught:
        await opened(path)
    assert caught.value.code == "control_socket"
    assert "another user's daemon" in caught.value.hint
    assert door.stands
    await left(door)


async def test_a_directory_that_somebody_keeps_locked_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "_TURN_SECONDS", 0.1)
    async with doors._alone_at(path):
        with pytest.raises(WppSyncError, match="locks its directory") as caught:
            await opened(path)
    assert caught.value.code == "control_socket"
    await left(await opened(path))
