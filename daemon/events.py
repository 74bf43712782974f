"""The loggers of all modules: structlog's, as `daemon.log` has set it up, or silent ones.

A verb that does its work itself logs nothing: it says what there is to say. structlog is of no use
to it then, and would be a tenth of its start.
"""

from __future__ import annotations

from typing import Protocol


class Logger(Protocol):
    """What is done with one."""

    def bind(self, **known: object) -> Logger: ...
    def debug(self, event: str, **about: object) -> None: ...
    def info(self, event: str, **about: object) -> None: ...
    def warning(self, event: str, **about: object) -> None: ...
    def error(self, event: str, **about: object) -> None: ...


class _Silent:
    """Logs nothing."""

    def bind(self, **_known: object) -> Logger:
        return self

    def debug(self, event: str, **about: object) -> None:
        pass

    info = warning = error = debug


class _Now:
    silent = False


def silence() -> None:
    """Loggers that are made from here on log nothing."""
    _Now.silent = True


def get_logger() -> Logger:
    """A logger, to which `bind` adds what is known."""
    if _Now.silent:
        return _Silent()
    import structlog

    logger: Logger = structlog.get_logger()
    return logger
