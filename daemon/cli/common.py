"""What the verbs have in common: the configuration, the daemon that is asked, the complaints."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daemon.errors import EXIT_OK, NoDaemonError, UsageError, WppSyncError

if TYPE_CHECKING:
    from daemon.app import Parts
    from daemon.client import Client
    from daemon.config import Config
    from daemon.instance import Instance

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])
Ask = Callable[["Client", str], dict[str, Any]]
Do = Callable[["Instance"], Coroutine[Any, Any, dict[str, Any]]]


def config_option(command: Command) -> Command:
    """-c, before and after the verb."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        metavar="FILE",
        help="The configuration; else $WPP_SYNC_CONFIG, ./config.yaml, /etc/wpp-sync/config.yaml.",
    )(command)


def all_option(command: Command) -> Command:
    """--all, in the place of names."""
    help_ = "Every instance of the configuration."
    return click.option("--all", "every", is_flag=True, help=help_)(command)


def complain(error: WppSyncError) -> None:
    """What went wrong, and what to do, on standard error."""
    for line in error.message.splitlines():
        click.echo(f"error: {line}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def load(context: click.Context, config_path: str | None) -> Config:
    """The configuration. Raises ConfigError."""
    from daemon import config

    return config.load(config.find(config_path or context.obj, os.environ))


def names_of(context: click.Context, _argument: click.Parameter, begun: str) -> list[str]:
    """The instances' names, for completion by the shell. Whoever presses Tab does not want to hear
    why there are none."""
    root = context.find_root()
    try:
        found = Operator(root, context.params.get("config_path") or root.params["config_path"])
    except WppSyncError:
        return []
    return [name for name in found.instances if name.startswith(begun)]


class Operator:
    """How a verb reaches the instances: through the running daemon, else in this process."""

    def __init__(self, context: click.Context, config_path: str | None) -> None:
        """Where a daemon answers, nothing but its socket's path is read.

        Raises ConfigError, and DaemonUnreachableError where one may run that does not answer us.
        """
        from daemon import config
        from daemon.client import Client

        self._path = config.find(config_path or context.obj, os.environ)
        self.socket = config.control_socket(self._path)
        self.client = Client(self.socket)
        self.live = True
        """A daemon answers."""

        self._settings: Config | None = None
        try:
            self.instances: list[str] = self.client.alive()["instances"]
        except NoDaemonError:
            from daemon import reload

            self.live = False
            self.instances = list(reload.enabled(self.settings))

    @property
    def settings(self) -> Config:
        """The whole configuration. Raises ConfigError."""
        from daemon import config

        if self._settings is None:
            self._settings = config.load(self._path)
        return self._settings

    def chosen(self, names: Sequence[str], every: bool) -> list[str]:
        """The instances that a verb is about. Raises UsageError for one that there is not."""
        if bool(names) == every:
            raise click.UsageError("name the instances, or say --all")
        return self.known(names) or self.instances

    def known(self, names: Sequence[str]) -> list[str]:
        """These names, each once. Raises UsageError."""
        for name in names:
            if name not in self.instances:
                some = ", ".join(self.instances[:10])
                more = ", …" if len(self.instances) > 10 else ""
                raise UsageError(f"there is no instance {name!r}", hint=f"instances: {some}{more}")
        return list(dict.fromkeys(names))

    def ask_or_do(self, name: str, ask: Ask, do: Do) -> dict[str, Any]:
        """Through the daemon when one runs, else in this process."""
        from daemon.client import instance_path

        if self.live:
            return ask(self.client, instance_path(name))
        from daemon import operations

        return with_parts(self.settings, lambda built: do(operations.pick(built.instances, name)))


def with_parts(settings: Config, work: Callable[[Parts], Coroutine[Any, Any, T]]) -> T:
    """Build the parts in this process, without a daemon, and do one thing with them."""
    from daemon import app, log

    log.silence()

    async def do() -> T:
        async with app.parts(settings) as built:
            return await work(built)

    return asyncio.run(do())


def each(names: Sequence[str], work: Callable[[str], int]) -> int:
    """Do it for one after the other: one that fails does not keep the others. The worst code."""
    worst = EXIT_OK
    for name in names:
        try:
            code = work(name)
        except WppSyncError as error:
            complain(error)
            code = error.exit_code
        worst = max(worst, code)
    return worst
