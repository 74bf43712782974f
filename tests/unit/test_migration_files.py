"""Which migrations there are, and everything that can be wrong with one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.entities import CATALOGUE
from daemon.errors import MigrationFilesError
from daemon.migrations.files import SHIPPED, Migration, discover

GOOD = b"-- description: Do it\nSELECT 1;\n"
NAME = "2026-02-04-001-add-priority-column.sql"
WRONG_NAME = (
    "the name is not YYYY-MM-DD-NNN-short-description.sql"
    " (a real date, three digits, lower-case words joined by hyphens)"
)


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def load(directory: Path, content: bytes) -> Migration:
    (migration,) = discover([write(directory, {NAME: content})])
    return migration


def problems(*directories: Path) -> tuple[str, ...]:
    with pytest.raises(MigrationFilesError) as caught:
        discover(directories)
    assert caught.value.exit_code == 2
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


# --- what a file says ----------------------------------------------------------------------------


def test_a_file_is_its_name_its_first_comment_and_its_statements(tmp_path: Path) -> None:
    content = (
        b"-- description: Add priority column to wpp_chats table\n-- why: it is wanted\n\n"
        b"ALTER TABLE wpp_chats ADD COLUMN priority VARCHAR(20) NULL DEFAULT 'NORMAL';\n"
        b"SELECT 1;\n"
    )

    assert load(tmp_path, content) == Migration(
        id="2026-02-04-001-add-priority-column",
        description="Add priority column to wpp_chats table",
        statements=(
            "ALTER TABLE wpp_chats ADD COLUMN priority VARCHAR(20) NULL DEFAULT 'NORMAL'",
            "SELECT 1",
        ),
        checksum=hashlib.sha256(content).hexdigest(),
        path=tmp_path / NAME,
    )


@pytest.mark.parametrize(
    "comment",
    [b"-- description: Do it", b"-- Do it", b"--   Description:Do it  ", b"\n\n  -- Do it",
     b"\xef\xbb\xbf-- Do it", b"-- DESCRIPTION: Do it\r"],
)  # fmt: skip
def test_the_first_comment_is_the_description(tmp_path: Path, comment: bytes) -> None:
    assert load(tmp_path, comment + b"\nSELECT 1").description == "Do it"


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"])
def test_the_line_endings_of_a_checkout_change_nothing(tmp_path: Path, ending: bytes) -> None:
    plain = load(tmp_path, b"-- it\nSELECT 'a',\n2;\n")

    assert load(tmp_path, b"-- it\nSELECT 'a',\n2;\n".replace(b"\n", ending)) == plain


def test_the_checksum_tells_any_other_change(tmp_path: Path) -> None:
    sums = {
        load(tmp_path, content).checksum
        for content in (GOOD, GOOD + b"\n", GOOD.replace(b"1", b"2"), b"-- x\n" + GOOD)
    }

    assert len(sums) == 4


def test_text_of_any_language_is_kept(tmp_path: Path) -> None:
    found = load(tmp_path, "-- Prioridade é 😀\nSELECT '😀'".encode())

    assert found.description == "Prioridade é 😀"
    assert found.statements == ("SELECT '😀'",)


# --- what is wrong with a file -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "add-priority.sql",
        "2026-02-04-add-priority.sql",
        "2026-02-04-01-add.sql",
        "2026-02-04-0001-add.sql",
        "26-02-04-001-add.sql",
        "2026-2-4-001-add.sql",
        "2026_02_04_001_add.sql",
        "2026-02-30-001-add.sql",
        "2026-13-01-001-add.sql",
        "0000-01-01-001-add.sql",
        "2026-02-04-001.sql",
        "2026-02-04-001-.sql",
        "2026-02-04-001-Add.sql",
        "2026-02-04-001-add_it.sql",
        "2026-02-04-001-add--it.sql",
        "2026-02-04-001-add-.sql",
        "2026-02-04-001-add it.sql",
        "2026-02-04-001-é.sql",
        "2026-02-04-001-add.up.sql",
        "2026-02-04-001-add\n.sql",
        " 2026-02-04-001-add.sql",
        "2026-02-04-001-add.SQL",
    ],
)
def test_a_wrong_name(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: GOOD})

    assert problems(tmp_path) == (f"{tmp_path / name}: {WRONG_NAME}",)


@pytest.mark.parametrize(
    "name",
    ["2026-02-04-001-add", "2024-02-29-999-a", "0001-01-01-000-0-x-1",
     "2026-02-04-001-" + "x" * 236],
)  # fmt: skip
def test_a_right_name(tmp_path: Path, name: str) -> None:
    (migration,) = discover([write(tmp_path, {f"{name}.sql": GOOD})])

    assert migration.id == name


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "contains no statement"),
        (b"-- description: nothing\n;;", "contains no statement"),
        (b"SELECT 1", "does not begin with a comment that describes it (-- description: …)"),
        (
            b"SELECT 1; -- too late",
            "does not begin with a comment that describes it (-- description: …)",
        ),
        (b"-- it\nSELECT '\xe9'", "is not UTF-8 (byte 14)"),
        (b"-- it\nSELECT 'a", "line 2: ' is never closed"),
        (b"-- it\nDELIMITER //", "line 2: DELIMITER is not known here: write plain statements"),
    ],
)
def test_a_wrong_content(tmp_path: Path, content: bytes, problem: str) -> None:
    write(tmp_path, {NAME: content})

    assert problems(tmp_path) == (f"{tmp_path / NAME}: {problem}",)


def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()

    assert problems(tmp_path) == (f"{tmp_path / NAME}: cannot be read: Is a directory",)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    gone = tmp_path / "gone"

    assert problems(gone) == (f"{gone}: cannot be read: No such file or directory",)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"bad.sql": GOOD, NAME: GOOD, "worse.sql": b""})
    two = write(tmp_path / "two", {NAME: GOOD, "2026-02-05-001-b.sql": b"-- it"})

    assert problems(one, tmp_path / "gone", two) == (
        f"{one / 'bad.sql'}: {WRONG_NAME}",
        f"{one / 'worse.sql'}: {WRONG_NAME}",
        f"{tmp_path / 'gone'}: cannot be read: No such file or directory",
        f"{two / NAME}: the id {NAME.removesuffix('.sql')} is taken by {one / NAME}",
        f"{two / '2026-02-05-001-b.sql'}: contains no statement",
    )


# --- all of them together ------------------------------------------------------------------------


def test_the_order_is_by_id_over_all_directories(tmp_path: Path) -> None:
    names = [
        "2025-12-31-999-z",
        "2026-01-01-001-b",
        "2026-01-01-001-c",
        "2026-01-01-002-a",
        "2026-01-02-001-a",
    ]
    one = write(tmp_path / "one", {f"{name}.sql": GOOD for name in names[::2]})
    two = write(tmp_path / "two", {f"{name}.sql": GOOD for name in names[1::2]})

    assert [migration.id for migration in discover([two, one])] == names


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, {NAME: GOOD, "README.md": b"", "old.sql.bak": b"", "sql": b""})

    assert len(discover([tmp_path])) == 1


def test_no_directory_and_an_empty_one_have_no_migrations(tmp_path: Path) -> None:
    assert discover([]) == discover([tmp_path]) == ()


@given(st.binary() | st.text().map(str.encode))
def test_any_content_is_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    directory = tmp_path_factory.getbasetemp() / "any"
    write(directory, {NAME: b"-- it\nSELECT 1 " + content})
    found: tuple[Migration, ...] = ()
    told: tuple[str, ...] = ()
    try:
        found = discover([directory])
    except MigrationFilesError as error:
        told = error.problems

    assert len(found) + len(told) == 1
    assert all(migration.statements for migration in found)


# --- the shipped ones ----------------------------------------------------------------------------


def test_the_shipped_migrations_are_in_order_and_the_tables_come_first() -> None:
    shipped = discover([SHIPPED])
    ids = [migration.id for migration in shipped]

    assert ids == sorted(set(ids))
    assert ids[:2] == [
        "2026-01-01-001-create-wpp-sync-migrations",
        "2026-01-01-002-create-wpp-sync-state",
    ]
    assert all(migration.description[0].isupper() for migration in shipped)
    assert not any(migration.description.endswith((".", ";")) for migration in shipped)


def test_every_entity_has_its_table_from_a_shipped_migration() -> None:
    statements = [text for migration in discover([SHIPPED]) for text in migration.statements]

    for table in [*(entity.local for entity in CATALOGUE.values()), "wpp_last_messages"]:
        (create,) = [
            text for text in statements if text.startswith(f"CREATE TABLE IF NOT EXISTS {table} (")
        ]
        assert "DEFAULT CHARSET = utf8mb4" in create


def test_the_shipped_bot_id_migration() -> None:
    (found,) = [m for m in discover([SHIPPED]) if m.id == "2026-02-03-001-add-bot-id-column"]

    assert found.description == "Add bot_id column to wpp_chats table"
    assert found.statements == ("ALTER TABLE wpp_chats ADD COLUMN bot_id INT NULL AFTER sector_id",)


# --- known faults --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"--\n-- description: Do it\nSELECT 1", b"-- description:\n-- Do it\nSELECT 1"],
)
def test_an_empty_first_comment_line_is_passed_over(tmp_path: Path, content: bytes) -> None:
    assert load(tmp_path, content).description == "Do it"


@pytest.mark.parametrize("content", [b"--\nSELECT 1", b"-- description:\nSELECT 1"])
def test_an_empty_comment_is_no_description(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, {NAME: content})

    assert "does not begin with a comment" in problems(tmp_path)[0]


def test_a_description_that_is_no_comment_to_mysql_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {NAME: b"--description: Do it\nSELECT 1"})

    assert "does not begin with a comment" in problems(tmp_path)[0]


def test_the_digits_of_a_name_are_ascii_digits(tmp_path: Path) -> None:
    write(tmp_path, {"2026-02-04-٠٠١-add.sql": GOOD})

    assert WRONG_NAME in problems(tmp_path)[0]
