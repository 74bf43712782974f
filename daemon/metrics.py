"""Every metric, declared once: its name, its labels and what it says. The label is `wpp_instance`:
Prometheus owns `instance`.

Counters and histograms add up what happens, where it happens. What is true at a moment (a lag, a
state) stands in `daemon.seen`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from daemon import db, seen
from daemon.seen import EACH, INSTANCE, PREFIX, InstanceSeen

CONTENT_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that no query uses

_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric as it is documented."""

    name: str
    kind: str
    """counter, gauge or histogram."""

    labels: tuple[str, ...]
    says: str


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._declared: list[Declared] = []
        self._forgettable: list[Counter] = []
        self.rows = self._counter("rows", "Rows written to local tables.", *EACH, "operation")
        self.late_rows = self._counter(
            "late_rows", "Rows that became visible below the position.", *EACH
        )
        self.reconcile_differences = self._counter(
            "reconcile_differences",
            "Rows that differed from central when both sides were compared to be made equal.",
            *EACH,
            "kind",
        )
        self.reconcile_chunks = self._counter(
            "reconcile_chunks", "Chunks of tables compared.", *EACH
        )
        self.errors = self._counter("errors", "Errors by kind.", *INSTANCE, "kind")
        self.migrations_applied = self._counter(
            "migrations_applied", "Migrations put in effect.", *INSTANCE
        )
        self.resets = self._counter("resets", "Resets by trigger.", "trigger")
        self.throttled_seconds = self._counter(
            "throttled_seconds",
            "How long an instance had to wait before it wrote more, by reason: order, limit,"
            " central_load, replica_lag.",
            *INSTANCE,
            "reason",
        )
        self.batch_duration = self._histogram(
            "batch_duration_seconds", "Local transaction of one batch.", "entity"
        )
        self.pass_duration = self._histogram(
            "pass_duration_seconds",
            "One pass over an instance's entities that had something to do.",
        )
        self.central_queries = self._counter(
            "central_queries", "Statements sent to central.", "kind"
        )
        self.central_query_duration = self._histogram(
            "central_query_duration_seconds", "Time until central had answered.", "kind"
        )
        self._oldest_in_flight = self._gauge(
            "oldest_in_flight_seconds",
            "How long the lowest id in flight in a central table has been so; 0 when none is.",
            "table",
        )
        self.central_reachable = self._gauge(
            "central_reachable", "0 when central did not answer the last time it was asked."
        )
        self.central_reachable.set(1)
        self._connections = self._gauge(
            "connections", "Open connections, to central or to local servers.", "server"
        )
        self.event_loop_delay = self._histogram(
            "event_loop_delay_seconds", "How much later than asked for the event loop woke up."
        )
        self.reload_success = self._gauge(
            "config_reload_success", "1 when the last reload was taken over, 0 when it was refused."
        )
        self.reload_success.set(1)
        self._gauge("started_timestamp_seconds", "When this process began.").set(time.time())
        self._gauge("build_info", "1; the version is the label.", "version").labels(version).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def exposition(
        self,
        instances: Iterable[InstanceSeen],
        in_flight: Mapping[str, float] = MappingProxyType({}),
    ) -> bytearray:
        """All metrics in Prometheus' text format, with what is true now of these instances, and of
        central's tables (seconds).

        A metric at a time: 60,000 lines of a thousand instances at once would leave holes of 10 MB
        in the process's memory.
        """
        self._oldest_in_flight.clear()
        for table, seconds in in_flight.items():
            self._oldest_in_flight.labels(table).set(seconds)
        for role, number in db.open_connections().items():
            self._connections.labels(role).set(number)
        text = bytearray(generate_latest(self.registry))
        for metric in seen.written(list(instances)):
            text += metric.encode()
        return text

    def forget(self, instance: str) -> None:
        """Remove what was counted for an instance that is gone."""
        for metric in self._forgettable:
            metric.remove_by_labels({"wpp_instance": instance})

    @property
    def declared(self) -> list[Declared]:
        """Every metric of ours, by name."""
        looked_at = [Declared(name, "gauge", labels, says) for name, labels, says in seen.GAUGES]
        return sorted([*self._declared, *looked_at], key=lambda each: each.name)

    # --- declaring --------------------------------------------------------------------------------

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        self._declared.append(Declared(f"{PREFIX}{name}_total", "counter", labels, says))
        counter = Counter(PREFIX + name, says, labels, registry=self.registry)
        if INSTANCE[0] in labels:
            self._forgettable.append(counter)
        return counter

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        self._declared.append(Declared(PREFIX + name, "gauge", labels, says))
        return Gauge(PREFIX + name, says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str, *labels: str) -> Histogram:
        self._declared.append(Declared(PREFIX + name, "histogram", labels, says))
        return Histogram(PREFIX + name, says, labels, buckets=_DURATIONS, registry=self.registry)
