"""The progress of a one-shot sync: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from daemon.client import Client, instance_path
from daemon.errors import DaemonUnreachableError
from daemon.instance import Instance
from daemon.sync.commit import Committed

# Off a terminal a line so often is enough to see that it lives.
_LINE_SECONDS = 5.0


_POLL_SECONDS = 0.5


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} rows/s" if speed else "")


class SyncProgress:
    """Listens to an instance's commits while the block runs."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._console = Console(stderr=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._rows: dict[str, int] = {}
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        self._instance.listener = self._committed
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bars off the screen; safe to call again."""
        self._instance.listener = None
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _committed(self, commit: Committed) -> None:
        rows = self._rows[commit.entity] = self._rows.get(commit.entity, 0) + commit.rows
        motion = self._instance.motions.get(commit.entity)
        # What this commit brought is still in the count until the motion has moved on.
        left = max(0, motion.lag_rows - commit.rows) if motion else 0
        if self._bars is not None:
            name = f"{self._instance.name} {commit.entity}"
            task = self._tasks.get(commit.entity)
            if task is None:
                task = self._tasks[commit.entity] = self._bars.add_task(name, total=None)
            self._bars.update(task, completed=rows, total=rows + left)
            return
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS:
            self._said = now
            rate = sum(self._rows.values()) / (now - self._began)
            eta = f", about {left / rate:,.0f} s left" if rate and left else ""
            print(  # noqa: T201 - this is the command line's output
                f"{self._instance.name} {commit.entity}  {rows:,} rows, {rate:,.0f} rows/s{eta}",
                file=sys.stderr,
                flush=True,
            )


async def follow_resync(client: Client, name: str) -> bool:
    """Show a full resync until it is done; False when no daemon answers (any more)."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[eta]}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        while True:
            try:
                found = await client.get(instance_path(name))
            except DaemonUnreachableError:
                return False
            pending = [each for each in found["sync_state"] if each["resync"]]
            for each in pending:
                label = f"{name} {each['entity']}"
                if label not in tasks:
                    tasks[label] = bars.add_task(label, total=1.0, eta="")
                left = each["eta_seconds"]
                eta = "" if left is None else f"about {left:,.0f} s left"
                bars.update(tasks[label], completed=each["resync_progress"] or 0.0, eta=eta)
            for label in tasks.keys() - {f"{name} {each['entity']}" for each in pending}:
                bars.update(tasks[label], completed=1.0, eta="done")
            if not pending:
                break
            await asyncio.sleep(_POLL_SECONDS)
    print(f"{name}  resync done", file=sys.stderr, flush=True)  # noqa: T201
    return True
