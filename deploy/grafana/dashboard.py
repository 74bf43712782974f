#!/usr/bin/env python3
"""Writes the dashboard: ./deploy/grafana/dashboard.py > deploy/grafana/wpp-sync.json

What a panel asks, how it is drawn and what it says to its reader is declared below in one line
each; ids, places on the grid and Grafana's JSON are made from that.

Several daemons may tell of one instance. Who stands by tells its state and nothing else, so what is
counted is summed, and what is known is the most that anybody knows. The lag alone takes more: a
daemon that cannot reach a database that another one copies would make it look old (see `lag`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# What a query is about: everything, the chosen instances, their chosen entities.
ALL = 'job=~"$job"'
ONE = f'{ALL},wpp_instance=~"$wpp_instance"'
EACH = f'{ONE},entity=~"$entity"'

PER = "$__rate_interval"

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = (
    "green", "yellow", "orange", "red", "blue", "purple", "#808080",
)  # fmt: skip

# From the harmless to the worst, which wins where several daemons tell of one instance.
STATES = {
    "standby": GREY, "idle": GREEN, "syncing": BLUE, "migrating": PURPLE, "starting": "light-blue",
    "paused": YELLOW, "backoff": ORANGE, "failed": RED,
}  # fmt: skip

# What only that daemon says of an instance which has its lock.
AT_IT = f'{ALL},state=~"idle|syncing|migrating|paused"'

TROUBLE = {
    0: ("copied", GREEN),
    1: ("paused", YELLOW),
    2: ("failed", RED),
    3: ("rewound", PURPLE),
}


# --- asking ---------------------------------------------------------------------------------------


def of(metric: str, where: str) -> str:
    return f"wpp_sync_{metric}{{{where}}}"


def known(metric: str, where: str, by: str = "wpp_instance, entity", how: str = "max") -> str:
    """A gauge, whichever daemon knows it."""
    return f"{how} by ({by}) ({of(metric, where)})"


def together(metric: str) -> str:
    """What is known of an instance's entities, summed for each instance."""
    return f"sum by (wpp_instance) ({known(metric, ALL)})"


def total(what: str) -> str:
    """The sum over everything; 0 when there is nothing."""
    return f"sum({what}) or vector(0)"


def rate(metric: str, by: str, where: str) -> str:
    return f"sum by ({by}) (rate({of(metric, where)}[{PER}]))"


def rise(metric: str, by: str, where: str) -> str:
    """How many more there are. A counter that nobody had seen yet begins with its first one, which
    increase() takes for its beginning."""
    counter = of(metric, where)
    return (
        f"sum by ({by}) (({counter} unless {counter} offset {PER}) or increase({counter}[{PER}]))"
    )


def quantile(q: float, metric: str, *by: str) -> str:
    buckets = rate(f"{metric}_bucket", ", ".join(["le", *by]), ALL)
    return f"histogram_quantile({q}, {buckets})"


def lag(where: str, *, follows: bool = False) -> str:
    """Seconds by instance and entity, as the daemon says that copies the instance; the most that
    anybody says when none does. `follows`: without entities that are compared whole, whose lag is
    the age of their last comparison and no trouble."""
    seconds = of("lag_seconds", where)
    if follows:
        seconds = f"({seconds} and {of('rewound', where)})"
    copies = f"on (job, instance, wpp_instance) {of('instance_state', AT_IT)} == 1"
    by = "by (wpp_instance, entity)"
    return f"(min {by} ({seconds} and {copies}) or max {by} ({seconds}))"


def running() -> str:
    return f"(time() - {of('started_timestamp_seconds', ALL)})" + (
        f" * on (job, instance) group_left (version) {of('build_info', ALL)}"
    )


def state(where: str) -> str:
    """Each instance's state as a number; the worst where daemons tell different ones."""
    # What is 0 is left out first: of a thousand instances there are 8,000 series.
    found = [of("instance_state", f'{where},state="{name}"') for name in STATES]
    each = [
        f"{number} * max by (wpp_instance) ({series} == 1)"
        for number, series in enumerate(found, start=1)
    ]
    return f"({' or '.join(reversed(each))})"


