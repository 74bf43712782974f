"""status, quarantine, check."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from daemon.cli.common import (
    Operator,
    complain,
    config_option,
    document,
    dumped,
    entities_of,
    error_object,
    json_option,
    load,
    names_of,
    with_parts,
)
from daemon.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    DaemonUnreachableError,
    NoDaemonError,
    PausedError,
    WppSyncError,
)

if TYPE_CHECKING:
    from daemon.app import Parts
    from daemon.check import Finding
    from daemon.instance import Instance

_STATUS_SECONDS = 10.0

# --- status ----------------------------------------------------------------------------------


class _Found(NamedTuple):
    answer: dict[str, Any]
    instances: list[dict[str, Any]]
    live: bool
    """It is what the running daemon says."""


class _Interval(click.FloatRange):
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """What is no number (nan) is neither below nor above anything."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


@click.command()
@click.argument("name", metavar="[INSTANCE]", required=False, shell_complete=names_of)
@json_option
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=_Interval(min=0.1, max=86_400),
    default=1.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@config_option
@click.pass_context
def status(
    context: click.Context,
    name: str | None,
    as_json: bool,
    watch: bool,
    interval: float,
    config_path: str | None,
) -> int:
    """How far every instance is: from the running daemon, else from the databases.

    \b
    Examples:
      wpp-sync status
      wpp-sync status nunes
      wpp-sync status --watch
      wpp-sync status --json | jq '.instances[] | select(.state == "failed")'
    """
    operator = Operator(context, config_path)
    if name is not None:
        operator.known([name])

    def look() -> _Found:
        return _look(operator, name, watch=watch)

    if watch:
        _watch(operator, look, interval, as_json=as_json)
        return EXIT_OK
    found = look()
    unreachable = not found.live and any(each["state"] == "failed" for each in found.instances)
    if as_json:
        document(found.answer)
    else:
        from daemon import show

        socket = operator.socket
        show.status(found.instances, live=found.live, socket=socket, detail=name is not None)
    return EXIT_UNREACHABLE if unreachable else EXIT_OK


def _look(operator: Operator, name: str | None, *, watch: bool) -> _Found:
    from daemon.client import instance_path

    try:
        path = instance_path(name) if name else "/v1/status"
        answer = operator.client.get(path, timeout=_STATUS_SECONDS)
        live = True
    except DaemonUnreachableError as error:
        # A daemon may be stopped or restarted while somebody watches it.
        if not watch and not isinstance(error, NoDaemonError):
            raise
        settings = operator.settings_instead(error)
        answer = with_parts(settings, lambda built: _status_without_daemon(built, name))
        live = False
    return _Found(answer, [answer] if name else answer["instances"], live)


def _watch(
    operator: Operator, look: Callable[[], _Found], interval: float, *, as_json: bool
) -> None:
    """Until Ctrl-C, which is how it ends."""
    try:
        if as_json:
            while True:
                try:
                    answer = look().answer
                except DaemonUnreachableError as error:
                    answer = {"error": error_object(error)}
                click.echo(dumped(answer, indent=None))
                time.sleep(interval)
        from daemon import show

        with show.live() as screen:
            while True:
                try:
                    found = look()
                    screen(found.instances, live=found.live, socket=operator.socket)
                except DaemonUnreachableError as error:
                    screen([], live=False, socket=operator.socket, unknown=error)
                time.sleep(interval)
    except KeyboardInterrupt:
        return


async def _status_without_daemon(built: Parts, name: str | None) -> dict[str, Any]:
    import asyncio

    from daemon import operations

    if name is not None:
        return await operations.get_sync_status(operations.pick(built.instances, name))
    places = asyncio.Semaphore(16)

    async def one(instance: Instance) -> dict[str, Any]:
        async with places:
            return await operations.get_sync_status(instance)

    return {"instances": await asyncio.gather(*map(one, built.instances.values()))}


# --- quarantine --------------------------------------------------------------------------------


