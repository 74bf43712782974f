"""What a statement would change, found out on empty copies of the tables, where it changes nothing.

The server itself says what a definition means: a statement is tried on a temporary table that has
the table's definition and none of its rows, and that no other session sees. What it leaves
unchanged stands already. With `keep`, the copies stay and go on as the tables would: that is how
many migrations are looked at, one after the other, without running any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from daemon.db import Connection
from daemon.errors import DatabaseError, MissingError, TransientError
from daemon.migrations.definition import Definition, parse, same_foreign_key
from daemon.migrations.grammar import (
    PRIMARY,
    AlterTable,
    ChangeRows,
    Clause,
    CreateTable,
    DropTables,
    RenameTable,
    SetSession,
    alter,
    quoted,
    understand,
)
from daemon.sql import Statement

_PROBE = "wpp_sync_probe"
_BAD_TABLE = frozenset({1051, 1146})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done for one statement."""

    run: str | None
    """What to send to the server; None when nothing is to be done, because it stands already."""

    refused: str = ""
    """Why it must not be done: it stands with another definition."""

    fails: str = ""
    """What the server said when it was tried on a copy."""

    unsure: str = ""
    """Why it cannot be told whether it stands."""

    table: str = ""
    before: Definition | None = None
    after: Definition | None = None

    @property
    def stands(self) -> bool:
        return self.run is None and not self.refused


class _CannotTellError(Exception):
    """There can be no copy of that table."""


class _RefusedError(Exception):
    """It stands with another definition."""


class _FailsError(Exception):
    """The server refuses it on the copy, too."""


