"""What is measured, one file each. A measure is given a place, and tells what it found there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.measures import (
    examined,
    first_sync,
    hot,
    idle,
    latency,
    looks,
    memory,
    passes,
    reconcile,
    spread,
    start,
    whole_process,
)
from bench.place import Place
from bench.results import Goal, Outcome


@dataclass(frozen=True, slots=True)
class Measure:
    """`take` raises WppSyncError when it cannot be taken."""

    name: str
    title: str
    take: Callable[[Place], Outcome]
    goals: Callable[[Place], tuple[Goal, ...]] = lambda place: ()
    """Its goals, for when it could not be taken."""


# Those that look at the same servers stand together.
MEASURES: Sequence[Measure] = (
    Measure(
        "first-sync", "first sync of one instance's messages", first_sync.take, first_sync.goals
    ),
    Measure(
        "whole-process",
        "a small first sync, the whole process",
        whole_process.take,
        whole_process.goals,
    ),
    Measure("memory", "memory of a first sync", memory.take, memory.goals),
    Measure("passes", "a pass with something new", passes.take, passes.goals),
    Measure("reconcile", "comparing a table in sync", reconcile.take, reconcile.goals),
    Measure("hot", "a change of a row that is known to change soon", hot.take),
    Measure("examined", "central rows read for an idle instance", examined.take, examined.goals),
    Measure("start", "start with many instances that are up to date", start.take, start.goals),
    Measure("idle", "many idle instances", idle.take, idle.goals),
    Measure("looks", "looking at many instances", looks.take),
    Measure("spread", "rows spread over many instances", spread.take, spread.goals),
    Measure("latency", "from commit in central to visible locally", latency.take),
)
