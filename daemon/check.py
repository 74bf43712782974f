"""`wpp-sync check`: is everything there that the daemon will need? Reads only."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

from daemon import db, load, schema
from daemon.central import Central
from daemon.entities import Entity
from daemon.errors import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, DatabaseError, WppSyncError
from daemon.instance import Instance
from daemon.migrations import runner
from daemon.migrations.files import Migration
from daemon.schema import Table

Level = Literal["ok", "note", "fail"]

_AT_ONCE = 8
_GRANT = re.compile(
    r"GRANT (?P<what>.+?) ON (?:TABLE )?(?P<on>`(?:[^`]|``)*`|\S+?)\.(?P<table>\S+) TO ",
    re.IGNORECASE,
)
# How the second version of EXPLAIN's JSON calls what the first one and MariaDB call so.
_ACCESS = {"index_range_scan": "range", "index_scan": "index", "index_lookup": "ref"}
# The same of the rows: the second version of MySQL's, the first one, MariaDB.
_ROWS = ("estimated_rows", "rows_examined_per_scan", "rows")

_FEW_ROWS = 100
"""Of an empty or small table MySQL reads the whole index rather than a range of it, if the index
has all columns, and changes its mind when there are more rows."""

# Rows and state want the first four, migrations the rest.
_LOCAL_NEEDED = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "INDEX", "CREATE TEMPORARY TABLES"}
)
_WRITING = frozenset({"INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    where: str
    text: str
    hint: str = ""
    unreachable: bool = False


def exit_code(findings: list[Finding]) -> int:
    """0 when nothing failed, 3 when a server could not be reached or used, else 1."""
    if not any(finding.level == "fail" for finding in findings):
        return EXIT_OK
    return EXIT_UNREACHABLE if any(f.unreachable for f in findings) else EXIT_FAILED


async def run(
    central: Central,
    instances: Mapping[str, Instance],
    migrations: tuple[Migration, ...],
) -> AsyncIterator[Finding]:
    """Everything that was looked at, as it is found."""
    entities = {
        (entity.central, entity.name): entity
        for instance in instances.values()
        for entity in instance.entities.values()
    }
    tables: dict[str, Table | None] = {}
    async for finding in _central(central, list(entities.values()), tables):
        yield finding
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(instance: Instance) -> list[Finding]:
        async with places:
            return [f async for f in _instance(instance, central, tables, migrations)]

    waiting = [asyncio.ensure_future(one(instance)) for instance in instances.values()]
    try:
        for each in waiting:
            for finding in await each:
                yield finding
    finally:
        for each in waiting:
            each.cancel()


def _failed(where: str, error: WppSyncError) -> Finding:
    return Finding(
        "fail", where, error.message, error.hint, unreachable=isinstance(error, DatabaseError)
    )


async def _central(
    central: Central, entities: list[Entity], tables: dict[str, Table | None]
) -> AsyncIterator[Finding]:
    try:
        yield Finding("ok", "central", f"connected, {await central.server()}")
        for finding in _too_much(privileges(await central.grants(), central.database)):
            yield finding
    except WppSyncError as error:
        yield _failed("central", error)
        return
    try:
        await central.validity()
        level: Level = "note" if central.rule.timed is None else "ok"
        yield Finding(level, "central", f"settling: {central.settle_words()}")
        async for finding in _replica(central):
            yield finding
    except WppSyncError as error:
        yield _failed("central", error)
    for entity in entities:
        if entity.central in tables:
            continue
        try:
            tables[entity.central] = await central.table(entity.central)
            head = await central.head(entity.central, entity.key[0])
        except WppSyncError as error:
            tables[entity.central] = None
            yield _failed(f"central {entity.central}", error)
        else:
            found = tables[entity.central]
            if found is not None:
                text = f"{len(found.columns)} columns, highest id {head.id:,}"
                yield Finding("ok", f"central {entity.central}", text)


async def _replica(central: Central) -> AsyncIterator[Finding]:
    """How far central is behind, where it may be a replica and the guard is to look at that."""
    if central.guard.bearable.replica_lag is None or (await central.validity()).exact:
        return
    lag = await central.load.lag()
    if (unknown := central.load.unknown) is not None:
        text = f"how far it is behind, if it is a replica, is not known: {unknown.message}"
        yield Finding("note", "central", text, load.PRIVILEGE)
    elif lag is not None:
        behind = "it stands still" if lag == inf else f"{lag:,.0f} s behind"
        yield Finding("ok", "central", f"a replica: {behind}")


def privileges(grants: list[str], database: str) -> frozenset[str]:
    """What SHOW GRANTS says that an account may do in all of a database, in upper case.

    Column and table privileges do not count. `_` and `%` in a database's name are wildcards unless
    escaped (MySQL manual, "GRANT Statement").
    """
    found: set[str] = set()
    for grant in grants:
        match = _GRANT.match(grant)
        if match is None or match["table"] != "*":
            continue
        on = match["on"]
        if on.startswith("`"):
            on = on[1:-1].replace("``", "`")
        pattern = re.sub(
            r"\\?.",
            lambda m: {"%": ".*", "_": "."}.get(m[0], re.escape(m[0].removeprefix("\\"))),
            on,
        )
        if match["on"] == "*" or re.fullmatch(pattern, database, re.DOTALL):
            found |= {word.strip().upper() for word in match["what"].split(",")}
    if found & {"ALL", "ALL PRIVILEGES"}:
        found |= _LOCAL_NEEDED | _WRITING
    return frozenset(found)


def _too_much(granted: frozenset[str]) -> Iterator[Finding]:
    """Central is a guest's house: an account that may write there is one accident away from it."""
    if granted & _WRITING:
        yield Finding(
            "note",
            "central",
            f"the account may do more than SELECT: {', '.join(sorted(granted & _WRITING))}",
            "give it SELECT on the central tables, and nothing else",
        )


