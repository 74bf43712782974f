"""Derived tables: of each group of rows of a local table, the latest (wpp_last_messages).

Promise: after `update`, in the transaction that changed the rows, the derived table is what one
query over all of them would give, whichever rows came, came late, changed or went. That holds by
induction: a derived row that nothing has touched is still the latest of its group. A derived row
that was touched may not be: where its source row is gone, is in another group or is earlier than it
was, the group's whole history is looked at. In every other group the latest of the touched rows
competes with the derived one alone, so a batch costs what the batch is, not what its contacts have
written before.

What others have done to the derived table is mended by `rebuild`, a range of groups at a time.

Rows are compared by sort keys; they themselves never leave the server. Values of groups go back and
forth as literals, because a server refuses to compare columns of two collations. Texts are compared
byte for byte; two groups that the derived table's primary key takes for one have one row there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self, TypeVar

from daemon import sql, values
from daemon.db import Connection
from daemon.entities import Derived
from daemon.errors import SchemaError
from daemon.schema import Plan, Table, refuse_without_transactions
from daemon.sql import Row, Statement, Text, Value
from daemon.values import BITS, INTEGER_TYPES, Column

Group = tuple[bytes | None, ...]
"""The values of a group's columns as a server printed them."""

_NAMES = frozenset({"char", "varchar"})
_TEXTS = _NAMES | {"tinytext", "text", "mediumtext", "longtext", "enum", "set", "json"}
_MOMENTS = frozenset({"date", "datetime", "timestamp"})

_KEYS = 5_000
"""Keys in one statement."""

_HISTORIES = 200
"""Groups whose whole history is looked at in one statement."""

_RANGE_ROWS = 5_000
"""Rows of the source, or of the derived table, that one step of `rebuild` compares. A single group
with more is compared as a whole."""

_INTEGER = re.compile(rb"-?\d{1,20}")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Told:
    """The answers to `DerivedTable.questions`."""

    highest: Sequence[Row]
    between: Sequence[Row]
    standing: Sequence[Row] = ()
    groups: frozenset[Group] = frozenset()
    """Those that were asked about."""


