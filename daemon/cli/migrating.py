"""migrate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from daemon.cli.common import (
    complain,
    config_option,
    document,
    json_option,
    load,
    names_of,
    with_parts,
)
from daemon.errors import EXIT_FAILED, EXIT_OK, NoDaemonError, WppSyncError

if TYPE_CHECKING:
    import asyncio

    from daemon.app import Parts
    from daemon.instance import Instance

_MIGRATED_AT_ONCE = 8


@click.command()
@click.argument("names", metavar="[INSTANCE]...", nargs=-1, shell_complete=names_of)
@click.option("--dry-run", is_flag=True, help="Only say what would happen, and what it costs.")
@click.option("--list", "listed", is_flag=True, help="What has run, and what is pending.")
@json_option
@config_option
@click.pass_context
def migrate(
    context: click.Context,
    names: tuple[str, ...],
    dry_run: bool,
    listed: bool,
    as_json: bool,
    config_path: str | None,
) -> int:
    """Put the pending migrations in effect, on every instance or on those named.

    The daemon does the same when it starts. One that fails does not keep the others.

    \b
    Examples:
      wpp-sync migrate --dry-run
      wpp-sync migrate nunes karsten
      wpp-sync migrate nunes --list
    """
    if dry_run and listed:
        raise click.UsageError("--dry-run and --list exclude each other")
    settings = load(context, config_path)
    verb = "dry run" if dry_run else "list" if listed else "migrate"
    found = with_parts(settings, lambda built: _migrate(built, names, verb, as_json=as_json))
    worst = EXIT_OK
    for each in found:
        if error := each.get("error"):
            complain(WppSyncError(f"{each['instance']}: {error['message']}", hint=error["hint"]))
        refused = EXIT_FAILED if each.get("refused") else EXIT_OK
        worst = max(worst, each.get("exit_code", EXIT_OK), refused)
    if as_json:
        order = list(settings.instances)
        document(sorted(found, key=lambda each: order.index(each["instance"])))
    return worst


async def _migrate(
    built: Parts, names: Sequence[str], verb: str, *, as_json: bool
) -> list[dict[str, Any]]:
    """What was done to each, as they were done; people are told at once."""
    import asyncio

    from daemon import app, operations, show
    from daemon.status import error_object

    chosen = [operations.pick(built.instances, n) for n in dict.fromkeys(names)] or list(
        built.instances.values()
    )
    stop = app.stop_on_signals()
    places = asyncio.Semaphore(_MIGRATED_AT_ONCE)
    daemons = await asyncio.to_thread(_of_the_daemon, built) if verb == "migrate" else frozenset()

    async def one(instance: Instance) -> dict[str, Any]:
        async with places:
            try:
                return await _migrate_one(built, instance, verb, stop, ask=instance.name in daemons)
            except WppSyncError as error:
                told = error_object(error)
                return {"instance": instance.name, "error": told, "exit_code": error.exit_code}

    found: list[dict[str, Any]] = []
    with show.waiting(len(chosen)) as told:
        for done in asyncio.as_completed([one(instance) for instance in chosen]):
            found.append(await done)
            told()
            if not as_json:
                show.migrations(found[-1], verb)
    return found


def _of_the_daemon(built: Parts) -> frozenset[str]:
    """The instances that a running daemon is to migrate. It need not hold their locks: one that
    rests has given it back, and would not know of what is done behind its back.

    Raises DaemonUnreachableError.
    """
    from daemon.client import Client

    try:
        return frozenset(Client(built.config.control.socket).alive()["instances"])
    except NoDaemonError:
        return frozenset()


async def _migrate_one(
    built: Parts, instance: Instance, verb: str, stop: asyncio.Event, *, ask: bool
) -> dict[str, Any]:
    import asyncio

    from daemon import operations

    if verb == "dry run":
        return await operations.foresee_migrations(instance)
    if verb == "list":
        return await operations.list_migrations(instance, built.catalogue.migrations)
    if ask:
        from daemon.client import Client, instance_path

        client, path = Client(built.config.control.socket), instance_path(instance.name)
        return await asyncio.to_thread(client.post, f"{path}/migrate", {}, timeout=None)
    done = await operations.migrate(instance, stop)
    await instance.close()  # others may copy it now
    return done
