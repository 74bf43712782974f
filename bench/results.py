"""What a measure found, and the whole run as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
    aims: tuple[Goal, ...] = ()
    """The goals of one that failed, which nothing was measured for."""

    def goals(self) -> Iterator[tuple[Goal, str]]:
        """Each with why it is not reached, or why nobody knows."""
        if self.outcome is None:
            for goal in self.aims:
                yield goal, f"failed: {self.error}"
            return
        missing = "; ".join(f"no {name}: {why}" for name, why in self.outcome.missing.items())
        for goal in self.outcome.goals:
            reasons = {None: missing, False: goal.in_the_way, True: ""}
            yield goal, reasons[goal.reached]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the bench."""

    began: str
    quick: bool
    rounds: int
    versions: Mapping[str, str]
    measured: tuple[Measured, ...]

    def document(self) -> dict[str, Any]:
        """For JSON: what was measured, with the medians and verdicts that readers want at once."""
        document = asdict(self)
        for there, here in zip(document["measured"], self.measured, strict=True):
            if here.outcome is not None:
                _add_verdicts(there["outcome"], here.outcome)
        return document

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave. Raises KeyError, TypeError, ValueError or AttributeError for what
        nobody can read."""
        measured = tuple(_measured(each) for each in document["measured"])
        plain = {name: document[name] for name in ("began", "quick", "rounds", "versions")}
        return cls(**plain, measured=measured)


@dataclass(frozen=True, slots=True)
class Figures:
    """What several runs found together."""

    runs: tuple[Run, ...]
    """Each with the measures that it is believed for."""

    measured: tuple[Measured, ...]
    """All of them, in the bench's order."""

    @classmethod
    def of(cls, runs: Sequence[Run], order: Sequence[str]) -> Self:
        """A measure is believed to the last run that took it; a run that nothing is left of is not
        spoken of."""
        last = {each.name: run for run in runs for each in run.measured}
        left = [
            replace(run, measured=tuple(each for each in run.measured if last[each.name] is run))
            for run in runs
        ]
        place = {name: number for number, name in enumerate(order)}
        measured = [each for run in left for each in run.measured]
        measured.sort(key=lambda each: place.get(each.name, len(place)))
        return cls(tuple(run for run in left if run.measured), tuple(measured))

    def no_page(self, order: Sequence[str]) -> str:
        """Why no page is made of them; empty if it can be."""
        if any(run.quick for run in self.runs):
            return "figures of a quick run do not go into the page"
        there = {each.name for each in self.measured}
        if missing := [name for name in order if name not in there]:
            return (
                "the page is made of all measures: take the others with --json, and read all files"
                f" together (--read A --read B --markdown). Missing: {', '.join(missing)}"
            )
        return ""


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
    # A file of an older bench has none.
    aims = tuple(_goal(goal) for goal in document.get("aims", ()))
    return Measured(**plain, outcome=outcome, aims=aims)


def _line(document: Mapping[str, Any]) -> Line:
    samples = tuple(float(sample) for sample in document["samples"])
    if not samples:
        raise ValueError(f"no samples of {document['what']}")
    return Line(document["what"], document["unit"], samples, document["note"])


def _goal(document: Mapping[str, Any]) -> Goal:
    return Goal(**{name: value for name, value in document.items() if name != "reached"})
