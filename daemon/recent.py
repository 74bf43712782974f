"""What an instance has done and suffered lately: for the status page, not for decisions. Pure but
for the clocks that are handed in; bounded, and gone with the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from daemon.errors import DatabaseError, WppSyncError

SAMPLE_SECONDS = 5.0
"""So often the written rows are counted."""

_SAMPLES = 60
_ERRORS = 20


@dataclass(slots=True)
class Suffered:
    """An error, and how often it came; its words are the last ones."""

    entity: str
    """Whose it was; empty: the instance's."""

    code: str
    kind: tuple[str, int] | None
    """The server and its error number, where one has refused something."""

    message: str
    hint: str
    first_at: datetime
    last_at: datetime
    times: int = 1


class Recent:
    """The last five minutes' rows and the last errors of one instance."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.succeeded_at: float | None = None
        """When a pass last ended without an error, in seconds since 1970."""

        self._now = now
        self._errors: list[Suffered] = []
        self._written: int | None = None
        self._quiet = 0
        """So many intervals without a row come before `_rows`: an instance that rests has nothing
        else, and there are many."""

        self._rows: list[int] = []

    @property
    def errors(self) -> Sequence[Suffered]:
        """The newest first. One that comes again is told once, with how often."""
        return sorted(self._errors, key=lambda each: each.last_at, reverse=True)

    @property
    def rates(self) -> list[float]:
        """Rows per second in each of the last intervals, the newest last."""
        return [rows / SAMPLE_SECONDS for rows in (*[0] * self._quiet, *self._rows)]

    def succeeded(self) -> None:
        """A pass ended without an error now."""
        self.succeeded_at = self._now().timestamp()

    def suffered(self, error: WppSyncError, entity: str = "") -> None:
        """It came now. It is the same as before whatever its words: they name rows, ports, ids."""
        now = self._now()
        kind = (error.server, error.errno) if isinstance(error, DatabaseError) else None
        for known in self._errors:
            if (known.entity, known.code, known.kind) == (entity, error.code, kind):
                known.times += 1
                known.last_at, known.message, known.hint = now, error.message, error.hint
                return
        del self._errors[: 1 - _ERRORS]
        self._errors.append(Suffered(entity, error.code, kind, error.message, error.hint, now, now))

    def sample(self, rows_written: int) -> None:
        """So many rows were written since the start; to be told every SAMPLE_SECONDS."""
        before, self._written = self._written, rows_written
        if before is None:
            return
        self._rows.append(max(0, rows_written - before))
        if self._quiet + len(self._rows) > _SAMPLES:
            if self._quiet:
                self._quiet -= 1
            else:
                del self._rows[0]
        while self._rows and not self._rows[0]:
            del self._rows[0]
            self._quiet += 1
