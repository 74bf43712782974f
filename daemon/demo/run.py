"""`wpp-sync demo`: the main job on real servers, shown live, and proven at the end.

Two private MariaDB servers in a temporary directory (central and local, with different settings),
a seeded central database with three instances, the real daemon as a process of its own, and an
application that goes on writing. At the end both sides are compared row by row, by code that shares
nothing with the daemon; any difference is a loud failure. Nothing is left behind.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from daemon.aio import wait_first
from daemon.app import stop_on_signals
from daemon.client import Client, instance_path
from daemon.demo import central as central_data
from daemon.demo.compare import compare, compare_derived, report, subject
from daemon.demo.server import MariaDB
from daemon.demo.traffic import Traffic
from daemon.errors import EXIT_FAILED, EXIT_OK, DaemonUnreachableError, WppSyncError

INSTANCES = ("nunes", "karsten", "oliveira")
ENTITIES = ("messages", "chats", "contacts", "contact_sectors", "schedules")
SEED_MESSAGES = 40_000
ROWS_PER_SECOND = 200.0
EDITS_PER_SECOND = 20.0

# How long the daemon may take to catch up when the traffic has ended.
CATCH_UP_SECONDS = 60.0

_COLUMNS = ("instance", "state", "watermark", "settled", "lag", "rows copied", "rows/s")
_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 2.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read us went away (`| head`): that ends the demo as any failure does. rich would
        end the process out of the middle of a task."""
        raise BrokenPipeError


def run_demo(seconds: float | None) -> int:
    """Run until `seconds` have passed, or for ever until Ctrl-C; the exit code."""
    console = _Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="wpp-demo-") as directory:
        return asyncio.run(_demo(Path(directory), seconds, console))


async def _demo(directory: Path, seconds: float | None, console: Console) -> int:
    stop = stop_on_signals()
    with _servers(directory, console) as (central, local):
        databases = _databases(central, local, console)
        config = _write_config(directory, databases)
        log = directory / "daemon.log"
        with _daemon(config, log) as process:
            client = Client(directory / "control.sock")
            traffic = Traffic(
                databases["central"], INSTANCES, ROWS_PER_SECOND, edits_per_second=EDITS_PER_SECOND
            )
            console.print(
                f"the daemon runs (process {process.pid}); the application writes about"
                f" {ROWS_PER_SECOND:.0f} rows/s and changes or deletes others"
                f" {EDITS_PER_SECOND:.0f} times a second; Ctrl-C ends the demo and compares both"
                " sides"
            )
            watch = _Watch(client, traffic, console, process, log)
            await watch.tell_where()
            await _live(traffic, watch, stop, seconds)
            await watch.caught_up()
            await watch.reconciled()
        return _verdict(databases, traffic, console)


@contextmanager
def _servers(directory: Path, console: Console) -> Iterator[tuple[MariaDB, MariaDB]]:
    console.print("starting two private MariaDB servers …")
    for name in ("central", "local"):
        (directory / name).mkdir()
    with (
        MariaDB(
            directory / "central",
            name="central",
            options=["--default-time-zone=-03:00", "--character-set-server=utf8mb4"],
        ) as central,
        MariaDB(
            directory / "local",
            name="local",
            options=["--default-time-zone=+05:30", "--character-set-server=latin1"],
        ) as local,
    ):
        yield central, local


def _databases(
    central: MariaDB, local: MariaDB, console: Console
) -> dict[str, Mapping[str, object]]:
    """Create and seed; the servers of config.yaml by name."""
    began = time.monotonic()
    found: dict[str, Mapping[str, object]] = {"central": central.create_database("central")}
    central.execute(central_data.schema(), "central")
    central.execute("".join(central_data.seed_varied(INSTANCES, messages=SEED_MESSAGES)), "central")
    for name in INSTANCES:
        found[name] = local.create_database(f"wpp_{name}")
    seconds = time.monotonic() - began
    console.print(
        f"seeded central with {SEED_MESSAGES:,} messages of {len(INSTANCES)} instances (and of"
        f" some with look-alike names) in {seconds:.1f} s; the local databases are empty"
    )
    return found


def _write_config(directory: Path, databases: Mapping[str, Mapping[str, object]]) -> Path:
    path = directory / "config.yaml"
    document = {
        "central": dict(databases["central"]),
        "instances": {name: dict(databases[name]) for name in INSTANCES},
        "control": {"socket": str(directory / "control.sock")},
        "http": {"listen": "127.0.0.1:0"},
        # Shorter than the defaults, so that what changes shows while one looks.
        "sync": {"hot_interval": "2s", "whole_interval": "5s"},
    }
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    return path


@contextmanager
def _daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real daemon as a process; ended with SIGTERM, so that it finishes its batch."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon.cli", "run", "-c", str(config)],
            stdout=sink,
            stderr=sink,
            # Ctrl-C is for the demo: the daemon is to live until both sides are equal.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _live(
    traffic: Traffic, watch: _Watch, stop: asyncio.Event, seconds: float | None
) -> None:
    """Traffic and table until it is time to end; both are then left in order."""
    ended = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.run(ended), name="traffic")
            showing = group.create_task(watch.show(), name="show")
            try:
                await wait_first(seconds, stop)
            finally:
                ended.set()  # also when showing has failed: who writes hears of nothing else
            showing.cancel()
    except ExceptionGroup as group_of:
        error: BaseException = group_of
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise WppSyncError(f"the demo failed: {error}") from error


