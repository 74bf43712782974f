"""Which migrations there are, the shipped ones and the operator's own, all checked before any runs.

One file is one migration. Its name is its id, `YYYY-MM-DD-NNN-short-description.sql`; its first
comment is its description; order is by id, over both directories.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from daemon.errors import MigrationFilesError
from daemon.migrations.grammar import refusal
from daemon.migrations.statements import split

SHIPPED = Path(__file__).parent / "versions"

_NAME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})-[0-9]{3}-[a-z0-9]+(?:-[a-z0-9]+)*")
_COMMENT = re.compile(r"--(?:[ \t]+(?:description:)?(?P<text>.*))?", re.IGNORECASE)
_LONGEST_ID = 255


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration as its file says it."""

    id: str
    description: str
    statements: tuple[str, ...]
    checksum: str
    """SHA-256 of the text, line endings normalised."""

    path: Path

    @property
    def origin(self) -> str:
        """`shipped` with the daemon, or `own`: the operator's."""
        return "shipped" if self.path.parent == SHIPPED else "own"


class Catalogue:
    """The migrations that there are, as last read without a problem."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = tuple(directories)
        self.migrations = discover(self._directories)

    def read_again(self) -> None:
        """Look for files that are new or changed. Raises MigrationFilesError; then all stays."""
        self.migrations = discover(self._directories)

    def replace(self, other: Catalogue) -> None:
        """Be what another one is: the files may lie elsewhere now."""
        self._directories, self.migrations = other._directories, other.migrations


def discover(directories: Iterable[Path]) -> tuple[Migration, ...]:
    """All migrations in order of their ids.

    Raises MigrationFilesError with everything that is wrong with any of the files.
    """
    found: list[Migration] = []
    problems: list[str] = []
    seen: dict[str, Path] = {}
    for directory in directories:
        for path in _sql_files(directory, problems):
            migration = _load(path, problems)
            if migration is None:
                continue
            if migration.id in seen:
                problems.append(f"{path}: the id {migration.id} is taken by {seen[migration.id]}")
            seen[migration.id] = path
            found.append(migration)
    if problems:
        raise MigrationFilesError(problems)
    return tuple(sorted(found, key=lambda migration: migration.id))


def _sql_files(directory: Path, problems: list[str]) -> Sequence[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix.lower() == ".sql")
    except OSError as error:
        problems.append(f"{directory}: cannot be read: {error.strerror}")
        return []


def _load(path: Path, problems: list[str]) -> Migration | None:
    """The migration in one file, or None with a problem noted."""
    try:
        return _parse(path, path.read_bytes())
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    except ValueError as error:
        problems.append(f"{path}: {error}")
    return None


def _parse(path: Path, content: bytes) -> Migration:
    """Raises ValueError with what is wrong with the file."""
    name = path.name.removesuffix(".sql")
    match = _NAME.fullmatch(name)
    if match is None or len(name) > _LONGEST_ID or not _is_date(match):
        raise ValueError(
            "the name is not YYYY-MM-DD-NNN-short-description.sql"
            " (a real date, three digits, lower-case words joined by hyphens)"
        )
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from error
    description = _description(text)
    statements = split(text)
    if not statements:
        raise ValueError("contains no statement")
    if problem := next(filter(None, map(refusal, statements)), ""):
        raise ValueError(problem)
    if not description:
        raise ValueError("does not begin with a comment that describes it (-- description: …)")
    return Migration(
        id=name,
        description=description,
        statements=tuple(statements),
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        path=path,
    )


def _description(text: str) -> str:
    """The first line that says something in the comment that the file begins with, or nothing."""
    for line in text.splitlines():
        comment = _COMMENT.fullmatch(line.strip())
        if line.strip() and comment is None:
            break
        if comment is not None and (words := (comment["text"] or "").strip()):
            return words
    return ""


def _is_date(match: re.Match[str]) -> bool:
    try:
        date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return False
    return True
