"""What a statement costs the server, as far as that can be told before it runs. Pure.

The rules are the manuals' (MySQL, "Online DDL Operations"; MariaDB, "InnoDB Online DDL Operations
with the INPLACE Alter Algorithm" and "… INSTANT …"), for MySQL from 8.0.29 and MariaDB from 10.4.
Where they depend on more than is known here, nothing is said rather than something wrong.
"""

from __future__ import annotations

import re
from enum import IntEnum

from daemon.migrations.definition import Definition
from daemon.migrations.grammar import AlterTable, Clause, CreateTable, DropTables, RenameTable


class Cost(IntEnum):
    """From next to nothing to all that there is."""

    INSTANT = 0
    IN_PLACE = 1
    REBUILD = 2
    COPY = 3
    UNKNOWN = 4

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Cost.INSTANT: "instant",
    Cost.IN_PLACE: "in place: reads the table, readers and writers go on",
    Cost.REBUILD: "in place: rewrites the table, readers and writers go on",
    Cost.COPY: "copies the table: writers wait",
    Cost.UNKNOWN: "cost not known",
}

_LEAST = Cost.INSTANT
_TEXT = re.compile(r"(?P<type>(?:var)?char)\((?P<length>\d+)\)(?P<rest>.*)", re.S)
_LISTS = re.compile(r"(?P<type>enum|set)\((?P<values>(?:'(?:[^']|'')*',?)+)\)(?P<rest>.*)", re.S)
_BYTES = {"utf8mb4": 4, "utf8mb3": 3, "utf8": 3, "latin1": 1, "ascii": 1, "binary": 1}


def cost(
    said: object, before: Definition | None, after: Definition | None, *, mariadb: bool
) -> Cost:
    """What an understood statement costs that brings a table from one definition to the other."""
    if isinstance(said, CreateTable | DropTables | RenameTable):
        return Cost.INSTANT
    if not isinstance(said, AlterTable) or before is None or after is None:
        return Cost.UNKNOWN
    if "PARTITION" in before.options or "ROW_FORMAT=COMPRESSED" in before.options.upper():
        return Cost.UNKNOWN
    costs = [_clause(clause, before, after, mariadb) for clause in said.clauses]
    if _in_other_order(before, after):
        costs.append(Cost.INSTANT if mariadb else Cost.REBUILD)
    costs.append(_options(before, after))
    heaviest = Cost.COPY if Cost.COPY in costs else max(costs)
    adds = any(c.kind in {"add", "drop"} and c.what == "column" for c in said.clauses)
    if heaviest == Cost.IN_PLACE and adds:
        return Cost.REBUILD  # what is instant alone is not, beside something that is not
    return heaviest


def _clause(clause: Clause, before: Definition, after: Definition, mariadb: bool) -> Cost:
    if clause.kind in {"manner", "option"}:
        both = [name for name in before.columns if name in after.columns]
        return max((_column(name, name, before, after, mariadb) for name in both), default=_LEAST)
    if clause.what == "constraint":
        return Cost.INSTANT if clause.kind == "drop" else Cost.COPY
    name = clause.name.lower()
    if clause.what == "index":
        return _index(clause, name, before, after)
    if clause.kind == "add":
        return _added(after.columns.get(name, ""))
    if clause.kind == "drop":
        text = before.columns.get(name, "")
        indexed = any(f"`{name}`" in index.lower() for index in before.indexes.values())
        return Cost.UNKNOWN if indexed or _generated(text) else Cost.INSTANT
    return _column(clause.old_name.lower() or name, name, before, after, mariadb)


def _column(old: str, new: str, before: Definition, after: Definition, mariadb: bool) -> Cost:
    """What it costs to make one column another."""
    one, two = before.columns.get(old, ""), after.columns.get(new, "")
    if one == two:
        return Cost.INSTANT
    indexed = any(f"`{old}`" in index.lower() for index in before.indexes.values())
    return _changed(one, two, mariadb, indexed)


