"""INT and TERM end a run as an error does: what it started ends, what it laid is taken away."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def leaving() -> Iterator[Callable[[], None]]:
    """The block ends with the exit code of the first of these signals; those that follow wait with
    it for what is cleared away. What is given leaves where the first one was lost on the way: an
    error of the clearing took its place."""
    came: list[int] = []

    def leave(number: int, frame: object) -> None:
        came.append(number)
        if len(came) == 1:
            raise SystemExit(128 + number)

    def check() -> None:
        if came:
            raise SystemExit(128 + came[0])

    before = {number: signal.signal(number, leave) for number in ENDING}
    try:
        yield check
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            click.echo(f"ended by {signal.Signals(came[0]).name}", err=True)
