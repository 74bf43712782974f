"""docs/metrics.md says what the declarations say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from daemon.metrics import Metrics
from daemon.seen import STATES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "metrics.md").read_text()


def test_the_page_is_what_its_program_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "metrics.py"), "--print"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == PAGE, "run docs/metrics.py"


def test_the_table_has_every_metric_and_no_other() -> None:
    found = re.findall(r"^\| `(wpp_sync_\w+)` \| (\w+) \| (.*?) \| ", PAGE, re.MULTILINE)
    assert found == [
        (each.name, each.kind, ", ".join(f"`{label}`" for label in each.labels))
        for each in Metrics("x").declared
    ]


def test_every_name_in_the_text_is_one_of_a_metric() -> None:
    metrics = Metrics("x")
    known = {each.name for each in metrics.declared}
    assert set(re.findall(r"wpp_sync_\w+", PAGE)) == known
    process = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.registry.collect()
        if not family.name.startswith("wpp_sync_")
    }
    assert set(re.findall(r"(?:process|python)_\w+", PAGE)) == process


def test_the_labels_are_explained() -> None:
    told = PAGE.partition("## Labels")[2].partition("\n## ")[0]
    labels = {label for each in Metrics("x").declared for label in each.labels}
    assert set(re.findall(r"^\| `(\w+)`", told, re.MULTILINE)) == labels - {"version"}
    assert f"| `state` | {', '.join(f'`{state}`' for state in STATES)} |" in told
