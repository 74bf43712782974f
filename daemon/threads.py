"""Work in threads for which a process that leaves does not wait: what is asked of another process,
or of a file system, may never answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

Given = TypeVar("Given")
Got = TypeVar("Got")


def begin(
    work: Callable[[Given], Got], everything: Sequence[Given], at_once: int
) -> list[Future[Got]]:
    """Have it done with each of these, so many at once; what comes of it, in their order.

    Unlike an executor's threads, which the interpreter joins when it ends.
    """
    waiting: SimpleQueue[tuple[Given, Future[Got]]] = SimpleQueue()
    outcomes: list[Future[Got]] = []
    for each in everything:
        outcomes.append(Future())
        waiting.put((each, outcomes[-1]))
    for _ in range(min(at_once, len(outcomes))):
        Thread(target=_one_after_the_other, args=(work, waiting), daemon=True).start()
    return outcomes


def _one_after_the_other(
    work: Callable[[Given], Got], waiting: SimpleQueue[tuple[Given, Future[Got]]]
) -> None:
    while True:
        try:
            given, outcome = waiting.get_nowait()
        except Empty:
            return
        # From here on it cannot be cancelled: whoever waits no longer leaves it alone.
        if not outcome.set_running_or_notify_cancel():
            continue
        try:
            outcome.set_result(work(given))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            outcome.set_exception(error)
