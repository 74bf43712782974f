"""The lock that makes a process the only copier of a local database."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from daemon.lock import lock_name

databases = st.text(min_size=1, max_size=64)


def test_it_contains_the_schema_because_locks_are_server_wide() -> None:
    assert lock_name("local_nunes") == "wpp-sync.local_nunes"


def test_a_name_that_just_fits_is_not_shortened() -> None:
    assert lock_name("x" * 55) == "wpp-sync." + "x" * 55


def test_it_is_the_same_in_every_process_and_every_release() -> None:
    """Two hosts must ask for the same lock, also while one of them is being upgraded."""
    assert lock_name("x" * 56) == "wpp-sync.5c867313aed0c1a0449d1a29e7da2295548f89d0"


@given(databases)
def test_it_is_no_longer_than_a_server_allows(database: str) -> None:
    name = lock_name(database)

    assert len(name) <= 64
    assert name.startswith("wpp-sync.")
    assert name == f"wpp-sync.{database}" or re.fullmatch(r"wpp-sync\.[0-9a-f]{40}", name)


@given(databases, databases)
def test_two_databases_never_share_a_lock(one: str, other: str) -> None:
    assert (lock_name(one) == lock_name(other)) == (one == other)


@given(databases)
def test_nor_do_two_whose_names_differ_only_by_case(database: str) -> None:
    """MySQL compares the names of locks without it."""
    for other in (database.lower(), database.upper(), database.swapcase()):
        same = lock_name(database).lower() == lock_name(other).lower()
        assert same == (database == other)


@given(st.text(min_size=56, max_size=63))
def test_long_names_that_begin_alike_have_locks_of_their_own(start: str) -> None:
    assert lock_name(start + "a") != lock_name(start + "b")
