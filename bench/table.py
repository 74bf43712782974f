"""A run as tables: on a terminal, and as Markdown for docs/performance.md. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from bench.results import Figures, Goal, Line, Measured, Outcome, Run

_VERDICTS = {True: "yes", False: "no", None: "?"}
_COLOURS = {True: "green", False: "red", None: "yellow"}


def number(value: float) -> str:
    """Three digits that count, however large."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def terminal(figures: Figures) -> RenderableType:
    """Everything: a table for each measure, and the goals."""
    parts: list[RenderableType] = [escape(_head(run, figures)) for run in figures.runs]
    parts += [part for each in figures.measured for part in _one(each)]
    return Group(*parts, _goals(figures))


def _head(run: Run, figures: Figures) -> str:
    """When and with what; and which of the measures, where they are of several runs."""
    versions = ", ".join(f"{name} {value}" for name, value in run.versions.items())
    kind = "a quick run: sizes and rounds are small, " if run.quick else ""
    rounds = f"{run.rounds} round{'s' * (run.rounds != 1)}"
    which = ", ".join(each.name for each in run.measured) if len(figures.runs) > 1 else ""
    return f"Measured on {run.began[:10]} ({kind}{rounds}){which and f', {which}'}: {versions}."


def _one(each: Measured) -> Iterator[RenderableType]:
    yield f"\n[bold]{each.title}[/bold]  ({each.name}, {each.seconds:.0f} s)"
    if each.outcome is None:
        yield f"[red]failed:[/red] {escape(each.error)}"
        return
    settings = ", ".join(f"{name} {value}" for name, value in each.outcome.settings.items())
    if settings:
        yield f"[dim]{settings}[/dim]"
    table = Table("", "median", "spread", "", "ratio", "samples", "note", box=None, pad_edge=False)
    for line in each.outcome.lines:
        table.add_row(*_cells(each.outcome, line))
    yield table
    for rival, why in each.outcome.missing.items():
        yield f"[yellow]without {rival}:[/yellow] {escape(why)}"


def _cells(outcome: Outcome, line: Line) -> tuple[str, ...]:
    ratio = outcome.ratio(line)
    return (
        line.what,
        number(line.median),
        f"{number(line.low)} – {number(line.high)}" if len(line.samples) > 1 else "",
        line.unit,
        "" if ratio is None else f"{ratio:.2f} ×",
        str(len(line.samples)),
        line.note,
    )


def _goals(figures: Figures) -> Table:
    table = Table("goal", "", "measured", "reached", title="goals", title_justify="left")
    for each in figures.measured:
        for goal, why in each.goals():
            colour = _COLOURS[goal.reached]
            verdict = f"[{colour}]{_VERDICTS[goal.reached]}[/{colour}]"
            unknown = escape(f" {why}") if goal.reached is None else ""
            table.add_row(goal.what, _bound(goal), _measured(goal) + unknown, verdict)
    return table


def _bound(goal: Goal) -> str:
    return f"{goal.sign} {number(goal.bound)} {goal.unit}"


def _measured(goal: Goal) -> str:
    return "–" if goal.measured is None else f"{number(goal.measured)} {goal.unit}"


def markdown(figures: Figures) -> str:
    """The goals with what stands in their way, and what was measured for each."""
    heads = [line for run in figures.runs for line in (_head(run, figures), "")]
    return "\n".join([*heads, *_markdown_goals(figures), *_markdown_lines(figures)])


def _markdown_goals(figures: Figures) -> Iterator[str]:
    yield "| what | goal | measured | reached | what stands in the way |"
    yield "|---|---|---|---|---|"
    for each in figures.measured:
        for goal, why in each.goals():
            yield _row(goal.what, _bound(goal), _measured(goal), _VERDICTS[goal.reached], why)
    yield ""


def _markdown_lines(figures: Figures) -> Iterator[str]:
    for each in figures.measured:
        yield f"**{each.title}** (`--only {each.name}`)"
        yield ""
        if each.outcome is None:
            yield f"failed: {each.error}"
            yield ""
            continue
        if each.outcome.settings:
            yield ", ".join(f"{name} {value}" for name, value in each.outcome.settings.items())
            yield ""
        yield "| | median | spread | unit | ratio | samples | note |"
        yield "|---|--:|--:|---|--:|--:|---|"
        for line in each.outcome.lines:
            yield _row(*_cells(each.outcome, line))
        for rival, why in each.outcome.missing.items():
            yield _row(rival, "–", "", "", "", "", why)
        yield ""


def _row(*cells: str) -> str:
    one_line = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(one_line)} |"
