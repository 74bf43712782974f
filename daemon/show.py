"""What the command line shows of a status: tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress
from rich.table import Table
from rich.text import Text

from daemon.errors import WppSyncError

_COLOURS = {
    "idle": "green", "syncing": "cyan", "failed": "red", "backoff": "yellow", "standby": "magenta",
    "paused": "blue", "no copier": "red", "not open": "yellow",
}  # fmt: skip

_NOBODY = {"no_copier": "no copier", "not_open": "not open"}
"""By an error's code, where nobody holds the lock."""

_NUMBERS = frozenset({"watermark", "settled", "head", "lag rows", "lag s"})

_DISPENSABLE = ("settled", "head", "last synced")
"""Columns that a narrow terminal does without, the first one first."""

_SHORT = 40
"""From so many instances on each is one line: how it is, not where each of its tables is."""

_MANY = 5
"""From so many instances on a bar shows how many are done."""

# Off a terminal nothing is cut: whoever reads the pipe wants it whole.
_PIPE_WIDTH = 400

_BOUNDLESS = 10_000
"""Columns, to ask how wide a table would like to be."""


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def status(
    instances: Sequence[dict[str, Any]], *, live: bool, socket: Path | None, detail: bool
) -> None:
    """Print the status; `detail` adds the migrations."""
    console = _console()
    if not live:
        where = socket or "control.socket (switched off)"
        console.print(f"no daemon answers at {where}: read from the databases", markup=False)
    if len(instances) >= _SHORT:
        # A rich table of a thousand lines takes longer than all the rest.
        for line in brief(instances):
            print(line)  # noqa: T201
    else:
        console.print(overview(instances, console))
    for line in _trouble(instances):
        console.print(line, markup=False)
    if detail:
        for each in instances:
            console.print(f"settling: {each['settling']}", markup=False)
            for warning in each["migration_warnings"]:
                console.print(f"migrations: {warning}", markup=False)
            if each["pending_migrations"]:
                pending = ", ".join(each["pending_migrations"])
                console.print(f"pending migrations: {pending}", markup=False)
            if each["migrating"]:
                console.print(f"migrating: {each['migrating']}", markup=False)
            console.print(_history(each))


