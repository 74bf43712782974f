"""What an instance suffered lately: one line for one trouble, however its words change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import RowError, SchemaError, TransientError, WppSyncError
from daemon.recent import SAMPLE_SECONDS, Recent, Suffered

BEGAN = datetime(2026, 11, 25, tzinfo=UTC)


class Suffering:
    """Errors that come a second apart."""

    def __init__(self) -> None:
        self._now = BEGAN
        self._recent = Recent(lambda: self._now)

    def of(self, *errors: WppSyncError, entity: str = "") -> list[Suffered]:
        for error in errors:
            self._now += timedelta(seconds=1)
            self._recent.suffered(error, entity)
        return list(self._recent.errors)


def test_the_same_error_of_other_rows_is_one_line_with_the_last_words() -> None:
    refused = [RowError("local nunes", 1406, f"row {row}: too long") for row in (51, 52, 53)]
    (told,) = Suffering().of(*refused, entity="messages")
    assert (told.times, told.code, told.entity) == (3, "data", "messages")
    assert told.message == refused[-1].message
    assert (told.first_at, told.last_at) == (
        BEGAN + timedelta(seconds=1), BEGAN + timedelta(seconds=3),
    )  # fmt: skip


def test_another_number_server_code_or_entity_is_another_error() -> None:
    suffering = Suffering()
    suffering.of(
        RowError("local nunes", 1406, "too long"),
        RowError("local nunes", 1264, "out of range"),
        TransientError("local nunes", 2003, "cannot connect"),
        TransientError("central", 2003, "cannot connect"),
        SchemaError("a column is missing"),
        entity="messages",
    )
    told = suffering.of(RowError("local nunes", 1406, "too long"), entity="chats")
    assert [each.times for each in told] == [1] * 6


def test_hundreds_of_rows_push_no_other_error_out() -> None:
    suffering = Suffering()
    suffering.of(SchemaError("a column is missing"), entity="chats")
    rows = (RowError("local nunes", 1406, f"row {row}: too long") for row in range(500))
    told = suffering.of(*rows, entity="messages")
    assert [(each.entity, each.times) for each in told] == [("messages", 500), ("chats", 1)]


@given(st.lists(st.sampled_from([0, 0, 0, 1, 250]), max_size=200))
def test_the_rates_are_those_of_the_last_five_minutes(rows: list[int]) -> None:
    recent, written = Recent(), 7
    recent.sample(written)
    for each in rows:
        written += each
        recent.sample(written)
    assert recent.rates == [each / SAMPLE_SECONDS for each in rows[-60:]]


def test_of_an_instance_without_rows_no_figures_are_kept() -> None:
    recent = Recent()
    for _ in range(100):
        recent.sample(42)
    assert recent.rates == [0.0] * 60
    assert recent._rows == []