class Shadow:
    """The copies of one session's tables."""

    def __init__(self, connection: Connection, note: str, *, keep: bool = False) -> None:
        self._connection = connection
        self._note = note
        self._keep = keep
        self._copies: dict[str, str] = {}
        """By the table's name: the temporary table that stands for it."""

        self._known: dict[str, Definition] = {}
        """What a copy is, by its own name, until it is changed: nobody else sees it."""

        self._constraints: dict[str, dict[str, str]] = {}
        """What a copy cannot have, foreign keys, and checks by their names."""

        self._gone: set[str] = set()
        self._unknown: set[str] = set()
        """What was to be created, and of what no copy can be made."""

        self._numbers = count(1)

    async def judge(self, statement: str) -> Verdict:
        """What is to be done for a statement as things stand. Raises DatabaseError when the server
        fails, never when it refuses."""
        said = understand(statement)
        try:
            if isinstance(said, AlterTable) and said.table.lower() in self._unknown:
                verdict = Verdict(statement, unsure="its table cannot be foreseen")
            elif isinstance(said, AlterTable):
                verdict = await self._alter(statement, said)
            elif isinstance(said, CreateTable):
                verdict = await self._create(statement, said)
            elif isinstance(said, DropTables):
                verdict = await self._drop(said)
            elif isinstance(said, RenameTable):
                verdict = await self._rename(statement, said)
            elif isinstance(said, ChangeRows | SetSession):
                verdict = Verdict(statement, table=getattr(said, "table", ""))
            else:
                verdict = Verdict(statement, unsure="only running it tells")
        finally:
            if not self._keep and self._connection.usable:
                await self.close()
        return verdict

    async def close(self) -> None:
        """Drop the copies."""
        copies = list(self._copies.values())
        self._copies.clear()
        self._known.clear()
        self._constraints.clear()
        for copy in copies:
            await self._execute(f"DROP TEMPORARY TABLE IF EXISTS {quoted(copy)}")

    # --- each kind of statement -----------------------------------------------------------------

    async def _create(self, statement: str, said: CreateTable) -> Verdict:
        standing = await self._definition(said.table)
        if standing is None:
            return await self._foresee_table(statement, said)
        if said.tolerant:
            return Verdict(None, table=said.table)
        try:
            wanted = await self._other(said.body)
            await self._copy(said.table)
            copied = await self._definition(said.table)
        except (_CannotTellError, _FailsError) as error:
            return Verdict(
                None,
                refused=f"there is a table {said.table} already, and whether it is this one cannot"
                f" be told: {error}",
                unsure=str(error),
            )
        assert copied is not None  # noqa: S101 - it was just made
        if copied.same(wanted):
            return Verdict(None, table=said.table)
        return Verdict(None, refused=_table_differs(said.table, copied, wanted))

    async def _foresee_table(self, statement: str, said: CreateTable) -> Verdict:
        """A table that is not there yet: with `keep`, what it will be."""
        if self._keep:
            try:
                await self._new_copy(said.table, said.body)
            except _CannotTellError as error:
                # With a foreign key, say, which a temporary table cannot have.
                self._unknown.add(said.table.lower())
                return Verdict(statement, unsure=str(error), table=said.table)
            self._gone.discard(said.table.lower())
        return Verdict(statement, table=said.table)

    async def _drop(self, said: DropTables) -> Verdict:
        there = [name for name in said.tables if await self._definition(name) is not None]
        if not there:
            return Verdict(None)
        if self._keep:
            self._gone.update(name.lower() for name in there)
            for name in there:
                self._copies.pop(name.lower(), None)
        return Verdict(f"DROP TABLE {', '.join(map(quoted, there))}", table=there[0])

    async def _rename(self, statement: str, said: RenameTable) -> Verdict:
        old, new = await self._definition(said.table), await self._definition(said.to)
        if old is None and new is not None:
            return Verdict(None, table=said.to)
        if old is not None and new is not None:
            why = f"there is a table {said.to} already, beside {said.table}"
            return Verdict(None, refused=why)
        if old is not None and self._keep:
            try:
                self._copies[said.to.lower()] = await self._copy(said.table)
            except _CannotTellError as error:
                return Verdict(statement, unsure=str(error))
            self._copies.pop(said.table.lower())
            self._gone.add(said.table.lower())
            self._gone.discard(said.to.lower())
        return Verdict(statement, table=said.table)

    async def _alter(self, statement: str, said: AlterTable) -> Verdict:
        standing = await self._definition(said.table)
        if standing is None:
            return Verdict(statement, fails=f"there is no table {said.table}", table=said.table)
        try:
            copy = await self._copy(said.table)
        except _CannotTellError as error:
            return _by_names(statement, said, standing, str(error))
        before = await self._copied(copy)
        self._constraints.setdefault(said.table.lower(), dict(standing.constraints))
        try:
            todo = await self._still_to_do(copy, said, before)
        except _RefusedError as refused:
            return Verdict(None, refused=str(refused), table=said.table)
        except _FailsError as failed:
            return Verdict(statement, fails=str(failed), table=said.table, before=before)
        if not todo:
            return Verdict(None, table=said.table)
        run = statement
        if any(clause.tolerant or clause.text not in todo for clause in said.clauses):
            manner = [c.text for c in said.clauses if c.kind == "manner" and c.text not in todo]
            run = alter(said.table, [*todo, *manner])
        after = await self._copied(copy)
        return Verdict(run, table=said.table, before=before, after=after)

    async def _still_to_do(self, copy: str, said: AlterTable, before: Definition) -> list[str]:
        """The clauses that change something, and the copy brought to where they lead."""
        every = [clause.text for clause in said.clauses]
        if _plain(said) and await self._try(copy, every) is None:
            return [] if before.same(await self._copied(copy)) else every
        try:
            return await self._clause_by_clause(copy, said)
        except _FailsError:
            # Clauses that make sense only together.
            await self._must(copy, every)
            return [] if before.same(await self._copied(copy)) else every

    # --- the clauses of one ALTER TABLE ---------------------------------------------------------

    async def _clause_by_clause(self, copy: str, said: AlterTable) -> list[str]:
        """The clauses that are still to be done, and the copy brought there."""
        todo: list[str] = []
        constraints = self._constraints[said.table.lower()]
        for unit in _units(said.clauses):
            first = unit[0]
            if first.kind == "manner":
                continue
            if len(unit) > 1:
                todo += await self._replacement(copy, unit)
            elif first.what == "constraint":
                todo += await self._constraint(copy, first, constraints)
            elif first.kind == "add" and first.what == "column":
                todo += await self._add_column(copy, first)
            elif first.kind == "add":
                todo += await self._add_index(copy, first)
            else:
                todo += await self._change(copy, first)
        return todo

    async def _replacement(self, copy: str, unit: Sequence[Clause]) -> list[str]:
        """An object that is dropped and added again in one statement."""
        before = await self._copied(copy)
        texts = [c.text for c in unit]
        if not _has(before, unit[0].what, unit[0].name):
            texts = texts[1:]
        await self._must(copy, texts)
        return [] if before.same(await self._copied(copy)) else texts

    async def _add_column(self, copy: str, clause: Clause) -> list[str]:
        before = await self._copied(copy)
        if not _has(before, "column", clause.name):
            await self._must(copy, [clause.text])
            return [clause.text]
        if clause.tolerant:
            return []
        wanted = f"MODIFY COLUMN {quoted(clause.name)} {clause.definition}"
        await self._must(copy, [wanted])
        after = await self._copied(copy)
        if before.show("column", clause.name) == after.show("column", clause.name):
            return []
        raise _RefusedError(
            _differs("column", clause.name, before, after.show("column", clause.name))
        )

    async def _add_index(self, copy: str, clause: Clause) -> list[str]:
        before = await self._copied(copy)
        there = bool(clause.name) and _has(before, "index", clause.name)
        if there and clause.tolerant:
            return []
        if not there and clause.name and not clause.tolerant:
            await self._must(copy, [clause.text])
            return [clause.text]
        wanted = await self._index_as_printed(copy, clause)
        if there:
            if _same_index(before.show("index", clause.name), wanted):
                return []
            raise _RefusedError(_differs("index", clause.name, before, wanted))
        like_it = [name for name, text in before.indexes.items() if text == wanted]
        if like_it and not clause.name:
            return []
        if like_it:
            rename = f"RENAME INDEX {quoted(like_it[0])} TO {quoted(clause.name)}"
            await self._must(copy, [rename])
            return [rename]
        await self._must(copy, [clause.text])
        return [clause.text]

    async def _index_as_printed(self, copy: str, clause: Clause) -> str:
        """How the server prints the index of a clause."""
        kind = "UNIQUE KEY" if clause.name == PRIMARY else clause.prefix
        await self._must(copy, [f"ADD {kind} {quoted(_PROBE)} {clause.definition}"])
        wanted = (await self._copied(copy)).show("index", _PROBE)
        await self._must(copy, [f"DROP INDEX {quoted(_PROBE)}"])
        return wanted

    async def _change(self, copy: str, clause: Clause) -> list[str]:
        """A clause that drops or changes something, or sets an option of the table."""
        before = await self._copied(copy)
        if clause.kind == "drop" and not _has(before, clause.what, clause.name):
            return []
        there = _has(before, clause.what, clause.name)
        source = _has(before, clause.what, clause.old_name or clause.name)
        if clause.kind == "change" and clause.what != "table" and not source:
            if clause.old_name and there:  # it has its new name already
                renamed = replace(clause, tolerant=False)
                return await self._add_column(copy, renamed) if clause.definition else []
            if clause.tolerant:
                return []
        await self._must(copy, [clause.text])
        return [] if before.same(await self._copied(copy)) else [clause.text]

    async def _constraint(
        self, copy: str, clause: Clause, constraints: dict[str, str]
    ) -> list[str]:
        """Foreign keys and checks: a temporary table has none of the first, and on MySQL gives the
        second other names."""
        name = clause.name.lower()
        if clause.kind == "drop":
            if constraints.pop(name, None) is not None:
                return [clause.text]
            if clause.prefix != "CONSTRAINT":
                return []
            # It may mean an index, too.
            return await self._change(copy, replace(clause, what="index"))
        if clause.prefix == "CHECK":
            wanted = await self._check_as_printed(copy, clause)
            equal = [n for n, text in constraints.items() if text == wanted]
        else:
            wanted = f"{clause.prefix} {clause.definition}"
            equal = [n for n, text in constraints.items() if same_foreign_key(text, wanted)]
        known = name in constraints if name else bool(equal)
        if not known:
            constraints[name or f"{_PROBE} {len(constraints)}"] = wanted
            return [clause.text]
        if name and name not in equal and not clause.tolerant:
            stands = f"constraint {clause.name} stands already, but as {constraints[name]}"
            raise _RefusedError(f"{stands}, not as {wanted}")
        return []

    async def _check_as_printed(self, copy: str, clause: Clause) -> str:
        add = f"ADD CONSTRAINT {quoted(_PROBE)} CHECK {clause.definition}"
        await self._must(copy, [add])
        wanted = (await self._copied(copy)).constraints.get(_PROBE, "")
        await self._must(copy, [f"DROP CONSTRAINT {quoted(_PROBE)}"])
        return wanted

    # --- copies ---------------------------------------------------------------------------------

    async def _definition(self, table: str) -> Definition | None:
        """The table, or what stands for it, as it is now."""
        if table.lower() in self._gone:
            return None
        copy = self._copies.get(table.lower())
        try:
            printed = await (self._printed(table) if copy is None else self._copied(copy))
        except MissingError as error:
            if error.errno in _BAD_TABLE:
                return None
            raise
        if constraints := self._constraints.get(table.lower()):
            printed = replace(printed, constraints=constraints)
        return printed

    async def _copied(self, copy: str) -> Definition:
        """A copy as it is now."""
        if copy not in self._known:
            self._known[copy] = await self._printed(copy)
        return self._known[copy]

    async def _printed(self, name: str) -> Definition:
        rows = await self._connection.fetch(
            Statement(f"SHOW CREATE TABLE {quoted(name)}".replace("%", "%%"), (), self._note)
        )
        text = (rows[0][1] or b"").decode("utf-8", "replace")
        if not text.upper().startswith(("CREATE TABLE", "CREATE TEMPORARY TABLE")):
            return Definition({}, {}, options="a view")
        return parse(text)

    async def _copy(self, table: str) -> str:
        """The table's copy, made when there is none yet."""
        known = self._copies.get(table.lower())
        return known or await self._new_copy(table, f"LIKE {quoted(table)}")

    async def _new_copy(self, table: str, body: str) -> str:
        name = f"wpp_sync_shadow_{next(self._numbers)}"
        try:
            await self._execute(f"CREATE TEMPORARY TABLE {quoted(name)} {body}")
        except TransientError:
            raise
        except DatabaseError as error:
            raise _CannotTellError(error.message) from error
        self._copies[table.lower()] = name
        return name

    async def _other(self, body: str) -> Definition:
        """The definition that a CREATE TABLE would make."""
        copy = await self._new_copy(f"{_PROBE} {next(self._numbers)}", body)
        return await self._copied(copy)

    async def _must(self, copy: str, clauses: list[str]) -> None:
        error = await self._try(copy, clauses)
        if error is not None:
            raise _FailsError(error.message)

    async def _try(self, copy: str, clauses: list[str]) -> DatabaseError | None:
        """Change the copy; the server's refusal, if it refuses."""
        self._known.pop(copy, None)
        try:
            await self._execute(alter(copy, clauses))
        except TransientError:
            raise
        except DatabaseError as error:
            return error
        return None

    async def _execute(self, text: str) -> None:
        await self._connection.execute(Statement(text.replace("%", "%%"), (), self._note))


