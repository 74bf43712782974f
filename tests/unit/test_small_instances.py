"""What is kept of an instance is little: there are a thousand, and most of them rest."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path
from time import monotonic

from daemon import config as configuration
from daemon.aio import Bell
from daemon.app import Parts
from daemon.migrations import journal
from daemon.sql import Row

_INSTANCES = 100
_MOST_BYTES = 10_000
"""For what is built for one, before it has connected: some 8,000. They were 15,400 when each had
loggers, and queues of its own."""

_HISTORY: tuple[Row, ...] = (
    (b"2026-01-01-001", b"create", b"2026-11-25 10:00:00"),
    (b"2026-01-01-002", b"widen", b"2026-11-25 10:00:01"),
)


def _config(path: Path) -> configuration.Config:
    names = [f"i{number:04}" for number in range(_INSTANCES)]
    path.write_text(
        "central: {database: central, user: reader}\n"
        "defaults: {host: 127.0.0.1, database: 'wpp_{instance}', user: writer}\n"
        f"instances: {{{', '.join(f'{name}: {{}}' for name in names)}}}\n"
    )
    return configuration.load(path)


async def test_an_instance_is_small(tmp_path: Path) -> None:
    config = _config(tmp_path / "config.yaml")
    Parts(config, monotonic)  # what is made once for all of them
    gc.collect()
    tracemalloc.start()
    try:
        built = Parts(config, monotonic)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(built.instances) == _INSTANCES
    assert taken / _INSTANCES < _MOST_BYTES


def test_what_many_databases_say_alike_is_kept_once() -> None:
    def said() -> tuple[Row, ...]:
        return tuple(tuple(bytes(bytearray(value or b"")) for value in row) for row in _HISTORY)

    assert journal._history(said()) is journal._history(said())
    others = (*said()[:1], (b"2026-01-01-002", b"widen", b"2026-11-26 09:00:00"))
    assert journal._history(others)[0] is journal._history(said())[0], "and so is each row"


def test_a_bell_is_smaller_than_an_event() -> None:
    def size(kind: type[asyncio.Event]) -> int:
        tracemalloc.start()
        kept = [kind() for _ in range(100)]
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return taken // len(kept)

    assert size(Bell) < size(asyncio.Event) / 2
