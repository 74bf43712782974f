"""Threads for which nobody waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from daemon import app, threads
from daemon import config as configuration
from daemon.errors import ConfigError

_HANGS = """
from threading import Event
from daemon import threads
threads.begin(lambda _: Event().wait(), [1, 2], 2)
"""


def test_the_outcomes_are_in_order_and_a_failure_is_raised_where_it_is_waited_for() -> None:
    def half(number: int) -> float:
        return 1 / number

    one, none, two = threads.begin(half, [1, 0, 2], 2)
    assert (one.result(), two.result()) == (1.0, 0.5)
    with pytest.raises(ZeroDivisionError):
        none.result()
    assert threads.begin(half, [], 2) == []


def test_a_process_leaves_while_they_hang() -> None:
    subprocess.run([sys.executable, "-c", _HANGS], check=True, timeout=20)


async def test_a_reload_does_not_wait_for_ever_for_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_READ_SECONDS", 0.05)
    forth = Event()
    load = configuration.load

    def hang(path: Path, *, again: bool) -> configuration.Config:
        forth.wait()
        return load(path, again=again)

    path = tmp_path / "config.yaml"
    path.write_text("central: {database: c, user: u}\ninstances: {a: {database: a, user: u}}\n")
    monkeypatch.setattr(configuration, "load", hang)
    with pytest.raises(ConfigError, match=r"was not read within 0\.05 s") as caught:
        await app._read_again(path)
    assert "reload again" in caught.value.hint
    # The one that hung ends when it can, and disturbs nobody.
    forth.set()
    monkeypatch.setattr(configuration, "load", load)
    monkeypatch.setattr(app, "_READ_SECONDS", 30.0)
    found, _ = await app._read_again(path)
    assert list(found.instances) == ["a"]
    await asyncio.sleep(0)
