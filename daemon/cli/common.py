"""What the verbs have in common: the configuration, the daemon that is asked, the complaints."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daemon.errors import (
    EXIT_OK,
    ClosedFilesError,
    ConfigError,
    DaemonUnreachableError,
    NoDaemonError,
    UsageError,
    WppSyncError,
)

if TYPE_CHECKING:
    from daemon.app import Parts
    from daemon.client import Client
    from daemon.config import Config
    from daemon.instance import Instance

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])
Ask = Callable[["Client", str], dict[str, Any]]
Do = Callable[["Instance"], Coroutine[Any, Any, dict[str, Any]]]
Outcome = dict[str, Any] | WppSyncError

_AT_ONCE = 16
"""So many instances are given an order at the same time: one whose server is silent takes 10 s."""


class _ConfigFile(click.Path):
    """A file's name, which shells complete. Whether it can be read, `daemon.config` says."""

    def __init__(self) -> None:
        super().__init__(readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An unset shell variable names no other file than the one that was meant."""
        if value == "":
            self.fail("it is empty, and names no file.", param, ctx)
        return super().convert(value, param, ctx)


@contextmanager
def importing() -> Iterator[None]:
    """For the imports of a verb: what they make stays until its end, and is no garbage. To look for
    some in it again and again takes a tenth of their time, and more afterwards."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def config_option(command: Command) -> Command:
    """-c, before and after the verb."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        metavar="FILE",
        type=_ConfigFile(),
        help="The configuration; else $WPP_SYNC_CONFIG, ./config.yaml, /etc/wpp-sync/config.yaml.",
    )(command)


def all_option(command: Command) -> Command:
    """--all, in the place of names."""
    help_ = "Every instance of the configuration."
    return click.option("--all", "every", is_flag=True, help=help_)(command)


def json_option(command: Command) -> Command:
    """--json: one document on standard output, whatever happens."""
    help_ = "For machines: one JSON document on standard output, errors too."
    return click.option("--json", "as_json", is_flag=True, help=help_)(command)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether --json is among these; also where the rest of them cannot be understood."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def dumped(data: object, *, indent: int | None = 2) -> str:
    """As JSON; where standard output cannot take every character, none is lost."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return json.dumps(data, ensure_ascii=encoding != "utf8", indent=indent)


def document(data: object) -> None:
    """Print what --json asks for. The last thing that a verb does: there is only one of them."""
    click.echo(dumped(data))


def error_object(error: WppSyncError) -> dict[str, str]:
    """An error for machines."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def complain(error: WppSyncError) -> None:
    """What went wrong, and what to do, on standard error."""
    if "JOURNAL_STREAM" in os.environ:
        from daemon import log

        if log.tell_journal(error):
            return
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


def entities_of(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """The entities that every configuration has, for completion by the shell."""
    from daemon.entities import CATALOGUE

    return [name for name in CATALOGUE if name.startswith(begun)]


class Operator:
    """How a verb reaches the instances: through the running daemon, else in this process."""

    def __init__(self, context: click.Context, config_path: str | None) -> None:
        """Where a daemon answers, nothing but its socket's path is read.

        Raises ConfigError, and DaemonUnreachableError where one may run that does not answer us.
        """
        with importing():
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
        except NoDaemonError as error:
            from daemon import reload

            self.live = False
            self.instances = list(reload.enabled(self.settings_instead(error)))

    @property
    def settings(self) -> Config:
        """The whole configuration. Raises ConfigError."""
        from daemon import config

        if self._settings is None:
            self._settings = config.load(self._path)
        return self._settings

    def settings_instead(self, nobody: DaemonUnreachableError) -> Config:
        """The same, where no daemon can be asked. Who may command one need not be able to read the
        passwords: to them the daemon is what is missing. Raises `nobody`, ConfigError."""
        try:
            return self.settings
        except ClosedFilesError as closed:
            nobody.hint = (
                "the verb cannot do it itself, as you may not read the passwords: start the daemon,"
                " or be root"
            )
            raise nobody from closed

    def chosen(self, names: Sequence[str], every: bool) -> list[str]:
        """The instances that a verb is about. Raises UsageError for one that there is not."""
        if bool(names) == every:
            raise click.UsageError("name the instances, or say --all")
        return self.known(names) or self.instances

    def known(self, names: Sequence[str]) -> list[str]:
        """These names, each once. Raises UsageError."""
        for name in names:
            if name not in self.instances:
                self._refuse_disabled(name)
                some = ", ".join(self.instances[:10])
                more = ", …" if len(self.instances) > 10 else ""
                raise UsageError(f"there is no instance {name!r}", hint=f"instances: {some}{more}")
        return list(dict.fromkeys(names))

    def _refuse_disabled(self, name: str) -> None:
        """Raise UsageError where the configuration has the instance, switched off."""
        found = None
        with suppress(ConfigError):  # whoever asks a daemon need not be able to read all of it
            found = self.settings.instances.get(name)
        if found is not None and not found.enabled:
            raise UsageError(
                f"the instance {name!r} is disabled in the configuration (enabled: false)",
                hint=f"set instances.{name}.enabled to true; a daemon then needs a reload",
            )

    def ask_or_do(self, name: str, ask: Ask, do: Do) -> dict[str, Any]:
        """Through the daemon when one runs, else in this process."""
        from daemon.client import instance_path

        if self.live:
            return ask(self.client, instance_path(name))
        from daemon import operations

        return with_parts(self.settings, lambda built: do(operations.pick(built.instances, name)))

    def ask_or_do_each(
        self, names: Sequence[str], ask: Ask, do: Do
    ) -> Iterator[tuple[str, Outcome]]:
        """The same for several, some at once, told in their order; one that fails does not keep
        the others."""
        from daemon.client import instance_path

        if self.live:
            yield from _in_threads(names, lambda name: ask(self.client, instance_path(name)))
        else:
            yield from with_parts(self.settings, lambda built: _each(built, names, do))


def _in_threads(
    names: Sequence[str], work: Callable[[str], dict[str, Any]]
) -> Iterator[tuple[str, Outcome]]:
    """The process may end while they wait for an answer: whoever breaks it off need not wait."""
    from daemon import threads

    for name, outcome in zip(names, threads.begin(work, names, _AT_ONCE), strict=True):
        try:
            yield name, outcome.result()
        except WppSyncError as error:
            yield name, error


async def _each(built: Parts, names: Sequence[str], do: Do) -> list[tuple[str, Outcome]]:
    import asyncio

    from daemon import operations

    places = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> tuple[str, Outcome]:
        async with places:
            try:
                return name, await do(operations.pick(built.instances, name))
            except WppSyncError as error:
                return name, error

    return await asyncio.gather(*map(one, names))


def with_parts(settings: Config, work: Callable[[Parts], Coroutine[Any, Any, T]]) -> T:
    """Build the parts in this process, without a daemon, and do one thing with them."""
    with importing():
        import asyncio

        from daemon import app, events

    events.silence()

    async def do() -> T:
        async with app.parts(settings) as built:
            return await work(built)

    return asyncio.run(do())


class Report:
    """What a verb has done to several instances: a line for each, or one document for machines."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._found: list[dict[str, Any]] = []
        self._worst = EXIT_OK

    def done(self, name: str, answer: Mapping[str, Any], line: str, code: int = EXIT_OK) -> None:
        """It is done to this one, more or less: `code`."""
        if not self._as_json:
            click.echo(line)
        self._found.append({"instance": name, **answer})
        self._worst = max(self._worst, code)

    def failed(self, name: str, error: WppSyncError) -> None:
        """It is not, which does not keep the others."""
        complain(error)
        self._found.append({"instance": name, "error": error_object(error)})
        self._worst = max(self._worst, error.exit_code)

    def end(self) -> int:
        """The worst exit code; with it all is told."""
        if self._as_json:
            document({"instances": self._found})
        return self._worst
