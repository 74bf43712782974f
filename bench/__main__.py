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
from bench.results import Figures, Measured, Run
from bench.rivals import RIVALS, version_in
from bench.signals import leaving
from daemon.demo.server import program
from daemon.errors import WppSyncError

ROUNDS, QUICK_ROUNDS = 5, 1
ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs/performance.md"
BEGIN, END = "<!-- begin: ./scripts/bench --markdown -->\n", "<!-- end -->\n"

NAMES = tuple(measure.name for measure in MEASURES)


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes, one round: does it work?")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="This measure; repeatable.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Rounds of each (default {ROUNDS}).")
@click.option("--json", "path", type=Path, metavar="FILE", help="Write what was found there, too.")
@click.option("--markdown", is_flag=True, help="Put it into docs/performance.md, too.")
@click.option(
    "--read",
    multiple=True,
    type=Path,
    metavar="FILE",
    help="Measure nothing: show files of --json, together; repeatable, the last word counts.",
)
def main(
    quick: bool,
    only: tuple[str, ...],
    rounds: int | None,
    path: Path | None,
    markdown: bool,
    read: tuple[Path, ...],
) -> None:
    """What wpp-sync costs, beside its rivals in the same run, on private servers."""
    chosen = [measure for measure in MEASURES if not only or measure.name in only]
    wanted = Run("", quick, 0, {}, tuple(Measured(each.name, "", 0, None) for each in chosen))
    if read and (quick or only or rounds or path):
        raise click.UsageError("--read measures nothing: it stands alone, or with --markdown")
    figures = Figures.of([read_run(each) for each in read] or [wanted], NAMES)
    if markdown and (why := figures.no_page(NAMES)):
        raise click.UsageError(why)
    console = Console()
    try:
        if markdown:
            refreshed(DOCUMENT.read_text(), "")
        if not read:
            if path is not None:
                must_be_writable(path)
            with leaving() as check:
                rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
                run = _run(console, chosen, quick, rounds, check)
            figures = Figures.of([run], NAMES)
            if path is not None:
                path.write_text(json.dumps(run.document(), indent=2, ensure_ascii=False) + "\n")
        console.print(table.terminal(figures))
        if markdown:
            DOCUMENT.write_text(refreshed(DOCUMENT.read_text(), table.markdown(figures)))
    except (WppSyncError, OSError, SubprocessError) as error:
        raise click.ClickException(str(error)) from None
    if any(each.outcome is None for each in figures.measured):
        raise SystemExit(1)


def read_run(path: Path) -> Run:
    """What --json has written there. Raises click.UsageError when it is something else."""
    try:
        run = Run.read(json.loads(path.read_text()))
        # What cannot be shown is none either.
        table.markdown(Figures.of([run], NAMES))
        return run
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise click.UsageError(f"{path} is no file of --json ({said})") from None


def must_be_writable(path: Path) -> None:
    """Raises click.UsageError before anything is measured for a file that cannot be written."""
    there = path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    if not there:
        path.unlink()


def refreshed(document: str, figures: str) -> str:
    """The document with other figures between its marks. Raises WppSyncError without marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise WppSyncError(f"{DOCUMENT.name} has no place for figures")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def _run(
    console: Console,
    chosen: Sequence[Measure],
    quick: bool,
    rounds: int,
    check: Callable[[], None],
) -> Run:
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
            check()
    return Run(began, quick, rounds, versions, tuple(measured))


def _speaker(name: str, update: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: update(f"{name}: {text}")


def _taken(measure: Measure, place: Place) -> Measured:
    """One that cannot be taken does not keep the others from it."""
    began = time.monotonic()
    try:
        outcome = measure.take(place)
    except (WppSyncError, OSError, SubprocessError, DriverError) as failed:
        seconds, why = time.monotonic() - began, str(failed) or repr(failed)
        return Measured(measure.name, measure.title, seconds, None, why, measure.goals(place))
    return Measured(measure.name, measure.title, time.monotonic() - began, outcome)


def _versions() -> dict[str, str]:
    server = version_in(_said([program("mariadbd"), "--no-defaults", "--version"]))
    # Of the bench's own place, wherever it is called from; of what is not committed it says so.
    commit = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "wpp-sync": f"{version('wpp-sync')} ({_said(commit) or 'no commit'})",
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "MariaDB": server,
        **{each.what: each.version() for each in RIVALS if not each.why_not()},
    }


def _said(command: Sequence[str]) -> str:
    """Nothing where there is no such program."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    main()
