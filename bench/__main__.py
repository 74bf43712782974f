"""`./scripts/bench`: take the measures, print them, and write them down."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from subprocess import SubprocessError

import click
from asyncmy.errors import Error as DriverError
from rich.console import Console

from bench import table
from bench.measures import MEASURES, Measure
from bench.place import Place
from bench.results import Measured, Run
from bench.rivals import RIVALS
from daemon.demo.server import program
from daemon.errors import WppSyncError

ROUNDS, QUICK_ROUNDS = 5, 1
DOCUMENT = Path(__file__).resolve().parents[1] / "docs/performance.md"
BEGIN, END = "<!-- begin: ./scripts/bench --markdown -->\n", "<!-- end -->\n"

_NAMES = click.Choice([measure.name for measure in MEASURES])


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes, one round: does it work?")
@click.option("--only", multiple=True, type=_NAMES, help="This measure; repeatable.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Rounds of each (default {ROUNDS}).")
@click.option("--json", "path", type=Path, metavar="FILE", help="Write what was found there, too.")
@click.option("--markdown", is_flag=True, help="Put it into docs/performance.md, too.")
@click.option("--read", type=Path, metavar="FILE", help="Measure nothing: show a file of --json.")
def main(
    quick: bool,
    only: tuple[str, ...],
    rounds: int | None,
    path: Path | None,
    markdown: bool,
    read: Path | None,
) -> None:
    """What wpp-sync costs, beside its rivals in the same run, on private servers."""
    console = Console()
    if read is not None:
        run = Run.read(json.loads(read.read_text()))
    else:
        chosen = [measure for measure in MEASURES if not only or measure.name in only]
        run = _run(console, chosen, quick, rounds or (QUICK_ROUNDS if quick else ROUNDS))
    console.print(table.terminal(run))
    if path is not None:
        path.write_text(json.dumps(run.document(), indent=2, ensure_ascii=False) + "\n")
    if markdown:
        DOCUMENT.write_text(refreshed(DOCUMENT.read_text(), table.markdown(run)))
    if any(each.outcome is None for each in run.measured):
        raise SystemExit(1)


def refreshed(document: str, figures: str) -> str:
    """The document with other figures between its marks. Raises WppSyncError without marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise WppSyncError(f"{DOCUMENT.name} has no place for figures")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def _run(console: Console, chosen: Sequence[Measure], quick: bool, rounds: int) -> Run:
    began = datetime.now(UTC).isoformat(timespec="seconds")
    versions = _versions()
    measured = []
    with (
        tempfile.TemporaryDirectory(prefix="wpp-bench-") as directory,
        console.status("") as status,
        Place(Path(directory), quick=quick, rounds=rounds) as place,
    ):
        for measure in chosen:
            if not console.is_terminal:
                click.echo(f"{measure.name} …", err=True)
            place.say = _speaker(measure.name, status.update)
            measured.append(_taken(measure, place))
    return Run(began, quick, rounds, versions, tuple(measured))


def _speaker(name: str, update: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: update(f"{name}: {text}")


def _taken(measure: Measure, place: Place) -> Measured:
    """One that cannot be taken does not keep the others from it."""
    began = time.monotonic()
    outcome, error = None, ""
    try:
        outcome = measure.take(place)
    except (WppSyncError, OSError, SubprocessError, DriverError) as failed:
        error = str(failed) or repr(failed)
    return Measured(measure.name, measure.title, time.monotonic() - began, outcome, error)


def _versions() -> dict[str, str]:
    server = _said([program("mariadbd"), "--no-defaults", "--version"]).partition("Ver ")[2]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "wpp-sync": f"{version('wpp-sync')} ({_said(['git', 'rev-parse', '--short', 'HEAD'])})",
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "MariaDB": server.partition(" ")[0],
        "asyncmy": version("asyncmy"),
        **{each.name: each.version() for each in RIVALS if each.slow and not each.why_not()},
    }


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
