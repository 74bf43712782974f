"""Writes the table of metrics.md from the declarations: .venv/bin/python docs/metrics.py

The text around the table is written by hand, there. `--print` shows the whole file instead of
writing it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from daemon.metrics import Metrics

PAGE = Path(__file__).with_name("metrics.md")
BEGIN = "<!-- written by docs/metrics.py -->\n"
END = "<!-- up to here -->\n"


def table() -> str:
    """One line for each metric, by name."""
    lines = ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    for each in Metrics("").declared:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}` | {each.kind} | {labels} | {each.says} |")
    return "".join(f"{line}\n" for line in lines)


def written(page: str) -> str:
    """The page with its table made anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return before + begin + table() + end + after


def main(arguments: Sequence[str]) -> None:
    page = written(PAGE.read_text())
    if "--print" in arguments:
        sys.stdout.write(page)
    else:
        PAGE.write_text(page)


if __name__ == "__main__":
    main(sys.argv[1:])
