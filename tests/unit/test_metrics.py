"""The names and labels of the metrics: dashboards and alerts are written against them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric

from daemon.metrics import STATES, Metrics

EACH = ("wpp_instance", "entity")
LABELS: dict[str, tuple[str, ...]] = {
    "wpp_sync_rows_total": (*EACH, "operation"),
    "wpp_sync_late_rows_total": EACH,
    "wpp_sync_reconcile_differences_total": (*EACH, "kind"),
    "wpp_sync_reconcile_chunks_total": EACH,
    "wpp_sync_reconcile_progress_ratio": EACH,
    "wpp_sync_resync_progress_ratio": EACH,
    "wpp_sync_hot_rows": EACH,
    "wpp_sync_batch_duration_seconds": ("entity",),
    "wpp_sync_pass_duration_seconds": (),
    "wpp_sync_last_synced_id": EACH,
    "wpp_sync_settled_id": EACH,
    "wpp_sync_lag_rows": EACH,
    "wpp_sync_quarantined_rows": EACH,
    "wpp_sync_oldest_in_flight_seconds": ("table",),
    "wpp_sync_lag_seconds": EACH,
    "wpp_sync_last_success_timestamp_seconds": ("wpp_instance",),
    "wpp_sync_errors_total": ("wpp_instance", "kind"),
    "wpp_sync_migrations_applied_total": ("wpp_instance",),
    "wpp_sync_resets_total": ("trigger",),
    "wpp_sync_instance_state": ("wpp_instance", "state"),
    "wpp_sync_central_queries_total": ("kind",),
    "wpp_sync_central_query_duration_seconds": ("kind",),
    "wpp_sync_build_info": ("version",),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


def declared(metrics: Metrics) -> Iterator[Counter | Gauge | Histogram]:
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            yield metric


def touch(metrics: Metrics, instance: str) -> None:
    """Make a series of every metric that has labels, with `instance` as its instance."""
    for metric in declared(metrics):
        if metric._labelnames:
            metric.labels(
                **{name: instance if name == "wpp_instance" else "x" for name in metric._labelnames}
            )
    metrics.state(instance, "idle")


def collected(metrics: Metrics) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics.registry.collect()}


def instances(metrics: Metrics) -> dict[str, set[str]]:
    """For each instance that has any series, the metrics it has one of."""
    found: dict[str, set[str]] = {}
    for metric in metrics.registry.collect():
        for sample in metric.samples:
            if "wpp_instance" in sample.labels:
                found.setdefault(sample.labels["wpp_instance"], set()).add(metric.name)
    return found


def test_the_names_and_labels_are_those_of_the_design(metrics: Metrics) -> None:
    touch(metrics, "nunes")

    found: dict[str, set[str]] = {}
    for metric in metrics.registry.collect():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        labels = {key for sample in metric.samples for key in sample.labels} - {"le"}
        found[name] = labels
    assert found == {name: set(labels) for name, labels in LABELS.items()}


def test_no_label_is_called_instance_because_prometheus_owns_that_one(metrics: Metrics) -> None:
    for metric in declared(metrics):
        assert "instance" not in metric._labelnames


def test_the_order_of_labels_is_that_of_the_interface(metrics: Metrics) -> None:
    """Callers give them by position."""
    for metric in declared(metrics):
        name = metric._name + ("_total" if isinstance(metric, Counter) else "")
        assert metric._labelnames == LABELS[name]


def test_every_metric_says_what_it_is(metrics: Metrics) -> None:
    for metric in metrics.registry.collect():
        assert metric.documentation
        assert metric.type in {"counter", "gauge", "histogram"}


def test_a_counter_has_one_series_and_not_a_second_one_with_its_birthday(metrics: Metrics) -> None:
    touch(metrics, "nunes")

    names = {sample.name for metric in metrics.registry.collect() for sample in metric.samples}
    assert not any(name.endswith("_created") for name in names)


def test_durations_of_a_millisecond_and_of_a_minute_are_told_apart(metrics: Metrics) -> None:
    for metric in declared(metrics):
        if isinstance(metric, Histogram):
            bounds = metric._upper_bounds
            assert bounds == sorted(set(bounds))
            assert bounds[0] <= 0.001
            assert bounds[-2] >= 60
            assert metric._name.endswith("_seconds")


def test_the_version_is_a_label(metrics: Metrics) -> None:
    assert metrics.registry.get_sample_value("wpp_sync_build_info", {"version": "1.2.3"}) == 1


@pytest.mark.parametrize("state", STATES)
def test_exactly_one_state_is_one(metrics: Metrics, state: str) -> None:
    metrics.state("nunes", "starting")
    metrics.state("nunes", state)
    metrics.state("karsten", "failed")

    values = {
        sample.labels["state"]: sample.value
        for sample in collected(metrics)["wpp_sync_instance_state"].samples
        if sample.labels["wpp_instance"] == "nunes"
    }
    assert values == {name: float(name == state) for name in STATES}


def test_the_states_are_those_of_the_interface() -> None:
    assert STATES == (
        "starting", "migrating", "syncing", "idle", "paused", "standby", "backoff", "failed",
    )  # fmt: skip


def test_forgetting_an_instance_leaves_none_of_its_series_and_all_of_the_others(
    metrics: Metrics,
) -> None:
    touch(metrics, "nunes")
    touch(metrics, "karsten")
    before = instances(metrics)
    with_instance = {
        name.removesuffix("_total") for name, labels in LABELS.items() if "wpp_instance" in labels
    }
    assert before == {"nunes": with_instance, "karsten": with_instance}

    metrics.forget("nunes")

    assert instances(metrics) == {"karsten": with_instance}


def test_forgetting_twice_or_somebody_unknown_harms_nothing(metrics: Metrics) -> None:
    touch(metrics, "nunes")
    metrics.forget("nobody")
    metrics.forget("nunes")
    metrics.forget("nunes")

    assert instances(metrics) == {}


def test_an_instance_that_comes_back_counts_from_zero(metrics: Metrics) -> None:
    metrics.rows.labels("nunes", "messages", "upsert").inc(7)
    metrics.forget("nunes")
    metrics.rows.labels("nunes", "messages", "upsert").inc(1)

    labels = {"wpp_instance": "nunes", "entity": "messages", "operation": "upsert"}
    assert metrics.registry.get_sample_value("wpp_sync_rows_total", labels) == 1


def test_each_process_part_has_a_registry_of_its_own() -> None:
    one, other = Metrics("1"), Metrics("1")
    one.resets.labels("cli").inc()

    assert other.registry.get_sample_value("wpp_sync_resets_total", {"trigger": "cli"}) is None
