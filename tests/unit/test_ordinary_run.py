"""What an ordinary run takes of the tests that can run on all pairs of server families."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MARIADB, PAIRS, _Case, _ordinary

FUNCTIONS = st.tuples(st.sampled_from(["test_a.py", "test_b.py", "test_c.py"]), st.text("xyz"))


@given(functions=st.dictionaries(FUNCTIONS, st.integers(1, 4), max_size=12))
def test_all_on_mariadb_and_one_case_of_each_on_one_other_pair_of_its_module(
    functions: dict[tuple[str, str], int],
) -> None:
    cases = [
        _Case(module, f"{module}::{name}", pair)
        for (module, name), number in functions.items()
        for pair in PAIRS.values()
        for _ in range(number)
    ]
    taken = [case for case, keep in zip(cases, _ordinary(cases), strict=True) if keep]
    assert [case for case in taken if case.pair == MARIADB] == [
        case for case in cases if case.pair == MARIADB
    ]
    elsewhere = [case for case in taken if case.pair != MARIADB]
    assert Counter(case.function for case in elsewhere) == Counter(
        f"{module}::{name}" for module, name in functions
    )
    assert all(
        len({case.pair for case in elsewhere if case.module == module}) <= 1
        for module, _ in functions
    )


def test_what_has_no_pair_is_always_taken() -> None:
    assert _ordinary([_Case("test_a.py", "f", None)] * 2) == [True, True]
