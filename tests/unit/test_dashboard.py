"""The Grafana dashboard: generated, of a form that Grafana knows, and about metrics that there are.

No Grafana can be had here. Its own schema in Python stands in for it: what that does not read back
as it was written, or what is of another type than it says, Grafana would ignore without a word.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import combinations
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from daemon.metrics import Metrics

GRAFANA = Path(__file__).resolve().parents[2] / "deploy/grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "wpp-sync.json").read_text())
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def queries() -> Iterator[str]:
    """All that are sent, those of the variables included."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in VARIABLES.values():
        if variable["type"] == "query":
            yield variable["query"]["query"]


# --- the form -------------------------------------------------------------------------------------


def lost(written: object, read: object, where: str = "") -> Iterator[str]:
    """What was written and is not read back; what is read may have more."""
    if isinstance(written, Mapping) and isinstance(read, Mapping):
        for key, value in written.items():
            if key in read:
                yield from lost(value, read[key], f"{where}.{key}")
            else:
                yield f"{where}.{key}"
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for place, (one, other) in enumerate(zip(written, read, strict=True)):
            yield from lost(one, other, f"{where}[{place}]")
    elif written != read:
        yield f"{where}: {written!r} is read as {read!r}"


def misfits(value: object, hint: Any, where: str = "") -> Iterator[str]:
    """Values of another type than the schema's classes say, all the way down."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        fitting = [one for one in arguments if _is(value, one)] or arguments[:1]
        yield from misfits(value, fitting[0], where)
    elif isinstance(value, dict) and hasattr(hint, "from_json"):
        # The schema's own reader leaves a few of them unread.
        inner = hint.from_json(value)
        yield from lost(value, json.loads(JSONEncoder().encode(inner)), where)
        yield from misfits(inner, hint, where)
    elif not _is(value, hint):
        yield f"{where}: {value!r} is no {hint}"
    elif origin is list:
        for place, each in enumerate(typing.cast("list[object]", value)):
            yield from misfits(each, arguments[0], f"{where}[{place}]")
    elif origin is dict:
        for key, each in typing.cast("dict[str, object]", value).items():
            yield from misfits(each, arguments[1], f"{where}.{key}")
    elif type(value).__module__.startswith("grafana_foundation_sdk"):
        for name, each_hint in typing.get_type_hints(type(value)).items():
            yield from misfits(getattr(value, name), each_hint, f"{where}.{name}")


def _is(value: object, hint: Any) -> bool:
    """Whether the value is of that type; what it contains is not looked at."""
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value in [each.value for each in hint]
    if isinstance(value, dict) and hasattr(hint, "from_json"):
        return True
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    return hint is Any or isinstance(value, typing.get_origin(hint) or hint)


@pytest.fixture(scope="module", autouse=True)
def panels_are_known() -> None:
    register_default_plugins()


def read_back(written: object) -> Any:
    return json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(json.dumps(written)))))


def test_the_dashboard_is_what_its_program_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(GRAFANA / "dashboard.py")], check=True, capture_output=True, text=True
    )
    assert done.stdout == (GRAFANA / "wpp-sync.json").read_text(), (
        "./deploy/grafana/dashboard.py > deploy/grafana/wpp-sync.json"
    )


def test_grafanas_schema_reads_all_of_it() -> None:
    assert list(lost(DASHBOARD, read_back(DASHBOARD))) == []


def test_every_value_is_of_the_type_that_grafanas_schema_says() -> None:
    assert list(misfits(Dashboard.from_json(DASHBOARD), Dashboard)) == []


def spoilt_with(path: Sequence[str | int], value: object) -> Any:
    spoilt = json.loads(json.dumps(DASHBOARD))
    inner = spoilt
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return spoilt


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("refreshh",), "30s"),
        (("panels", 1, "titel"), "x"),
        (("panels", 1, "options", "grafMode"), "area"),
        (("panels", 1, "targets", 0, "query"), "up"),
        (("panels", 7, "fieldConfig", "defaults", "custom", "stack"), True),
    ],
)
def test_a_key_that_grafana_does_not_know_would_be_found(
    path: Sequence[str | int], value: object
) -> None:
    spoilt = spoilt_with(path, value)
    assert len(list(lost(spoilt, read_back(spoilt)))) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("graphTooltip",), 7),
        (("panels", 1, "options", "graphMode"), "curve"),
        (("panels", 1, "gridPos", "w"), "4"),
        (("panels", 9, "transformations", 0, "identity"), "merge"),
        (("panels", 7, "fieldConfig", "defaults", "custom", "stacking", "mode"), "up"),
    ],
)
def test_a_value_of_another_type_would_be_found(path: Sequence[str | int], value: object) -> None:
    spoilt = spoilt_with(path, value)
    assert len(list(misfits(Dashboard.from_json(spoilt), Dashboard))) == 1


# --- panels ---------------------------------------------------------------------------------------


def test_every_panel_has_an_id_of_its_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_no_panel_covers_another_or_leaves_the_grid() -> None:
    squares = {
        panel["id"]: {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
    }
    assert all(0 <= x < 24 for square in squares.values() for x, _ in square)
    for (one, ours), (other, theirs) in combinations(squares.items(), 2):
        assert not ours & theirs, (one, other)


def test_the_rows_are_those_that_one_looks_for() -> None:
    titles = [row["title"].partition(":")[0] for row in ROWS]
    assert titles == ["Overview", "Chosen instances", "Central's load", "Errors and processes"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 10
    known = {value for name, value in vars(units).items() if name[0].isupper()}
    assert panel["fieldConfig"]["defaults"]["unit"] in known
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_stays_readable_with_a_thousand_instances(panel: dict[str, Any]) -> None:
    """What has a line for each instance is cut off."""
    for target in panel["targets"]:
        if "wpp_instance" in target["legendFormat"] or panel["type"] == "table":
            assert re.search(r"(topk|bottomk)\((\d\d), ", target["expr"])


# --- queries --------------------------------------------------------------------------------------


def metric_names() -> set[str]:
    """Those that /metrics has, as queries write them."""
    metrics = Metrics("x")
    found = {"up"} | {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.registry.collect()
        if family.name.startswith(("process_", "python_"))
    }
    for each in metrics.declared:
        suffixes = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        found |= {each.name + suffix for suffix in suffixes}
    return found


def test_every_metric_that_is_asked_for_exists() -> None:
    asked = {name for query in queries() for name in re.findall(r"([a-z_]+)\{", query)}
    assert asked - metric_names() == set()
    assert len(asked) > 30


def test_every_metric_of_ours_is_shown() -> None:
    shown = "\n".join(queries())
    missing = {each.name for each in Metrics("x").declared if each.name not in shown}
    assert missing == set()


def test_every_variable_is_used_and_every_used_one_is_there() -> None:
    built_in = {"__rate_interval"}
    written = json.dumps({"panels": DASHBOARD["panels"], "variables": list(VARIABLES.values())})
    used = set(re.findall(r"\$\{?(\w+)", written)) - {"__url_time_range", "__value", "__all"}
    assert used == {"datasource", "job", "wpp_instance", "entity"} | built_in
    assert set(VARIABLES) == used - built_in


def test_every_query_asks_for_the_chosen_job_alone() -> None:
    for query in queries():
        selectors = re.findall(r"[a-z_]+\{([^}]*)\}", query)
        assert selectors
        if not query.startswith("label_values(wpp_sync_build_info"):
            assert all('job=~"$job"' in selector for selector in selectors), query
