"""The process: build everything, start, serve, follow the configuration, shut down. The only module
that knows everyone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from daemon import config as configuration
from daemon import db, events, heap, operations, reload, threads
from daemon.aio import Clock, Courtesy
from daemon.central import Central
from daemon.config import Config, Sync
from daemon.db import Pool
from daemon.errors import ConfigError, StoppedError, WppSyncError, internal
from daemon.hosts import Seats
from daemon.instance import Instance
from daemon.metrics import Metrics
from daemon.migrations import files
from daemon.migrations.files import Catalogue
from daemon.migrator import Migrating
from daemon.recent import SAMPLE_SECONDS
from daemon.reload import Changes
from daemon.settle import Rule
from daemon.shared import Intervals, Shared
from daemon.supervisor import Supervisor
from daemon.sync.ahead import Writers
from daemon.sync.reach import Limits
from daemon.systemd import EXTEND, Notifier, heartbeat, status_line
from daemon.throttle import Bearable, Guard, Shares
from daemon.watch import Watch

_RESETS_AT_ONCE = 16

_MIGRATING_AT_ONCE = 1
_MIGRATING_PATIENCE_SECONDS = 30.0
"""A long ALTER keeps the others waiting no longer than this."""

_BEGINNING_AT_ONCE = 2
_BEGINNING_PATIENCE_SECONDS = 2.0

_LOOK_SECONDS = 0.5
"""So often the event loop's delay is measured."""

_READ_SECONDS = 30.0
"""A reload waits so long for its files. Of thousands of instances they take seconds."""

VERSION = installed_version("wpp-sync")


class Parts:
    """Everything that a process is made of, built and not started."""

    def __init__(self, config: Config, clock: Clock) -> None:
        """Raises MigrationFilesError; nothing was touched then."""
        self.config = config
        self.catalogue = Catalogue(_directories(config))
        self.metrics = Metrics(VERSION)
        self.instances: dict[str, Instance] = {}
        """By name. Always this very dict: those who hold it see what a reload changes."""

        self._clock = clock
        self._migrating = Courtesy(_MIGRATING_AT_ONCE, _MIGRATING_PATIENCE_SECONDS)
        self._beginning = Courtesy(_BEGINNING_AT_ONCE, _BEGINNING_PATIENCE_SECONDS)
        self._pools = [self._pool(config)]
        self._lay_foundation(config)
        self._make_instances(config, kept=())

    def follow(self, config: Config, changes: Changes, catalogue: Catalogue) -> Pool | None:
        """Be what this configuration says; who is not touched by it stays the same object.

        Returns the central connections of before, where there are other ones now.
        """
        self.catalogue.replace(catalogue)
        before = self._pools[-1]
        if changes.central:
            self._pools.append(self._pool(config))
        if changes.foundation:
            self._lay_foundation(config)
        else:
            self._shared.limit.set(config.sync.max_rows_per_second)
            self.central.guard.bearable = _bearable(config.sync)
        self._make_instances(config, kept=changes.kept)
        self.config = config
        return before if changes.central else None

    async def retire(self, pool: Pool) -> None:
        """Close connections that nobody uses any more."""
        self._pools.remove(pool)
        await pool.close()

    async def close(self) -> None:
        """Close what was opened."""
        for instance in self.instances.values():
            await instance.close()
        for pool in self._pools:
            await pool.close()

    @staticmethod
    def _pool(config: Config) -> Pool:
        return Pool(config.central, "central", "central", config.central.max_connections)

    def _lay_foundation(self, config: Config) -> None:
        """What all instances rest on."""
        sync = config.sync
        self.central = Central(
            self._pools[-1],
            rule=Rule.of(sync.settle),
            clock=self._clock,
            metrics=self.metrics,
            guard=Guard(self._clock, _bearable(sync), sync.batch_rows),
            compared_per_second=sync.reconcile_rows_per_second,
        )
        self.watch = Watch(self.central, self._clock)
        self._shared = Shared(
            central=self.central,
            watch=self.watch,
            seats=Seats(sync.max_instances, VERSION, self._clock),
            migrating=Migrating(
                self.catalogue,
                self._migrating,
                config.migrations.lock_wait_timeout,
                VERSION,
            ),
            beginning=self._beginning,
            limits=Limits(rows=sync.batch_rows, bytes=sync.batch_bytes),
            limit=Shares(self._clock, sync.max_rows_per_second),
            writers=Writers(sync.writers_per_server),
            intervals=Intervals(sync.reconcile_interval, sync.whole_interval, sync.hot_interval),
            rest_after=sync.rest_after,
            backoff_max=sync.backoff_max,
            clock=self._clock,
            metrics=self.metrics,
        )

    def _make_instances(self, config: Config, kept: tuple[str, ...]) -> None:
        """In the order of the file."""
        before = dict(self.instances)
        self.instances.clear()
        for name, settings in reload.enabled(config).items():
            stays = before[name] if name in kept else None
            self.instances[name] = stays or Instance(settings, self._shared)