def stands(where: str) -> str:
    """Why an entity is not copied, as a number (TROUBLE)."""
    rewound, failed, paused = (
        known(metric, where) for metric in ("rewound", "entity_failed", "entity_paused")
    )
    return f"(3 * ({rewound} == 1) or 2 * ({failed} == 1) or {paused})"


def by_state() -> str:
    """How many instances are in which state: standing by only where no other daemon is at it."""
    busy, waits = (
        of("instance_state", f'{ALL},state{op}"standby"') + " == 1" for op in ("!=", "=")
    )
    each = "group by (wpp_instance, state)"
    return f"count by (state) ({each} ({busy}) or {each} ({waits}) unless on (wpp_instance) {busy})"


def ours(query: str) -> str:
    """Of our processes alone, whatever else the job scrapes."""
    return f"{query} and on (job, instance) {of('build_info', ALL)}"


def process(metric: str) -> str:
    return f"process_{metric}{{{ALL}}}"


# --- declaring ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `asks`: legend (or column) -> query."""

    title: str
    says: str
    asks: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    limits: dict[str, float] = field(default_factory=dict)
    """Colour -> from which value on; below all of them it is green."""

    texts: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Value -> what is shown instead, and its colour."""

    colours: dict[str, str] = field(default_factory=dict)
    """Series -> its own colour."""

    top: int = 0
    """Show at most so many, the highest; 0: all that there are."""

    stacked: bool = False
    least: float | None = 0
    most: float | None = None
    """The axis' ends; None: as the values ask for."""


def stat(
    title: str, says: str, query: str, unit: str = "short", limits: dict[str, float] | None = None
) -> Panel:
    return Panel(title, says, {"": query}, unit, "stat", width=4, height=4, limits=limits or {})


STATE_TEXTS = {code: (name, STATES[name]) for code, name in enumerate(STATES, start=1)}
LATE = {YELLOW: 60.0, RED: 300.0}
ANY = {YELLOW: 1.0}
INSTANCE, ENTITY = "{{wpp_instance}}", "{{wpp_instance}} {{entity}}"
DAEMON = "{{instance}}"

LAG = f"max by (wpp_instance) ({lag(ALL, follows=True)})"
WORST = f"topk(20, {LAG})"


def among_the_worst(query: str) -> str:
    return f"{query} and {WORST}"


