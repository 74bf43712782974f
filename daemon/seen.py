"""What is true of the instances at a moment, and how Prometheus is told. Pure.

Nobody keeps these values up to date: whoever asks for them looks at the instances then. So a lag
grows while nothing moves, and an instance that is gone has left no value behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

PREFIX = "wpp_sync_"
STATES = ("starting", "migrating", "syncing", "idle", "paused", "standby", "backoff", "failed")

INSTANCE = ("wpp_instance",)
EACH = ("wpp_instance", "entity")

_STATE_SAYS = "1 for the state it is in, 0 for the others."


def _seen(says: str) -> Any:
    """A gauge of the dataclass that it stands in: named like the field."""
    return field(default=None, metadata={"says": says})


@dataclass(frozen=True, slots=True)
class EntitySeen:
    """One entity of one instance. None: it has no such thing, or nobody knows it now."""

    lag_seconds: float | None = _seen(
        "How long ago the entity was last known to have all that central had; 0 when it has."
    )
    lag_rows: int | None = _seen(
        "Central rows not copied yet, as last counted; none where nobody has counted."
    )
    last_synced_id: int | None = _seen("The watermark.")
    settled_id: int | None = _seen("Up to here every row is copied, late ones too.")
    compared_timestamp_seconds: float | None = _seen("When both sides were last compared whole.")
    reconcile_progress_ratio: float | None = _seen(
        "How much of the table the running comparison has done; 1 when none runs."
    )
    resync_progress_ratio: float | None = _seen(
        "How much of a full resync is done; 1 when none is under way."
    )
    hot_rows: int | None = _seen("Rows that are compared every few seconds.")
    quarantined_rows: int | None = _seen("Rows that the local table refuses.")
    rewound: int | None = _seen("1 when central's ids began again, and nothing is copied.")
    entity_failed: int | None = _seen("1 when the entity's own trouble keeps it from being copied.")
    entity_paused: int | None = _seen("1 when an operator has paused it, or the whole instance.")


@dataclass(frozen=True, slots=True)
class InstanceSeen:
    """One instance."""

    name: str
    state: str
    entities: Mapping[str, EntitySeen]
    """By name; none while another daemon copies the instance: that one knows."""

    last_success_timestamp_seconds: float | None = _seen("When a pass last ended without an error.")
    migrations_pending: int | None = _seen("Migrations that are not in effect yet.")


def _gauges(kind: type[EntitySeen | InstanceSeen]) -> list[tuple[str, str]]:
    return [(each.name, each.metadata["says"]) for each in fields(kind) if "says" in each.metadata]


GAUGES: list[tuple[str, tuple[str, ...], str]] = [
    (f"{PREFIX}instance_state", (*INSTANCE, "state"), _STATE_SAYS),
    *((PREFIX + name, INSTANCE, says) for name, says in _gauges(InstanceSeen)),
    *((PREFIX + name, EACH, says) for name, says in _gauges(EntitySeen)),
]
"""All of them: name, labels, what it says."""


def written(instances: Sequence[InstanceSeen]) -> Iterator[str]:
    """Prometheus' text format, metric by metric.

    The library's own writer takes 6 µs a line: half a second for a thousand instances (decision
    10).
    """
    owners = [(each, f'{{wpp_instance="{_escaped(each.name)}"') for each in instances]
    states = [(state, f',state="{state}"}} ') for state in STATES]
    yield _head("instance_state", _STATE_SAYS) + "".join(
        [
            f"{PREFIX}instance_state{owner}{end}{int(state == seen.state)}\n"
            for seen, owner in owners
            for state, end in states
        ]
    )
    for name, says in _gauges(InstanceSeen):
        yield _metric(name, says, [(seen, f"{owner}}}") for seen, owner in owners])
    entities = [
        (seen, f'{owner},entity="{_escaped(name)}"}}')
        for instance, owner in owners
        for name, seen in instance.entities.items()
    ]
    for name, says in _gauges(EntitySeen):
        yield _metric(name, says, entities)


def _head(name: str, says: str) -> str:
    return f"# HELP {PREFIX}{name} {says}\n# TYPE {PREFIX}{name} gauge\n"


def _metric(name: str, says: str, found: Iterable[tuple[EntitySeen | InstanceSeen, str]]) -> str:
    value_of, begin = attrgetter(name), PREFIX + name
    lines = [
        f"{begin}{labels} {value}\n"
        for seen, labels in found
        if (value := value_of(seen)) is not None
    ]
    return _head(name, says) + "".join(lines)


def _escaped(text: str) -> str:
    """A label's value (Prometheus, "Exposition formats")."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
