"""What a table is, as SHOW CREATE TABLE prints it, taken apart so that it can be compared. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.migrations.grammar import PRIMARY, name_of
from daemon.migrations.statements import pieces

_NAME = r"`(?:[^`]|``)+`"
_COLUMN = re.compile(rf"(?P<name>{_NAME})\s+(?P<text>.*)", re.S)
_KEY = re.compile(
    r"(?P<kind>(?:UNIQUE |FULLTEXT |SPATIAL )?KEY|PRIMARY KEY)\s+"
    rf"(?P<name>{_NAME})?\s*(?P<text>.*)",
    re.S,
)
_CONSTRAINT = re.compile(rf"CONSTRAINT\s+(?P<name>{_NAME})\s+(?P<text>.*)", re.S)
_TEXT = re.compile(
    r"(?:(?:var)?char\(\d+\)|(?:tiny|medium|long)?text|(?:enum|set)\((?:'(?:[^']|'')*',?)+\))"
)
# Where the counter of an AUTO_INCREMENT stands is data, not definition.
_COUNTER = re.compile(r"\s*AUTO_INCREMENT=\d+")


@dataclass(frozen=True, slots=True)
class Definition:
    """A table's definition. Names of columns and indexes are in lower case, as servers compare."""

    columns: Mapping[str, str]
    """What each column is; their order is the table's."""

    indexes: Mapping[str, str]
    """Each index without its name: `UNIQUE KEY (`a`,`b`)`; the primary key is `primary`."""

    constraints: Mapping[str, str] = field(default_factory=dict)
    """Foreign keys and checks without their names."""

    options: str = ""

    def same(self, other: Definition) -> bool:
        """Whether both are one definition, constraints aside: a copy has no foreign keys."""
        return (
            list(self.columns.items()) == list(other.columns.items())
            and self.indexes == other.indexes
            and self.options == other.options
        )

    def show(self, kind: str, name: str) -> str:
        """One object's definition, for people."""
        objects = {"column": self.columns, "index": self.indexes}.get(kind, self.constraints)
        return objects.get(name.lower(), "nothing")


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Definition:
    """From what SHOW CREATE TABLE prints; hundreds of databases print the same."""
    opening = text.index("(")
    *_, closing = _closings(text, opening)
    columns: dict[str, str] = {}
    indexes: dict[str, str] = {}
    constraints: dict[str, str] = {}
    for item in pieces(text[opening + 1 : closing]):
        if found := _COLUMN.fullmatch(item):
            columns[name_of(found["name"]).lower()] = found["text"]
        elif found := _KEY.fullmatch(item):
            name = PRIMARY if found["name"] is None else name_of(found["name"])
            indexes[name.lower()] = f"{found['kind']} {found['text']}"
        elif found := _CONSTRAINT.fullmatch(item):
            constraints[name_of(found["name"]).lower()] = found["text"]
        else:
            constraints[item.lower()] = item
    options = _COUNTER.sub("", text[closing + 1 :]).strip()
    columns = {name: _with_charset(column, options) for name, column in columns.items()}
    return Definition(columns, indexes, constraints, options)


def _with_charset(text: str, options: str) -> str:
    """A column with the character set that it has from the table: servers print that or not,
    depending on how it was said once."""
    if _TEXT.match(text) is None:
        return text
    table = re.search(r"CHARSET=(\w+)(?: COLLATE=(\w+))?", options)
    charset = re.search(r" CHARACTER SET (\w+)", text)
    collate = re.search(r" COLLATE (\w+)", text)
    name = charset[1] if charset else table[1] if table else ""
    order = collate[1] if collate else (table[2] or "") if table and not charset else ""
    plain = re.sub(r" (?:CHARACTER SET|COLLATE) \w+", "", text)
    kind = _TEXT.match(plain)
    assert kind is not None  # noqa: S101 - it was one before
    return f"{kind[0]} CHARACTER SET {name} COLLATE {order}{plain[kind.end() :]}"


def _closings(text: str, opening: int) -> list[int]:
    """Where the parenthesis that opens there is closed."""
    depth = 0
    for found in re.finditer(r"'(?:[^'\\]|''|\\.)*+'|`(?:[^`]|``)*+`|[()]", text[opening:], re.S):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return [opening + found.start()]
    raise ValueError("SHOW CREATE TABLE does not end")


def same_foreign_key(one: str, other: str) -> bool:
    """Whether two texts after the name of a constraint define one foreign key.

    Servers print it in their own way: quoted, in this order, and without what is the default
    (MySQL manual, "FOREIGN KEY Constraints": NO ACTION, which InnoDB takes RESTRICT for).
    """
    return _plain(one) == _plain(other)


def _plain(text: str) -> list[str]:
    text = re.sub(r"\bON\s+(?:DELETE|UPDATE)\s+(?:RESTRICT|NO\s+ACTION)\b", "", text, flags=re.I)
    actions = sorted(
        re.sub(r"\s+", " ", found[0]).upper()
        for found in re.finditer(r"\bON\s+(?:DELETE|UPDATE)\s+(?:CASCADE|SET\s+\w+)", text, re.I)
    )
    head = re.split(r"\bON\s+(?:DELETE|UPDATE)\b", text, maxsplit=1, flags=re.I)[0]
    words = re.findall(r"[\w$]+|[(),]", head.replace("`", " ").lower())
    # FOREIGN KEY [index name] (
    if words[:2] == ["foreign", "key"] and words[2:3] != ["("]:
        del words[2:3]
    return [*words, *actions]