def _trouble(instances: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What an operator should read."""
    for each in instances:
        name = each["instance"]
        for error in _errors(each):
            yield f"{name}: {error['message']}"
            if error["hint"]:
                yield f"  hint: {error['hint']}"
        if _state(each) == "standby" and each.get("copier"):
            copier = each["copier"]
            yield f"{name}: copied from {copier['host']} (process {copier['pid']})"
        if each["paused"]:
            yield f"{name}: paused {_pause(each['paused'])}"
        for entity in each["sync_state"]:
            if entity["paused"]:
                yield f"{name}: {entity['entity']} paused {_pause(entity['paused'])}"
            if entity["quarantined"]:
                rows = f"{entity['quarantined']:,} rows of {entity['entity']}"
                yield f"{name}: {rows} in quarantine: wpp-sync quarantine {name}"
        if each["rows_per_second"]:
            yield f"{name}: throttled to {each['rows_per_second']:,} rows per second"
        throttled = each.get("throttled")  # an older daemon does not tell
        if throttled and throttled["reason"] != "order":
            yield f"{name}: throttled: {throttled['message']}"


def _pause(pause: Mapping[str, str]) -> str:
    return f"since {pause['since']}" + (f": {pause['reason']}" if pause["reason"] else "")


@contextmanager
def live() -> Iterator[Callable[..., None]]:
    """A screen that shows one status after the other; where there is none, one below the other.
    `unknown` says why there is no status to be had."""
    console = _console()
    if not console.is_terminal:

        def print_it(
            instances: Sequence[dict[str, Any]],
            *,
            live: bool,
            socket: Path | None,
            unknown: WppSyncError | None = None,
        ) -> None:
            if unknown is None:
                status(instances, live=live, socket=socket, detail=False)
            else:
                console.print(f"{unknown}: {unknown.hint}", markup=False)

        yield print_it
        return
    with Live(console=console, screen=True, auto_refresh=False) as screen:

        def show(
            instances: Sequence[dict[str, Any]],
            *,
            live: bool,
            socket: Path | None,
            unknown: WppSyncError | None = None,
        ) -> None:
            if unknown is not None:
                screen.update(Text(f"{unknown}\nhint: {unknown.hint}"), refresh=True)
                return
            source = f"the daemon at {socket}" if live else "the databases: no daemon answers"
            head = Text(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  from {source}", style="dim")
            many = len(instances) >= _SHORT
            table = Text("\n".join(brief(instances))) if many else overview(instances, console)
            trouble = Text("\n".join(_trouble(instances)))
            # What is wrong comes first where the screen may not hold all.
            screen.update(
                Group(head, trouble, table) if many else Group(head, table, trouble), refresh=True
            )

        yield show


def brief(instances: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line for each instance, and how many there are in each state."""
    width = max(len(each["instance"]) for each in instances)
    yield f"{'instance':<{width}}  {'state':<9}  {'lag rows':>12}  {'lag s':>9}  last written"
    states: dict[str, int] = {}
    for each in instances:
        state = _state(each)
        states[state] = states.get(state, 0) + 1
        rows = sum(entity["lag_rows"] or 0 for entity in each["sync_state"])
        # Of what is compared whole the age is no lag that anybody waits for.
        lags = [
            entity["lag_seconds"]
            for entity in each["sync_state"]
            if entity["lag_seconds"] is not None and entity["head"] is not None
        ]
        lag = f"{max(lags):.1f}" if lags else "–"
        known = [entity for entity in each["sync_state"] if entity["last_synced_id"] is not None]
        written = max((entity["last_synced_at"] or "" for entity in known), default="–") or "never"
        yield f"{each['instance']:<{width}}  {state:<9}  {rows:>12,}  {lag:>9}  {written}"
    counts = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    yield f"{len(instances):,} instances: {counts}"


def _errors(each: dict[str, Any]) -> list[dict[str, str]]:
    found = [each["error"], *(entity["error"] for entity in each["sync_state"])]
    unique = {error["message"]: error for error in found if error is not None}
    return list(unique.values())


def overview(instances: Sequence[dict[str, Any]], console: Console) -> Table | Text:
    """One line for each entity of each instance, with as many columns as the console has room for;
    where even the fewest have none, one line for each instance. No number is ever cut."""
    boundless = console.options.update(max_width=_BOUNDLESS)
    for without in range(len(_DISPENSABLE) + 1):
        table = _overview(instances, _DISPENSABLE[:without])
        if console.measure(table, options=boundless).maximum <= console.width:
            return table
    return Text("\n".join(brief(instances)))


def _overview(instances: Sequence[dict[str, Any]], without: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns: list[str] = []
    for name in (
        "instance", "state", "entity", "watermark", "settled", "head", "lag rows", "lag s",
        "last synced",
    ):  # fmt: skip
        if name in without:
            continue
        columns.append(name)
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    for each in instances:
        state = _state(each)
        colour = _COLOURS.get(state, "")
        for number, entity in enumerate(each["sync_state"]):
            cells = {
                "instance": escape(each["instance"]) if number == 0 else "",
                "state": "" if number else f"[{colour}]{state}[/]" if colour else state,
                "entity": entity["entity"] + (" (resync)" if entity["resync"] else ""),
                "watermark": _number(entity["last_synced_id"]),
                "settled": _number(entity["settled_id"]),
                "head": _number(entity["head"]),
                "lag rows": _number(entity["lag_rows"]),
                "lag s": "–" if entity["lag_seconds"] is None else f"{entity['lag_seconds']:.1f}",
                "last synced": _synced(entity),
            }
            table.add_row(*(cells[name] for name in columns))
    return table


def _state(each: Mapping[str, Any]) -> str:
    """The state in words: who reads a database and finds nobody there must not take it for one that
    somebody copies."""
    error = each["error"]
    if error is None or each["state"] != "standby":
        return str(each["state"])
    return _NOBODY.get(error["code"], "standby")


def _synced(entity: Mapping[str, Any]) -> str:
    """When; never is something else than not known, as of a server that does not answer."""
    if entity["last_synced_id"] is None:
        return "–"
    return entity["last_synced_at"] or "never"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _history(each: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("migration", "description", "executed at"):
        table.add_column(name)
    for row in each["migrations"]:
        table.add_row(escape(row["id"]), escape(row["description"]), row["executed_at"] or "")
    return table


@contextmanager
def waiting(total: int) -> Iterator[Callable[[], None]]:
    """Show on a terminal how many of them are done; call what is yielded after each."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or total < _MANY:
        yield lambda: None
        return
    with Progress(MofNCompleteColumn(), BarColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def migrations(found: Mapping[str, Any], verb: str) -> None:
    """Print what was done to one instance, would be, or has been; errors are told elsewhere."""
    console = _console()
    name = found["instance"]
    if "error" in found:
        return
    if verb == "list":
        _migration_list(console, name, found["migrations"])
        return
    for line in _told(found, verb):
        console.print(line, markup=False, soft_wrap=True)


def _told(found: Mapping[str, Any], verb: str) -> Iterator[str]:
    """The lines that say what was done to one instance, or would be."""
    name = found["instance"]
    for warning in found["warnings"]:
        yield f"{name}  note: {warning}"
    done = found["applied" if verb == "migrate" else "pending"]
    if not done:
        yield f"{name}  nothing to do"
    elif verb == "migrate":
        yield f"{name}  {len(done)} applied: {', '.join(done)}"
    else:
        yield f"{name}  {len(done)} would run"
        for migration in done:
            yield f"  {migration['id']}: {migration['description']}"
            for step in found["statements"]:
                if step["migration"] == migration["id"]:
                    yield f"    {step['statement']}. {_foreseen(step)}"


def _foreseen(step: Mapping[str, Any]) -> str:
    """One statement of a dry run, on one line."""
    text = " ".join(step["text"].split())
    rows = "" if step["rows"] is None else f", about {step['rows']:,} rows"
    cost = f" ({step['cost']}{rows})" if step["cost"] else ""
    return f"{step['words']}{cost}: {text}"


def _migration_list(console: Console, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    # Where there is no terminal, the middle is far to the right.
    table = Table(
        box=None, pad_edge=False, header_style="bold", title=escape(name), title_justify="left"
    )
    for title in ("migration", "state", "statements", "executed at", "version", "description"):
        table.add_column(title)
    for row in rows:
        far = "" if row["statements"] is None else f"{row['statement']} of {row['statements']}"
        table.add_row(
            escape(row["id"]), row["state"], far, row["executed_at"] or "", row["version"] or "",
            escape(row["description"]),
        )  # fmt: skip
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(f"{row['id']}: {row['error']}", markup=False)


def quarantine(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows in quarantine."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("entity", "id", "error", "tries", "first", "last", "given up", "message"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            row["entity"], str(row["id"]), str(row["errno"]), str(row["tries"]),
            row["first_tried_at"], row["last_tried_at"], row.get("discarded_at") or "",
            escape(row["message"]),
        )  # fmt: skip
    console = _console()
    console.print(table if rows else "nothing in quarantine")


def reconcile(name: str, found: Mapping[str, Any], *, dry_run: bool) -> None:
    """Print what a comparison has found."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("entity")
    counts = ("compared", "missing", "differing", "extra")
    done = () if dry_run else ("written", "deleted", "refused")
    for title in (*counts, *done):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("examples")
    for each in found["entities"]:
        numbers = [f"{each[title]:,}" for title in (*counts, *done)]
        table.add_row(each["entity"], *numbers, escape("; ".join(each["examples"])))
    console = _console()
    console.print(table)
    left = found["differences"]
    failed = [each["entity"] for each in found["entities"] if each["error"] is not None]
    what = (
        "equal" if not left else f"{left:,} rows differ" if dry_run else f"{left:,} rows differed"
    )
    but = f"; not compared to the end: {', '.join(failed)}" if failed else ""
    behind = [each for each in found["entities"] if each.get("behind")]  # an older daemon is silent
    if behind and not left:
        what = "not all is copied yet"
    console.print(f"{name}  {what}{but}", markup=False)
    for each in behind:
        upto = "up to id {compared_to}; newer ids up to {head} not copied yet".format_map(each)
        how = "compared" if left else "equal"
        console.print(f"{name}  {each['entity']}: {how} {upto}", markup=False)
