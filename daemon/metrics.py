"""Every metric, declared once. The label is `wpp_instance`: Prometheus owns `instance`."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that no query uses

_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STATES = ("starting", "migrating", "syncing", "idle", "paused", "standby", "backoff", "failed")


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        each = ["wpp_instance", "entity"]
        self.rows = Counter(
            "wpp_sync_rows", "Rows written to local tables.", [*each, "operation"], registry=r
        )
        self.reconcile_differences = Counter(
            "wpp_sync_reconcile_differences",
            "Rows that differed from central when both sides were compared.",
            [*each, "kind"],
            registry=r,
        )
        self.reconcile_chunks = Counter(
            "wpp_sync_reconcile_chunks", "Chunks of tables compared.", each, registry=r
        )
        self.reconcile_progress = Gauge(
            "wpp_sync_reconcile_progress_ratio",
            "How much of the table the running comparison has done; 1 when none runs.",
            each,
            registry=r,
        )
        self.resync_progress = Gauge(
            "wpp_sync_resync_progress_ratio",
            "How much of a full resync is done; 1 when none is under way.",
            each,
            registry=r,
        )
        self.hot_rows = Gauge(
            "wpp_sync_hot_rows", "Rows that are compared every few seconds.", each, registry=r
        )
        self.late_rows = Counter(
            "wpp_sync_late_rows", "Rows that became visible below the position.", each, registry=r
        )
        self.batch_duration = Histogram(
            "wpp_sync_batch_duration_seconds",
            "Local transaction of one batch.",
            ["entity"],
            buckets=_DURATIONS,
            registry=r,
        )
        self.pass_duration = Histogram(
            "wpp_sync_pass_duration_seconds",
            "One pass over an instance's entities that had something to do.",
            buckets=_DURATIONS,
            registry=r,
        )
        self.last_synced_id = Gauge("wpp_sync_last_synced_id", "The watermark.", each, registry=r)
        self.settled_id = Gauge(
            "wpp_sync_settled_id",
            "Up to here every row is copied, late ones too.",
            each,
            registry=r,
        )
        self.lag_rows = Gauge(
            "wpp_sync_lag_rows", "Central rows not copied yet, as last counted.", each, registry=r
        )
        self.lag_seconds = Gauge(
            "wpp_sync_lag_seconds", "Age of the first central id not read yet.", each, registry=r
        )
        self.quarantined_rows = Gauge(
            "wpp_sync_quarantined_rows", "Rows that the local table refuses.", each, registry=r
        )
        self.last_success = Gauge(
            "wpp_sync_last_success_timestamp_seconds",
            "When a pass last ended without an error.",
            ["wpp_instance"],
            registry=r,
        )
        self.errors = Counter(
            "wpp_sync_errors", "Errors by kind.", ["wpp_instance", "kind"], registry=r
        )
        self.migrations_applied = Counter(
            "wpp_sync_migrations_applied", "Migrations put in effect.", ["wpp_instance"], registry=r
        )
        self.resets = Counter("wpp_sync_resets", "Resets by trigger.", ["trigger"], registry=r)
        self.instance_state = Gauge(
            "wpp_sync_instance_state", "1 for the state it is in.", ["wpp_instance", "state"],
            registry=r,
        )  # fmt: skip
        self.oldest_in_flight = Gauge(
            "wpp_sync_oldest_in_flight_seconds",
            "How long the lowest id in flight in a central table has been so; 0 when none is.",
            ["table"],
            registry=r,
        )
        self.central_queries = Counter(
            "wpp_sync_central_queries", "Statements sent to central.", ["kind"], registry=r
        )
        self.central_query_duration = Histogram(
            "wpp_sync_central_query_duration_seconds",
            "Time until central had answered.",
            ["kind"],
            buckets=_DURATIONS,
            registry=r,
        )
        build = Gauge(
            "wpp_sync_build_info", "1; the version is the label.", ["version"], registry=r
        )
        build.labels(version).set(1)

    def state(self, instance: str, state: str) -> None:
        """Note the state of an instance."""
        for name in STATES:
            self.instance_state.labels(instance, name).set(1 if name == state else 0)

    def forget(self, instance: str) -> None:
        """Remove every series of an instance that is gone."""
        for metric in (
            self.rows, self.late_rows, self.last_synced_id, self.settled_id, self.lag_rows,
            self.lag_seconds, self.quarantined_rows, self.last_success, self.errors,
            self.migrations_applied, self.instance_state, self.reconcile_differences,
            self.reconcile_chunks, self.reconcile_progress, self.resync_progress, self.hot_rows,
        ):  # fmt: skip
            metric.remove_by_labels({"wpp_instance": instance})
