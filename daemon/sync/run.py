"""A pass, turn by turn: every entity of an instance up to the head that stands when its turn comes.

Entities take turns of about a second (three where one is alone), so that the first sync of a large
one does not keep the others' new rows waiting. An entity's own trouble (its schema, its rows) ends
its part of the pass and nobody else's; trouble with a server ends the pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.errors import (
    AccessError,
    DatabaseError,
    PlanChangedError,
    RewoundError,
    SchemaError,
    StateMovedError,
    TransientError,
    WppSyncError,
)
from daemon.sync.motion import Motion

# Privileges on a table, a column or a routine; any other refusal means the account as a whole.
_OF_A_TABLE = frozenset({1142, 1143, 1370})

_TURN_SECONDS = 1.0

_ALONE_SECONDS = 3.0
"""A turn while no other entity waits for its own: where one ends and the next begins, the local
server has nothing to do for a while: the pages under way end, and one is read."""


def is_entitys_own(error: WppSyncError) -> bool:
    """Whether an error means one entity alone, not its server. A server that answers and refuses
    means the table that it was asked about: a privilege, a trigger, a damaged file."""
    if isinstance(error, AccessError):
        return error.errno in _OF_A_TABLE
    if isinstance(error, DatabaseError):
        return not isinstance(error, TransientError)
    return isinstance(error, SchemaError | RewoundError)


@dataclass(slots=True)
class PassResult:
    """What a pass did. `rows`: of those that had a turn; `errors`: the entities that could not go
    on; `moved`: those whose state or tables were changed by somebody else, and what was: they are
    to be started over."""

    rows: dict[str, int] = field(default_factory=dict)
    late: int = 0
    deleted: int = 0
    errors: dict[str, WppSyncError] = field(default_factory=dict)
    moved: dict[str, WppSyncError] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    """The entities that have more to do at once."""

    @property
    def more(self) -> bool:
        """There is more to do at once."""
        return bool(self.unfinished)

    @property
    def total(self) -> int:
        """Rows written, late ones included."""
        return sum(self.rows.values()) + self.late

    def add(self, later: PassResult) -> None:
        """What was done by another turn of the same pass, which has the last word on the entities
        that had a turn in it."""
        for entity, rows in later.rows.items():
            self.rows[entity] = self.rows.get(entity, 0) + rows
        self.late += later.late
        self.deleted += later.deleted
        kept = {entity: self.errors[entity] for entity in self.errors.keys() - later.rows.keys()}
        self.errors = kept | later.errors
        self.moved = later.moved
        self.unfinished = (self.unfinished - later.rows.keys()) | later.unfinished


async def take_turns(
    motions: Mapping[str, Motion], stop: asyncio.Event, *, background: bool, all_of_them: bool
) -> PassResult:
    """Give each of these entities a turn, until one of them leaves more to do. `all_of_them`: also
    where there seems to be nothing to do.

    Raises TransientError for a server's trouble.
    """
    result = PassResult()
    seconds = _TURN_SECONDS if len(motions) > 1 else _ALONE_SECONDS
    for entity, motion in motions.items():
        if motion.quiet and not all_of_them:
            continue
        result.rows[entity] = 0
        if stop.is_set():
            result.unfinished.add(entity)
            continue
        try:
            step = await motion.step(stop, seconds, background=background)
        except (StateMovedError, PlanChangedError) as change:
            result.moved[entity] = change
            continue
        except WppSyncError as error:
            if not is_entitys_own(error):
                raise
            result.errors[entity] = error
            continue
        result.rows[entity] += step.rows
        result.late += step.late
        result.deleted += step.deleted
        if step.more:
            result.unfinished.add(entity)
    return result