def _has(definition: Definition, kind: str, name: str) -> bool:
    return name.lower() in (definition.columns if kind == "column" else definition.indexes)


def _plain(said: AlterTable) -> bool:
    """Whether trying the whole statement tells all: not where a clause is content with less, where
    an index has no name (it would be added once more), or where a copy has no such thing."""
    return not any(
        clause.tolerant
        or clause.what == "constraint"
        or clause.kind == "manner"
        or (clause.kind == "add" and not clause.name)
        for clause in said.clauses
    )


def _units(clauses: Sequence[Clause]) -> list[list[Clause]]:
    """The clauses, with an object's DROP and later ADD taken together."""
    units: list[list[Clause]] = []
    for clause in clauses:
        key = (clause.what, clause.name.lower())
        earlier = next(
            (u for u in units if u[0].kind == "drop" and (u[0].what, u[0].name.lower()) == key),
            None,
        )
        if clause.kind == "add" and earlier is not None and clause.what != "constraint":
            earlier.append(clause)
        else:
            units.append([clause])
    return units


def _same_index(standing: str, wanted: str) -> bool:
    """Whether two indexes are one; the primary key was tried as a unique one."""
    if standing.startswith("PRIMARY KEY "):
        return standing.removeprefix("PRIMARY KEY ") == wanted.removeprefix("UNIQUE KEY ")
    return standing == wanted


