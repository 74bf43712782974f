"""What is left to do for a database, and what is odd about its history."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.errors import MigrationError
from daemon.migrations.drift import Recorded, reached, standing
from daemon.migrations.files import SHIPPED, Migration


def migration(
    id_: str, *statements: str, shipped: bool = True, checksum: str = "as it was"
) -> Migration:
    directory = SHIPPED if shipped else Path("/own")
    return Migration(id_, "what", statements or ("SELECT 1",), checksum, directory / f"{id_}.sql")


def recorded(
    of: Migration, statement: int | None = None, state: str = "done", origin: str = ""
) -> Recorded:
    far = len(of.statements) if statement is None else statement
    return Recorded(
        of.id, origin or of.origin, of.checksum, far, len(of.statements), reached(of, far), state,
        "", "", "", "9.9.9",
    )  # fmt: skip


A, B, C = (migration(f"2026-01-0{n}-001-m") for n in (1, 2, 3))
FILES = (A, B, C)


def journal(*entries: Recorded) -> dict[str, Recorded]:
    return {entry.id: entry for entry in entries}


def test_an_empty_database_gets_everything_in_order() -> None:
    found = standing(FILES, [], None)
    assert found.pending == FILES
    assert found.warnings == ()
    assert found.adopted == ()
    assert found.begin_at(A) == 1


def test_a_database_from_before_the_journal_gets_the_first_again_and_is_adopted() -> None:
    found = standing(FILES, [A.id, B.id], None)
    assert found.pending == (A, C)
    assert found.adopted == (B,)
    assert found.warnings == ()


def test_an_up_to_date_one_has_nothing_to_do() -> None:
    found = standing(FILES, [m.id for m in FILES], journal(*map(recorded, FILES)))
    assert (found.pending, found.adopted, found.warnings) == ((), (), ())


def test_what_another_system_has_recorded_is_no_news() -> None:
    found = standing(FILES, ["2025-01-01-001-theirs", "2030-01-01-001-theirs"], {})
    assert found.pending == FILES
    assert found.warnings == ()


def test_one_that_is_older_than_what_has_run_runs_with_a_warning() -> None:
    found = standing(FILES, [A.id, C.id], journal(recorded(A), recorded(C)))
    assert found.pending == (B,)
    assert len(found.warnings) == 1
    assert f"{B.id}: older than {C.id}" in found.warnings[0]


def test_a_changed_file_is_told() -> None:
    changed = migration(A.id, checksum="another")
    found = standing((changed, B, C), [A.id, B.id, C.id], journal(*map(recorded, FILES)))
    assert found.pending == ()
    assert found.warnings == (
        f"{A.id} was changed after it ran here: its effect is what the file said then",
    )


def test_a_file_of_the_operators_that_is_gone_is_told() -> None:
    own = migration("2026-01-09-001-own", shipped=False)
    entries = journal(*map(recorded, (*FILES, own)))
    found = standing(FILES, [m.id for m in (*FILES, own)], entries)
    assert found.warnings == (f"{own.id} ran here, and its file is gone",)


def test_a_half_applied_one_whose_file_is_gone_is_told() -> None:
    own = migration("2026-01-09-001-own", "SELECT 1", "SELECT 2", shipped=False)
    entries = journal(*map(recorded, FILES), recorded(own, 1, "ready"))
    found = standing(FILES, [m.id for m in FILES], entries)
    assert found.warnings == (
        f"{own.id} ran here, half applied (1 of 2 statements), and its file is gone",
    )


def test_a_database_that_a_later_version_has_migrated_is_left_alone() -> None:
    later = migration("2027-01-01-001-later")
    with pytest.raises(MigrationError) as refused:
        standing(FILES, [*(m.id for m in FILES), later.id], journal(recorded(later)))
    assert refused.value.code == "database_ahead"
    assert "9.9.9" in refused.value.hint


HALF = migration("2026-01-04-001-half", "SELECT 1", "SELECT 2", "SELECT 3")


@pytest.mark.parametrize("far", [0, 1, 2])
@pytest.mark.parametrize("state", ["ready", "running", "failed"])
def test_a_half_applied_one_goes_on_where_it_was(far: int, state: str) -> None:
    found = standing((HALF,), [], journal(recorded(HALF, far, state)))
    assert found.pending == (HALF,)
    assert found.begin_at(HALF) == far + 1
    doubts = [n for n in (1, 2, 3) if found.in_doubt(HALF, n)]
    assert doubts == ([far + 1] if state == "running" else [])


def test_what_has_not_run_yet_of_a_half_applied_one_may_be_changed() -> None:
    mended = migration(HALF.id, "SELECT 1", "SELECT 22", checksum="another")
    found = standing((mended,), [], journal(recorded(HALF, 1, "failed")))
    assert found.begin_at(mended) == 2


def test_what_has_run_of_a_half_applied_one_may_not() -> None:
    changed = migration(HALF.id, "SELECT 11", "SELECT 2", "SELECT 3", checksum="another")
    with pytest.raises(MigrationError) as refused:
        standing((changed,), [], journal(recorded(HALF, 1, "failed")))
    assert "half applied (1 of 3 statements)" in refused.value.message
