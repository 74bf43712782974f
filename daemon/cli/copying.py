"""sync, reset, resync, reconcile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from daemon.cli.common import (
    Operator,
    Report,
    all_option,
    complain,
    config_option,
    document,
    entities_of,
    json_option,
    names_of,
    with_parts,
)
from daemon.errors import (
    EXIT_DIFFERENT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    UsageError,
    WppSyncError,
)

if TYPE_CHECKING:
    from daemon.app import Parts
    from daemon.client import Client
    from daemon.instance import Instance


# --- sync ------------------------------------------------------------------------------------


@click.command()
@click.argument("names", metavar="INSTANCE...", nargs=-1, shell_complete=names_of)
@all_option
@click.option(
    "--skip",
    multiple=True,
    metavar="ENTITY",
    shell_complete=entities_of,
    help="Leave this entity out; repeatable.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="ENTITY",
    shell_complete=entities_of,
    help="Only this entity; repeatable.",
)
@json_option
@config_option
@click.pass_context
def sync(
    context: click.Context,
    names: tuple[str, ...],
    every: bool,
    skip: tuple[str, ...],
    only: tuple[str, ...],
    as_json: bool,
    config_path: str | None,
) -> int:
    """One pass now, then exit.

    \b
    Examples:
      wpp-sync sync nunes
      wpp-sync sync --all --skip messages
      wpp-sync sync nunes karsten --only chats
    """
    if skip and only:
        raise click.UsageError("--skip and --only exclude each other")
    operator = Operator(context, config_path)
    wanted = operator.chosen(names, every)
    left_out = {name: _left_out(operator, name, skip, only) for name in wanted}
    report = Report(as_json=as_json)
    if operator.live:
        _sync_through_daemon(operator.client, left_out, report)
        return report.end()
    finished = with_parts(operator.settings, lambda built: _sync(built, left_out, report))
    return max(report.end(), EXIT_OK if finished else EXIT_INTERRUPTED)


def _left_out(
    operator: Operator, name: str, skip: tuple[str, ...], only: tuple[str, ...]
) -> list[str]:
    """The entities to skip, from either way to say it. Raises UsageError for unknown ones."""
    if not skip and not only:
        return []
    if operator.live:
        from daemon.client import instance_path

        status = operator.client.get(instance_path(name))
        entities = [entity["entity"] for entity in status["sync_state"]]
    else:
        found = operator.settings.instances[name].entities
        entities = [entity for entity in found if found[entity].enabled]
    unknown = [entity for entity in (*skip, *only) if entity not in entities]
    if unknown:
        raise UsageError(
            f"{name} has no entity {', '.join(unknown)}, or it is switched off",
            hint=f"entities: {', '.join(entities)}",
        )
    return list(skip) or [entity for entity in entities if entity not in only]


def _sync_through_daemon(client: Client, left_out: Mapping[str, list[str]], report: Report) -> None:
    from daemon.client import instance_path
    from daemon.progress import Shown

    for name, skip in left_out.items():
        began = monotonic()
        try:
            with Shown(name) as shown:
                done = client.follow(instance_path(name, "sync"), {"skip": skip}, shown.told)
        except WppSyncError as error:
            report.failed(name, error)
        else:
            _told(name, skip, done, monotonic() - began, report)


async def _sync(built: Parts, left_out: Mapping[str, list[str]], report: Report) -> bool:
    """Without a daemon, in this process; False when somebody broke it off."""
    from daemon import app, operations
    from daemon.progress import watching

    stop = app.stop_on_signals()
    for name, skip in left_out.items():
        if stop.is_set():
            return False
        began = monotonic()
        try:
            instance = operations.pick(built.instances, name)
            async with watching(instance):
                result = await operations.sync_instance(instance, skip, stop)
        except WppSyncError as error:
            # One instance's trouble is its own: the others are still synced.
            report.failed(name, error)
        else:
            done = operations.told_pass(instance, result) | {"interrupted": stop.is_set()}
            _told(name, skip, done, monotonic() - began, report)
    return True


def _told(
    name: str, skip: list[str], done: Mapping[str, Any], seconds: float, report: Report
) -> None:
    """Say what a pass over all but those to skip has done."""
    interrupted = bool(done.get("interrupted"))
    rows, late = done["rows"], done["late"]
    paused = [entity for entity in done["paused"] if entity not in skip]
    told = ", ".join(f"{entity} {number:,}" for entity, number in rows.items())
    told = f"{told} rows" if told else "nothing was copied" if paused else "nothing to do"
    late_text = f" ({late:,} late)" if late else ""
    broken_off = "  interrupted, goes on next time" if interrupted else ""
    # Where nothing but what is paused was asked for, what was asked for is not done.
    failed = done["errors"] or (paused and not rows)
    code = EXIT_INTERRUPTED if interrupted else EXIT_FAILED if failed else EXIT_OK
    answer = {**done, "interrupted": interrupted, "seconds": round(seconds, 3)}
    line = f"{name}  {told}{late_text}  {seconds:.2f} s{broken_off}"
    report.done(name, answer, line, code)
    for entity in paused:
        click.echo(
            f"{name}  {entity} is paused: wpp-sync resume {name} --entity {entity}", err=True
        )
    if done["quarantined"]:
        click.echo(
            f"{name}  {done['quarantined']:,} rows are in quarantine, not in the local tables:"
            f" wpp-sync quarantine {name}",
            err=True,
        )
    for error in done["errors"].values():
        complain(WppSyncError(error["message"], hint=error["hint"]))


# --- reset, resync ---------------------------------------------------------------------------

_UNFINISHED = {
    "paused": "waits until it is resumed: wpp-sync status {name}",
    "elsewhere": "is done by the daemon that copies it on another host: wpp-sync status {name}",
    "stopped": "is broken off by the daemon's stop or a reload, and goes on with its next start",
}
"""Why a resync was not waited for to its end, by what the daemon says."""


@click.command()
@click.argument("name", metavar="INSTANCE", shell_complete=names_of)
@click.argument("entity", metavar="ENTITY|all", shell_complete=entities_of)
@json_option
@config_option
@click.pass_context
def reset(
    context: click.Context, name: str, entity: str, as_json: bool, config_path: str | None
) -> None:
    """The next pass re-pulls the entity from the start; its rows stay and are overwritten.

    \b
    Examples:
      wpp-sync reset nunes messages
      wpp-sync reset nunes all
    """

    async def work(instance: Instance) -> list[str]:
        from daemon import operations

        return await operations.reset_sync_state(instance, entity)

    operator = Operator(context, config_path)
    reset = _change(operator, name, "reset", {"entity": entity}, work, as_json=as_json)
    if as_json:
        document({"instance": name, "reset": reset})


@click.command()
@click.argument("name", metavar="INSTANCE", shell_complete=names_of)
@click.option(
    "--wait/--no-wait",
    default=None,
    help="Show the progress until it is done; on a terminal that is so by itself.",
)
@json_option
@config_option
@click.pass_context
def resync(
    context: click.Context,
    name: str,
    wait: bool | None,
    as_json: bool,
    config_path: str | None,
) -> int:
    """Copy everything again, and remove local rows that central does not have.

    The tables stay readable throughout. Ctrl-C ends the waiting, not the resync.

    \b
    Examples:
      wpp-sync resync nunes
      wpp-sync resync nunes --no-wait
    """

    async def work(instance: Instance) -> list[str]:
        from daemon import operations

        return await operations.force_full_resync(instance)

    operator = Operator(context, config_path)
    operator.known([name])
    waits = wait if wait is not None else sys.stderr.isatty()
    if not waits or not operator.live:
        begun = _change(operator, name, "resync", {}, work, as_json=as_json)
        if waits:
            click.echo(f"no daemon runs here: {_who_resyncs(operator, name)}", err=True)
        if as_json:
            document({"instance": name, "resync": begun, "finished": False})
        # Who only happens to sit at a terminal has what he asked for: it is ordered.
        return EXIT_INTERRUPTED if wait else EXIT_OK
    from daemon.client import instance_path
    from daemon.progress import Shown

    with Shown(name) as shown:
        done = operator.client.follow(instance_path(name, "resync"), {}, shown.told)
    if not as_json:
        click.echo(f"{name}  resync: {', '.join(done['resync'])}")
    # An older daemon does not say why it is not finished.
    why = _UNFINISHED.get(done.get("unfinished") or "", "is not finished: wpp-sync status {name}")
    end = "done" if done["finished"] else why.format(name=name)
    click.echo(f"{name}  resync {end}", err=True)
    if as_json:
        document({"instance": name, **done})
    return EXIT_OK if done["finished"] else EXIT_INTERRUPTED


def _who_resyncs(operator: Operator, name: str) -> str:
    """Who carries it out, where no daemon runs here."""
    from daemon import operations

    if with_parts(operator.settings, lambda b: operations.is_copied(b.instances[name])):
        return f"the one that copies {name} on another host does it: wpp-sync status {name}"
    return f"`wpp-sync sync {name}` does it"


def _change(
    operator: Operator,
    name: str,
    verb: str,
    body: dict[str, str],
    work: Callable[[Instance], Coroutine[Any, Any, list[str]]],
    *,
    as_json: bool,
) -> list[str]:
    """The entities that begin anew, which people are told. Without a daemon straight on the state
    rows, which any daemon that copies this instance elsewhere sees before it writes again."""
    operator.known([name])

    async def do(instance: Instance) -> dict[str, Any]:
        return {verb: await work(instance)}

    done = operator.ask_or_do(name, lambda c, path: c.post(f"{path}/{verb}", body), do)
    begun: list[str] = done[verb]
    if not as_json:
        click.echo(f"{name}  {verb}: {', '.join(begun)}; the next pass starts from the beginning")
    return begun


# --- reconcile ---------------------------------------------------------------------------------


@click.command()
@click.argument("name", metavar="INSTANCE", shell_complete=names_of)
@click.argument("entity", metavar="[ENTITY]", shell_complete=entities_of, required=False)
@click.option("--dry-run", is_flag=True, help="Only report; exit 4 if the two sides differ.")
@json_option
@config_option
@click.pass_context
def reconcile(
    context: click.Context,
    name: str,
    entity: str | None,
    dry_run: bool,
    as_json: bool,
    config_path: str | None,
) -> int:
    """Compare both sides now, and repair what differs.

    \b
    Examples:
      wpp-sync reconcile nunes
      wpp-sync reconcile nunes contacts --dry-run
    """
    operator = Operator(context, config_path)
    operator.known([name])
    body = {"dry_run": dry_run} | ({} if entity is None else {"entity": entity})

    def ask(client: Client, path: str) -> dict[str, Any]:
        from daemon.progress import Shown

        with Shown(name) as shown:
            return client.follow(f"{path}/reconcile", body, shown.told)

    async def do(instance: Instance) -> dict[str, Any]:
        from daemon import app, operations
        from daemon.progress import watching

        stop = app.stop_on_signals()
        async with watching(instance):
            found = await operations.reconcile(instance, entity, dry_run=dry_run, stop=stop)
        return operations.tallies(found)

    found = operator.ask_or_do(name, ask, do)
    if not as_json:
        from daemon import show

        show.reconcile(name, found, dry_run=dry_run)
    failed = [each["error"] for each in found["entities"] if each["error"] is not None]
    for error in failed:
        complain(WppSyncError(error["message"], hint=error["hint"]))
    if as_json:
        document(found)
    if failed:
        return EXIT_FAILED
    different = found["differences"] or any(each.get("behind") for each in found["entities"])
    return EXIT_DIFFERENT if dry_run and different else EXIT_OK
