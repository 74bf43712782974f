"""Logging, set up once: structlog to standard error, as JSON lines or for a person's eyes.

One event is one line. Where standard error is the journal, each line begins with its priority.
A warning that repeats is told now and then, with how often it came (`daemon.repeats`): whoever logs
says each time what is so. docs/logs.md names every event.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Literal, NamedTuple

import structlog

from daemon import events
from daemon.errors import WppSyncError, without_secrets
from daemon.repeats import Event, Repeats

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# sd-daemon(3): SD_DEBUG, SD_INFO, SD_WARNING, SD_ERR.
_PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}

ENDS = {
    "recovered": "pass failed",
    "entity recovered": "entity failed",
    "goes on": "stalled",
}
"""What is the end of what: told when its beginning was."""

ASKED_FOR = frozenset({"status", "asked"})
"""Written whatever the level is: what USR1 asks for, and who has asked for a change."""

ANSWERS = frozenset({"reload refused", "nothing was reset", "reset failed", "ended"})
"""What answers an operator: told each time."""


class Style(NamedTuple):
    """How events are written."""

    least: int
    """The least important level."""

    renderer: structlog.typing.Processor
    journal: bool
    """Each line begins with its priority."""


class _Now:
    """What is in force now. Loggers are bound for good when they are made, so what a reload may
    change is looked up for each event; what was held back outlives it."""

    style = Style(_LEVELS["info"], structlog.processors.JSONRenderer(), journal=False)
    repeats = Repeats(time.monotonic, ENDS)


def set_up(
    level: Literal["debug", "info", "warning", "error"],
    style: Literal["auto", "json", "console"],
) -> None:
    """From here on everything is logged this way. auto: console on a terminal, JSON elsewhere.

    May be called again: loggers that are there already follow.
    """
    journal = is_journal(os.environ, 2)
    terminal = sys.stderr.isatty()
    console = style == "console" or (style == "auto" and terminal and not journal)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=terminal, exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    )
    _Now.style = Style(_LEVELS[level], renderer, journal)
    events.hear_details(heard=level == "debug")
    structlog.configure(
        processors=[
            _drop_unimportant,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_secrets,
            _hold_back_repeats,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: _Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries log themselves: only their warnings, as events like ours, without tracebacks.
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Whether what is written there goes to the journal: systemd.exec(5), $JOURNAL_STREAM. It is
    inherited, so whoever redirects a child's output still has it: device and inode decide."""
    try:
        there = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{there.st_dev}:{there.st_ino}"


def tell_journal(error: WppSyncError) -> bool:
    """Tell what ends this process as an event, where standard error is the journal; False where it
    is not."""
    if not is_journal(os.environ, 2):
        return False
    set_up("info", "json")
    structlog.get_logger().error("ended", code=error.code, error=error.message, hint=error.hint)
    return True


def tell_overdue() -> None:
    """Write what was held back and has waited long enough. To be called every few seconds."""
    lines = _Lines(sys.stderr)
    for event in _Now.repeats.overdue():
        level = str(event["level"])
        if _LEVELS[level] >= _Now.style.least:
            lines.msg(str(_render(None, level, event)))


class _Lines(structlog.PrintLogger):
    def msg(self, message: str) -> None:
        """Write a line. A full disk is no reason to stop copying: then nothing is written."""
        try:
            super().msg(message)
        except (OSError, ValueError):  # ValueError: it is closed
            return

    debug = info = warning = error = msg


def _drop_unimportant(
    _logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if _LEVELS[method] < _Now.style.least and event["event"] not in ASKED_FOR:
        raise structlog.DropEvent
    return event


def _hide_secrets(
    _logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if method != "debug":  # there are many, and they hold figures, and errors that were cleaned
        for key, value in event.items():
            if isinstance(value, str):
                event[key] = without_secrets(value)
    return event


def _hold_back_repeats(
    _logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> Event:
    told: Event | None = event
    if event["event"] in ENDS:
        told = _Now.repeats.end(event)
    elif _LEVELS[method] >= _LEVELS["warning"] and event["event"] not in ANSWERS:
        told = _Now.repeats.admit(event)
    if told is None:
        raise structlog.DropEvent
    return told


# JSON leaves these as they are, and some readers of lines take them for the end of one.
_LINE_ENDS = re.compile("[\x7f-\x9f\u2028\u2029]")


def _as_json(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def _render(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.ProcessorReturnValue:
    style = _Now.style
    line = _LINE_ENDS.sub(_as_json, str(style.renderer(logger, method, event)))
    if not style.journal:
        return line
    # Also the lines of a traceback for eyes: the journal takes each for an entry.
    return "\n".join(_PRIORITIES[method] + each for each in str(line).split("\n"))


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # Its first line says what it is; below it aiohttp quotes what a stranger has sent.
        first = str(error).partition("\n")[0]
        told = f": {type(error).__name__}: {first}" if error is not None else ""
        message = f"{record.getMessage()}{told}"
        structlog.get_logger().warning("library", logger=record.name, message=message)
