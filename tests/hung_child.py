"""A daemon one of whose loops hangs for good, for the watchdog's test: python -m tests.hung_child
CONFIG."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from daemon import app, config, instance, log, turns
from daemon.sync.run import PassResult

HEALTHY_PASSES = 2


def main() -> None:
    passes = 0
    real = instance.Instance.take_turn

    async def one_turn(self: instance.Instance, *args: Any, **more: Any) -> PassResult:
        nonlocal passes
        passes += self.name == "hung"
        while self.name == "hung" and passes > HEALTHY_PASSES:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue  # the bug: it does not even let itself be broken off
        if self.name == "hung":
            self.wake.set()  # the next turn at once: an idle loop may take one only every 15 s
        return await real(self, *args, **more)

    instance.Instance.take_turn = one_turn  # type: ignore[method-assign]
    turns.TURN_SECONDS = 0.5
    turns._GRACE_SECONDS = 0.5
    settings = config.load(Path(sys.argv[1]))
    log.set_up("info", "json")
    asyncio.run(app.run(settings))


if __name__ == "__main__":
    main()