ROWS: dict[str, list[Panel]] = {
    "Overview: all instances": [
        stat(
            "Worst lag",
            "How long ago the instance that is farthest behind last had all rows of messages,"
            " chats and other entities that are followed by id. 0: everybody has everything.",
            f"max({LAG})",
            "s",
            limits=LATE,
        ),
        stat(
            "Rows written per second",
            "Rows upserted and deleted in local tables, all instances.",
            total(f"rate({of('rows_total', ALL)}[{PER}])"),
            "rowsps",
        ),
        stat(
            "Errors per second",
            "Passes and entities that failed, all instances. Which, and of what kind: last row.",
            total(f"rate({of('errors_total', ALL)}[{PER}])"),
            "eps",
            limits={YELLOW: 0.001, RED: 1.0},
        ),
        stat(
            "Quarantined rows",
            "Rows that local tables refuse, all instances: `wpp-sync quarantine INSTANCE`.",
            total(together("quarantined_rows")),
            limits=ANY,
        ),
        stat(
            "Pending migrations",
            "Migrations that are not in effect yet, all instances: `wpp-sync migrate --dry-run`.",
            total(known("migrations_pending", ALL, "wpp_instance")),
            limits=ANY,
        ),
        stat("Daemons", "Daemons that Prometheus reaches.", f"count({of('build_info', ALL)})"),
        Panel(
            "Instances by state",
            "In how many instances the daemon is doing what. Standby: only there where no"
            " daemon copies the instance. An instance that two daemons try to copy, one in"
            " vain, counts once for each.",
            {"{{state}}": by_state()},
            colours=STATES,
            stacked=True,
        ),
        Panel(
            "Instances farthest behind",
            "Seconds since the instance last had all rows that are followed by id.",
            {INSTANCE: LAG},
            "s",
            limits=LATE,
            top=10,
        ),
        Panel(
            "The 20 instances farthest behind",
            "Now; a click on a name shows that instance below.",
            {
                "Lag": WORST,
                "Rows behind": among_the_worst(together("lag_rows")),
                "Quarantined": among_the_worst(together("quarantined_rows")),
                "State": among_the_worst(state(ALL)),
            },
            kind="table",
            limits=LATE,
            texts=STATE_TEXTS,
        ),
        Panel(
            "Rows written by entity",
            "Upserts and deletes in local tables, all instances.",
            {"{{entity}} {{operation}}": rate("rows_total", "entity, operation", ALL)},
            "rowsps",
            stacked=True,
        ),
    ],
    "Chosen instances: $wpp_instance": [
        Panel(
            "State",
            "What the daemon is doing with each instance; where several daemons tell different"
            " things, the worst of them.",
            {INSTANCE: state(ONE)},
            kind="state-timeline",
            width=24,
            height=7,
            texts=STATE_TEXTS,
            top=20,
        ),
        Panel(
            "Lag in seconds",
            "How long ago the entity was last known to have all that central had. 0 when it"
            " has; it grows while a copy is behind, a database is out of reach, or an operator"
            " has paused it. Of an entity that is compared whole: the age of the last"
            " comparison.",
            {ENTITY: lag(EACH)},
            "s",
            limits=LATE,
            top=25,
        ),
        Panel(
            "Lag in rows",
            "Central rows that are not copied yet, as last counted; counted only where a copy"
            " is far behind.",
            {ENTITY: known("lag_rows", EACH)},
            top=25,
        ),
        Panel(
            "Rows written",
            "Rows upserted and deleted in local tables.",
            {
                "{{wpp_instance}} {{entity}} {{operation}}": rate(
                    "rows_total", "wpp_instance, entity, operation", EACH
                )
            },
            "rowsps",
            top=25,
        ),
        Panel(
            "Last success",
            "Seconds since a pass last ended without an error.",
            {INSTANCE: f"time() - {known('last_success_timestamp_seconds', ONE, 'wpp_instance')}"},
            "s",
            limits=LATE,
            top=25,
        ),
        Panel(
            "Watermark and settled id",
            "Watermark: the highest id that is copied. Settled: up to here nothing can be"
            " added any more, and all is copied; an idle instance's goes on with central's ids,"
            " beyond its watermark. Best with one instance chosen.",
            {
                "watermark " + ENTITY: known("last_synced_id", EACH),
                "settled " + ENTITY: known("settled_id", EACH),
            },
            "none",
            least=None,
            top=10,
        ),
        Panel(
            "Entities that stand still",
            "Paused by an operator, failed by their own trouble, or rewound: central's ids"
            " began again, and nothing is copied until a resync.",
            {ENTITY: stands(EACH)},
            kind="state-timeline",
            texts=TROUBLE,
            top=25,
        ),
        Panel(
            "Quarantined rows",
            "Rows that the local table refuses, kept apart with the reason: `wpp-sync"
            " quarantine INSTANCE`.",
            {ENTITY: known("quarantined_rows", EACH)},
            limits=ANY,
            top=25,
        ),
        Panel(
            "Late rows",
            "Rows that became visible below what had been read, because their transaction took"
            " long. Normal, and copied.",
            {ENTITY: rise("late_rows_total", "wpp_instance, entity", EACH)},
            top=25,
        ),
        Panel(
            "Rows that differed",
            "When both sides were compared: missing, differing or extra in the local table."
            " They are repaired; rows changed in central show here, too. An entity that differs"
            " again and again has another writer.",
            {
                "{{wpp_instance}} {{entity}} {{kind}}": rise(
                    "reconcile_differences_total", "wpp_instance, entity, kind", EACH
                )
            },
            top=25,
        ),
        Panel(
            "Chunks compared per second",
            "Chunks of tables whose checksums were compared on both sides.",
            {ENTITY: rate("reconcile_chunks_total", "wpp_instance, entity", EACH)},
            "ops",
            top=25,
        ),
        Panel(
            "Comparison under way",
            "How much of the table the running comparison has done; 100 % when none runs. The"
            " 25 least advanced.",
            {ENTITY: f"bottomk(25, {known('reconcile_progress_ratio', EACH, how='min')})"},
            "percentunit",
            most=1,
        ),
        Panel(
            "Resync under way",
            "How much of a full resync is done; 100 % when none is under way. The 25 least"
            " advanced.",
            {ENTITY: f"bottomk(25, {known('resync_progress_ratio', EACH, how='min')})"},
            "percentunit",
            most=1,
        ),
        Panel(
            "Age of the last whole comparison",
            "Seconds since both sides were last compared whole. An hour and a bit is normal"
            " for messages and chats (sync.reconcile_interval).",
            {ENTITY: f"time() - {known('compared_timestamp_seconds', EACH)}"},
            "s",
            top=25,
        ),
        Panel(
            "Time throttled",
            "How much of the time an instance waited before it wrote more: for an order (`wpp-sync"
            " throttle`), sync.max_rows_per_second (limit), or because central was busy, or a"
            " replica that was behind.",
            {
                "{{wpp_instance}} {{reason}}": rate(
                    "throttled_seconds_total", "wpp_instance, reason", ONE
                )
            },
            "percentunit",
            top=25,
        ),
        Panel(
            "Hot rows",
            "Rows that are known to change soon, and are compared every few seconds.",
            {ENTITY: known("hot_rows", EACH)},
            top=25,
        ),
    ],
    "Central's load": [
        Panel(
            "Statements per second",
            "Sent to central by all daemons, by what for.",
            {"{{kind}}": rate("central_queries_total", "kind", ALL)},
            "ops",
            stacked=True,
        ),
        Panel(
            "Time central works for us",
            "Seconds of statements in each second, by what for: 1 is one statement that always"
            " runs.",
            {"{{kind}}": rate("central_query_duration_seconds_sum", "kind", ALL)},
            "s",
            stacked=True,
        ),
        *(
            Panel(
                f"Time of a statement, p{round(q * 100)}",
                f"Within this time central had answered {round(q * 100)} % of the statements.",
                {"{{kind}}": quantile(q, "central_query_duration_seconds", "kind")},
                "s",
                width=8,
            )
            for q in (0.5, 0.95, 0.99)
        ),
        Panel(
            "Oldest row in flight",
            "How long the lowest id that is drawn and not committed has been so. While it is,"
            " ids above it do not settle: look for a transaction in central that was forgotten"
            " open.",
            {"{{table}}": known("oldest_in_flight_seconds", ALL, "table")},
            "s",
            width=8,
            limits=LATE,
        ),
        Panel(
            "Central answers",
            "Whether central answered each daemon the last time it was asked. One that it does not"
            " answer gives its instances to other hosts.",
            {DAEMON: known("central_reachable", ALL, "instance", how="min")},
            kind="state-timeline",
            width=8,
            texts={0: ("silent", RED), 1: ("answers", GREEN)},
        ),
        Panel(
            "Connections",
            "Open connections of each daemon, to central and to all local servers.",
            {DAEMON + " {{server}}": known("connections", ALL, "instance, server")},
            width=8,
        ),
        Panel(
            "Time of a batch and a pass, p95",
            "The local transaction of one batch, by entity; and one pass over an instance's"
            " entities that had something to do.",
            {
                "batch {{entity}}": quantile(0.95, "batch_duration_seconds", "entity"),
                "pass": quantile(0.95, "pass_duration_seconds"),
            },
            "s",
            width=8,
        ),
    ],
    "Errors and processes": [
        Panel(
            "Errors by kind",
            "Errors per second; the kinds are the codes in docs/operations.md, “Messages and"
            " what to do”.",
            {"{{kind}}": rate("errors_total", "kind", ALL)},
            "eps",
        ),
        Panel(
            "Errors by instance",
            "Errors per second.",
            {"{{wpp_instance}} {{kind}}": rate("errors_total", "wpp_instance, kind", ALL)},
            "eps",
            top=10,
        ),
        Panel(
            "Resets",
            "By what triggered them: the control socket (and the command line) or a signal.",
            {"{{trigger}}": rise("resets_total", "trigger", ALL)},
            width=8,
        ),
        Panel(
            "Migrations put in effect",
            "All instances.",
            {INSTANCE: rise("migrations_applied_total", "wpp_instance", ALL)},
            width=8,
            top=10,
        ),
        Panel(
            "Configuration",
            "Whether the last reload was taken over; refused, the daemon goes on with the old"
            " configuration, and its log says what is wrong.",
            {DAEMON: known("config_reload_success", ALL, "instance", how="min")},
            kind="state-timeline",
            width=8,
            texts={0: ("refused", RED), 1: ("taken over", GREEN)},
        ),
        Panel(
            "Event loop delay, p99",
            "How much later than asked for the event loop woke up. Above 0.1 s the process is"
            " short of CPU.",
            {DAEMON: quantile(0.99, "event_loop_delay_seconds", "instance")},
            "s",
            width=8,
            limits={YELLOW: 0.1, RED: 1.0},
        ),
        Panel(
            "CPU",
            "Share of one core.",
            {DAEMON: ours(f"rate({process('cpu_seconds_total')}[{PER}])")},
            "percentunit",
            width=8,
            limits={YELLOW: 0.8},
        ),
        Panel(
            "Memory",
            "Resident memory.",
            {DAEMON: ours(process("resident_memory_bytes"))},
            "bytes",
            width=8,
        ),
        Panel(
            "File descriptors",
            "Open ones, as a share of how many the process may have.",
            {DAEMON: ours(f"{process('open_fds')} / {process('max_fds')}")},
            "percentunit",
            width=8,
            limits={YELLOW: 0.5, RED: 0.8},
        ),
        Panel(
            "Running since",
            "Age of each daemon's process; back to zero at a restart.",
            {DAEMON + " {{version}}": running()},
            "s",
            width=8,
        ),
        Panel(
            "Reached by Prometheus",
            "Whether the last scrape of each daemon worked.",
            {DAEMON: f"up{{{ALL}}}"},
            kind="state-timeline",
            width=8,
            texts={0: ("down", RED), 1: ("up", GREEN)},
        ),
    ],
}


