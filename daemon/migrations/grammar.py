"""What a statement of a migration says, as far as one must know to tell whether it stands. Pure.

Only the frame is understood: which table, which column or index, and how a clause begins. What a
definition means is left to the server (see `shadow`). Names are the MySQL manual's, "ALTER TABLE
Statement", "CREATE INDEX Statement", and MariaDB's for IF [NOT] EXISTS, which works on both here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from daemon.migrations.statements import pieces
from daemon.sql import quote

_NAME = r"(?:`(?:[^`]|``)+`|[\w$]+)"
_TABLE = rf"(?P<table>{_NAME})(?!\s*\.)"
_IF_THERE = r"(?P<if>IF\s+EXISTS\s+)?"
_UNLESS_THERE = r"(?P<if>IF\s+NOT\s+EXISTS\s+)?"

ClauseKind = Literal["add", "drop", "change", "option", "manner"]
ObjectKind = Literal["column", "index", "constraint", "table"]

PRIMARY = "PRIMARY"


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause of an ALTER TABLE.

    `kind`: it adds or drops an object, changes one, sets an option of the table, or only says in
    what manner the rest is done. `text` is what the server is told, without IF [NOT] EXISTS.
    """

    kind: ClauseKind
    what: ObjectKind
    name: str
    """The object; empty where the server names it."""

    text: str
    tolerant: bool = False
    """IF [NOT] EXISTS: what stands under that name is good enough, whatever its definition."""

    definition: str = ""
    """Of what is added: what follows the name, for a column without its place."""

    prefix: str = ""
    """Of an added index or constraint: what comes before the name ("UNIQUE KEY")."""

    old_name: str = ""
    """Of what is renamed: what it was called."""


@dataclass(frozen=True, slots=True)
class CreateTable:
    table: str
    tolerant: bool
    body: str
    """All that follows the name."""


@dataclass(frozen=True, slots=True)
class AlterTable:
    table: str
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class DropTables:
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenameTable:
    table: str
    to: str


@dataclass(frozen=True, slots=True)
class ChangeRows:
    """INSERT, UPDATE, DELETE, …: it can be undone, so it commits together with its record."""

    table: str
    """The table that it changes, or empty where that is not plain to see."""


@dataclass(frozen=True, slots=True)
class SetSession:
    """A setting of the session. It has no lasting effect: it is repeated whenever a migration goes
    on."""


@dataclass(frozen=True, slots=True)
class Other:
    """Anything else: run as it is. Whether it stands cannot be told."""


Understood = CreateTable | AlterTable | DropTables | RenameTable | ChangeRows | SetSession | Other

