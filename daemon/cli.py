"""The command line: arguments in, tables or JSON and an exit code out.

A verb asks the running daemon; when none runs, it does the work itself. No SQL here. What is heavy
to import is imported by the verb that needs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daemon.errors import (
    EXIT_DIFFERENT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    DaemonUnreachableError,
    StandbyError,
    UsageError,
    WppSyncError,
    internal,
)

if TYPE_CHECKING:
    from daemon.app import Parts
    from daemon.client import Client
    from daemon.config import Config
    from daemon.instance import Instance

T = TypeVar("T")

_MIGRATED_AT_ONCE = 8
Command = TypeVar("Command", bound=Callable[..., Any])


def _config_option(command: Command) -> Command:
    return click.option(
        "-c",
        "--config",
        "config_path",
        metavar="FILE",
        help="The configuration; else $WPP_SYNC_CONFIG, ./config.yaml, /etc/wpp-sync/config.yaml.",
    )(command)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 daemon or database not"
    " reachable, 4 differences found.",
)
@_config_option
@click.pass_context
def cli(context: click.Context, config_path: str | None) -> None:
    """Keep each customer's database a faithful mirror of its rows in the central one."""
    context.obj = config_path


def main() -> None:
    """The entry point: every expected error becomes a message and an exit code."""
    _replace_closed_streams()
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except WppSyncError as error:
        _complain(error)
        code = error.exit_code
    except click.exceptions.Abort:
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (wpp-sync status | head): nothing to complain about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except OSError as error:
        # Ours are translated where they occur; what is left is the output (a full disk, say).
        _complain(WppSyncError(f"cannot write the output: {error.strerror}"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - no traceback reaches an operator
        _complain(internal(error))
        code = EXIT_FAILED
    sys.exit(code if isinstance(code, int) else EXIT_OK)


def _replace_closed_streams() -> None:
    """A caller may have closed them (`>&-`): then nobody wants to read what is written there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the process's life


def _complain(error: WppSyncError) -> None:
    for line in error.message.splitlines():
        click.echo(f"error: {line}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def _load(context: click.Context, config_path: str | None) -> Config:
    from daemon import config

    return config.load(config.find(config_path or context.obj, os.environ))


def _with_parts(settings: Config, work: Callable[[Parts], Coroutine[Any, Any, T]]) -> T:
    """Build the parts in this process, without a daemon, and do one thing with them."""
    from daemon import app, log

    log.silence()

    async def do() -> T:
        async with app.parts(settings) as built:
            return await work(built)

    return asyncio.run(do())


@cli.command()
@_config_option
@click.pass_context
def run(context: click.Context, config_path: str | None) -> None:
    """Run the daemon in the foreground, until a signal ends it."""
    from daemon import app, log

    settings = _load(context, config_path)
    log.set_up(settings.log.level, settings.log.format)
    asyncio.run(app.run(settings))


# --- sync ------------------------------------------------------------------------------------


@cli.command()
@click.argument("names", metavar="INSTANCE...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every instance of the configuration.")
@click.option("--skip", multiple=True, metavar="ENTITY", help="Leave this entity out; repeatable.")
@click.option("--only", multiple=True, metavar="ENTITY", help="Only this entity; repeatable.")
@_config_option
@click.pass_context
def sync(
    context: click.Context,
    names: tuple[str, ...],
    every: bool,
    skip: tuple[str, ...],
    only: tuple[str, ...],
    config_path: str | None,
) -> int:
    """One pass now, then exit.

    \b
    Examples:
      wpp-sync sync nunes
      wpp-sync sync --all --skip messages
      wpp-sync sync nunes karsten --only chats
    """
    if bool(names) == every:
        raise click.UsageError("name the instances, or say --all")
    if skip and only:
        raise click.UsageError("--skip and --only exclude each other")
    settings = _load(context, config_path)
    return _with_parts(settings, lambda built: _sync(built, names, skip, only))


async def _sync(
    built: Parts, names: Sequence[str], skip: Sequence[str], only: Sequence[str]
) -> int:
    from daemon import app, operations

    chosen = [operations.pick(built.instances, n) for n in dict.fromkeys(names)] or list(
        built.instances.values()
    )
    left_out = {each.name: operations.left_out(each, skip, only) for each in chosen}
    worst = EXIT_OK
    stop = app.stop_on_signals()
    for instance in chosen:
        if stop.is_set():
            return EXIT_INTERRUPTED
        try:
            code = await _sync_one(built, instance, left_out[instance.name], stop)
        except WppSyncError as error:
            # One instance's trouble is its own: the others are still synced.
            _complain(error)
            code = error.exit_code
        worst = max(worst, code)
    return worst


async def _sync_one(built: Parts, instance: Instance, skip: list[str], stop: asyncio.Event) -> int:
    from time import monotonic

    from daemon import operations
    from daemon.progress import SyncProgress

    began = monotonic()
    with SyncProgress(instance) as progress:
        try:
            result = await operations.sync_instance(instance, skip, stop)
            rows, errors = result.rows, [(n, e.message, e.hint) for n, e in result.errors.items()]
            late = result.late
        except StandbyError as standby:
            answer = await _ask_daemon_to_sync(built, instance, skip, standby)
            rows, late = answer["rows"], answer["late"]
            errors = [(n, e["message"], e["hint"]) for n, e in answer["errors"].items()]
        finally:
            progress.stop()
    seconds = monotonic() - began
    told = ", ".join(f"{name} {number:,}" for name, number in rows.items()) or "nothing to do"
    late_text = f" ({late:,} late)" if late else ""
    interrupted = "  interrupted, goes on next time" if stop.is_set() else ""
    click.echo(f"{instance.name}  {told} rows{late_text}  {seconds:.2f} s{interrupted}")
    kept = sum(instance.quarantined.values())
    if kept:
        click.echo(
            f"{instance.name}  {kept:,} rows are in quarantine, not in the local tables:"
            f" wpp-sync quarantine {instance.name}",
            err=True,
        )
    for _, message, hint in errors:
        _complain(WppSyncError(message, hint=hint))
    if stop.is_set():
        return EXIT_INTERRUPTED
    return EXIT_FAILED if errors else EXIT_OK


async def _ask_daemon_to_sync(
    built: Parts, instance: Instance, skip: list[str], standby: StandbyError
) -> dict[str, Any]:
    """A daemon holds the instance's lock: if it is ours, it does the pass."""
    from daemon.client import Client, instance_path

    try:
        return await Client(built.config.control.socket).post(
            instance_path(instance.name, "sync"), {"skip": skip}
        )
    except DaemonUnreachableError:
        raise standby from None


# --- status ----------------------------------------------------------------------------------


@cli.command()
@click.argument("name", metavar="[INSTANCE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@_config_option
@click.pass_context
def status(context: click.Context, name: str | None, as_json: bool, config_path: str | None) -> int:
    """How far every instance is: from the running daemon, else from the databases."""
    settings = _load(context, config_path)
    if name is not None and name not in settings.instances:
        raise UsageError(
            f"there is no instance {name!r}", hint=f"instances: {', '.join(settings.instances)}"
        )
    from daemon.client import Client, instance_path

    client = Client(settings.control.socket)
    try:
        path = instance_path(name) if name else "/v1/status"
        answer = asyncio.run(client.get(path))
        live = True
    except DaemonUnreachableError:
        answer = _with_parts(settings, lambda built: _status_without_daemon(built, name))
        live = False
    instances = [answer] if name else answer["instances"]
    unreachable = not live and any(each["state"] == "failed" for each in instances)
    code = EXIT_UNREACHABLE if unreachable else EXIT_OK
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return code
    from daemon import show

    show.status(instances, live=live, socket=settings.control.socket, detail=name is not None)
    return code


async def _status_without_daemon(built: Parts, name: str | None) -> dict[str, Any]:
    from daemon import operations

    if name is not None:
        return await operations.get_sync_status(operations.pick(built.instances, name))
    places = asyncio.Semaphore(16)

    async def one(instance: Instance) -> dict[str, Any]:
        async with places:
            return await operations.get_sync_status(instance)

    return {"instances": await asyncio.gather(*map(one, built.instances.values()))}


# --- reset, resync ---------------------------------------------------------------------------


@cli.command()
@click.argument("name", metavar="INSTANCE")
@click.argument("entity", metavar="ENTITY|all")
@_config_option
@click.pass_context
def reset(context: click.Context, name: str, entity: str, config_path: str | None) -> None:
    """The next pass re-pulls the entity from the start; its rows stay and are overwritten."""
    from daemon import operations

    _change(context, config_path, name, "reset", {"entity": entity}, operations.reset_sync_state)


@cli.command()
@click.argument("name", metavar="INSTANCE")
@click.option(
    "--wait/--no-wait",
    default=None,
    help="Show the progress until it is done; on a terminal that is so by itself.",
)
@_config_option
@click.pass_context
def resync(context: click.Context, name: str, wait: bool | None, config_path: str | None) -> None:
    """Copy everything again, and remove local rows that central does not have.

    The tables stay readable throughout. Ctrl-C ends the waiting, not the resync.
    """
    from daemon import operations

    async def work(instance: Instance, _entity: str) -> list[str]:
        return await operations.force_full_resync(instance)

    _change(context, config_path, name, "resync", {}, work)
    if wait is None:
        wait = sys.stderr.isatty()
    if wait:
        from daemon.client import Client
        from daemon.progress import follow_resync

        settings = _load(context, config_path)
        if not asyncio.run(follow_resync(Client(settings.control.socket), name)):
            click.echo("no daemon runs here: `wpp-sync sync` does it", err=True)


def _change(
    context: click.Context,
    config_path: str | None,
    name: str,
    verb: str,
    body: dict[str, str],
    work: Callable[[Instance, str], Coroutine[Any, Any, list[str]]],
) -> None:
    """Without a daemon straight on the state rows, which any daemon that copies this instance
    elsewhere sees before it writes again."""
    settings = _load(context, config_path)

    async def do(instance: Instance) -> dict[str, Any]:
        return {verb: await work(instance, body.get("entity", ""))}

    done = _ask_or_do(
        settings, name, lambda c, path: c.post(f"{path}/{verb}", body, timeout=60.0), do
    )[verb]
    click.echo(f"{name}  {verb}: {', '.join(done)}; the next pass starts from the beginning")


# --- reconcile ---------------------------------------------------------------------------------


@cli.command()
@click.argument("name", metavar="INSTANCE")
@click.argument("entity", metavar="[ENTITY]", required=False)
@click.option("--dry-run", is_flag=True, help="Only report; exit 4 if the two sides differ.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@_config_option
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
    settings = _load(context, config_path)
    body = {"dry_run": dry_run} | ({} if entity is None else {"entity": entity})

    async def do(instance: Instance) -> dict[str, Any]:
        from daemon import app, operations

        stop = app.stop_on_signals()
        return operations.tallies(
            await operations.reconcile(instance, entity, dry_run=dry_run, stop=stop)
        )

    found = _ask_or_do(
        settings, name, lambda c, path: c.post(f"{path}/reconcile", body, timeout=None), do
    )
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        from daemon import show

        show.reconcile(name, found, dry_run=dry_run)
    failed = [each["error"] for each in found["entities"] if each["error"] is not None]
    for error in failed:
        _complain(WppSyncError(error["message"], hint=error["hint"]))
    if failed:
        return EXIT_FAILED
    return EXIT_DIFFERENT if dry_run and found["differences"] else EXIT_OK


# --- migrate -----------------------------------------------------------------------------------


@cli.command()
@click.argument("names", metavar="[INSTANCE]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Only say what would happen, and what it costs.")
@click.option("--list", "listed", is_flag=True, help="What has run, and what is pending.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@_config_option
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
    settings = _load(context, config_path)
    verb = "dry run" if dry_run else "list" if listed else "migrate"
    return _with_parts(settings, lambda built: _migrate(built, names, verb, as_json))


async def _migrate(built: Parts, names: Sequence[str], verb: str, as_json: bool) -> int:
    from daemon import app, operations, show

    chosen = [operations.pick(built.instances, n) for n in dict.fromkeys(names)] or list(
        built.instances.values()
    )
    stop = app.stop_on_signals()
    places = asyncio.Semaphore(_MIGRATED_AT_ONCE)

    async def one(instance: Instance) -> dict[str, Any]:
        async with places:
            try:
                return await _migrate_one(built, instance, verb, stop)
            except WppSyncError as error:
                told = operations.error_object(error)
                return {"instance": instance.name, "error": told, "exit_code": error.exit_code}

    found: list[dict[str, Any]] = []
    with show.waiting(len(chosen)) as told:
        for done in asyncio.as_completed([one(instance) for instance in chosen]):
            found.append(await done)
            told()
            if not as_json:
                show.migrations(found[-1], verb)
    if as_json:
        found.sort(key=lambda each: list(built.instances).index(each["instance"]))
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    worst = EXIT_OK
    for each in found:
        if error := each.get("error"):
            _complain(WppSyncError(f"{each['instance']}: {error['message']}", hint=error["hint"]))
        refused = EXIT_FAILED if each.get("refused") else EXIT_OK
        worst = max(worst, each.get("exit_code", EXIT_OK), refused)
    return worst


async def _migrate_one(
    built: Parts, instance: Instance, verb: str, stop: asyncio.Event
) -> dict[str, Any]:
    from daemon import operations

    if verb == "dry run":
        return await operations.foresee_migrations(instance)
    if verb == "list":
        return await operations.list_migrations(instance, built.catalogue.migrations)
    try:
        done = await operations.migrate(instance, stop)
    except StandbyError as standby:
        from daemon.client import Client, instance_path

        try:  # if it is our daemon that holds the lock, it does it
            client, path = Client(built.config.control.socket), instance_path(instance.name)
            return await client.post(f"{path}/migrate", {}, timeout=None)
        except DaemonUnreachableError:
            raise standby from None
    await instance.close()  # others may copy it now
    return done


# --- quarantine --------------------------------------------------------------------------------


@cli.command("quarantine")
@click.argument("name", metavar="INSTANCE")
@click.argument("action", type=click.Choice(["list", "retry", "discard"]), default="list")
@click.argument("keys", metavar="[ID]...", nargs=-1, type=int)
@click.option("--entity", metavar="ENTITY", help="Only this entity's rows (discard).")
@click.option("--json", "as_json", is_flag=True, help="For machines (list).")
@_config_option
@click.pass_context
def quarantine_(
    context: click.Context,
    name: str,
    action: str,
    keys: tuple[int, ...],
    entity: str | None,
    as_json: bool,
    config_path: str | None,
) -> None:
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
    settings = _load(context, config_path)
    if action == "list":
        rows = _ask_or_do(
            settings, name, lambda c, path: c.get(f"{path}/quarantine"), _list_quarantine
        )["rows"]
        if as_json:
            click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
            return
        from daemon import show

        show.quarantine(rows)
    elif action == "retry":
        left = _ask_or_do(
            settings, name, lambda c, path: c.post(f"{path}/quarantine/retry", {}), _retry
        )["left"]
        click.echo(f"{name}  tried again; {left:,} rows are left in quarantine")
    else:
        body = {"entity": entity, "ids": list(keys)} if entity else {}

        async def discard(instance: Instance) -> dict[str, Any]:
            from daemon import operations

            return {"discarded": await operations.discard_quarantine(instance, entity, keys)}

        done = _ask_or_do(
            settings, name, lambda c, path: c.post(f"{path}/quarantine/discard", body), discard
        )["discarded"]
        click.echo(f"{name}  {done:,} rows given up")


async def _list_quarantine(instance: Instance) -> dict[str, Any]:
    from dataclasses import asdict

    from daemon import operations

    return {"rows": [asdict(entry) for entry in await operations.list_quarantine(instance)]}


async def _retry(instance: Instance) -> dict[str, Any]:
    from daemon import operations

    return {"left": await operations.retry_quarantine(instance)}


def _ask_or_do(
    settings: Config,
    name: str,
    ask: Callable[[Client, str], Coroutine[Any, Any, dict[str, Any]]],
    do: Callable[[Instance], Coroutine[Any, Any, dict[str, Any]]],
) -> dict[str, Any]:
    """Through the daemon when one runs, else in this process."""
    from daemon import operations
    from daemon.client import Client, instance_path

    try:
        return asyncio.run(ask(Client(settings.control.socket), instance_path(name)))
    except DaemonUnreachableError:
        return _with_parts(settings, lambda built: do(operations.pick(built.instances, name)))


# --- check, demo, version ----------------------------------------------------------------------


@cli.command()
@_config_option
@click.pass_context
def check(context: click.Context, config_path: str | None) -> int:
    """Configuration, connections, privileges, both schemas, and how central would be read."""
    settings = _load(context, config_path)
    click.echo(f"ok    config  {settings.path}: {len(settings.instances)} instances")
    return _with_parts(settings, _check)


async def _check(built: Parts) -> int:
    from daemon import check as checks

    findings = []
    async for finding in checks.run(built.central, built.instances, built.catalogue.migrations):
        findings.append(finding)
        click.echo(f"{finding.level:<5} {finding.where}  {finding.text}")
        if finding.hint:
            click.echo(f"      hint: {finding.hint}")
    failed = sum(finding.level == "fail" for finding in findings)
    click.echo(f"{len(findings)} looked at, {failed} failed")
    return checks.exit_code(findings)


@cli.command()
@click.option("--seconds", type=click.FloatRange(min=1), help="End by itself after so long.")
def demo(seconds: float | None) -> int:
    """The main job on a private MariaDB with three instances and live traffic.

    Needs the programs mariadbd, mariadb-install-db and mariadb; touches nothing else.
    """
    from daemon.demo.run import run_demo

    return run_demo(seconds)


@cli.command()
def version() -> None:
    """The version of wpp-sync."""
    from importlib.metadata import version as installed

    click.echo(f"wpp-sync {installed('wpp-sync')}")


if __name__ == "__main__":
    main()