@dataclass(slots=True)
class _Seen:
    """An instance's counter when it was last looked at."""

    rows: int
    at: float


class _Watch:
    """Looks at the daemon over its control socket."""

    def __init__(
        self,
        client: Client,
        traffic: Traffic,
        console: Console,
        process: subprocess.Popen[bytes],
        log: Path,
    ) -> None:
        self._client = client
        self._traffic = traffic
        self._console = console
        self._process = process
        self._log = log
        self._seen: dict[str, _Seen] = {}

    async def tell_where(self) -> None:
        """Say where the status page is, once the daemon answers."""
        found = None
        while found is None:
            await asyncio.sleep(0.1)
            with suppress(DaemonUnreachableError):  # not up yet
                found = await asyncio.to_thread(self._client.get, "/v1/alive")
        self._console.print(f"status page: http://{found['http']}/")

    async def show(self) -> None:
        """A live table on a terminal, else a line for each instance now and then; until
        cancelled."""
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False) as live:
                while True:
                    live.update(self._table(await self._status()), refresh=True)
                    await asyncio.sleep(_REFRESH_SECONDS)
        while True:
            await asyncio.sleep(_LINE_SECONDS)
            for each in await self._status():
                told = zip(_COLUMNS, self._cells(each), strict=True)
                line = "  ".join(f"{name} {cell}" for name, cell in told)
                self._console.print(line, markup=False)

    async def caught_up(self) -> None:
        """Wait until all is copied and settled. Raises WppSyncError when that takes too long."""
        self._console.print("the traffic has ended; waiting until the last row has settled …")
        began = time.monotonic()
        while time.monotonic() - began < CATCH_UP_SECONDS:
            found = await self._status()
            entities = [entity for each in found for entity in each["sync_state"]]
            if (
                time.monotonic() - began > 1  # a head younger than the last commit
                and len(found) == len(INSTANCES)
                and all(entity["head"] in {None, entity["settled_id"]} for entity in entities)
            ):
                return
            await asyncio.sleep(0.2)
        raise WppSyncError(f"not caught up after {CATCH_UP_SECONDS:.0f} s:\n{self._log_end()}")

    async def reconciled(self) -> None:
        """Have everything compared now that central is still; what differs are changes that were
        not due yet."""
        for name in INSTANCES:
            found = await asyncio.to_thread(self._client.post, instance_path(name, "reconcile"), {})
            told = ", ".join(
                f"{each['entity']} {each['missing'] + each['differing'] + each['extra']}"
                for each in found["entities"]
            )
            self._console.print(f"wpp-sync reconcile {name}: rows brought up to date: {told}")

    async def _status(self) -> list[dict[str, Any]]:
        if self._process.poll() is not None:
            raise WppSyncError(f"the daemon has ended by itself:\n{self._log_end()}")
        try:
            found = await asyncio.to_thread(self._client.get, "/v1/status")
            return list(found["instances"])
        except DaemonUnreachableError:
            return []  # not up yet

    def _log_end(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])

    def _table(self, instances: Sequence[dict[str, Any]]) -> Table:
        counters = self._traffic.counters
        table = Table(
            title=f"{sum(counters.rows_committed.values()):,} rows written by the application,"
            f" {counters.rolled_back:,} of {counters.transactions:,} transactions rolled back"
        )
        for number, name in enumerate(_COLUMNS):
            table.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
        for each in instances:
            table.add_row(*self._cells(each))
        return table

    def _cells(self, each: dict[str, Any]) -> list[str]:
        name, rows, now = each["instance"], each["rows_written"], time.monotonic()
        before = self._seen.get(name)
        rate = f"{(rows - before.rows) / max(now - before.at, 0.001):,.0f}/s" if before else "–"
        self._seen[name] = _Seen(rows, now)
        messages = next(e for e in each["sync_state"] if e["entity"] == "messages")
        lag = messages["lag_seconds"]
        return [
            name,
            each["state"],
            f"{messages['last_synced_id']:,}",
            f"{messages['settled_id']:,}",
            "–" if lag is None else f"{lag:.1f} s",
            f"{rows:,}",
            rate,
        ]


def _verdict(
    databases: Mapping[str, Mapping[str, object]], traffic: Traffic, console: Console
) -> int:
    """Compare everything; the exit code."""
    counters = traffic.counters
    console.print(
        f"the application committed {sum(counters.rows_committed.values()):,} rows in"
        f" {counters.transactions:,} transactions and rolled {counters.rolled_back:,} back;"
        f" it changed or deleted {counters.edits.total():,} rows: "
        + ", ".join(f"{number} {name}" for name, number in counters.edits.most_common())
    )
    began = time.monotonic()
    compared = [
        compare(databases["central"], databases[instance], subject(instance, entity))
        for instance in INSTANCES
        for entity in ENTITIES
    ]
    compared += [compare_derived(databases[instance], instance) for instance in INSTANCES]
    console.print(f"compared value by value in {time.monotonic() - began:.1f} s:")
    console.print(report(compared), markup=False)
    if all(one.equal for one in compared):
        console.print("EQUAL: every row of every instance is in its local database", style="green")
        return EXIT_OK
    console.print("DIFFERENT: the two sides are not the same", style="bold red")
    return EXIT_FAILED
