"""One instance's loop: for ever a turn and a wait.

An error changes nothing but the time of the next turn: what was read and not committed is dropped,
and that turn starts from the state row.
"""

from __future__ import annotations

import asyncio

from daemon import events
from daemon.aio import Backoff, jittered, wait_first
from daemon.errors import PausedError, StandbyError, StoppedError, TransientError, WppSyncError
from daemon.fitness import CENTRAL_PATIENCE_SECONDS
from daemon.instance import HEARTBEAT_SECONDS, Instance
from daemon.motions import SLOW_RETRY_SECONDS
from daemon.sync.run import PassResult

STANDBY_SECONDS = 2.5
"""So often a standby asks for the lock."""

_AWAY_SECONDS = 4.0
"""So long whoever has handed an instance over leaves it to the one who asked for it."""


class Loop:
    """The loop of one instance in this process."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._backoff = Backoff(1.0, instance.shared.backoff_max)
        self._listens = False
        """News ends the wait for the next turn."""

        self._log = events.logger_of(instance.name)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. The batch that is being written is finished; then it is closed."""
        instance, turns = self._instance, self._instance.turns
        instance.running = True
        try:
            while not stop.is_set():
                await wait_first(None, stop, turns.passes.free)
                instance.wake.clear()
                instance.news.clear()
                turns.began_at = instance.shared.clock()
                self._listens = False
                pause = await self._turn(stop)
                turns.began_at = None
                await self._wait(pause, stop)
        finally:
            await instance.close()

    async def keep(self, stop: asyncio.Event) -> None:
        """Beside `run`: keep the lock, whatever the instance waits for."""
        instance = self._instance
        await instance.hold.keep(stop, instance.wake, busy=lambda: instance.somebody_waits)

    async def _wait(self, pause: float, stop: asyncio.Event) -> None:
        """Until the next turn: so long, or, after a pass that went well, until there is news; but
        no less than a poll interval after the last one."""
        instance = self._instance
        least = min(pause, jittered(instance.settings.poll_interval)) if self._listens else pause
        if not await wait_first(least, stop, instance.wake) and pause > least:
            await wait_first(pause - least, stop, instance.wake, instance.news)

    async def _turn(self, stop: asyncio.Event) -> float:
        """One pass with all that may come of it; the seconds to wait before the next."""
        instance = self._instance
        if instance.hold.asked_for and not instance.somebody_waits:
            self._log.info("handed over", instances=instance.shared.seats.taken)
            await instance.close()
            instance.stand_by()
            return _AWAY_SECONDS
        try:
            result = await instance.take_turn(stop)
        except PausedError:
            instance.error = None
            instance.fitness.central_answers()
            return jittered(HEARTBEAT_SECONDS)
        except StandbyError as error:
            if instance.state != "standby":
                self._log.info("standby", reason=error.message)
                instance.stand_by()
            instance.error = None
            instance.fitness.central_answers()
            return jittered(STANDBY_SECONDS)
        except StoppedError:
            return 0.0
        except WppSyncError as error:
            return await self._pause_after_error(error)
        instance.fitness.central_answers()
        failures = self._backoff.reset()
        if failures:
            self._log.info("recovered", after_errors=failures)
        return await self._pause_after(result)

    async def _pause_after_error(self, error: WppSyncError) -> float:
        """The seconds to wait after a pass that failed."""
        instance = self._instance
        if await instance.fitness.gives_up(error, instance.turns.began_at):
            await instance.let_go()
        transient = isinstance(error, TransientError)
        pause = self._backoff.next()  # counts it in any case
        if not transient:
            pause = jittered(SLOW_RETRY_SECONDS)
        if isinstance(error, TransientError):
            pause = max(pause, error.retry_after)
        if instance.fitness.central_fails and instance.hold.usable:
            pause = min(pause, CENTRAL_PATIENCE_SECONDS)
        # How often this is written is the log's business.
        self._log.error(
            "pass failed", code=error.code, error=error.message, hint=error.hint,
            failures=self._backoff.failures, next_try_s=round(pause, 1),
        )  # fmt: skip
        instance.failed(error, "backoff" if transient else "failed")
        return pause

    async def _pause_after(self, result: PassResult) -> float:
        """The seconds to wait after a pass that went well."""
        instance = self._instance
        held = instance.throttle.hold()
        if result.more or held > 0:
            return held
        self._listens = True
        rests = await instance.rest()
        if rests is not None:
            return rests
        return max(jittered(instance.settings.poll_interval), instance.due_in)
