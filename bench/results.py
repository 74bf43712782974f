"""What a measure found, and the whole run as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from bench import stats


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was measured again and again."""

    what: str
    unit: str
    samples: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        return stats.median(self.samples)

    @property
    def low(self) -> float:
        return min(self.samples)

    @property
    def high(self) -> float:
        return max(self.samples)


@dataclass(frozen=True, slots=True)
class Goal:
    """What was aimed at, beside what was measured."""

    what: str
    bound: float
    unit: str
    measured: float | None
    """None: it could not be measured."""

    at_least: bool = False
    """Else it is at most."""

    in_the_way: str = ""
    """Why it is where it is, for as long as it is not reached."""

    @property
    def reached(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    @property
    def sign(self) -> str:
        return "≥" if self.at_least else "≤"


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that one measure found."""

    lines: tuple[Line, ...]
    goals: tuple[Goal, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    beside: str = ""
    """The line whose median the others of its unit are divided by."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """The rivals that could not run, and why."""

    def line(self, what: str) -> Line | None:
        return next((line for line in self.lines if line.what == what), None)

    def ratio(self, line: Line) -> float | None:
        """To the line that it stands beside; None where there is nothing to compare."""
        base = self.line(self.beside)
        if base is None or base is line or base.unit != line.unit or not base.median:
            return None
        return line.median / base.median


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure with its outcome, or with why it failed."""

    name: str
    title: str
    seconds: float
    outcome: Outcome | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the bench."""

    began: str
    quick: bool
    rounds: int
    versions: Mapping[str, str]
    measured: tuple[Measured, ...]

    def goals(self) -> Iterator[tuple[Measured, Goal]]:
        for each in self.measured:
            for goal in each.outcome.goals if each.outcome else ():
                yield each, goal

    def document(self) -> dict[str, Any]:
        """For JSON: what was measured, with the medians and verdicts that readers want at once."""
        document = asdict(self)
        for there, here in zip(document["measured"], self.measured, strict=True):
            if here.outcome is not None:
                _add_verdicts(there["outcome"], here.outcome)
        return document

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave."""
        measured = tuple(_measured(each) for each in document["measured"])
        plain = {name: document[name] for name in ("began", "quick", "rounds", "versions")}
        return cls(**plain, measured=measured)


def _add_verdicts(document: dict[str, Any], outcome: Outcome) -> None:
    for there, line in zip(document["lines"], outcome.lines, strict=True):
        there["median"], there["low"], there["high"] = line.median, line.low, line.high
        there["ratio"] = outcome.ratio(line)
    for there, goal in zip(document["goals"], outcome.goals, strict=True):
        there["reached"] = goal.reached


def _measured(document: Mapping[str, Any]) -> Measured:
    found = document["outcome"]
    outcome = found and Outcome(
        lines=tuple(_line(line) for line in found["lines"]),
        goals=tuple(_goal(goal) for goal in found["goals"]),
        **{name: found[name] for name in ("settings", "beside", "missing")},
    )
    plain = {name: document[name] for name in ("name", "title", "seconds", "error")}
    return Measured(**plain, outcome=outcome)


def _line(document: Mapping[str, Any]) -> Line:
    samples: Sequence[float] = document["samples"]
    return Line(document["what"], document["unit"], tuple(samples), document["note"])


def _goal(document: Mapping[str, Any]) -> Goal:
    return Goal(**{name: value for name, value in document.items() if name != "reached"})
