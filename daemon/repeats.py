"""Which repeats of a warning are told, and how many were not. Pure; the clock is handed in.

The first of a kind is told at once. The same again is held back until a window has passed since one
was told, and the windows grow while it goes on. Whichever is told next says how many others were
held back (`repeated`), and `overdue` gives the last one when nothing else comes: until then nothing
is lost, told and repeated add up to what happened. When a trouble ends and comes again, it is told
at once again; one that comes and goes all the time is not.

A trouble is an event of an instance and entity; its kinds are told apart by code and error text,
in which figures do not count: they are ports, threads, ids. Memory is bounded, whatever happens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Event = MutableMapping[str, Any]

WINDOW_SECONDS = 60.0

LONGEST_SECONDS = 900.0
"""The window doubles up to this while the same goes on: what lasts a day need not be told 1,440
times, by each of a thousand instances."""

MOST_ENDS = 5
"""Ends of one trouble within a window after which it is one that comes and goes."""

MOST_TROUBLES = 10_000
MOST_KINDS = 8
"""Kinds of one trouble that are told apart; all others count as one."""

_TELLS_APART = ("code", "error", "problem", "logger", "message")
_FIGURES = re.compile("[0-9]+")
_MOST_CHARACTERS = 200


@dataclass(slots=True)
class _Kind:
    told_at: float
    window: float
    held: int = 0
    last: Event | None = None
    """The last one that was held back."""


@dataclass(slots=True)
class _Trouble:
    began_at: float
    """When its ends were first counted."""

    ends: int = 0
    told: bool = False
    """It was told since it last ended: its end is to be told, too."""

    ended: Event | None = None
    """Its end, if that was held back with it and it has not come again."""

    kinds: dict[str, _Kind] = field(default_factory=dict)


class Repeats:
    """What was told and held back of the troubles of a process."""

    def __init__(self, clock: Callable[[], float], ends: Mapping[str, str]) -> None:
        """`ends`: an event, and the one that it ends."""
        self._clock = clock
        self._ends = ends
        self._troubles: dict[tuple[str, str, str], _Trouble] = {}

    def __len__(self) -> int:
        """How many kinds are known."""
        return sum(len(trouble.kinds) for trouble in self._troubles.values())

    def admit(self, event: Event) -> Event | None:
        """A warning, as it is to be told; None when it is held back."""
        now = self._clock()
        trouble = self._trouble(event, now)
        trouble.ended = None
        name = _kind(event)
        if name not in trouble.kinds and len(trouble.kinds) >= MOST_KINDS:
            name = "others"
        kind = trouble.kinds.get(name)
        if kind is not None and now - kind.told_at < kind.window:
            kind.held, kind.last = kind.held + 1, event
            return None
        trouble.told = True
        if kind is None:
            trouble.kinds[name] = _Kind(now, WINDOW_SECONDS)
            return event
        return _tell(kind, event, kind.held, now)

    def end(self, event: Event) -> Event | None:
        """What ends a trouble, as it is to be told; None when its trouble was not told either."""
        trouble = self._troubles.get(_place(event, self._ends[event["event"]]))
        if trouble is None or not trouble.kinds:
            return event
        if not trouble.told:
            trouble.ended = event
            return None
        now = self._clock()
        if now - trouble.began_at >= WINDOW_SECONDS:
            trouble.began_at, trouble.ends = now, 0
        trouble.ends += 1
        trouble.told = False
        held = sum(kind.held for kind in trouble.kinds.values())
        if trouble.ends < MOST_ENDS:
            trouble.kinds.clear()
        for kind in trouble.kinds.values():
            kind.held, kind.last = 0, None
        return _with(event, held)

    def overdue(self) -> list[Event]:
        """What was held back and has had its window: to be told now. To be asked now and then."""
        now = self._clock()
        told: list[Event] = []
        for place, trouble in list(self._troubles.items()):
            for name, kind in list(trouble.kinds.items()):
                if now - kind.told_at < kind.window:
                    continue
                if kind.last is None:
                    del trouble.kinds[name]
                    continue
                told.append(_tell(kind, kind.last, kind.held - 1, now))
                trouble.told = True
            if trouble.told and trouble.ended is not None:
                told.append(trouble.ended)
                trouble.told, trouble.ended = False, None
            if not trouble.kinds and now - trouble.began_at >= WINDOW_SECONDS:
                del self._troubles[place]
        return told

    def _trouble(self, event: Event, now: float) -> _Trouble:
        place = _place(event, event["event"])
        trouble = self._troubles.get(place)
        if trouble is None:
            if len(self._troubles) >= MOST_TROUBLES:
                del self._troubles[next(iter(self._troubles))]
            trouble = self._troubles[place] = _Trouble(now)
        return trouble


def _place(event: Event, name: str) -> tuple[str, str, str]:
    return (name, str(event.get("instance", "")), str(event.get("entity", "")))


def _kind(event: Event) -> str:
    words = " ".join(str(event.get(key, "")) for key in _TELLS_APART)
    return _FIGURES.sub("#", words)[:_MOST_CHARACTERS]


def _tell(kind: _Kind, event: Event, others: int, now: float) -> Event:
    """It is told; `others` of its kind were held back before it."""
    goes_on = kind.held > 0
    kind.window = min(2 * kind.window, LONGEST_SECONDS) if goes_on else WINDOW_SECONDS
    kind.told_at, kind.held, kind.last = now, 0, None
    return _with(event, others)


def _with(event: Event, repeated: int) -> Event:
    return {**event, "repeated": repeated} if repeated else event
