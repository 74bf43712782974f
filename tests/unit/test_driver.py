"""The bulk protocol is offered by a server and a driver together; statements are prepared once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from daemon import driver


@pytest.fixture
def _no_verdict() -> Iterator[None]:
    driver.unfit.cache_clear()
    yield
    driver.unfit.cache_clear()


@pytest.mark.parametrize(
    ("announced", "offered"),
    [({"_bulk_supported": True}, True), ({"_bulk_supported": False}, False), ({}, False)],
)
@pytest.mark.usefixtures("_no_verdict")
def test_it_is_offered_where_the_server_announces_it(
    announced: dict[str, bool], offered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "__version__", "0.2.18")
    assert driver.offers_bulk(SimpleNamespace(**announced)) is offered


@pytest.mark.usefixtures("_no_verdict")
def test_it_is_not_offered_with_a_driver_that_is_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "__version__", "9.9.9")
    assert not driver.offers_bulk(SimpleNamespace(_bulk_supported=True))


class _Raw:
    """A connection that notes what it is told."""

    def __init__(self) -> None:
        self.closed: list[int] = []
        self.sent: list[bytes] = []
        self.prepared: list[bytes] = []

    async def prepare(self, statement: bytes) -> SimpleNamespace:
        self.prepared.append(statement)
        number = len(self.prepared)

        async def close() -> None:
            self.closed.append(number)

        return SimpleNamespace(_statement_id=number, close=close)

    async def _execute_command(self, command: int, payload: bytes) -> None:
        assert command == 0xFA
        self.sent.append(payload)

    async def _read_query_result(self) -> None:
        pass


async def test_a_statement_is_prepared_once_and_the_oldest_of_many_is_closed() -> None:
    raw = _Raw()
    prepared = driver.Prepared()
    names = [b"%d" % number for number in range(driver.Prepared.MOST + 1)]
    for name in [*names[:-1], names[0], names[-1]]:
        await prepared.execute(raw, name, b"rows")

    assert raw.prepared == names
    assert raw.closed == [2], "the first was used again, so the second is the oldest"
    assert raw.sent[0] == b"\x01\x00\x00\x00rows"


def listening(**state: object) -> SimpleNamespace:
    listener = SimpleNamespace(**{"buffer": bytearray(262_144), "pos": 0, "length": 0} | state)
    return SimpleNamespace(_proto=listener)


@pytest.mark.usefixtures("_no_verdict")
def test_a_connection_is_made_slim_only_where_nothing_is_lost_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "__version__", "0.2.18")
    heard, unread = listening(pos=70, length=70), listening(pos=70, length=71)
    for raw in (heard, unread, SimpleNamespace()):
        driver.slim(raw, driver.LITTLE_BYTES)
    assert (heard._proto.pos, heard._proto.length) == (0, 0)
    assert len(heard._proto.buffer) == 16_384
    assert (unread._proto.pos, unread._proto.length) == (70, 71)
    assert len(unread._proto.buffer) == 262_144


@pytest.mark.usefixtures("_no_verdict")
def test_a_driver_that_is_not_known_keeps_its_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "__version__", "9.9.9")
    raw = listening()
    driver.slim(raw, driver.LITTLE_BYTES)
    assert len(raw._proto.buffer) == 262_144
