"""Logging, set up once: structlog to standard error, as JSON lines or for a person's eyes."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Style:
    """What is in force now. Loggers are bound for good when they are made, so what a reload may
    change is looked up for each event."""

    least = _LEVELS["info"]
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()


def silence() -> None:
    """Log nothing: the verbs of the command line say themselves what there is to say."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def set_up(
    level: Literal["debug", "info", "warning", "error"],
    style: Literal["auto", "json", "console"],
) -> None:
    """From here on everything is logged this way. auto: console on a terminal, JSON elsewhere.

    May be called again: loggers that are there already follow.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    _Style.least = _LEVELS[level]
    _Style.renderer = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    )
    structlog.configure(
        processors=[
            _drop_unimportant,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries log themselves: only their warnings, as events like ours, without tracebacks.
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(logging.WARNING)


def _render(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.ProcessorReturnValue:
    return _Style.renderer(logger, method, event)


def _drop_unimportant(
    _logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if _LEVELS[method] < _Style.least:
        raise structlog.DropEvent
    return event


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        told = f": {type(error).__name__}: {error}" if error is not None else ""
        message = f"{record.getMessage()}{told}"
        structlog.get_logger().warning("library", logger=record.name, message=message)
