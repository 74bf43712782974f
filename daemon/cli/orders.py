"""pause, resume, throttle, reload."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.cli.common import (
    Do,
    Operator,
    Report,
    all_option,
    config_option,
    document,
    entities_of,
    json_option,
    names_of,
)
from daemon.errors import NoDaemonError, WppSyncError

if TYPE_CHECKING:
    from daemon.instance import Instance

_LATER = (
    "; a daemon that copies it on another host follows within 15 s, or, where it is at rest,"
    " before it copies again"
)
_NOT_YET = "; the batch that is under way is not finished yet"

_LONGEST_PACE = 9
"""Digits. What is too large among those, the operation refuses; Python reads some thousands."""


@click.command()
@click.argument("names", metavar="INSTANCE...", nargs=-1, shell_complete=names_of)
@all_option
@click.option("--entity", metavar="ENTITY", shell_complete=entities_of, help="Only this entity.")
@click.option("--reason", default="", metavar="TEXT", help="Why; shown by status.")
@json_option
@config_option
@click.pass_context
def pause(
    context: click.Context,
    names: tuple[str, ...],
    every: bool,
    entity: str | None,
    reason: str,
    as_json: bool,
    config_path: str | None,
) -> int:
    """Write nothing for these instances until they are resumed; also after a restart.

    It is remembered in the instance's database, with the time and the reason, and holds for every
    host. The lock stays with whoever has it.

    \b
    Examples:
      wpp-sync pause nunes --reason "restoring a backup"
      wpp-sync pause --all --entity messages
    """
    operator = Operator(context, config_path)

    async def do(instance: Instance) -> dict[str, Any]:
        from daemon import operations

        return await operations.pause(instance, entity, reason)

    body = {"reason": reason} | ({} if entity is None else {"entity": entity})
    what = "paused" if entity is None else f"{entity} paused"
    chosen = operator.chosen(names, every)
    return _order(operator, chosen, "pause", body, do, lambda _: what, as_json=as_json)


@click.command()
@click.argument("names", metavar="INSTANCE...", nargs=-1, shell_complete=names_of)
@all_option
@click.option("--entity", metavar="ENTITY", shell_complete=entities_of, help="Only this entity.")
@json_option
@config_option
@click.pass_context
def resume(
    context: click.Context,
    names: tuple[str, ...],
    every: bool,
    entity: str | None,
    as_json: bool,
    config_path: str | None,
) -> int:
    """Go on with these instances and all their entities, or with one entity.

    \b
    Examples:
      wpp-sync resume nunes
      wpp-sync resume --all
    """
    operator = Operator(context, config_path)

    async def do(instance: Instance) -> dict[str, Any]:
        from daemon import operations

        return await operations.resume(instance, entity)

    body = {} if entity is None else {"entity": entity}

    def what(answer: dict[str, Any]) -> str:
        said = "resumed" if entity is None else f"{entity} resumed"
        if (still := answer["paused"]) is None:
            return said
        reason = f" ({still['reason']})" if still["reason"] else ""
        return f"{said}, but all of it is still paused since {still['since']}{reason}"

    chosen = operator.chosen(names, every)
    return _order(operator, chosen, "resume", body, do, what, as_json=as_json)


@click.command()
@click.argument(
    "names",
    metavar="INSTANCE... ROWS_PER_SECOND|off",
    nargs=-1,
    required=True,
    shell_complete=names_of,
)
@all_option
@json_option
@config_option
@click.pass_context
def throttle(
    context: click.Context,
    names: tuple[str, ...],
    every: bool,
    as_json: bool,
    config_path: str | None,
) -> int:
    """Write no more rows than so many in a second, for each instance; also after a restart.

    \b
    Examples:
      wpp-sync throttle nunes 500
      wpp-sync throttle --all 2000
      wpp-sync throttle nunes off
    """
    *instances, pace = names
    if pace != "off" and not (pace.isascii() and pace.isdigit()):
        raise click.UsageError(f"ROWS_PER_SECOND is a whole number or off, not {pace!r}")
    digits = pace.lstrip("0") or "0"
    if len(digits) > _LONGEST_PACE:
        raise click.UsageError("ROWS_PER_SECOND is too large; off ends the throttle")
    rows = None if pace == "off" else int(digits)
    operator = Operator(context, config_path)

    async def do(instance: Instance) -> dict[str, Any]:
        from daemon import operations

        return await operations.throttle(instance, rows)

    what = "not throttled" if rows is None else f"at most {rows:,} rows per second"
    body = {"rows_per_second": rows}
    chosen = operator.chosen(instances, every)
    return _order(operator, chosen, "throttle", body, do, lambda _: what, as_json=as_json)


@click.command()
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    type=click.Path(readable=False, path_type=Path),  # who may not open it is told so by Client
    help="Ask the daemon there, not at the control.socket of the file.",
)
@json_option
@config_option
@click.pass_context
def reload(
    context: click.Context, socket_path: Path | None, as_json: bool, config_path: str | None
) -> None:
    """Have the running daemon read its configuration again; only what differs is restarted.

    The new configuration is checked whole first; a broken one is refused, and all goes on. A daemon
    listens where its file said before: when control.socket was changed, say the old one.

    \b
    Examples:
      wpp-sync reload
      wpp-sync reload --socket /run/wpp-sync/control.sock
    """
    from daemon.client import Client

    if socket_path is None:
        from daemon import config

        socket_path = config.control_socket(config.find(config_path or context.obj, os.environ))
    client = Client(socket_path)
    try:
        client.alive()  # within seconds, while a reload may take its time
        done = client.post("/v1/reload", {})
    except NoDaemonError as error:
        error.hint = (
            "start it: wpp-sync run; if control.socket was changed, one that listens at the old one"
            " is reached with wpp-sync reload --socket OLD_PATH"
        )
        raise
    if as_json:
        document(done)
        return
    for what in ("added", "changed", "removed"):
        if done[what]:
            click.echo(f"{what:<10} {', '.join(done[what])}")
    click.echo(f"untouched  {done['unchanged']}")


def _order(
    operator: Operator,
    names: Sequence[str],
    verb: str,
    body: dict[str, Any],
    do: Do,
    what: Callable[[dict[str, Any]], str],
    *,
    as_json: bool,
) -> int:
    """Give each of these the order; `what` says in words what holds then."""
    report = Report(as_json=as_json)
    for name, outcome in operator.ask_or_do_each(
        names, lambda client, path: client.post(f"{path}/{verb}", body), do
    ):
        if isinstance(outcome, WppSyncError):
            report.failed(name, outcome)
        else:
            late = _NOT_YET if outcome.get("copied_here") else _LATER
            later = "" if outcome["at_once"] else late
            report.done(name, outcome, f"{name}  {what(outcome)}{later}")
    return report.end()
