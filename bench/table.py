"""A run as tables: on a terminal, and as Markdown for docs/performance.md. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from bench.results import Goal, Line, Measured, Outcome, Run

_VERDICTS = {True: "yes", False: "no", None: "?"}
_COLOURS = {True: "green", False: "red", None: "yellow"}


def number(value: float) -> str:
    """Three digits that count, however large."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def terminal(run: Run) -> RenderableType:
    """Everything: a table for each measure, and the goals."""
    parts: list[RenderableType] = [f"{name} {value}" for name, value in run.versions.items()]
    parts += [part for each in run.measured for part in _one(each)]
    return Group(*parts, _goals(run))


def _one(each: Measured) -> Iterator[RenderableType]:
    yield f"\n[bold]{each.title}[/bold]  ({each.name}, {each.seconds:.0f} s)"
    if each.outcome is None:
        yield f"[red]failed:[/red] {escape(each.error)}"
        return
    settings = ", ".join(f"{name} {value}" for name, value in each.outcome.settings.items())
    if settings:
        yield f"[dim]{settings}[/dim]"
    table = Table("", "median", "spread", "", "ratio", "rounds", "note", box=None, pad_edge=False)
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


def _goals(run: Run) -> Table:
    table = Table("goal", "", "measured", "reached", title="goals", title_justify="left")
    for _, goal in run.goals():
        colour = _COLOURS[goal.reached]
        verdict = f"[{colour}]{_VERDICTS[goal.reached]}[/{colour}]"
        table.add_row(goal.what, _bound(goal), _measured(goal), verdict)
    return table


def _bound(goal: Goal) -> str:
    return f"{goal.sign} {number(goal.bound)} {goal.unit}"


def _measured(goal: Goal) -> str:
    return "–" if goal.measured is None else f"{number(goal.measured)} {goal.unit}"


def markdown(run: Run) -> str:
    """The goals with what stands in their way, and what was measured for each."""
    return "\n".join([*_markdown_head(run), *_markdown_goals(run), *_markdown_lines(run)])


def _markdown_head(run: Run) -> Iterator[str]:
    versions = ", ".join(f"{name} {value}" for name, value in run.versions.items())
    kind = "a quick run: sizes and rounds are small, " if run.quick else ""
    yield f"Measured on {run.began[:10]} ({kind}{run.rounds} rounds): {versions}."
    yield ""


def _markdown_goals(run: Run) -> Iterator[str]:
    yield "| what | goal | measured | reached | what stands in the way |"
    yield "|---|---|---|---|---|"
    for _, goal in run.goals():
        why = goal.in_the_way if goal.reached is False else ""
        yield _row(goal.what, _bound(goal), _measured(goal), _VERDICTS[goal.reached], why)
    yield ""


def _markdown_lines(run: Run) -> Iterator[str]:
    for each in run.measured:
        yield f"**{each.title}** (`--only {each.name}`)"
        yield ""
        if each.outcome is None:
            yield f"failed: {each.error}"
            yield ""
            continue
        if each.outcome.settings:
            yield ", ".join(f"{name} {value}" for name, value in each.outcome.settings.items())
            yield ""
        yield "| | median | spread | unit | ratio | rounds | note |"
        yield "|---|--:|--:|---|--:|--:|---|"
        for line in each.outcome.lines:
            yield _row(*_cells(each.outcome, line))
        for rival, why in each.outcome.missing.items():
            yield _row(rival, "–", "", "", "", "", why)
        yield ""


def _row(*cells: str) -> str:
    one_line = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(one_line)} |"