# --- drawing --------------------------------------------------------------------------------------


_SHOWN = " At most {} are shown, the highest at each moment."


def drawn(panel: Panel, number: int, x: int, y: int) -> Json:
    """The panel as Grafana has it."""
    table = panel.kind == "table"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says + (_SHOWN.format(panel.top) if panel.top else ""),
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        # Not as many as there are pixels: each costs a query over all instances.
        "maxDataPoints": 60 if panel.kind == "stat" else 240,
        "targets": [
            {
                "refId": letter,
                "datasource": DATASOURCE,
                "expr": f"topk({panel.top}, {query})" if panel.top else query,
                "legendFormat": legend,
                "range": not table,
                "instant": table,
                "format": "table" if table else "time_series",
                "editorMode": "code",
            }
            for letter, (legend, query) in zip("ABCD", panel.asks.items(), strict=False)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind],
        **({"transformations": _joined(panel)} if table else {}),
    }


def _defaults(panel: Panel) -> Json:
    defaults: Json = {
        "unit": panel.unit,
        "thresholds": _thresholds(panel.limits),
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "custom": {},
    }
    ends = {"min": panel.least, "max": panel.most}
    defaults |= {name: value for name, value in ends.items() if value is not None}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
        }
    if panel.kind == "state-timeline":
        defaults["custom"] = {"fillOpacity": 80, "lineWidth": 0}
        defaults["mappings"] = _mappings(panel.texts)
    return defaults