def _differs(kind: str, name: str, before: Definition, wanted: str) -> str:
    return f"{kind} {name} stands already, but as {before.show(kind, name)}, not as {wanted}"


def _table_differs(table: str, standing: Definition, wanted: Definition) -> str:
    """The first few differences between two tables, in words."""
    found: list[str] = []
    for kind in ("column", "index"):
        here = standing.columns if kind == "column" else standing.indexes
        there = wanted.columns if kind == "column" else wanted.indexes
        for name in dict.fromkeys([*here, *there]):
            if here.get(name) != there.get(name):
                found.append(
                    f"{kind} {name} is {here.get(name, 'missing')},"
                    f" not {there.get(name, 'to be there')}"
                )
    if list(standing.columns) != list(wanted.columns) and not found:
        found.append(f"its columns are in the order {', '.join(standing.columns)}")
    if standing.options != wanted.options:
        found.append(f"it is {standing.options}, not {wanted.options}")
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"table {table} stands already, but differs: {'; '.join(found[:5])}{more}"


def _by_names(statement: str, said: AlterTable, standing: Definition, why: str) -> Verdict:
    """What can be told without a copy: what is there by its name."""
    todo: list[str] = []
    for unit in _units(said.clauses):
        clause = unit[0]
        there = _has(standing, clause.what, clause.name) or (
            clause.what == "constraint" and clause.name.lower() in standing.constraints
        )
        texts = [each.text for each in unit]
        if clause.kind == "drop" and not there:
            texts = texts[1:]
        elif clause.kind == "add" and there and clause.name:
            if not clause.tolerant:
                return Verdict(
                    None,
                    refused=f"{clause.what} {clause.name} stands already, and whether with the same"
                    f" definition cannot be told: {why}",
                    unsure=why,
                    table=said.table,
                )
            texts = []
        todo += texts
    if not todo:
        return Verdict(None, table=said.table)
    if [c.text for c in said.clauses] == todo and not any(c.tolerant for c in said.clauses):
        return Verdict(statement, unsure=why, table=said.table)
    return Verdict(alter(said.table, todo), unsure=why, table=said.table)
