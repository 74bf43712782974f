"""What a table looks like, as information_schema tells it, and what of it is copied.

`read` asks a server; `plan` is pure: from both sides' tables it says which columns are copied and
how each is read, and it names everything that is left out. A table that cannot be copied without
losing something is refused with a message that says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from daemon import checksum, sql, values
from daemon.db import Connection
from daemon.entities import Entity
from daemon.errors import SchemaError
from daemon.sql import Key, Row, Sums
from daemon.values import INTEGER_TYPES, Column

# Types whose text-protocol form is raw bytes, not characters: they go back as binary strings.
BINARY_TYPES = frozenset(
    {
        "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "bit", "vector",
        "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring",
        "multipolygon", "geometrycollection", "geomcollection",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Index:
    """One index; `whole` is False where it holds only a prefix of a column, `usable` where the
    optimizer does not see it (MySQL: INVISIBLE, MariaDB: IGNORED). It is enforced all the same."""

    name: str
    unique: bool
    columns: tuple[str, ...]
    whole: bool
    usable: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """One table of one server."""

    name: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    engine: str = "InnoDB"
    """The storage engine; empty for a view."""

    def column(self, name: str) -> Column | None:
        """The column of that name; names are compared without case, as MySQL does."""
        lower = name.lower()
        return next((c for c in self.columns if c.name.lower() == lower), None)


@dataclass(frozen=True, slots=True)
class Pair:
    """One copied column: where it stands, how central is asked for it, how local is told it.
    `types`: what it is on both sides; a plan made before one of them changed is another plan."""

    local: str
    central: str
    expression: str
    binary: bool
    types: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Check:
    """One pair whose local column can change a value that it does not refuse: what stands there is
    read back and compared (see `values`)."""

    place: int
    """Where the pair stands among the pairs."""

    expression: str
    """How local is asked what stands."""

    source: Column
    column: Column

    def in_doubt(self, row: Row) -> bool:
        """Whether the column may change this row's value."""
        return values.in_doubt(row[self.place], self.source, self.column)

    def problem(self, row: Row, stands: bytes | None) -> str | None:
        """What is wrong with what stands for this row, in words; None when nothing is."""
        sent = row[self.place]
        if values.same(sent, stands, self.source, self.column):
            return None
        return (
            f"column {self.column.name} ({self.column.full_type}) does not keep the value:"
            f" {values.shown(sent)} was sent, {values.shown(stands)} would stand"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """How one entity is copied between two given tables. The key is the first pair."""

    entity: Entity
    pairs: tuple[Pair, ...]
    central_index: str
    """The central index that a batch walks along."""

    unique: tuple[tuple[int, ...], ...]
    """The secondary unique keys of the local table, as positions in `pairs`."""

    only_central: tuple[str, ...]
    only_local: tuple[str, ...]
    narrower: tuple[str, ...]
    """Columns whose local type holds less than central's, in words."""

    checks: tuple[Check, ...]
    """The pairs to be verified after a write."""

    central_sums: Sums
    """How central's rows are compared with local ones."""

    local_sums: Sums
    not_compared: tuple[str, ...] = ()
    """Local columns that the servers cannot compare, and why, in words."""

    encoded: tuple[int, ...] = ()
    """The pairs whose text is percent-encoded on its way, as positions in `pairs`."""

    @property
    def central_key(self) -> str:
        return self.pairs[0].central

    @property
    def local_key(self) -> str:
        return self.pairs[0].local

    @property
    def central_keys(self) -> tuple[str, ...]:
        return tuple(pair.central for pair in self.pairs[: len(self.entity.key)])

    @property
    def local_keys(self) -> tuple[str, ...]:
        return tuple(pair.local for pair in self.pairs[: len(self.entity.key)])

    @property
    def new_ids(self) -> Sums | None:
        """How central's new rows are counted for all owners at once; None where that cannot be told
        from the table alone. The filter does not count: it is applied when they are copied."""
        if self.entity.motion != "incremental" or self.entity.through is not None:
            return None
        row = checksum.of_key(self.central_key)
        return replace(self.central_sums, row=row, where=None)

    def key(self, row: Row) -> Key:
        """The key of a row: its first columns."""
        width = len(self.entity.key)
        if width == 1:
            return int(row[0] or 0)
        return tuple(int(part or 0) for part in row[:width])

    def keys(self, rows: Sequence[Row]) -> list[Key]:
        """The keys of many rows."""
        if len(self.entity.key) == 1:
            return [int(row[0] or 0) for row in rows]
        return [self.key(row) for row in rows]

    def told(self, rows: Sequence[Row]) -> list[Row]:
        """Central's rows as local is told them."""
        if not self.encoded:
            return list(rows)
        told: list[Row] = []
        for row in rows:
            parts = list(row)
            for place in self.encoded:
                value = parts[place]
                parts[place] = None if value is None else checksum.encode_uri_component(value)
            told.append(tuple(parts))
        return told

    @property
    def expressions(self) -> tuple[str, ...]:
        return tuple(pair.expression for pair in self.pairs)

    @property
    def local_columns(self) -> tuple[str, ...]:
        return tuple(pair.local for pair in self.pairs)

    @property
    def binary(self) -> tuple[bool, ...]:
        return tuple(pair.binary for pair in self.pairs)

    @property
    def note(self) -> str:
        """What is left out, for people; empty when nothing is."""
        parts = []
        if self.only_central:
            parts.append(
                f"{', '.join(self.only_central)} of central {self.entity.central} not copied:"
                f" no such column in {self.entity.local}"
            )
        if self.only_local:
            parts.append(
                f"{', '.join(self.only_local)} of {self.entity.local} not filled:"
                f" no such column in central {self.entity.central}"
            )
        if self.narrower:
            parts.append(f"{self.entity.local} holds less than central: {', '.join(self.narrower)}")
        if self.not_compared:
            parts.append(f"not compared by reconcile: {', '.join(self.not_compared)}")
        return "; ".join(parts)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


async def read(connection: Connection, table: str, note: str) -> Table | None:
    """The table as it stands now, or None when there is none (or none that we may see)."""
    columns = await connection.fetch(sql.table_columns((table,), note))
    if not columns:
        return None
    parts = await connection.fetch(sql.table_indexes(table, note))
    ((_, engine),) = await connection.fetch(sql.table_engines((table,), note))
    return _table(connection, table, columns, parts, engine)


async def read_all(
    connection: Connection, tables: Collection[str], note: str
) -> dict[str, Table | None]:
    """As `read`, of several tables, in few statements."""
    asked = tuple(dict.fromkeys(tables))
    if len(asked) < 2:
        return {table: await read(connection, table, note) for table in asked}
    columns = _by_table(await connection.fetch(sql.table_columns(asked, note)))
    parts = await _indexes(connection, [table for table in asked if table in columns], note)
    engines = _by_table(await connection.fetch(sql.table_engines(asked, note)))
    found: dict[str, Table | None] = {}
    for table in asked:
        if table in columns and table in engines:
            ((_, engine),) = engines[table]
            found[table] = _table(connection, table, columns[table], parts.get(table, ()), engine)
        else:  # the server may have another spelling of the name
            found[table] = await read(connection, table, note)
    return found


async def _indexes(
    connection: Connection, tables: Sequence[str], note: str
) -> Mapping[str, Sequence[Row]]:
    """What SHOW INDEX says of each of these tables."""
    if not connection.mariadb or not tables:
        return {table: await connection.fetch(sql.table_indexes(table, note)) for table in tables}
    # Catalogue and schemas are what SHOW INDEX does not say.
    rows = await connection.fetch(sql.tables_indexes(tables, note))
    return _by_table([(row[2], row[3], *row[5:]) for row in rows])


def _by_table(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by the table that their first column names."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_text(row[0]), []).append(row)
    return found


async def engines(connection: Connection, tables: Sequence[str], note: str) -> dict[str, str]:
    """The storage engines of those of these tables that are there; empty for a view."""
    rows = await connection.fetch(sql.table_engines(tables, note))
    return {_text(name): _text(engine) for name, engine in rows}


def _table(
    connection: Connection,
    name: str,
    columns: Sequence[Row],
    parts: Sequence[Row],
    engine: bytes | None,
) -> Table:
    hidden = b"YES" if connection.mariadb else b"NO"
    # Manual, "SHOW INDEX Statement". The 14th column is MySQL's Visible or MariaDB's Ignored. What
    # it estimates of a table's rows is left out: it tells two tables of the same form apart.
    of_indexes = tuple(
        (part[2], part[1], part[4], part[7], part[13:14] != (hidden,) and part[10] == b"BTREE")
        for part in parts
    )
    return _understood(name, tuple(row[1:] for row in columns), of_indexes, engine)


_IndexPart = tuple[bytes | None, bytes | None, bytes | None, bytes | None, bool]


@lru_cache(maxsize=256)  # a thousand databases say the same
def _understood(
    name: str, columns: tuple[Row, ...], parts: tuple[_IndexPart, ...], engine: bytes | None
) -> Table:
    """The table of which a server says this. Pure."""
    indexes: dict[str, Index] = {}
    for index, non_unique, column, sub_part, usable in parts:
        known = indexes.get(_text(index))
        indexes[_text(index)] = Index(
            name=_text(index),
            unique=non_unique == b"0",
            # A functional key part (MySQL 8) has no column: it can never be matched by name.
            columns=(*(known.columns if known else ()), _text(column)),
            whole=(known.whole if known else True) and sub_part is None and column is not None,
            usable=usable,
        )
    return Table(
        name=name,
        columns=tuple(
            Column(
                name=_text(column),
                type=_text(kind).lower(),
                full_type=_text(full_type),
                nullable=nullable == b"YES",
                # MariaDB prints a nullable column without a default as the word NULL.
                default=None if default is None or default == b"NULL" else _text(default),
                extra=_text(extra),
                charset=_text(charset),
            )
            for column, kind, full_type, nullable, default, extra, charset in columns
        ),
        indexes=tuple(indexes.values()),
        engine=_text(engine),
    )


@lru_cache(maxsize=256)  # a thousand databases are alike
def plan(entity: Entity, central: Table | None, local: Table | None) -> Plan:
    """How `entity` is copied from `central` to `local`; raises SchemaError when it cannot be."""
    if central is None:
        raise SchemaError(
            f"{entity.name}: there is no table {entity.central} in the central database,"
            " or the account may not see it",
            hint=f"check central.database, and GRANT SELECT ON {entity.central}",
        )
    if local is None:
        raise SchemaError(
            f"{entity.name}: there is no table {entity.local} in the local database",
            hint="a migration creates it; `wpp-sync status` shows which have run",
        )
    refuse_without_transactions(local.name, local.engine)
    pairs = _pair_columns(entity, central, local)
    _refuse_unfillable(entity, central, local, pairs)
    sides = [_sides(pair, central, local) for pair in pairs]
    copied_local = {pair.local for pair in pairs}
    copied_central = {pair.central for pair in pairs}
    encoded = _encoded(entity, local, pairs, sides)
    row_sum = checksum.row_sum(
        [
            checksum.Compared(here, there, encode=place in encoded)
            for place, (here, there) in enumerate(sides)
        ]
    )
    width = len(entity.key)
    return Plan(
        entity=entity,
        pairs=pairs,
        central_index=_index_for(entity, central),
        unique=_secondary_unique_keys(local, pairs),
        only_central=tuple(
            c.name for c in central.columns if c.name not in copied_central and not c.generated
        ),
        only_local=tuple(
            c.name for c in local.columns if c.name not in copied_local and not c.generated
        ),
        narrower=tuple(
            f"{there.name} ({there.full_type} for {here.full_type})"
            for here, there in sides
            if values.cuts_fraction(here, there)
            or (values.may_change(here, there) and here.full_type != there.full_type)
        ),
        checks=tuple(
            Check(place, _expression(there, there), here, there)
            for place, (here, there) in enumerate(sides)
            if values.may_change(here, there)
        ),
        central_sums=Sums(
            table=entity.central,
            key=tuple(pair.central for pair in pairs[:width]),
            index=key_index(central, entity.key[0]),
            row=row_sum.central,
            owner=sql.owner(entity.instance_column, entity.through, entity.central),
            where=entity.where,
        ),
        local_sums=Sums(
            table=entity.local,
            key=tuple(pair.local for pair in pairs[:width]),
            index=key_index(local, pairs[0].local),
            row=row_sum.local,
        ),
        not_compared=row_sum.left_out,
        encoded=encoded,
    )


def _encoded(
    entity: Entity,
    local: Table,
    pairs: Sequence[Pair],
    sides: Sequence[tuple[Column, Column]],
) -> tuple[int, ...]:
    """The positions of the pairs that are encoded; raises SchemaError where that cannot be."""
    wanted = {name.lower(): name for name in entity.encode}
    found: list[int] = []
    for place, (pair, (here, there)) in enumerate(zip(pairs, sides, strict=True)):
        if wanted.pop(pair.local.lower(), None) is None:
            continue
        if not (values.is_text(here) and values.is_text(there)):
            raise SchemaError(
                f"{entity.name}: {pair.local} of local {local.name} cannot be percent-encoded:"
                f" {here.full_type} in central, {there.full_type} here",
                hint=f"only texts can: entities.{entity.name}.encode",
            )
        found.append(place)
    if wanted:
        raise SchemaError(
            f"{entity.name}: {', '.join(wanted.values())} is to be percent-encoded, but is not"
            f" copied to local {local.name}",
            hint=f"correct entities.{entity.name}.encode",
        )
    return tuple(found)


def refuse_without_transactions(table: str, engine: str) -> None:
    """Rows and watermark commit together or not at all: raises SchemaError where they could not.
    A view has no engine."""
    if engine.lower() != "innodb":
        kind = f"a table of the engine {engine}" if engine else "a view"
        raise SchemaError(
            f"local {table} is {kind}: it has no transactions, so a crash would lose rows",
            hint=f"ALTER TABLE {table} ENGINE = InnoDB",
        )


def _pair_columns(entity: Entity, central: Table, local: Table) -> tuple[Pair, ...]:
    """The columns that both sides have, the key first."""
    renamed = {name.lower(): source for name, source in entity.columns.items()}
    left_out = {name.lower() for name in entity.leave_out}
    pairs: list[Pair] = []
    for column in local.columns:
        if column.name.lower() in left_out:
            continue
        source = central.column(renamed.get(column.name.lower(), column.name))
        if source is not None and not column.generated:
            pairs.append(_pair(source, column))
    for name, source_name in entity.columns.items():
        for table, wanted, side in ((local, name, "local"), (central, source_name, "central")):
            if table.column(wanted) is None:
                raise SchemaError(
                    f"{entity.name}: column {wanted} is missing in {side} {table.name}",
                    hint=f"the entity's columns map {name} to central {source_name};"
                    " add the column or change the map",
                )
    keys = _key_pairs(entity, local, pairs)
    return (*keys, *(pair for pair in pairs if pair not in keys))


def _sides(pair: Pair, central: Table, local: Table) -> tuple[Column, Column]:
    """A pair's two columns, central's first."""
    source, column = central.column(pair.central), local.column(pair.local)
    assert source is not None and column is not None  # noqa: S101, PT018 - a pair is made of both
    return source, column


def _pair(source: Column, column: Column) -> Pair:
    as_bytes = values.number_as_bits(source, column) or (
        source.type in BINARY_TYPES and not values.bits_as_number(source, column)
    )
    types = (source.full_type, column.full_type)
    return Pair(column.name, source.name, _expression(source, column), as_bytes, types)


def _expression(source: Column, column: Column) -> str:
    """How a server is asked for a column so that it prints all that `column` has to be told."""
    name = sql.quote(source.name)
    if source.type == "float":
        # The text protocol prints six digits of a FLOAT. As a DOUBLE it prints all that it holds;
        # times one rather than plus zero, because -0.0 + 0 is 0.0.
        return f"{name} * 1e0"
    if values.bits_as_number(source, column):
        return f"{name} + 0"
    if values.number_as_bits(source, column):
        return sql.integer_as_bytes(name)
    if values.may_be_unreadable(source):
        return sql.text_or_marked(name)
    return name


def _key_pairs(entity: Entity, local: Table, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs whose local columns are the primary key and whose central ones the entity's key, in
    the order of the entity's key."""
    primary = next((i for i in local.indexes if i.name == "PRIMARY"), None)
    if primary is None or len(primary.columns) != len(entity.key):
        width = "one column" if len(entity.key) == 1 else f"{len(entity.key)} columns"
        plural = "column that holds" if len(entity.key) == 1 else "columns that hold"
        raise SchemaError(
            f"{entity.name}: local {local.name} has no primary key of {width}",
            hint=f"make the {plural} central's {', '.join(entity.key)} the primary key",
        )
    own = [column.lower() for column in primary.columns]
    found: list[Pair] = []
    for wanted in entity.key:
        for pair in pairs:
            if pair.central.lower() == wanted.lower() and pair.local.lower() in own:
                _refuse_other_than_integers(entity, local, pair.local)
                own.remove(pair.local.lower())
                found.append(pair)
                break
        else:
            raise SchemaError(
                f"{entity.name}: the primary key {', '.join(primary.columns)} of local {local.name}"
                f" does not hold the key {wanted} of central {entity.central}",
                hint=f"map it: entities.{entity.name}.columns: {{{own[0]}: {wanted}}}",
            )
    return tuple(found)


def _refuse_other_than_integers(entity: Entity, local: Table, name: str) -> None:
    """Anything but an integer might change the key without a word, and is not in its order."""
    column = local.column(name)
    if column is not None and column.type not in INTEGER_TYPES:
        raise SchemaError(
            f"{entity.name}: the primary key {column.name} of local {local.name} is"
            f" {column.full_type}; it must hold the integers of central {entity.central} as they"
            " are",
            hint=f"ALTER TABLE {local.name} MODIFY {column.name} BIGINT NOT NULL",
        )


def _refuse_unfillable(entity: Entity, central: Table, local: Table, pairs: Sequence[Pair]) -> None:
    copied = {pair.local for pair in pairs}
    unfilled = [c.name for c in local.columns if c.name not in copied and not c.fills_itself]
    if unfilled:
        raise SchemaError(
            f"{entity.name}: {', '.join(unfilled)} of local {local.name} must be filled (NOT NULL"
            f" without a default), but central {entity.central} has no such column",
            hint=f"give the column a default, or map it: entities.{entity.name}.columns",
        )
    for name in entity.key:
        key = central.column(name)
        if key is not None and key.type not in INTEGER_TYPES:
            raise SchemaError(
                f"{entity.name}: the key {key.name} of central {central.name} is {key.full_type};"
                " rows are followed and compared along integers",
                hint=f"name integer columns in entities.{entity.name}.key",
            )
    if entity.instance_column is not None and central.column(entity.instance_column) is None:
        raise SchemaError(
            f"{entity.name}: central {central.name} has no column {entity.instance_column},"
            " which says whose row it is",
            hint=f"correct entities.{entity.name}.instance_column",
        )


def key_index(table: Table, key: str) -> str:
    """The index that yields all rows in the order of the key, the primary key if it can be; empty
    when there is none."""
    key = key.lower()
    own = ""
    for index in table.indexes:
        if not index.whole or not index.usable:
            continue
        columns = tuple(column.lower() for column in index.columns)
        if index.name == "PRIMARY" and columns == (key,):
            return index.name
        if columns[:1] == (key,) and (index.unique or not own):
            own = index.name
    return own


def _index_for(entity: Entity, central: Table) -> str:
    """The index that yields the instance's rows in key order.

    An index on exactly (instance), or on (instance, key), reads only the instance's own rows:
    InnoDB ends every secondary index with the primary key. Else the key's own index.
    """
    key = entity.key[0].lower()
    instance = (entity.instance_column or "").lower()
    own = key_index(central, key)
    for index in central.indexes:
        columns = tuple(column.lower() for column in index.columns)
        if not index.whole or not index.usable:
            continue
        if columns[:2] == (instance, key) or (columns == (instance,) and own == "PRIMARY"):
            return index.name
    if not own and not central.engine:
        raise SchemaError(
            f"{entity.name}: central {central.name} is a view: rows cannot be followed along a key",
            hint=f"name the table itself in entities.{entity.name}.central",
        )
    if not own:
        raise SchemaError(
            f"{entity.name}: central {central.name} has no index on its key {entity.key[0]};"
            " every poll would read the whole table",
            hint=f"choose a key that is indexed in entities.{entity.name}.key",
        )
    return own


def _secondary_unique_keys(local: Table, pairs: Sequence[Pair]) -> tuple[tuple[int, ...], ...]:
    """Unique keys beside the primary one whose columns are all copied, as positions in `pairs`.

    One with a column that is not copied cannot be looked up from a central row.
    """
    position = {pair.local.lower(): number for number, pair in enumerate(pairs)}
    found = []
    for index in local.indexes:
        if not index.unique or index.name == "PRIMARY" or not index.whole:
            continue
        places = [position.get(column.lower()) for column in index.columns]
        known = tuple(place for place in places if place is not None)
        if len(known) == len(places):
            found.append(known)
    return tuple(found)