@dataclass(frozen=True, slots=True)
class DerivedTable:
    """One derived table of one entity, between two tables as they stand now. All it does is inside
    the caller's transaction."""

    source: str
    target: str
    key: str
    """The source's primary key, and the last of `latest_by`."""

    group: tuple[str, ...]
    latest_by: tuple[str, ...]
    columns: tuple[str, ...]
    """What is copied."""

    texts: frozenset[str]
    integers: frozenset[str]
    """Those of the columns that hold text, and integers."""

    @classmethod
    def plan(cls, derived: Derived, source: Table, target: Table | None, plan: Plan) -> Self:
        """How the table is derived. Raises SchemaError where it could not be equal to what it is
        derived from. A missing index makes it slow, not wrong, and is no error."""
        name = plan.entity.name
        if target is None:
            raise SchemaError(
                f"{name}: there is no table {derived.local} in the local database",
                hint="a migration creates it; `wpp-sync status` shows which have run",
            )
        refuse_without_transactions(target.name, target.engine)
        pairs = _pairs(name, source, target)
        group = [_pair(name, derived, pairs, column) for column in derived.group]
        order = [_pair(name, derived, pairs, column) for column in derived.latest_by]
        _refuse_other_groups(name, target, group)
        _refuse_other_orders(name, target, order, plan.local_key)
        _refuse_other_keys(name, source, target, group)
        _refuse_what_holds_less(name, target, pairs, group)
        return cls(
            source=source.name,
            target=target.name,
            key=order[-1][1].name,
            group=tuple(column.name for _, column in group),
            latest_by=tuple(column.name for _, column in order),
            columns=tuple(column.name for _, column in pairs),
            texts=frozenset(column.name for _, column in pairs if column.type in _TEXTS),
            integers=frozenset(c.name for _, c in pairs if c.type in INTEGER_TYPES),
        )

    def groups_of(self, rows: Sequence[Row], columns: Sequence[str]) -> frozenset[Group] | None:
        """The groups of rows that are to be written to these columns of the source, so far as that
        can be told before they stand there; None where it cannot. A row without one has none."""
        places = _places(tuple(columns), self.group)
        if places is None:
            return None
        groups = {tuple([row[place] for place in places]) for row in rows}
        groups = {group for group in groups if None not in group}
        for place, column in enumerate(self.group):
            if column not in self.texts and not all(
                _INTEGER.fullmatch(group[place] or b"") for group in groups
            ):
                return None
        return frozenset(groups)

    def questions(
        self, keys: Collection[int], note: str, groups: Collection[Group] = ()
    ) -> list[Statement]:
        """What `update` asks of so few keys before all else, for who asks it with other things.
        `groups`: those that the rows are known to be in; else they are asked about when they are
        seen."""
        ordered = sorted(set(keys))
        assert 0 < len(ordered) <= _KEYS  # noqa: S101 - else they are asked in several parts
        first, last, limit = ordered[0], ordered[-1], 2 * len(ordered)
        # No more rows than that can stand there: so those of no group may be passed over.
        filled = self.group if last - first < limit else ()
        columns = [*self.group, *self.latest_by]
        return [
            sql.highest(self.target, self.key, note),
            sql.between_keys(
                self.source, columns, self.key,
                filled=filled, first=first, last=last, limit=limit, note=note,
            ),
            *([self._standing(groups, note)] if groups else []),
        ]  # fmt: skip

    async def update(
        self,
        connection: Connection,
        keys: Collection[int],
        note: str,
        told: Told | None = None,
        last: list[Statement] | None = None,
    ) -> int:
        """Follow the source rows with these keys, which were inserted, updated or deleted; how many
        derived rows were written or deleted.

        `told`: where the questions were asked. `last`: takes what is to be carried out with the end
        of the transaction instead of now.
        """
        chunks = list(_chunks(sorted(set(keys)), _KEYS))
        if told is None or len(chunks) != 1:
            told_each = [await self._told(connection, chunk, note) for chunk in chunks]
            if len(chunks) > 1:
                last = None  # the next chunk has to see it
        else:
            told_each = [told]
        # All of them before anything is written: a derived row with another unique key may go when
        # a row takes its place, and then nothing would tell that it was outdated.
        outdated: set[Group] = set()
        for chunk, each in zip(chunks, told_each, strict=True):
            outdated |= await self._outdated(connection, chunk, each.highest, note)
        changed = await self._renew(connection, outdated, note)
        for chunk, each in zip(chunks, told_each, strict=True):
            touched = await self._touched(connection, chunk, each.between, note)
            changed += await self._advance(connection, touched, outdated, each, note, last)
        return changed

    async def _told(self, connection: Connection, keys: Sequence[int], note: str) -> Told:
        highest, between = await connection.fetch_each(self.questions(keys, note))
        return Told(highest, between)

    async def rebuild(
        self, connection: Connection, after: tuple[int] | None, note: str
    ) -> tuple[int] | None:
        """Compare and mend the next groups after `after`; where to go on, None at the end."""
        column = self.group[-1]
        start = None if after is None else after[0]
        ends: list[int] = []
        for table in (self.source, self.target):
            question = sql.nth_value(table, column, start, _RANGE_ROWS, note)
            ends += [int(end or 0) for (end,) in await connection.fetch(question)]
        upto = min(ends) if ends else None
        await self._compare(connection, sql.in_range(column, start, upto), note)
        return None if upto is None else (upto,)

    async def _outdated(
        self, connection: Connection, keys: Sequence[int], answer: Sequence[Row], note: str
    ) -> set[Group]:
        """The groups whose derived row, with one of these keys, may be their latest no more."""
        ((highest,),) = answer
        # A new row's key is above all that was derived so far: it need not be looked for.
        top = None if highest is None else int(highest)
        known = [key for key in keys if top is not None and key <= top]
        if not known:
            return set()
        statement = sql.outdated(
            self.target, self.source, self.key, self.group, self._same(self.group),
            self.latest_by[:-1], known, note,
        )  # fmt: skip
        return set(await connection.fetch(statement))

    async def _renew(self, connection: Connection, groups: Collection[Group], note: str) -> int:
        """Derive these groups anew from all their rows."""
        changed = 0
        for chunk in _chunks(list(groups), _HISTORIES):
            where = self._in_groups(chunk)
            found = await connection.fetch(self._latest(where, note))
            left = {row[:-1] for row in found}
            changed += await self._delete(connection, [g for g in chunk if g not in left], note)
            changed += await self._write(connection, [int(row[-1] or 0) for row in found], note)
        return changed

    async def _advance(
        self,
        connection: Connection,
        rows: Sequence[Row],
        renewed: Collection[Group],
        told: Told,
        note: str,
        last: list[Statement] | None,
    ) -> int:
        """Let the latest of these rows in each group take the derived row's place, if it is not
        earlier. The same row again refreshes what is copied of it."""
        touched = self._newest(rows)
        groups = [group for group in touched if group not in renewed]
        if not groups:
            return 0
        standing: Sequence[Row] = told.standing
        if renewed or not told.groups.issuperset(groups):  # what was told may be outdated
            standing = await connection.fetch(self._standing(groups, note))
        newest = self._newest([*standing, *(touched[group] for group in groups)])
        won = sorted(int(newest[g][-1] or 0) for g in groups if newest[g] is touched[g])
        if last is None or len(won) > _KEYS:
            return await self._write(connection, won, note)
        last += [self._replace(won, note)] if won else []
        return len(won)

    def _standing(self, groups: Collection[Group], note: str) -> Statement:
        columns = [*self.group, *self.latest_by]
        return sql.chosen(self.target, columns, self._in_groups(groups), note)

    async def _touched(
        self, connection: Connection, keys: Sequence[int], between: Sequence[Row], note: str
    ) -> Sequence[Row]:
        """Group and order columns of the rows with these keys, and of some others, perhaps.

        A batch of new rows is about all that stands between its first and its last key, and read
        like that it costs a third. Rows that were not touched do no harm.
        """
        if len(between) < 2 * len(keys):
            return between
        columns = [sql.quote(column) for column in (*self.group, *self.latest_by)]
        everything = Statement("1")
        return await connection.fetch(
            sql.by_keys(self.source, columns, [self.key], everything, keys, note)
        )

    def _newest(self, rows: Sequence[Row]) -> dict[Group, Row]:
        """Of each group the latest of these rows; of the same row twice, the second."""
        size = len(self.group)
        ordered = list(rows)
        for place, column in reversed([*enumerate(self.latest_by, size)]):
            ordered.sort(key=_sort_value(place, column in self.integers))
        newest = {row[:size]: row for row in ordered}
        return {group: row for group, row in newest.items() if None not in group}

    async def _compare(self, connection: Connection, where: Statement, note: str) -> None:
        """Make the derived rows that meet a condition on their groups what they should be."""
        found = await connection.fetch(self._latest(where, note))
        groups = {row[:-1] for row in found if None not in row}
        standing = await connection.fetch(sql.chosen(self.target, self.group, where, note))
        await self._delete(connection, [g for g in standing if g not in groups], note)
        keys = sorted(int(row[-1] or 0) for row in found if row[:-1] in groups)
        same = self._same(self.columns)
        for chunk in _chunks(keys, _KEYS):
            statement = sql.not_alike(self.target, self.source, self.key, same, chunk, note)
            wrong = await connection.fetch(statement)
            await self._write(connection, [int(key or 0) for (key,) in wrong], note)

    async def _write(self, connection: Connection, keys: Sequence[int], note: str) -> int:
        for chunk in _chunks(sorted(keys), _KEYS):
            await connection.execute(self._replace(chunk, note))
        return len(keys)

    def _replace(self, keys: Sequence[int], note: str) -> Statement:
        return sql.replace_from(self.target, self.source, self.columns, self.key, keys, note)

    async def _delete(self, connection: Connection, groups: Sequence[Group], note: str) -> int:
        deleted = 0
        for chunk in _chunks(groups, _KEYS):
            statement = sql.delete_where(self.target, self._in_groups(chunk), note)
            deleted += await connection.execute(statement)
        return deleted

    def _latest(self, where: Statement, note: str) -> Statement:
        texts = [column for column in self.group if column in self.texts]
        return sql.latest(self.source, self.group, texts, self.latest_by, where, note)

    def _same(self, columns: Iterable[str]) -> list[str]:
        return [sql.same_in_both(column, column in self.texts) for column in columns]

    def _in_groups(self, groups: Iterable[Group]) -> Statement:
        return sql.in_groups(
            self.group,
            [
                tuple(
                    _literal(value, column in self.texts)
                    for column, value in zip(self.group, group, strict=True)
                )
                for group in groups
            ],
        )


