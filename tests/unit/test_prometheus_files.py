"""deploy/prometheus, as promtool judges it; and that files, metrics and docs/alerts.md agree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.cli import cli
from daemon.metrics import Metrics
from tests.prometheus import JOB, needs_prometheus, promtool

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deploy/prometheus"
TESTS = sorted((FILES / "tests").glob("*.yml"))
RUNBOOK = (ROOT / "docs/alerts.md").read_text()
DOCS = "file:///usr/share/doc/wpp-sync/"  # where deploy/install puts them

SEVERITIES = {"critical", "warning", "info"}


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
RECORDED = {rule["record"]: rule for rule in rules("rules.yml")}


def cases(alert: str) -> list[list[bool]]:
    """Each of promtool's tests of an alert: whether it is expected to fire, moment after moment."""
    return [
        [bool(moment["exp_alerts"]) for moment in moments]
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        if (moments := test.get("alert_rule_test", ())) and moments[0]["alertname"] == alert
    ]


# --- as promtool judges them ----------------------------------------------------------------------


@needs_prometheus
def test_the_example_is_a_configuration_and_the_rules_are_rules() -> None:
    done = promtool("check", "config", FILES / "scrape.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout
    for name in ("rules.yml", "alerts.yml"):
        done = promtool("check", "rules", "--lint=all", "--lint-fatal", FILES / name)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_the_rules_say_what_their_tests_expect() -> None:
    done = promtool("test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(TESTS)


# --- what they name is there ----------------------------------------------------------------------


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_test_that_it_fires_and_one_that_it_does_not(alert: str) -> None:
    """And where it waits, one that it does."""
    assert [False] in cases(alert)
    assert ([False, True] if "for" in ALERTS[alert] else [True]) in cases(alert)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_what_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch("WppSync[A-Za-z]+", alert)
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{DOCS}alerts.md#{alert.lower()}"


def test_the_runbook_has_one_section_for_each_alert_in_their_order() -> None:
    sections = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
    assert [section.partition("\n")[0] for section in sections] == list(ALERTS)
    for section in sections:
        for part in ("**Means**", "**Look at**", "**Do**"):
            assert part in section, section
    anchors = {alert.lower() for alert in ALERTS}
    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK)) <= anchors


def test_the_runbook_names_commands_settings_and_metrics_that_there_are() -> None:
    commands = set(re.findall(r"`wpp-sync ([^`]+)`", RUNBOOK))
    assert len(commands) > 10
    for command in commands:
        verb, *arguments = shlex.split(command)
        assert verb in cli.commands
        if arguments:  # else the verb is mentioned, not the command
            cli.commands[verb].make_context(verb, arguments)  # raises what click refuses
    settings = (ROOT / "config.yaml").read_text()
    for section, name in re.findall(r"`(sync|http)\.([a-z_]+)`", RUNBOOK):
        block = re.search(rf"^{section}:\n(?:  .*\n|\n)+", settings, re.MULTILINE)
        assert block is not None
        assert re.search(rf"^  #?{name}:", block[0], re.MULTILINE), name
    assert unknown(RUNBOOK) == set()


def test_each_rule_asks_for_series_that_the_daemon_has() -> None:
    for rule in (*ALERTS.values(), *RECORDED.values()):
        assert unknown(rule["expr"]) == set()
    assert unknown('wpp_sync_lag{a="b"} + a:wpp_sync_rows:x') == {
        "wpp_sync_lag", "a:wpp_sync_rows:x",
    }  # fmt: skip


def test_each_rule_asks_for_labels_that_the_series_has() -> None:
    declared = {each.name: {*each.labels, "job", "instance"} for each in Metrics("x").declared}
    for rule in (*ALERTS.values(), *RECORDED.values()):
        for name, matchers in re.findall(r"\b(wpp_sync_\w+)\{([^}]*)\}", rule["expr"]):
            asked = set(re.findall(r"(\w+)=", matchers))
            assert asked <= declared[re.sub("_bucket$", "", name)], rule


def test_recorded_names_say_level_metric_and_operation() -> None:
    """The level is what is left of the labels, beside the job."""
    for name, rule in RECORDED.items():
        level, metric, operation = name.split(":")
        assert metric.startswith("wpp_sync_")
        assert operation
        by = re.search(r"by \(([^)]*)\)", rule["expr"])
        assert by is not None, name
        labels = set(by[1].split(", ")) - {"job", "le"}
        assert set(re.findall("wpp_instance|instance|entity|kind", level)) == labels, name


def test_the_job_is_called_the_same_everywhere() -> None:
    scrape = yaml.safe_load((FILES / "scrape.yml").read_text())
    assert [each["job_name"] for each in scrape["scrape_configs"]] == [JOB]
    named = re.findall(r'job="([^"]+)"', (FILES / "alerts.yml").read_text())
    assert named == [JOB, JOB]


def unknown(text: str) -> set[str]:
    """The names of series of ours in a text that neither a daemon writes nor a rule records."""
    declared = {each.name for each in Metrics("x").declared}
    histograms = {each.name for each in Metrics("x").declared if each.kind == "histogram"}
    written = declared | {f"{name}_bucket" for name in histograms}
    found = set(re.findall(r"[a-z_]*:?wpp_sync_[a-z0-9_]*(?::[a-z0-9_]+)?", text))
    return found - written - RECORDED.keys()
