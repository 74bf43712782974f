"""Where measures are taken: a directory, private servers, sizes, and rounds.

Servers that several measures look at are laid once and kept until a measure wants others: two cores
and one disk carry one pair at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from bench import stats
from daemon.errors import WppSyncError

T = TypeVar("T")

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Contender:
    """What is run in rounds: `turn` gives what it took."""

    name: str
    turn: Callable[[], float]
    rounds: int | None = None
    """Fewer than the others' for one that takes very long; it is not warmed up either."""

    note: str = ""
    required: bool = True
    """Else a failure is noted, and the others go on without it."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What everybody's turns took, and why some are missing."""

    took: dict[str, tuple[float, ...]]
    failed: dict[str, str]

    def ratio(self, one: str, other: str) -> float | None:
        """Of their medians; None where one is missing."""
        if one not in self.took or other not in self.took:
            return None
        return stats.median(self.took[one]) / stats.median(self.took[other])


class Place:
    """What a measure is given."""

    def __init__(self, directory: Path, *, quick: bool, rounds: int) -> None:
        self.directory = directory
        self.quick = quick
        self.rounds = rounds
        self.say: Callable[[str], None] = lambda text: None
        """What is done now, for those who wait."""

        self._laid: tuple[object, object] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def seconds(self, full: float, quick: float) -> float:
        return quick if self.quick else full

    def fresh(self, name: str) -> Path:
        """A directory of its own."""
        path = self.directory / f"{name}-{next(_numbers)}"
        path.mkdir()
        return path

    def shared(self, key: object, lay: Callable[[Place], AbstractContextManager[T]]) -> T:
        """What was laid under that key, or is laid now in the place of what was there before."""
        if self._laid is None or self._laid[0] != key:
            self.clear()
            self.say("laying the servers")
            self._laid = (key, self._stack.enter_context(lay(self)))
        return self._laid[1]  # type: ignore[return-value]

    def clear(self) -> None:
        """Take away what is laid."""
        self._stack.close()
        self._laid = None

    def compete(self, contenders: Sequence[Contender]) -> Rounds:
        """Everybody's turn again and again, one after the other, so that what disturbs the machine
        disturbs them all; after a round that does not count."""
        took: dict[str, list[float]] = {each.name: [] for each in contenders}
        failed: dict[str, str] = {}
        for round_ in range(0 if self.quick else -1, self.rounds):
            for each in contenders:
                if each.name in failed or not _takes_part(each, round_):
                    continue
                self.say(f"round {round_ + 1 or 'to warm up'}: {each.name}")
                try:
                    value = each.turn()
                except WppSyncError as error:
                    if each.required:
                        raise
                    failed[each.name] = error.message
                else:
                    took[each.name] += [value] * (round_ >= 0)
        counted = {name: tuple(samples) for name, samples in took.items() if samples}
        return Rounds(counted, failed)


def _takes_part(contender: Contender, round_: int) -> bool:
    return contender.rounds is None or 0 <= round_ < contender.rounds
