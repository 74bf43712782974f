"""The command line: arguments in, tables or JSON and an exit code out.

A verb asks the running daemon; when none runs, it does the work itself. No SQL here. What is heavy
to import is imported by the verb that needs it.
"""

from __future__ import annotations

import gc
import io
import os
import sys

import click

from daemon.cli import copying, looking, migrating, orders, running
from daemon.cli.common import asks_for_json, complain, config_option, document, error_object
from daemon.errors import (
    EXIT_FAILED,
    EXIT_OK,
    StoppedError,
    UsageError,
    WppSyncError,
    internal,
)

_ORDER = (
    running.run,
    copying.sync,
    looking.status,
    copying.reset,
    copying.resync,
    copying.reconcile,
    orders.pause,
    orders.resume,
    orders.throttle,
    migrating.migrate,
    looking.quarantine,
    looking.check,
    orders.reload,
    running.demo,
    running.completion,
    running.version,
)


class _Group(click.Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        """As an operator meets them, not by the alphabet."""
        return [str(command.name) for command in _ORDER]


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 daemon or database not"
    " reachable, 4 differences found, 130 interrupted.",
)
@config_option
@click.version_option(package_name=running.PROGRAM, message=f"{running.PROGRAM} %(version)s")
@click.pass_context
def cli(context: click.Context, config_path: str | None) -> None:
    """Keep each customer's database a faithful mirror of its rows in the central one.

    \b
    Examples:
      wpp-sync check
      wpp-sync status --watch
      wpp-sync reset --help
    """
    context.obj = config_path


for _command in _ORDER:
    cli.add_command(_command)


def main() -> None:
    """The entry point: every expected error becomes a message and an exit code."""
    _make_streams_bear_all()
    try:
        code = _run(as_json=asks_for_json(sys.argv[1:]))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away (wpp-sync status | head): nothing to complain about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except OSError as error:
        # Ours are translated where they occur; what is left is the output (a full disk, say).
        complain(WppSyncError(f"cannot write the output: {error.strerror}"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    # All that is left ends with the process: to look for cycles in it takes 60 ms.
    gc.freeze()
    sys.exit(code)


def _run(*, as_json: bool) -> int:
    """Do what the arguments say; the exit code. Raises OSError: the output cannot be written."""
    failed: WppSyncError
    try:
        code = cli.main(standalone_mode=False, prog_name=running.PROGRAM)
    except (click.exceptions.Abort, KeyboardInterrupt):
        failed = StoppedError("interrupted")  # whoever did it knows
    except click.ClickException as error:
        error.show()
        failed = _usage(error)
    except WppSyncError as error:
        complain(error)
        failed = error
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - no traceback reaches an operator
        failed = internal(error)
        complain(failed)
    else:
        return code if isinstance(code, int) else EXIT_OK
    if as_json:
        document({"error": error_object(failed)})
    return failed.exit_code


def _usage(error: click.ClickException) -> WppSyncError:
    """What click has to say of the arguments, for machines."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = "" if context is None else f"{context.command_path} --help"
    told = UsageError(error.format_message(), hint=hint)
    told.exit_code = error.exit_code
    return told


def _make_streams_bear_all() -> None:
    """A caller may have closed them (`>&-`): then nobody wants to read what is written there. And a
    character that the terminal's encoding lacks is no reason to tell nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the process's life
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