def _bearable(sync: Sync) -> Bearable:
    return Bearable(sync.max_threads_running, sync.max_replica_lag)


def _directories(config: Config) -> list[Path]:
    own = config.migrations.directory
    return [files.SHIPPED] if own is None else [files.SHIPPED, own]


@asynccontextmanager
async def parts(config: Config, clock: Clock = time.monotonic) -> AsyncIterator[Parts]:
    """Build the parts; close what they opened. Raises MigrationFilesError before anything opens."""
    built = Parts(config, clock)
    try:
        yield built
    finally:
        await built.close()


async def run(config: Config) -> None:
    """The daemon, until a signal ends it. Raises WppSyncError when a part of it cannot start."""
    heap.keep_large_pieces_apart()
    async with parts(config) as built:
        await _Process(built).run()


async def _read_again(path: Path) -> tuple[Config, Catalogue]:
    """The configuration and the migrations that it names.

    Off the loop: a thousand instances take a moment, and a file system may hang. Whoever hangs
    there keeps neither a later reload nor the process from leaving. Raises ConfigError,
    MigrationFilesError.
    """
    (reading,) = threads.begin(_read_files, [path], 1)
    try:
        async with asyncio.timeout(_READ_SECONDS):
            return await asyncio.wrap_future(reading)
    except TimeoutError as error:
        raise ConfigError(
            [f"{path}: it, or a file that it names, was not read within {_READ_SECONDS:g} s"],
            hint="does the file system answer? then say wpp-sync reload again",
        ) from error


def _read_files(path: Path) -> tuple[Config, Catalogue]:
    new = configuration.load(path, again=True)
    return new, Catalogue(_directories(new))


async def _in_a_group(work: Callable[[asyncio.TaskGroup], Awaitable[None]]) -> None:
    """Have it begin tasks that end with it."""
    async with asyncio.TaskGroup() as group:
        await work(group)


