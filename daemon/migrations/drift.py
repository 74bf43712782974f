"""What is left to do for one database, and what is odd about its history. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from daemon.errors import MigrationError
from daemon.migrations.files import Migration


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row of the journal. `state` ready: between two statements; running: in the next one."""

    id: str
    origin: str
    """`shipped` with the daemon, or `own`: the operator's."""

    checksum: str
    statement: int
    """So many of its statements are in effect."""

    statements: int
    reached: str
    """The checksum of the statements that are in effect."""

    state: str
    started_at: str
    finished_at: str
    error: str
    version: str
    """The daemon's, when it ran."""


def reached(migration: Migration, statement: int) -> str:
    """The checksum of a migration's first statements."""
    text = ";\n".join(migration.statements[:statement])
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Standing:
    """How one database stands to the files."""

    pending: tuple[Migration, ...]
    """What is to be put in effect, in order."""

    adopted: tuple[Migration, ...]
    """What ran before there was a journal: what it looks like is remembered from now on."""

    warnings: tuple[str, ...]
    entries: Mapping[str, Recorded]

    def begin_at(self, migration: Migration) -> int:
        """The number of the first statement that is not known to be in effect."""
        entry = self.entries.get(migration.id)
        return 1 if entry is None else entry.statement + 1

    def in_doubt(self, migration: Migration, statement: int) -> bool:
        """Whether this statement was begun, and nothing more is known of it."""
        entry = self.entries.get(migration.id)
        return entry is not None and entry.state == "running" and statement == entry.statement + 1


def standing(
    files: Sequence[Migration], applied: Collection[str], journal: Mapping[str, Recorded] | None
) -> Standing:
    """How a database with this history stands to these files.

    Raises MigrationError where nothing may be done: the database is ahead of this version, or a
    half-applied migration is not what it was.
    """
    entries = journal or {}
    _refuse_ahead(files, entries)
    by_id = {migration.id: migration for migration in files}
    done = set(applied)
    if journal is None and files:
        done.discard(files[0].id)  # it creates the journal
    pending = tuple(migration for migration in files if migration.id not in done)
    for migration in pending:
        _refuse_changed_half(migration, entries.get(migration.id))
    warnings = [
        f"{entry.id} was changed after it ran here: its effect is what the file said then"
        for entry in entries.values()
        if entry.id in by_id and entry.id in done and entry.checksum != by_id[entry.id].checksum
    ]
    for entry in entries.values():
        if entry.id not in by_id:
            half = "" if entry.state == "done" else (
                f", half applied ({entry.statement} of {entry.statements} statements)"
            )  # fmt: skip
            warnings.append(f"{entry.id} ran here{half}, and its file is gone")
    newest = max((entry.id for entry in entries.values() if entry.state == "done"), default="")
    late = [migration.id for migration in pending if migration.id < newest]
    if late:
        warnings.append(
            f"{', '.join(late)}: older than {newest}, which ran here already; it runs now, after it"
        )
    return Standing(
        pending=pending,
        adopted=tuple(m for m in files if m.id in done and m.id not in entries),
        warnings=tuple(warnings),
        entries=entries,
    )


def _refuse_ahead(files: Sequence[Migration], entries: Mapping[str, Recorded]) -> None:
    """A later version of the daemon has been here: what this one would write may be wrong."""
    shipped = {migration.id for migration in files if migration.origin == "shipped"}
    ahead = [e for e in entries.values() if e.origin == "shipped" and e.id not in shipped]
    if ahead:
        newest = max(ahead, key=lambda entry: entry.id)
        raise MigrationError(
            f"this database is ahead of this version of wpp-sync: {newest.id} ran here, by version"
            f" {newest.version}, and is not known to this one",
            hint=f"start version {newest.version} or later",
            code="database_ahead",
        )


def _refuse_changed_half(migration: Migration, entry: Recorded | None) -> None:
    if entry is None or entry.statement == 0 or entry.state == "done":
        return
    if reached(migration, entry.statement) != entry.reached:
        raise MigrationError(
            f"migration {migration.id} is half applied ({entry.statement} of {entry.statements}"
            " statements), and its file was changed in what has run",
            hint=f"bring back the first {entry.statement} statements of {migration.path.name} as"
            " they were; those after them may be changed",
        )