def _thresholds(limits: dict[str, float]) -> Json:
    steps: list[Json] = [{"color": GREEN, "value": None}]
    steps += [{"color": colour, "value": value} for colour, value in limits.items()]
    return {"mode": "absolute", "steps": steps}


def _mappings(texts: dict[int, tuple[str, str]]) -> list[Json]:
    options = {
        str(value): {"text": text, "color": colour, "index": place}
        for place, (value, (text, colour)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


def _overrides(panel: Panel) -> list[Json]:
    found = [
        _override(name, color={"mode": "fixed", "fixedColor": colour})
        for name, colour in panel.colours.items()
    ]
    if panel.kind == "table":
        coloured = {"type": "color-text"}
        shown = "/d/wpp-sync?${__url_time_range}&var-wpp_instance=${__value.raw:percentencode}"
        found += [
            _override("Instance", links=[{"title": "show it", "url": shown}]),
            _override("State", mappings=_mappings(panel.texts), **{"custom.cellOptions": coloured}),
            _override("Lag", unit="s", **{"custom.cellOptions": coloured}),
        ]
    return found


def _override(name: str, **properties: Any) -> Json:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _joined(panel: Panel) -> list[Json]:
    """One line for each instance, one column for each query."""
    columns = {f"Value #{letter}": name for letter, name in zip("ABCD", panel.asks, strict=False)}
    order = {name: place for place, name in enumerate(["wpp_instance", *columns])}
    return [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "indexByName": order,
                "renameByName": {"wpp_instance": "Instance", **columns},
            },
        },
    ]