_CREATE_TABLE = re.compile(
    rf"CREATE\s+TABLE\s+{_UNLESS_THERE}{_TABLE}\s*(?P<body>\(.*)", re.I | re.S
)
_ALTER_TABLE = re.compile(rf"ALTER\s+TABLE\s+{_TABLE}\s+(?P<rest>.*)", re.I | re.S)
_CREATE_INDEX = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?(?P<kind>(?:UNIQUE|FULLTEXT|SPATIAL)\s+)?INDEX\s+"
    rf"{_UNLESS_THERE}(?P<name>{_NAME})\s*(?P<using>USING\s+\w+\s+)?\s*ON\s+{_TABLE}\s*"
    r"(?P<rest>\(.*)",
    re.I | re.S,
)
_DROP_INDEX = re.compile(
    rf"DROP\s+INDEX\s+{_IF_THERE}(?P<name>{_NAME})\s+ON\s+{_TABLE}(?P<rest>.*)", re.I | re.S
)
_DROP_TABLE = re.compile(rf"DROP\s+TABLE\s+{_IF_THERE}(?P<tables>[^.]+)", re.I | re.S)
_RENAME_TABLE = re.compile(
    rf"RENAME\s+TABLE\s+{_TABLE}\s+TO\s+(?P<to>{_NAME})(?!\s*\.)", re.I | re.S
)
_ROWS = re.compile(
    rf"(?:UPDATE\s+(?:IGNORE\s+)?(?P<updated>{_NAME})\s|"
    rf"DELETE\s+(?:IGNORE\s+)?FROM\s+(?P<deleted>{_NAME})|"
    rf"(?:INSERT|REPLACE)\s+(?:IGNORE\s+)?(?:INTO\s+)?(?P<inserted>{_NAME})|"
    r"(?:UPDATE|DELETE|INSERT|REPLACE|WITH|SELECT|DO|TABLE|VALUES)\b)",
    re.I,
)
_SET = re.compile(
    r"SET\s+(?:SESSION\s+|@@(?:SESSION\.)?)?(?:foreign_key_checks|unique_checks)\s*:?=\s*[01]", re.I
)
_REFUSED = {
    word: why
    for words, why in (
        (
            ("BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "XA"),
            "statements run one by one, each with its record: leave transactions out",
        ),
        (("USE",), "a migration runs in each instance's own database: leave USE out"),
        (("LOCK", "UNLOCK"), "the instance's lock is held while a migration runs: leave LOCK out"),
        (
            ("PREPARE", "EXECUTE", "DEALLOCATE"),
            "what stands already is recognised by itself: write the plain statement",
        ),
        (("SET",), "only foreign_key_checks and unique_checks may be set, to 0 or 1"),
        (("KILL", "SHUTDOWN", "FLUSH", "RESET", "PURGE"), "that concerns the whole server"),
    )
    for word in words
}  # fmt: skip

# The ways in which a clause of ALTER TABLE can begin; the first that fits counts.
_KEY_WORD = r"(?:INDEX|KEY)\b"
_NAMED = rf"(?P<name>(?!(?:USING|ON)\b){_NAME})?"
_ONE = rf"(?P<name>{_NAME})"
_KEY_PARTS = r"(?P<def>(?:USING\s+\w+\s*)?\(.*)"
_REST = r"(?P<def>.*)"


_Beginning = tuple[re.Pattern[str], ClauseKind, ObjectKind]


def _begins(pattern: str, kind: ClauseKind, what: ObjectKind) -> _Beginning:
    return re.compile(pattern, re.I | re.S), kind, what


_CLAUSES: tuple[_Beginning, ...] = (
    _begins(
        rf"ADD\s+(?P<prefix>(?:CONSTRAINT\s+(?:{_NAME}\s+)?)?PRIMARY\s+KEY)\s*"
        rf"{_UNLESS_THERE}{_KEY_PARTS}",
        "add", "index",
    ),
    _begins(
        rf"ADD\s+CONSTRAINT\s+{_UNLESS_THERE}(?P<name>(?!UNIQUE\b){_NAME})\s+"
        rf"(?P<prefix>UNIQUE(?:\s+{_KEY_WORD})?)\s*{_KEY_PARTS}",
        "add", "index",
    ),
    _begins(
        rf"ADD\s+(?:CONSTRAINT\s+)?"
        rf"(?P<prefix>(?:UNIQUE|FULLTEXT|SPATIAL)(?:\s+{_KEY_WORD})?|{_KEY_WORD})\s*"
        rf"{_UNLESS_THERE}{_NAMED}\s*{_KEY_PARTS}",
        "add", "index",
    ),
    _begins(
        rf"ADD\s+(?:CONSTRAINT\s+{_UNLESS_THERE}(?P<name>(?!FOREIGN\b|CHECK\b){_NAME})?\s*)?"
        rf"(?P<prefix>FOREIGN\s+KEY|CHECK)\b\s*{_REST}",
        "add", "constraint",
    ),
    _begins(r"(?:ADD|DROP)\s+(?:PARTITION|SYSTEM\s+VERSIONING|PERIOD)\b.*", "option", "table"),
    _begins(rf"ADD\s+(?:COLUMN\s+)?{_UNLESS_THERE}{_ONE}\s+{_REST}", "add", "column"),
    _begins(r"DROP\s+(?P<prefix>PRIMARY\s+KEY)", "drop", "index"),
    _begins(rf"DROP\s+(?P<prefix>{_KEY_WORD})\s*{_IF_THERE}{_ONE}", "drop", "index"),
    _begins(
        rf"DROP\s+(?P<prefix>FOREIGN\s+KEY|CONSTRAINT|CHECK)\s+{_IF_THERE}{_ONE}",
        "drop", "constraint",
    ),
    _begins(
        rf"DROP\s+(?:COLUMN\s+)?{_IF_THERE}{_ONE}(?:\s+(?:RESTRICT|CASCADE))?", "drop", "column"
    ),
    _begins(rf"MODIFY\s+(?:COLUMN\s+)?{_IF_THERE}{_ONE}\s+{_REST}", "change", "column"),
    _begins(
        rf"CHANGE\s+(?:COLUMN\s+)?{_IF_THERE}(?P<old>{_NAME})\s+{_ONE}\s+{_REST}",
        "change", "column",
    ),
    _begins(
        rf"RENAME\s+COLUMN\s+{_IF_THERE}(?P<old>{_NAME})\s+TO\s+{_ONE}", "change", "column"
    ),
    _begins(
        rf"RENAME\s+{_KEY_WORD}\s*{_IF_THERE}(?P<old>{_NAME})\s+TO\s+{_ONE}", "change", "index"
    ),
    _begins(rf"ALTER\s+(?:INDEX|KEY)\s+{_IF_THERE}{_ONE}\s+.*", "change", "index"),
    _begins(
        rf"ALTER\s+(?:COLUMN\s+)?{_IF_THERE}{_ONE}\s+(?:SET|DROP)\s+.*", "change", "column"
    ),
    _begins(r"(?:ALGORITHM|LOCK)\s*=?\s*\w+|FORCE", "manner", "table"),
    _begins(r".*", "option", "table"),
)  # fmt: skip
_RENAMES_TABLE = re.compile(r"RENAME\s+(?!COLUMN\b|INDEX\b|KEY\b)", re.I)
_IF = re.compile(r"\bIF\s+(?:NOT\s+)?EXISTS\s+", re.I)
_PLACE = re.compile(rf"\s+(?:FIRST|AFTER\s+{_NAME})\s*\Z", re.I)


def name_of(text: str) -> str:
    """A name as it was meant, without its quotes."""
    return text[1:-1].replace("``", "`") if text.startswith("`") else text


def quoted(name: str) -> str:
    """A name as it stands in the text of a statement that has no parameters."""
    return quote(name).replace("%%", "%")


def refusal(statement: str) -> str:
    """Why a statement is none for a migration; empty when it is."""
    if statement.startswith(("/*!", "/*M!")):
        return "a comment that the server executes: write the statement plainly"
    match = re.match(r"[A-Za-z]+", statement)
    word = match[0].upper() if match else ""
    if word == "START" and not re.match(r"START\s+TRANSACTION", statement, re.I):
        return ""
    if _SET.fullmatch(statement) or word not in _REFUSED:
        return ""
    return f"{word}: {_REFUSED[word]}"


@functools.lru_cache(maxsize=256)
def understand(statement: str) -> Understood:
    """What a statement says; hundreds of databases are asked the same."""
    if _SET.fullmatch(statement):
        return SetSession()
    if found := _ROWS.match(statement):
        return ChangeRows(name_of(found["updated"] or found["deleted"] or found["inserted"] or ""))
    return _table(statement) or _index(statement) or Other()


def _table(statement: str) -> Understood | None:
    """What a statement says of whole tables, and of one table's parts."""
    if found := _CREATE_TABLE.fullmatch(statement):
        return CreateTable(name_of(found["table"]), bool(found["if"]), found["body"])
    if found := _ALTER_TABLE.fullmatch(statement):
        return _alter(name_of(found["table"]), found["rest"])
    if found := _RENAME_TABLE.fullmatch(statement):
        return RenameTable(name_of(found["table"]), name_of(found["to"]))
    if found := _DROP_TABLE.fullmatch(statement):
        plain = re.sub(r"\s+(?:RESTRICT|CASCADE)\s*\Z", "", found["tables"], flags=re.I)
        names = pieces(plain)
        if all(re.fullmatch(_NAME, name) for name in names):
            return DropTables(tuple(map(name_of, names)))
    return None


def _index(statement: str) -> Understood | None:
    """CREATE INDEX and DROP INDEX are ALTER TABLE by other names."""
    if found := _CREATE_INDEX.fullmatch(statement):
        kind = f"{(found['kind'] or '').strip()} KEY".strip()
        unless = "IF NOT EXISTS " if found["if"] else ""
        rest = f"ADD {kind} {unless}{found['name']} {found['using'] or ''}{found['rest']}"
        return _alter(name_of(found["table"]), _without_manner(rest))
    if found := _DROP_INDEX.fullmatch(statement):
        unless = "IF EXISTS " if found["if"] else ""
        primary = name_of(found["name"]).upper() == PRIMARY
        dropped = "PRIMARY KEY" if primary else f"KEY {unless}{found['name']}"
        return _alter(name_of(found["table"]), f"DROP {dropped}")
    return None


def _without_manner(text: str) -> str:
    return re.sub(r"\s+(?:ALGORITHM|LOCK)\s*=?\s*\w+", "", text, flags=re.I)


def _alter(table: str, rest: str) -> Understood:
    texts = pieces(rest)
    if any(_RENAMES_TABLE.match(text) for text in texts):
        return Other()
    return AlterTable(table, tuple(c for text in texts for c in _clauses(text)))


def _clauses(text: str) -> Iterator[Clause]:
    """One clause; ADD (…, …) is as many as it adds columns."""
    many = re.fullmatch(r"ADD\s+(?:COLUMN\s+)?\((?P<inner>.*)\)", text, re.I | re.S)
    if many:
        for inner in pieces(many["inner"]):
            yield from _clauses(f"ADD {inner}")
        return
    for pattern, kind, what in _CLAUSES:
        if found := pattern.fullmatch(text):
            yield _clause(text, found.groupdict(), kind, what)
            return


def _clause(text: str, found: dict[str, str | None], kind: ClauseKind, what: ObjectKind) -> Clause:
    prefix = " ".join((found.get("prefix") or "").split()).upper()
    name = name_of(found.get("name") or "")
    if "PRIMARY KEY" in prefix:
        name, prefix = PRIMARY, "PRIMARY KEY"
    definition = (found.get("def") or "").strip()
    if what == "column":
        definition = _PLACE.sub("", definition)
    return Clause(
        kind=kind,
        what=what,
        name=name,
        text=_IF.sub("", text, count=1) if found.get("if") else text,
        tolerant=bool(found.get("if")),
        definition=definition,
        prefix=prefix,
        old_name=name_of(found.get("old") or ""),
    )


def alter(table: str, clauses: list[str]) -> str:
    """The statement of these clauses."""
    return f"ALTER TABLE {quoted(table)} {', '.join(clauses)}"