def stop_on_signals() -> asyncio.Event:
    """For what runs once: the first INT or TERM sets the event, so that what is under way can be
    finished; the next one ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def leave() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    return stop


class _Process:
    """One run of the daemon: startup, serve, shutdown. Signal handlers only record."""

    def __init__(self, built: Parts) -> None:
        # Here, because whatever runs once has no doors: a fifth less of its start.
        from daemon.doors import Doors
        from daemon.http.control import ControlApi
        from daemon.http.public import PublicApi

        self._built = built
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._asked: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._answers: set[asyncio.Task[None]] = set()
        self._notifier = Notifier(os.environ)
        self._log = events.get_logger()
        self._reloading = asyncio.Lock()
        self._started = False
        self._watching: asyncio.Task[None] | None = None
        self._deadline: float | None = None
        """When a stop waits no longer for the last batches."""

        self._group = asyncio.TaskGroup()
        control = ControlApi(
            built.instances,
            built.catalogue,
            built.metrics,
            VERSION,
            reload=self.reload,
            listening=lambda: self._doors.listening,
        )
        public = PublicApi(
            built.instances,
            built.metrics,
            VERSION,
            serving=lambda: self._started and not self._stop.is_set(),
            tells_status=lambda: built.config.http.status,
            in_flight=self._in_flight,
        )
        self._doors = Doors(control.app, public.app)
        self._supervisor = Supervisor(
            built.instances, backoff_max=built.config.sync.backoff_max, left=self._left
        )

    async def run(self) -> None:
        """Until a signal ends it. Raises WppSyncError when a part cannot start."""
        config = self._built.config
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave, number)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, self._asked.put_nowait, number)
        try:
            await self._doors.move(config.control, config.http)
            self._log.info(
                "started",
                version=VERSION,
                config=str(config.path),
                instances=len(self._built.instances),
                control=str(config.control.socket) if config.control.socket else None,
                http=self._doors.listening,
            )
            self._started = True
            await self._serve()
        finally:
            await self._doors.close()
        self._log.info("stopped")

    def _in_flight(self) -> dict[str, float]:
        """Of central as it is now: a reload may bring another one."""
        return self._built.central.in_flight_seconds()

    def _states(self) -> list[str]:
        return [instance.state for instance in self._built.instances.values()]

    async def _serve(self) -> None:
        """Supervise until asked to stop, then wait for the running batches, but not for ever."""
        async with self._group as group:
            answering = group.create_task(self._answer_signals(), name="signals")
            supervising = group.create_task(self._supervisor.run(self._stop), name="supervisor")
            self._look_for_all()
            await asyncio.sleep(0)  # until it runs: a supervisor that cannot is nothing to be ready
            self._notifier.tell("READY=1", status_line(self._states()))
            leaving = group.create_task(self._now.wait(), name="leave now")
            notifying = group.create_task(self._tell_manager(), name="notify")
            looking = group.create_task(self._look_on(), name="look on")
            await self._stop.wait()
            self._notifier.tell("STOPPING=1", EXTEND)
            clock = asyncio.get_running_loop().time
            self._deadline = deadline = clock() + self._built.config.sync.shutdown_timeout
            while not supervising.done() and not leaving.done():
                left = deadline - clock()
                if left <= 0 and not self._migrating():
                    break
                await asyncio.wait(
                    (supervising, leaving),
                    timeout=min(1.0, max(left, 0.1)),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if not supervising.done():
                self._log.warning("batches broken off")
                supervising.cancel()
                # What came through the doors may hold what the loops wait for.
                group.create_task(self._doors.close(), name="close doors")
            for task in (answering, *self._answers):
                task.cancel()
            leaving.cancel()
            notifying.cancel()
            looking.cancel()
            if self._watching is not None:
                self._watching.cancel()

    def _migrating(self) -> list[str]:
        """The statements of migrations that are under way: they are waited for."""
        doing = [instance.migrator.doing for instance in self._supervisor.instances]
        return [each.words for each in doing if each is not None]

    async def _tell_manager(self) -> None:
        """Feed the watchdog while every loop goes on, and ask for time while a migration runs."""
        clock = asyncio.get_running_loop().time
        watchdog = self._notifier.watchdog_seconds
        before: list[str] = []
        while True:
            # Also of those that are leaving: their successors wait for them.
            stalled = [each.name for each in self._supervisor.instances if each.stalled]
            for name in stalled:
                self._log.error("stalled", instance=name)
            for name in set(before) - set(stalled):
                self._log.info("goes on", instance=name)
            before = stalled
            lines = heartbeat(
                watched=watchdog is not None,
                states=self._states(),
                stalled=stalled,
                migrating=self._migrating(),
                finishing=self._deadline is not None and clock() < self._deadline,
            )
            self._notifier.tell(*lines)
            await asyncio.sleep(min(5.0, (watchdog or 30.0) / 3))

    async def _look_on(self) -> None:
        """Measure how late the event loop is, count the rows of each instance, have told what the
        log held back, and give back what closed connections have left."""
        from daemon import log  # here, as the doors

        clock = asyncio.get_running_loop().time
        sampled_at, open_ = float("-inf"), 0
        while True:
            asked = clock() + _LOOK_SECONDS
            await asyncio.sleep(_LOOK_SECONDS)
            self._built.metrics.event_loop_delay.observe(max(0.0, clock() - asked))
            if clock() - sampled_at >= SAMPLE_SECONDS:
                sampled_at = clock()
                log.tell_overdue()
                if (now := db.open_connections()["local"]) < open_:
                    heap.give_back()
                open_ = now
                for instance in self._built.instances.values():
                    instance.counts.recent.sample(instance.counts.rows_written)

    def _look_for_all(self) -> None:
        """From here on look for all instances whether central has anything new; as it is now."""
        if self._watching is not None:
            self._watching.cancel()
        watching = _in_a_group(self._built.watch.run)
        self._watching = self._group.create_task(watching, name="watch")

    def _leave(self, number: signal.Signals) -> None:
        """The first TERM or INT lets the running batches finish, a second one does not."""
        if self._stop.is_set():
            self._now.set()
        else:
            self._log.info("stopping", signal=signal.Signals(number).name)
            self._stop.set()

    async def _answer_signals(self) -> None:
        while True:
            number = await self._asked.get()
            work = self._log_status if number == signal.SIGUSR1 else self._hang_up
            answering = self._group.create_task(self._answer(number, work), name=number.name)
            self._answers.add(answering)
            answering.add_done_callback(self._answers.discard)

    async def _answer(self, number: signal.Signals, work: Callable[[], Awaitable[None]]) -> None:
        """Whatever goes wrong with what a signal asks for, the instances go on."""
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the isolation that is promised
            told = internal(error)
            self._log.error(
                "signal not answered", signal=number.name, code=told.code, error=told.message,
                hint=told.hint,
            )  # fmt: skip

    async def _log_status(self) -> None:
        for instance in list(self._built.instances.values()):
            self._log.info("status", **await operations.get_sync_status(instance))

    # --- a changed configuration ------------------------------------------------------------------

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again, and change only what differs.

        Raises ConfigError, MigrationFilesError, WppSyncError when something of it cannot be: then
        all goes on as before.
        """
        async with self._reloading:
            self._refuse_while_stopping()
            self._notifier.reloading()
            try:
                return await self._reload()
            except Exception as error:
                told = internal(error)
                self._built.metrics.reload_success.set(0)
                self._log.error(
                    "reload refused", code=told.code, error=told.message, hint=told.hint
                )
                raise
            finally:
                if not self._stop.is_set():
                    self._notifier.tell("READY=1", status_line(self._states()))

    def _refuse_while_stopping(self) -> None:
        if self._stop.is_set():
            raise StoppedError("the daemon is stopping: it reads no configuration any more")

    async def _reload(self) -> dict[str, Any]:
        built, before = self._built, self._built.config
        new, catalogue = await _read_again(before.path)
        changes = reload.compare(before, new)
        await self._doors.move(new.control, new.http)
        self._refuse_while_stopping()
        # From here on nothing can be refused, and nothing is waited for.
        old = list(built.instances.values())
        pool = built.follow(new, changes, catalogue)
        if changes.foundation:
            self._look_for_all()
        self._supervisor.apply(built.instances)
        if pool is not None:
            self._group.create_task(self._retire(old, pool), name="retire")
        if changes.log:
            from daemon import log

            log.set_up(new.log.level, new.log.format)
        told = changes.told()
        built.metrics.reload_success.set(1)
        self._log.info("reloaded", config=str(new.path), **told)
        return told

    async def _retire(self, old: list[Instance], pool: Pool) -> None:
        """Close central connections of before when those who use them have left."""
        await self._supervisor.wait_for(old)
        await self._built.retire(pool)

    def _left(self, gone: Instance, successor: Instance | None) -> None:
        """What nobody follows any more has no series any more."""
        if self._stop.is_set():
            return
        if successor is None or set(gone.entities) - set(successor.entities):
            self._built.metrics.forget(gone.name)

    async def _hang_up(self) -> None:
        """SIGHUP: a reload, then reset what the configuration names, on every instance."""
        try:
            await self.reload()
        except WppSyncError:
            self._log.error("nothing was reset", hint="correct the configuration, then send HUP")
            return
        places = asyncio.Semaphore(_RESETS_AT_ONCE)

        async def one(instance: Instance) -> None:
            async with places:
                await self._reset_one(instance)

        await asyncio.gather(*map(one, self._built.instances.values()))

    async def _reset_one(self, instance: Instance) -> None:
        wanted = self._built.config.signals.sighup_reset
        names = () if wanted == "none" else ("all",) if wanted == "all" else wanted
        for name in names:
            try:
                done = await operations.reset_sync_state(instance, name)
            except WppSyncError as error:
                self._log.error(
                    "reset failed", instance=instance.name, entity=name, code=error.code,
                    error=error.message, hint=error.hint,
                )  # fmt: skip
            else:
                self._built.metrics.resets.labels("sighup").inc()
                self._log.info("reset", instance=instance.name, entities=done)
