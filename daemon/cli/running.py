"""run, demo, completion, version."""

from __future__ import annotations

import sys

import click

from daemon.cli.common import config_option, document, importing, json_option, load

PROGRAM = "wpp-sync"

_GARBAGE = 7_000
"""So many more objects that could be in cycles than before are looked at for garbage."""

_COMPLETE = "_WPP_SYNC_COMPLETE"


@click.command()
@config_option
@click.pass_context
def run(context: click.Context, config_path: str | None) -> None:
    """Run the daemon in the foreground, until a signal ends it.

    \b
    Signals: TERM, INT finish the running batch and leave (a second one leaves now);
    HUP reloads the configuration and resets what signals.sighup_reset names;
    USR1 logs the status.

    \b
    Examples:
      wpp-sync run
      wpp-sync run -c /etc/wpp-sync/config.yaml
    """
    import asyncio
    import gc

    with importing():
        from daemon import app, log
    # Ten times the default: there are tens of thousands of objects that stay, and little garbage
    # in cycles. To look for some took 7 % of the daemon's time (docs/decisions/0016).
    gc.set_threshold(_GARBAGE)

    settings = load(context, config_path)
    log.set_up(settings.log.level, settings.log.format)
    asyncio.run(app.run(settings))


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), help="End by itself after so long.")
def demo(seconds: float | None) -> int:
    """The main job on a private MariaDB with three instances and live traffic.

    Needs the programs mariadbd, mariadb-install-db and mariadb; touches nothing else.

    \b
    Examples:
      wpp-sync demo --seconds 20
    """
    from daemon.demo.run import run_demo

    return run_demo(seconds)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete verbs, options and instances.

    \b
    Examples:
      wpp-sync completion bash > /etc/bash_completion.d/wpp-sync
      wpp-sync completion zsh > ~/.zfunc/_wpp-sync
      wpp-sync completion fish > ~/.config/fish/completions/wpp-sync.fish
    """
    from click.shell_completion import get_completion_class

    from daemon.cli import cli

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - the choice names those that click has
    # click asks the bash on the path for its version only to warn of old ones.
    found._check_version = staticmethod(lambda: None)  # type: ignore[attr-defined]
    sys.stdout.write(found(cli, {}, PROGRAM, _COMPLETE).source())


@click.command()
@json_option
def version(as_json: bool) -> None:
    """The version of wpp-sync.

    \b
    Examples:
      wpp-sync version
      wpp-sync version --json | jq -r .version
    """
    from importlib.metadata import version as installed

    found = installed("wpp-sync")
    if as_json:
        document({"version": found})
    else:
        click.echo(f"wpp-sync {found}")