_TOOLTIP = {"mode": "multi", "sort": "desc"}

_OPTIONS: dict[str, Json] = {
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value",
    },
    "timeseries": {
        "legend": {
            "displayMode": "table",
            "placement": "right",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
            "sortBy": "Last *",
            "sortDesc": True,
        },
        "tooltip": _TOOLTIP,
    },
    "state-timeline": {
        "showValue": "auto",
        "rowHeight": 0.85,
        "mergeValues": True,
        "alignValue": "left",
        "legend": {
            "displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": [],
        },
        "tooltip": _TOOLTIP,
    },
    "table": {
        "showHeader": True,
        "cellHeight": "sm",
        "sortBy": [{"displayName": "Lag", "desc": True}],
        "footer": {"show": False, "reducer": ["sum"]},
    },
}  # fmt: skip


def panels() -> list[Json]:
    """All rows and panels, each at its place: from left to right, in lines of 24."""
    found: list[Json] = []
    y = 0
    for title, row in ROWS.items():
        at = {"x": 0, "y": y, "w": 24, "h": 1}
        found.append(
            {
                "id": len(found) + 1, "type": "row", "title": title, "gridPos": at,
                "collapsed": False, "panels": [],
            }
        )  # fmt: skip
        y += 1
        x = height = 0
        for panel in row:
            if x + panel.width > 24:
                x, y, height = 0, y + height, 0
            found.append(drawn(panel, len(found) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return found


def variable(name: str, label: str, asks: str, all_value: str = "") -> Json:
    """One that is filled with a label's values; any number of them may be chosen."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": asks, "refId": f"Variable-{name}"},
        "current": {"text": ["All"], "value": ["$__all"]},
        "multi": True,
        "includeAll": True,
        # A thousand names in each query would be too long.
        **({"allValue": all_value} if all_value else {}),
        "refresh": 2,
        "sort": 1,
        "hide": 0,
    }


def dashboard() -> Json:
    return {
        "uid": "wpp-sync",
        "title": "wpp-sync",
        "description": "Whether every customer's mirror is complete and current."
        " Generated by deploy/grafana/dashboard.py.",
        "tags": ["wpp-sync"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "refresh": 1,
                    "hide": 0,
                },
                # Not ".+": the process_* and up of other jobs are not ours.
                variable("job", "Job", f"label_values({of('build_info', '')}, job)"),
                variable(
                    "wpp_instance",
                    "Instance",
                    f"label_values({of('instance_state', ALL)}, wpp_instance)",
                    ".+",
                ),
                variable(
                    "entity", "Entity", f"label_values({of('lag_seconds', ALL)}, entity)", ".+"
                ),
            ]
        },
        "panels": panels(),
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