def _too_little(granted: frozenset[str], where: str) -> Iterator[Finding]:
    missing = _LOCAL_NEEDED - granted
    if missing:
        yield Finding(
            "note",
            where,
            f"SHOW GRANTS does not show {', '.join(sorted(missing))} on the database",
            "GRANT them, unless the account has them by a role",
        )


async def _instance(
    instance: Instance,
    central: Central,
    tables: Mapping[str, Table | None],
    migrations: tuple[Migration, ...],
) -> AsyncIterator[Finding]:
    where = f"local {instance.name}"
    try:
        connection = await db.connect(instance.settings, instance.server, "local")
    except WppSyncError as error:
        yield _failed(where, error)
        return
    try:
        yield Finding("ok", where, f"connected, {connection.version}")
        granted = privileges(await db.grants(connection), instance.settings.database)
        for finding in _too_little(granted, where):
            yield finding
        standing = await runner.look(connection, migrations, f"{instance.name} check")
        pending = [migration.id for migration in standing.pending]
        for warning in standing.warnings:
            yield Finding("note", where, f"migrations: {warning}")
        if pending:
            text = f"{len(pending)} migrations will run at the next start: {', '.join(pending)}"
            yield Finding("note", where, text)
        else:
            yield Finding("ok", where, f"{len(migrations)} migrations in effect")
        for entity in instance.entities.values():
            table = await schema.read(connection, entity.local, f"{instance.name} check")
            if table is None and pending:
                text = f"{entity.name}: {entity.local} is not there yet: a migration creates it"
                yield Finding("note", where, text)
                continue
            if tables.get(entity.central) is None:
                continue  # said already
            async for finding in _entity(instance, central, entity, tables, table):
                yield finding
    except WppSyncError as error:
        yield _failed(where, error)
    finally:
        await connection.close()


async def _entity(
    instance: Instance,
    central: Central,
    entity: Entity,
    tables: Mapping[str, Table | None],
    table: Table | None,
) -> AsyncIterator[Finding]:
    where = f"local {instance.name}"
    try:
        plan = schema.plan(entity, tables[entity.central], table)
        explained = await central.explain(plan, instance.name)
    except WppSyncError as error:
        yield _failed(where, error)
        return
    yield Finding("ok", where, f"{entity.name}: {len(plan.pairs)} columns copied")
    if plan.note:
        yield Finding("note", where, f"{entity.name}: {plan.note}")
    access, key = access_of(explained)
    few = (access, key) == ("index", plan.central_index) and rows_of(explained) <= _FEW_ROWS
    if access == "range" or few:
        text = f"{entity.name}: a batch walks along {key} (EXPLAIN: {access})"
        yield Finding("ok", where, text)
    else:
        text = f"{entity.name}: a batch does not walk along an index (EXPLAIN: {access} {key})"
        yield Finding("fail", where, text, "check the index on the entity's key in central")


def access_of(explained: str) -> tuple[str, str]:
    """The access type and the index of the one table in an EXPLAIN FORMAT=JSON."""
    found = _table_of(explained)
    access = found.get("index_access_type") or found.get("access_type", "unknown")
    key = found.get("key") or found.get("index_name", "")
    return _ACCESS.get(str(access), str(access)), str(key)


def rows_of(explained: str) -> float:
    """How many of its rows the server expects to read; infinite where it does not say."""
    found = _table_of(explained)
    told = [rows for name in _ROWS if isinstance(rows := found.get(name), int | float)]
    return float(told[0]) if told else math.inf


def _table_of(explained: str) -> dict[str, object]:
    """What an EXPLAIN FORMAT=JSON says of its first table; empty where it says nothing.

    In the second version of that format, the default of MySQL 9.7, what is above the table has an
    access type of its own, and the table's has another name.
    """

    def tables(node: object) -> Iterator[dict[str, object]]:
        if isinstance(node, dict):
            if "inputs" not in node and "access_type" in node:
                yield node
            for value in node.values():
                yield from tables(value)
        elif isinstance(node, list):
            for value in node:
                yield from tables(value)

    try:
        return next(tables(json.loads(explained)), {})
    except ValueError:
        return {}
