"""The names and labels of the metrics: dashboards and alerts are written against them."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_fd_to_metric_families, text_string_to_metric_families

from daemon import seen
from daemon.metrics import Metrics
from daemon.seen import STATES, EntitySeen, InstanceSeen

EACH = ("wpp_instance", "entity")
LABELS: dict[str, tuple[str, ...]] = {
    "wpp_sync_rows_total": (*EACH, "operation"),
    "wpp_sync_late_rows_total": EACH,
    "wpp_sync_reconcile_differences_total": (*EACH, "kind"),
    "wpp_sync_reconcile_chunks_total": EACH,
    "wpp_sync_reconcile_progress_ratio": EACH,
    "wpp_sync_resync_progress_ratio": EACH,
    "wpp_sync_compared_timestamp_seconds": EACH,
    "wpp_sync_hot_rows": EACH,
    "wpp_sync_batch_duration_seconds": ("entity",),
    "wpp_sync_pass_duration_seconds": (),
    "wpp_sync_last_synced_id": EACH,
    "wpp_sync_settled_id": EACH,
    "wpp_sync_lag_rows": EACH,
    "wpp_sync_lag_seconds": EACH,
    "wpp_sync_quarantined_rows": EACH,
    "wpp_sync_rewound": EACH,
    "wpp_sync_entity_failed": EACH,
    "wpp_sync_entity_paused": EACH,
    "wpp_sync_oldest_in_flight_seconds": ("table",),
    "wpp_sync_last_success_timestamp_seconds": ("wpp_instance",),
    "wpp_sync_errors_total": ("wpp_instance", "kind"),
    "wpp_sync_throttled_seconds_total": ("wpp_instance", "reason"),
    "wpp_sync_migrations_applied_total": ("wpp_instance",),
    "wpp_sync_migrations_pending": ("wpp_instance",),
    "wpp_sync_resets_total": ("trigger",),
    "wpp_sync_instance_state": ("wpp_instance", "state"),
    "wpp_sync_central_queries_total": ("kind",),
    "wpp_sync_central_query_duration_seconds": ("kind",),
    "wpp_sync_central_reachable": (),
    "wpp_sync_connections": ("server",),
    "wpp_sync_event_loop_delay_seconds": (),
    "wpp_sync_config_reload_success": (),
    "wpp_sync_started_timestamp_seconds": (),
    "wpp_sync_build_info": ("version",),
}

WELL = EntitySeen(
    lag_seconds=0.0,
    lag_rows=0,
    last_synced_id=7,
    settled_id=7,
    compared_timestamp_seconds=1.5e9,
    reconcile_progress_ratio=1.0,
    resync_progress_ratio=0.25,
    hot_rows=3,
    quarantined_rows=0,
    rewound=0,
    entity_failed=0,
    entity_paused=1,
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


def declared(metrics: Metrics) -> Iterator[Counter | Gauge | Histogram]:
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            yield metric


def touch(metrics: Metrics, instance: str) -> InstanceSeen:
    """Make a series of every counter that has labels, with `instance` as its instance; what is seen
    of that instance."""
    for metric in declared(metrics):
        if metric._labelnames:
            metric.labels(
                **{name: instance if name == "wpp_instance" else "x" for name in metric._labelnames}
            )
    return InstanceSeen(
        instance, "idle", {"messages": WELL},
        last_success_timestamp_seconds=1.5e9, migrations_pending=0,
    )  # fmt: skip


def exposed(metrics: Metrics, *instances: InstanceSeen) -> dict[str, Metric]:
    """/metrics, read as Prometheus reads it."""
    text = metrics.exposition(instances, {"messages": 0.0}).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def instances(metrics: Metrics, *seen: InstanceSeen) -> dict[str, set[str]]:
    """For each instance that has any series, the metrics it has one of."""
    found: dict[str, set[str]] = {}
    for name, metric in exposed(metrics, *seen).items():
        for sample in metric.samples:
            if "wpp_instance" in sample.labels:
                found.setdefault(sample.labels["wpp_instance"], set()).add(name)
    return found


def test_the_names_and_labels_are_those_of_the_design(metrics: Metrics) -> None:
    seen = touch(metrics, "nunes")

    found: dict[str, set[str]] = {}
    for metric in exposed(metrics, seen).values():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        labels = {key for sample in metric.samples for key in sample.labels} - {"le"}
        if name.startswith("wpp_sync_"):
            found[name] = labels
    assert found == {name: set(labels) for name, labels in LABELS.items()}


def test_what_is_documented_is_what_there_is(metrics: Metrics) -> None:
    assert {each.name: each.labels for each in metrics.declared} == LABELS


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
    two = [InstanceSeen("nunes", state, {}), InstanceSeen("karsten", "failed", {})]

    values = {
        sample.labels["state"]: sample.value
        for sample in exposed(metrics, *two)["wpp_sync_instance_state"].samples
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
    nunes, karsten = touch(metrics, "nunes"), touch(metrics, "karsten")
    before = instances(metrics, nunes, karsten)
    with_instance = {
        name.removesuffix("_total") for name, labels in LABELS.items() if "wpp_instance" in labels
    }
    assert before == {"nunes": with_instance, "karsten": with_instance}

    metrics.forget("nunes")

    assert instances(metrics, karsten) == {"karsten": with_instance}


def test_what_nobody_knows_has_no_series(metrics: Metrics) -> None:
    seen = InstanceSeen("nunes", "standby", {"chats": EntitySeen(lag_seconds=2.5)})

    found = exposed(metrics, seen)
    (sample,) = found["wpp_sync_lag_seconds"].samples
    assert (sample.labels, sample.value) == ({"wpp_instance": "nunes", "entity": "chats"}, 2.5)
    assert found["wpp_sync_lag_rows"].samples == []
    assert found["wpp_sync_last_success_timestamp_seconds"].samples == []


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_of_an_instance_is_read_back_as_it_is(name: str) -> None:
    text = "".join(seen.written([InstanceSeen(name, "idle", {"messages": WELL})]))
    # Whatever else ends a line for Python, only a line feed does for Prometheus.
    lines = StringIO(text, newline="\n")
    families = list(text_fd_to_metric_families(lines))
    names = {sample.labels["wpp_instance"] for family in families for sample in family.samples}
    assert names == {name}


@given(value=st.floats(allow_nan=False))
def test_any_value_is_read_back_as_it_is(value: float) -> None:
    written = seen.written([InstanceSeen("n", "idle", {"messages": EntitySeen(value)})])
    found = {f.name: f for f in text_string_to_metric_families("".join(written))}
    assert [s.value for s in found["wpp_sync_lag_seconds"].samples] == [value]


def test_open_connections_are_told_for_each_side(metrics: Metrics) -> None:
    found = exposed(metrics)["wpp_sync_connections"].samples
    assert {sample.labels["server"] for sample in found} == {"central", "local"}


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
