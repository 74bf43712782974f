"""One row of wpp_sync_state: what of it may be relied upon, and what is written next."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.sql import Row
from daemon.state import Claim, State, _state, claim, others

STATES = [
    State("messages", last, settled, settled_for, resync, "2026-02-03 00:00:00")
    for last, settled, settled_for, resync in product(range(4), range(4), range(4), (False, True))
]


@pytest.mark.parametrize("state", [s for s in STATES if s.settled_for == s.last_synced_id])
def test_a_row_as_we_wrote_it_is_relied_upon(state: State) -> None:
    assert state.settled == state.settled_id


@pytest.mark.parametrize("state", [s for s in STATES if s.settled_for != s.last_synced_id])
def test_a_watermark_that_somebody_else_has_set_lowers_the_claim(state: State) -> None:
    """Lowered by hand, everything above it is to be read again; raised, what lies between was
    perhaps never read, and is not settled by it."""
    assert state.settled == min(state.settled_id, state.last_synced_id)


@pytest.mark.parametrize("state", STATES)
def test_reading_goes_on_behind_what_was_read(state: State) -> None:
    assert state.position == max(state.settled, state.last_synced_id)
    assert state.settled <= state.settled_id
    assert state.settled <= state.position


def test_an_instance_without_new_rows_goes_on_from_its_settled_id() -> None:
    """Its own last id may lie far below: what was scanned is not scanned again."""
    assert State("messages", 10, 5000, 10, False, "").position == 5000


def test_a_reset_by_hand_reads_everything_again() -> None:
    """UPDATE wpp_sync_state SET last_synced_id = 0: the table is an interface."""
    state = State("messages", 0, 5000, 10, False, "")

    assert (state.settled, state.position) == (0, 0)


@pytest.mark.parametrize("state", STATES[::5])
@pytest.mark.parametrize("resync", [False, True])
def test_the_row_that_is_written_next(state: State, resync: bool) -> None:
    following = state.moved(last_synced_id=9, settled_id=7, resync=resync)

    assert following == State("messages", 9, 7, 9, resync, state.last_synced_at)
    assert (following.settled, following.position) == (7, 9)


@pytest.mark.parametrize("state", STATES)
def test_what_was_written_is_what_is_found(state: State) -> None:
    """The settled id that a motion starts with is the one that the last one has written."""
    kept = state.moved(
        last_synced_id=state.last_synced_id, settled_id=state.settled, resync=state.resync
    )

    assert (kept.settled, kept.position) == (state.settled, state.position)


@pytest.mark.parametrize("one", STATES[::7])
def test_the_same_is_equal_in_all_but_the_time(one: State) -> None:
    for other in STATES:
        assert one.same(replace(other, last_synced_at="later")) == (one == other)
    assert not one.same(replace(one, entity="chats"))


def test_every_field_but_the_time_makes_a_difference() -> None:
    state = State("messages", 1, 1, 1, False, "now")
    others: dict[str, object] = {
        "entity": "chats",
        "last_synced_id": 2,
        "settled_id": 2,
        "settled_for": 2,
        "resync": True,
        "rewound": True,
        "instance": "nunes",
        "source": "abc",
    }

    assert {field.name for field in fields(State)} == {*others, "last_synced_at"}
    for name, value in others.items():
        changed = replace(state, **{name: value})  # type: ignore[arg-type]
        assert not state.same(changed)
        assert not changed.same(state)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (
            (
                b"messages",
                b"12",
                b"10",
                b"11",
                b"1",
                b"2026-02-03 04:05:06",
                b"1",
                "Núnes".encode(),
                b"abc",
            ),
            State("messages", 12, 10, 11, True, "2026-02-03 04:05:06", True, "Núnes", "abc"),
        ),
        (
            (
                b"chats",
                b"9223372036854775807",
                b"0",
                b"0",
                b"0",
                b"2026-02-03 04:05:06",
                b"0",
                None,
                None,
            ),
            State("chats", 2**63 - 1, 0, 0, False, "2026-02-03 04:05:06"),
        ),
        # A table from the field may allow NULL where ours does not.
        ((b"Chats", *[None] * 8), State("chats", 0, 0, 0, False, "")),
    ],
)
def test_a_row_as_the_server_prints_it(row: Row, state: State) -> None:
    assert _state(row) == state


# --- for whom a row counts -----------------------------------------------------------------------


def owned(instance: str | None, source: str | None, *, rewound: bool = False) -> State:
    return State("messages", 9, 9, 9, False, "", rewound, instance, source)


@pytest.mark.parametrize(
    ("known", "what"),
    [
        (owned(None, None), "nobodys"),
        (owned(None, "a"), "nobodys"),
        (owned(None, "b"), "nobodys"),
        (owned("nunes", None), "nobodys"),
        (owned("nunes", "a"), "ours"),
        (owned("nunes", "b"), "other source"),
        (owned("nunes", "A"), "other source"),
        *((owned(name, source), "another's")
          for name in ("karsten", "Nunes", "Núnes", "nunes ", "") for source in (None, "a", "b")),
    ],
)  # fmt: skip
def test_what_a_row_is_to_who_would_go_on_from_it(known: State, what: Claim) -> None:
    assert claim(known, "nunes", "a") == what
    # A resync that is under way changes nothing of whose it is.
    assert claim(replace(known, resync=True), "nunes", "a") == what


def test_a_rewound_row_waits_for_its_reset_whatever_it_counts_for() -> None:
    assert claim(owned("nunes", "b", rewound=True), "nunes", "a") == "ours"
    assert claim(owned("karsten", "a", rewound=True), "nunes", "a") == "another's"


@given(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([None, "nunes", "Nunes", "karsten"])),
    st.sets(st.sampled_from("abcde")),
)
def test_others_rows_are_those_of_the_entities_that_name_somebody_else(
    names: dict[str, str | None], entities: set[str]
) -> None:
    states = {entity: replace(owned(name, "x"), entity=entity) for entity, name in names.items()}

    found = others(states, entities, "nunes")

    assert found == {
        entity: name
        for entity, name in names.items()
        if entity in entities and claim(states[entity], "nunes", "x") == "another's"
    }
