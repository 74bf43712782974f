"""The process: build everything, start, serve, shut down. The only module that knows everyone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version

import structlog

from daemon import http, operations
from daemon.aio import Clock
from daemon.central import Central, Pace
from daemon.config import Config
from daemon.db import Pool
from daemon.errors import WppSyncError
from daemon.instance import Instance, Intervals, Shared
from daemon.metrics import Metrics
from daemon.migrations import files
from daemon.migrations.files import Catalogue
from daemon.migrator import Migrating
from daemon.settle import Rule
from daemon.supervisor import Supervisor
from daemon.sync.incremental import Limits
from daemon.systemd import EXTEND_SECONDS, Notifier

_RESETS_AT_ONCE = 16

_MIGRATING_AT_ONCE = 8

VERSION = installed_version("wpp-sync")


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a process is made of, built and not started."""

    config: Config
    central: Central
    metrics: Metrics
    catalogue: Catalogue
    instances: dict[str, Instance]


@asynccontextmanager
async def parts(config: Config, clock: Clock = time.monotonic) -> AsyncIterator[Parts]:
    """Build the parts; close what they opened. Raises MigrationFilesError before anything opens."""
    directories = [files.SHIPPED]
    if config.migrations.directory is not None:
        directories.append(config.migrations.directory)
    catalogue = Catalogue(directories)
    metrics = Metrics(VERSION)
    pool = Pool(config.central, "central", "central", config.central.max_connections)
    rule = Rule.of(config.sync.settle)
    sync = config.sync
    pace = Pace(sync.reconcile_rows_per_second, sync.max_threads_running)
    central = Central(pool, rule=rule, clock=clock, metrics=metrics, pace=pace)
    shared = Shared(
        central=central,
        migrating=Migrating(
            catalogue,
            asyncio.Semaphore(_MIGRATING_AT_ONCE),
            config.migrations.lock_wait_timeout,
            VERSION,
        ),
        limits=Limits(rows=config.sync.batch_rows, bytes=config.sync.batch_bytes),
        intervals=Intervals(sync.reconcile_interval, sync.whole_interval, sync.hot_interval),
        backoff_max=config.sync.backoff_max,
        clock=clock,
        metrics=metrics,
    )
    instances = {
        name: Instance(settings, shared)
        for name, settings in config.instances.items()
        if settings.enabled
    }
    try:
        yield Parts(config, central, metrics, catalogue, instances)
    finally:
        for instance in instances.values():
            await instance.close()
        await pool.close()


async def run(config: Config) -> None:
    """The daemon, until a signal ends it. Raises WppSyncError when a part of it cannot start."""
    async with parts(config) as built:
        await _Process(built).run()


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
        self._built = built
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._asked: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._notifier = Notifier(os.environ)
        self._log = structlog.get_logger()

    async def run(self) -> None:
        config = self._built.config
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave, number)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, self._asked.put_nowait, number)
        control = http.ControlApi(
            self._built.instances, self._built.catalogue, self._built.metrics, self._stop
        )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(http.serve_control(control.app(), config.control))
            public = http.public_app(self._built.metrics)
            listening = await stack.enter_async_context(http.serve_public(public, config.http))
            self._log.info(
                "started",
                version=VERSION,
                config=str(config.path),
                instances=len(self._built.instances),
                control=str(config.control.socket) if config.control.socket else None,
                http=listening,
            )
            self._notifier.tell("READY=1", f"STATUS={len(self._built.instances)} instances")
            await self._serve()
        self._log.info("stopped")

    async def _serve(self) -> None:
        """Supervise until asked to stop, then wait for the running batches, but not for ever."""
        config = self._built.config
        supervisor = Supervisor(self._built.instances.values(), backoff_max=config.sync.backoff_max)
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(self._answer_signals(), name="signals")
            supervising = group.create_task(supervisor.run(self._stop), name="supervisor")
            leaving = group.create_task(self._now.wait(), name="leave now")
            notifying = group.create_task(self._tell_manager(), name="notify")
            await self._stop.wait()
            self._notifier.tell("STOPPING=1")
            deadline = asyncio.get_running_loop().time() + config.sync.shutdown_timeout
            while not supervising.done() and not leaving.done():
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 and not self._migrating():
                    break
                await asyncio.wait(
                    (supervising, leaving),
                    timeout=min(1.0, max(left, 0.1)),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if not supervising.done():
                self._log.warning("batches were not finished in time: they are rolled back")
                supervising.cancel()
            answering.cancel()
            leaving.cancel()
            notifying.cancel()

    def _migrating(self) -> list[str]:
        """The statements of migrations that are under way: they are waited for."""
        doing = [instance.migrator.doing for instance in self._built.instances.values()]
        return [each.words for each in doing if each is not None]

    async def _tell_manager(self) -> None:
        """Feed the watchdog, and ask for more time while a migration runs."""
        watchdog = self._notifier.watchdog_seconds
        while True:
            lines = [] if watchdog is None else ["WATCHDOG=1"]
            if migrating := self._migrating():
                lines.append(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}")
                lines.append(f"STATUS=migrating {'; '.join(migrating[:3])}")
            if lines:
                self._notifier.tell(*lines)
            await asyncio.sleep(min(5.0, (watchdog or 30.0) / 3))

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
            if number == signal.SIGUSR1:
                await self._log_status()
            else:
                await self._reset()

    async def _log_status(self) -> None:
        for instance in self._built.instances.values():
            self._log.info("status", **await operations.get_sync_status(instance))

    async def _reset(self) -> None:
        """SIGHUP: reset what the configuration names, on every instance."""
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
                self._log.error("reset failed", instance=instance.name, error=error.message)
            else:
                self._built.metrics.resets.labels("sighup").inc()
                self._log.info("reset", instance=instance.name, entities=done)