@click.command()
@click.argument("name", metavar="INSTANCE", shell_complete=names_of)
@click.argument("action", type=click.Choice(["list", "retry", "discard"]), default="list")
@click.argument("keys", metavar="[ID]...", nargs=-1, type=int)
@click.option(
    "--entity",
    metavar="ENTITY",
    shell_complete=entities_of,
    help="Only this entity's rows (discard).",
)
@json_option
@config_option
@click.pass_context
def quarantine(
    context: click.Context,
    name: str,
    action: str,
    keys: tuple[int, ...],
    entity: str | None,
    as_json: bool,
    config_path: str | None,
) -> int:
    """The rows that the local tables refuse: list them, try them again, or give them up.

    What was given up is not tried again before a reset or resync.

    \b
    Examples:
      wpp-sync quarantine nunes
      wpp-sync quarantine nunes retry
      wpp-sync quarantine nunes discard --entity messages 4711 4712
    """
    if (keys or entity) and action != "discard":
        raise click.UsageError("ids and --entity go with discard")
    if keys and entity is None:
        raise click.UsageError("ids need their --entity")
    operator = Operator(context, config_path)
    operator.known([name])
    if action == "list":
        rows = operator.ask_or_do(
            name, lambda c, path: c.get(f"{path}/quarantine", timeout=None), _list
        )["rows"]
        if as_json:
            document(rows)
            return EXIT_OK
        from daemon import show

        show.quarantine(rows)
    elif action == "retry":
        done = operator.ask_or_do(
            name, lambda c, path: c.post(f"{path}/quarantine/retry", {}), _retry
        )
        return _told_retry(name, done, as_json=as_json)
    else:
        body = {"entity": entity, "ids": list(keys)} if entity else {}

        async def discard(instance: Instance) -> dict[str, Any]:
            from daemon import operations

            return {"discarded": await operations.discard_quarantine(instance, entity, keys)}

        given_up = operator.ask_or_do(
            name, lambda c, path: c.post(f"{path}/quarantine/discard", body), discard
        )["discarded"]
        if as_json:
            document({"instance": name, "discarded": given_up})
            return EXIT_OK
        click.echo(f"{name}  {given_up:,} rows given up")
    return EXIT_OK


async def _list(instance: Instance) -> dict[str, Any]:
    from daemon import operations

    return operations.told_quarantine(await operations.list_quarantine(instance))


async def _retry(instance: Instance) -> dict[str, Any]:
    from daemon import operations

    return operations.told_retry(await operations.retry_quarantine(instance))


def _told_retry(name: str, done: Mapping[str, Any], *, as_json: bool) -> int:
    """Say what trying again has come to; the exit code."""
    tried, left, not_tried = done["tried"], done["left"], done["not_tried"]
    if as_json:
        document({"instance": name, **done})
    elif not tried and not not_tried:
        click.echo(f"{name}  nothing is in quarantine")
    else:
        again = f"tried {tried:,} rows again; " if tried else ""
        click.echo(f"{name}  {again}{left:,} rows are left in quarantine")
    for entity, error in not_tried.items():
        why = "is paused" if error["code"] == PausedError.code else "cannot be copied"
        click.echo(f"{name}  {entity} {why}: not tried", err=True)
        complain(WppSyncError(error["message"], hint=error["hint"]))
    return EXIT_FAILED if not_tried else EXIT_OK


# --- check ---------------------------------------------------------------------------------------


@click.command()
@json_option
@config_option
@click.pass_context
def check(context: click.Context, as_json: bool, config_path: str | None) -> int:
    """Configuration, connections, privileges, both schemas, and how central would be read.

    \b
    Examples:
      wpp-sync check
      wpp-sync check --json | jq '.findings[] | select(.level == "fail")'
    """
    from dataclasses import asdict

    from daemon import check as checks

    def show(finding: Finding) -> None:
        if as_json:
            return
        click.echo(f"{finding.level:<5} {finding.where}  {finding.text}")
        if finding.hint:
            click.echo(f"      hint: {finding.hint}")

    settings = load(context, config_path)
    read = checks.Finding("ok", "config", f"{settings.path}: {len(settings.instances)} instances")
    show(read)
    findings = with_parts(settings, lambda built: _check(built, show))
    failed = sum(finding.level == "fail" for finding in findings)
    if as_json:
        document({"findings": [asdict(each) for each in (read, *findings)], "failed": failed})
    else:
        click.echo(f"{len(findings)} looked at, {failed} failed")
    return checks.exit_code(findings)


async def _check(built: Parts, show: Callable[[Finding], None]) -> list[Finding]:
    from daemon import check as checks

    findings = []
    async for finding in checks.run(built.central, built.instances, built.catalogue.migrations):
        findings.append(finding)
        show(finding)
    return findings
