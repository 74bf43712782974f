"""A file taken apart: strings, quoted names and comments may hide a semicolon."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.migrations.statements import split

Fragment = tuple[str, str]
"""What stands in the file, and what of it belongs to the statement."""

inside = st.text(st.sampled_from("ab;'\"`-#/* \n%é😀"), max_size=12)


def quoted(mark: str) -> Callable[[str], Fragment]:
    def write(text: str) -> Fragment:
        written = mark + text.replace(mark, mark + mark) + mark
        return written, written

    return write


def block(text: str) -> Fragment:
    return f"/*{text}*/", " "


def line(text: str) -> Fragment:
    return text.replace("\n", " ") + "\n", " \n"


words = st.sampled_from(
    [
        "SELECT",
        "a-b",
        "a - - b",
        "--1",
        "5/2*3",
        "(",
        ")",
        ",",
        "é",
        "N'x'",
        "100 % 7",
        "$$",
        "\t\n",
    ]
).map(lambda text: (text, text))
fragments = st.one_of(
    words,
    inside.map(quoted("'")),
    inside.map(quoted('"')),
    inside.map(quoted("`")),
    inside.filter(lambda text: "*/" not in text).map(block),
    inside.map(lambda text: line("-- " + text)),
    inside.map(lambda text: line("--\t" + text)),
    inside.map(lambda text: line("#" + text)),
    st.sampled_from(["/*! ENGINE = InnoDB */", "/*!50100 x */", "/*M!100100 x */", "/*+ BKA() */"])
    .map(lambda text: (text, text)),
)  # fmt: skip
statements = st.lists(fragments, max_size=8).map(
    lambda parts: (
        " ".join(["SELECT", *(written for written, _ in parts)]),
        " ".join(["SELECT", *(kept for _, kept in parts)]).strip(),
    )
)


@given(
    st.lists(statements, max_size=6),
    st.sampled_from([";", ";\n", " ; ;\n-- x;y\n;"]),
    st.booleans(),
)
def test_statements_come_back_whatever_their_strings_names_and_comments_contain(
    pairs: list[Fragment], between: str, ended: bool
) -> None:
    text = between.join(written for written, _ in pairs) + (between if ended else "")

    assert split(text) == [kept for _, kept in pairs]


@given(st.text(st.sampled_from("ab;'\"`-#/*!M+ \n\\\0delimtr")) | st.text())
def test_any_text_is_either_split_or_refused(text: str) -> None:
    found: list[str] = []
    refused = ""
    try:
        found = split(text)
    except ValueError as error:
        refused = str(error)

    if refused:
        where = re.match(r"line (\d+): ", refused)
        assert where is not None
        assert 1 <= int(where[1]) <= max(1, len(text.splitlines()))
    assert all(piece and piece == piece.strip() for piece in found)
    # Nothing is made up, and nothing changes its place.
    kept = iter(text)
    assert all(character in kept for piece in found for character in piece if character != " ")


@given(st.text(st.sampled_from("ab (),=%-*+/\n\t")).filter(lambda t: not re.search("--|/\\*", t)))
def test_what_hides_nothing_is_kept_letter_by_letter(text: str) -> None:
    assert split(text) == ([text.strip()] if text.strip() else [])


@pytest.mark.parametrize("text", ["", " \n\t", ";", " ; ;; ", "-- only this", "# a;b", "/* ; */;"])
def test_nothing_but_comments_and_semicolons_is_no_statement(text: str) -> None:
    assert split(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("-- a; b\nSELECT 1 -- c; 'd\n;SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1 --", ["SELECT 1"]),
        ("SELECT 1--1", ["SELECT 1--1"]),  # two minus signs: a comment wants white space
        ("SELECT--\t1\n2", ["SELECT \n2"]),
        ("SELECT 1 # it's; \n+ 1;", ["SELECT 1  \n+ 1"]),
        ("SELECT/* a */1", ["SELECT 1"]),  # a comment separates words
        ("/*/ ; */ SELECT 1", ["SELECT 1"]),  # the asterisk opens, it does not also close
        ("/** ; **/ SELECT 1", ["SELECT 1"]),
        ("SELECT '/*', \"--\", `#`;", ["SELECT '/*', \"--\", `#`"]),
        ("SELECT 'it''s; --', 'b';", ["SELECT 'it''s; --', 'b'"]),
        ("SELECT '', ';', '''';", ["SELECT '', ';', ''''"]),
        ("SELECT 'a\n;\nb'", ["SELECT 'a\n;\nb'"]),
        ("SELECT 'a \"; b' + \"it's;\"", ["SELECT 'a \"; b' + \"it's;\""]),
        ("SELECT 1 /*! + 1 */;", ["SELECT 1 /*! + 1 */"]),
        ("/*!50100 SELECT ';' */; SELECT 2", ["/*!50100 SELECT ';' */", "SELECT 2"]),
        ("/*M!100100 SELECT 1 */;", ["/*M!100100 SELECT 1 */"]),
        ("SELECT /*+ NO_INDEX(t) */ 1", ["SELECT /*+ NO_INDEX(t) */ 1"]),
        ("SELECT /* x */ /*! 1 */", ["SELECT   /*! 1 */"]),
        ("SELECT a \\ b", ["SELECT a \\ b"]),  # outside of a string a backslash hides nothing
    ],
)  # fmt: skip
def test_split(text: str, found: list[str]) -> None:
    assert split(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 'a", "line 1: ' is never closed"),
        ('SELECT\n"a', 'line 2: " is never closed'),
        ("SELECT\n\n`a;\n", "line 3: ` is never closed"),
        ("SELECT 1;\n/* a;\nb", "line 2: /* is never closed"),
        ("/*/", "line 1: /* is never closed"),
        ("SELECT 'it's'", "line 1: ' is never closed"),
        ("SELECT 1;\nSELECT 'a\\n'", "line 2: a backslash in a string"),
        ('SELECT "\\"', "line 1: a backslash in a string"),
        ("SELECT `\\`", "line 1: a backslash in a string"),
        ("DELIMITER //\nSELECT 1//", "line 1: DELIMITER is not known here"),
        ("SELECT 1;\n  delimiter ;\n", "line 2: DELIMITER is not known here"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        split(text)


@pytest.mark.parametrize("text", ["-- a \\ b\nSELECT 1", "/* \\ */ SELECT 1", "# \\\nSELECT 1"])
def test_a_backslash_in_a_comment_is_nobodys_business(text: str) -> None:
    assert split(text) == ["SELECT 1"]


# --- known faults --------------------------------------------------------------------------------


@pytest.mark.parametrize("comment", ["/*Messages; chats*/", "/*More of the user's*/", "/*M*/"])
def test_a_comment_that_begins_with_the_letter_m_is_a_comment(comment: str) -> None:
    assert split(f"{comment} SELECT 1;") == ["SELECT 1"]


@pytest.mark.parametrize("text", ["/*! SELECT 1;", "SELECT /*+ BKA() 1;", "/*M! SELECT 1;"])
def test_an_executable_comment_that_is_never_closed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="never closed"):
        split(text)


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t VALUES ('a\ndelimiter b')",
        "CREATE TABLE t (\n    delimiter VARCHAR(1)\n)",
        "/*\nDELIMITER is not used here */ SELECT 1",
    ],
)
def test_the_word_delimiter_inside_a_statement_is_just_a_word(text: str) -> None:
    assert len(split(text)) == 1


def test_the_line_is_the_one_where_the_open_string_begins() -> None:
    with pytest.raises(ValueError, match="line 1: ' is never closed"):
        split("SELECT 'a\n''b\n")


class Counted(str):
    """A text that notes how many of its characters were counted through."""

    __slots__ = ()
    seen = 0

    def count(self, *args: object) -> int:
        _, start, end = args
        assert isinstance(start, int)
        assert isinstance(end, int)
        Counted.seen += end - start
        return super().count("\n", start, end)


def test_the_time_grows_with_the_length_and_not_with_its_square() -> None:
    text = Counted("INSERT INTO t VALUES ('a')" + ", ('a')" * 1000)
    Counted.seen = 0

    split(text)

    assert Counted.seen <= 10 * len(text)