@lru_cache
def _places(columns: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[int, ...] | None:
    """Where among the columns these are; None where not all of them are."""
    known = {column.lower(): place for place, column in enumerate(columns)}
    places = [known.get(column.lower()) for column in wanted]
    return tuple(place for place in places if place is not None) if None not in places else None


def _literal(value: bytes | None, text: bool) -> Value:
    if value is None:
        return None
    return Text(value) if text else int(value)


def _sort_value(place: int, integer: bool) -> Callable[[Row], int | bytes]:
    """What a row is sorted by. Moments of one type are printed in their order; NULL is lowest."""
    if integer:
        return lambda row: _LOWEST if row[place] is None else int(row[place] or 0)
    return lambda row: row[place] or b""


_LOWEST = -(1 << 64)


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


# --- what cannot be derived ----------------------------------------------------------------------

_Pair = tuple[Column, Column]
"""A column of the source and the one of the derived table that it fills."""


def _pairs(name: str, source: Table, target: Table) -> list[_Pair]:
    """The columns that both tables have, in the derived table's order."""
    pairs: list[_Pair] = []
    unfilled: list[str] = []
    for column in target.columns:
        here = source.column(column.name)
        if here is not None and not column.generated:
            pairs.append((here, column))
        elif not column.fills_itself:
            unfilled.append(column.name)
    if unfilled:
        raise SchemaError(
            f"{name}: {', '.join(unfilled)} of local {target.name} must be filled (NOT NULL without"
            f" a default), but {source.name} has no such column",
            hint="give the column a default",
        )
    return pairs


def _pair(name: str, derived: Derived, pairs: Sequence[_Pair], wanted: str) -> _Pair:
    found = next((pair for pair in pairs if pair[1].name.lower() == wanted.lower()), None)
    if found is None:
        raise SchemaError(
            f"{name}: local {derived.local} cannot be derived without the column {wanted}",
            hint="both tables must have it: was a migration undone?",
        )
    return found


def _refuse_other_groups(name: str, target: Table, group: Sequence[_Pair]) -> None:
    for place, (source, column) in enumerate(group, 1):
        last = place == len(group)
        integers = {source.type, column.type} <= INTEGER_TYPES
        if not integers and (last or not {source.type, column.type} <= _NAMES):
            wanted = "an integer" if last else "an integer or a VARCHAR"
            raise SchemaError(
                f"{name}: {column.name} of local {target.name}, by which rows are grouped, must be"
                f" {wanted} in both tables",
                hint=f"ALTER TABLE {target.name} MODIFY {column.name} …",
            )


def _refuse_other_orders(name: str, target: Table, order: Sequence[_Pair], key: str) -> None:
    if order[-1][0].name.lower() != key.lower():
        raise SchemaError(
            f"{name}: what is latest in local {target.name} must be decided by the key {key} at"
            " last",
            hint=f"name {key} as the last column of latest_by",
        )
    for source, column in order:
        integers = {source.type, column.type} <= INTEGER_TYPES
        if not integers and not (source.type in _MOMENTS and source.full_type == column.full_type):
            raise SchemaError(
                f"{name}: {column.name} of local {target.name}, by which a row is the latest, is"
                f" {column.full_type} there and {source.full_type} in its source: it must be an"
                " integer, or a date or time of the same type",
                hint=f"ALTER TABLE {target.name} MODIFY {column.name} {source.full_type} …",
            )


def _refuse_other_keys(name: str, source: Table, target: Table, group: Sequence[_Pair]) -> None:
    """The primary key has to be the group; what is unique beside it, unique in the source, too:
    else a group's row could push out another's."""
    wanted = {column.name.lower() for _, column in group}
    primary = next((i for i in target.indexes if i.name == "PRIMARY"), None)
    if primary is None or not primary.whole or _lower(primary.columns) != wanted:
        raise SchemaError(
            f"{name}: the primary key of local {target.name} is not"
            f" ({', '.join(column.name for _, column in group)})",
            hint="make it so: the table has one row of each group",
        )
    unique = [_lower(index.columns) for index in source.indexes if index.unique and index.whole]
    for index in target.indexes:
        if index.unique and index is not primary:
            mine = _lower(index.columns)
            if not index.whole or not any(theirs <= mine for theirs in unique):
                raise SchemaError(
                    f"{name}: the unique key {index.name} of local {target.name} is not one of"
                    f" {source.name}: two groups could not have their rows",
                    hint=f"ALTER TABLE {target.name} DROP KEY {index.name}",
                )


def _lower(columns: Iterable[str]) -> set[str]:
    return {column.lower() for column in columns}


def _refuse_what_holds_less(
    name: str, target: Table, pairs: Sequence[_Pair], group: Sequence[_Pair]
) -> None:
    narrower = [
        f"{column.name} ({column.full_type} for {source.full_type})"
        for source, column in pairs
        if not _holds(source, column)
        or (source.nullable and not column.nullable and (source, column) not in group)
    ]
    if narrower:
        raise SchemaError(
            f"{name}: local {target.name} holds less than what it is derived from:"
            f" {', '.join(narrower)}",
            hint=f"give these columns of {target.name} the types that they have in the source",
        )


def _holds(source: Column, column: Column) -> bool:
    """Whether `column` takes every value of `source` as it is: it neither changes nor refuses one.
    In doubt it does not."""
    if (source.full_type, source.charset) == (column.full_type, column.charset):
        return True
    if values.may_change(source, column) or values.cuts_fraction(source, column):
        return False
    if {source.type, column.type} <= INTEGER_TYPES:
        return _holds_integers(source, column)
    if {source.type, column.type} <= _TEXTS:
        return column.charset in {source.charset, "utf8mb4"}
    room, wanted = (each.size - each.scale for each in (column, source))
    same_sign = ("unsigned" in source.full_type) == ("unsigned" in column.full_type)
    return source.type == column.type and same_sign and room >= wanted


def _holds_integers(source: Column, column: Column) -> bool:
    # Zeros in front are printed, and then two equal numbers would not look equal.
    if "zerofill" in source.full_type + column.full_type:
        return False
    if "unsigned" in column.full_type:
        return "unsigned" in source.full_type and BITS[source.type] <= BITS[column.type]
    return BITS[source.type] + ("unsigned" in source.full_type) <= BITS[column.type]