def _index(clause: Clause, name: str, before: Definition, after: Definition) -> Cost:
    if before.indexes.get(name) == after.indexes.get(name) or clause.kind == "change":
        return Cost.INSTANT
    if "primary" in name:
        gone = name not in after.indexes
        return Cost.COPY if gone else Cost.REBUILD
    if clause.kind == "drop":
        return Cost.INSTANT
    text = after.indexes.get(name, "")
    return Cost.UNKNOWN if text.startswith(("FULLTEXT", "SPATIAL")) else Cost.IN_PLACE


def _generated(text: str) -> bool:
    return re.search(r"GENERATED ALWAYS|AUTO_INCREMENT", text, re.I) is not None


def _added(text: str) -> Cost:
    return Cost.UNKNOWN if not text or _generated(text) or "(uuid()" in text else Cost.INSTANT


def _changed(old: str, new: str, mariadb: bool, indexed: bool) -> Cost:
    """As `_column`, from how both are printed."""
    if not old or not new or _generated(old) or _generated(new):
        return Cost.UNKNOWN
    kind_before, null_before = _kind(old)
    kind_after, null_after = _kind(new)
    if kind_before == kind_after:
        return Cost.INSTANT if null_before == null_after else Cost.REBUILD
    kinds = _widened(kind_before, kind_after, mariadb)
    if kinds is None:
        # MariaDB keeps some texts as they are in another character set, where nothing sorts them.
        both_text = "CHARACTER SET" in kind_before and "CHARACTER SET" in kind_after
        return Cost.UNKNOWN if mariadb and (both_text or indexed) else Cost.COPY
    return kinds if null_before == null_after else max(kinds, Cost.REBUILD)


def _widened(old: str, new: str, mariadb: bool) -> Cost | None:
    """The cost of a type that only holds more than before; None where it is another type."""
    one, two = _TEXT.fullmatch(old), _TEXT.fullmatch(new)
    if one and two and one["type"] == two["type"] == "varchar" and one["rest"] == two["rest"]:
        charset = re.search(r"CHARACTER SET (\w+)", one["rest"])
        width = _BYTES.get(charset[1] if charset else "", 0)
        small, big = int(one["length"]) * width, int(two["length"]) * width
        if width and small <= big:
            if (small > 255) == (big > 255):
                return Cost.INSTANT
            return Cost.UNKNOWN if mariadb else None
    first, second = _LISTS.fullmatch(old), _LISTS.fullmatch(new)
    if (
        first
        and second
        and (first["type"], first["rest"]) == (second["type"], second["rest"])
        and first["type"] == "enum"
        and second["values"].startswith(first["values"] + ",")
        and second["values"].count("','") < 255
    ):
        return Cost.INSTANT
    return None


def _kind(text: str) -> tuple[str, bool]:
    """A column's type with its character set, and whether it may be NULL."""
    found = re.match(
        r"(?P<type>\w+(?:\((?:[^()']|'(?:[^']|'')*')*\))?(?: unsigned)?(?: zerofill)?"
        r"(?: CHARACTER SET \w+ COLLATE \w*)?)",
        text,
        re.I,
    )
    return (found["type"].strip() if found else text), "NOT NULL" not in text


def _in_other_order(before: Definition, after: Definition) -> bool:
    """Whether columns that both have stand in another order."""
    both = [name for name in before.columns if name in after.columns]
    return both != [name for name in after.columns if name in before.columns]


def _options(before: Definition, after: Definition) -> Cost:
    """What it costs to change the table's options."""

    def engine(table: Definition) -> list[str]:
        return re.findall(r"(?:ENGINE|ROW_FORMAT)=\w+", table.options, re.I)

    if before.options == after.options:
        return Cost.INSTANT
    one, two = engine(before), engine(after)
    if one != two:
        return Cost.COPY if one[:1] != two[:1] else Cost.REBUILD
    return Cost.INSTANT
