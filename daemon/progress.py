"""The progress of what takes its time: bars on a terminal, a line now and then elsewhere.

It is told by statuses, of the running daemon or of an instance in this process, so that both look
the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from daemon.instance import Instance

# Off a terminal a line so often is enough to see that it lives.
_LINE_SECONDS = 5.0

_POLL_SECONDS = 0.25


class Part(NamedTuple):
    """How far one entity is."""

    entity: str
    doing: str
    done: float
    """From 0 to 1."""

    eta_seconds: float | None


def parts(status: Mapping[str, Any], most: dict[str, int], rate: float) -> Iterator[Part]:
    """What a status says of work under way. Pure but for `most`: the most rows that each entity had
    to copy, so far."""
    for each in status["sync_state"]:
        name, rows = each["entity"], each["lag_rows"] or 0
        compared = each["reconcile"] or {}
        if each["resync"]:
            yield Part(name, "resync", each["resync_progress"] or 0.0, each["eta_seconds"])
        elif rows:
            most[name] = max(most.get(name, 0), rows)
            eta = rows / rate if rate > 0 else None
            yield Part(name, f"{rows:,} rows to copy", 1.0 - rows / most[name], eta)
        elif compared.get("asked"):
            found = compared["differences"]
            yield Part(name, f"comparing, {found:,} differ", compared["progress"] or 0.0, None)


class Shown:
    """The progress of one instance's work, on standard error while the block runs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._most: dict[str, int] = {}
        self._began = self._said = time.monotonic()
        self._before: int | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[about]}"),
            )
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def told(self, status: dict[str, Any]) -> None:
        """Show what a status says."""
        now, rows = time.monotonic(), status["rows_written"]
        if self._before is None:
            self._before, self._began = rows, now
        written = max(0, rows - self._before)
        rate = written / (now - self._began) if now > self._began else 0.0
        found = list(parts(status, self._most, rate))
        if self._bars is not None:
            self._draw(self._bars, found, rate)
        elif now - self._said >= _LINE_SECONDS:
            self._said = now
            far = "; ".join(f"{p.entity} {p.done:.0%} {p.doing}{_eta(p)}" for p in found)
            pace = f"  {written:,} rows, {rate:,.0f} rows/s  "
            print(f"{self._name}{pace}{far}", file=sys.stderr, flush=True)  # noqa: T201

    def _draw(self, bars: Progress, found: list[Part], rate: float) -> None:
        for part in found:
            if part.entity not in self._tasks:
                label = f"{self._name} {part.entity}"
                self._tasks[part.entity] = bars.add_task(label, total=1.0, about="")
            pace = f"  {rate:,.0f} rows/s" if rate else ""
            about = f"{part.doing}{pace}{_eta(part)}"
            bars.update(self._tasks[part.entity], completed=part.done, about=about)
        for entity in self._tasks.keys() - {part.entity for part in found}:
            bars.update(self._tasks[entity], completed=1.0, about="done")


def _eta(part: Part) -> str:
    return "" if part.eta_seconds is None else f", about {part.eta_seconds:,.0f} s left"


@asynccontextmanager
async def watching(instance: Instance) -> AsyncIterator[None]:
    """Show the progress of an instance in this process while the block runs."""
    # Where a daemon does the work, nothing of this is needed to show it.
    import asyncio

    from daemon.status import status_now

    async def look(shown: Shown) -> None:
        while True:
            if instance.hold.usable:
                # From memory: to ask its database, too, would hold up what is shown.
                shown.told(status_now(instance))
            await asyncio.sleep(_POLL_SECONDS)

    with Shown(instance.name) as shown:
        looking = asyncio.ensure_future(look(shown))
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
