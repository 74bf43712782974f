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
    details = True
    """What is said of details is written."""


def hear_details(*, heard: bool) -> None:
    """Whether anybody hears what is said to `debug`: else it is not worth the words."""
    _Now.details = heard


def silence() -> None:
    """Loggers that are made from here on log nothing."""
    _Now.silent = True


class _Of:
    """A logger that knows its instance, and nothing more: there are nine for each, which write next
    to nothing. One that is bound takes 0.4 KB."""

    __slots__ = ("_instance",)

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def bind(self, **known: object) -> Logger:
        return get_logger().bind(instance=self._instance, **known)

    def debug(self, event: str, **about: object) -> None:
        if _Now.details:
            get_logger().debug(event, instance=self._instance, **about)

    def info(self, event: str, **about: object) -> None:
        get_logger().info(event, instance=self._instance, **about)

    def warning(self, event: str, **about: object) -> None:
        get_logger().warning(event, instance=self._instance, **about)

    def error(self, event: str, **about: object) -> None:
        get_logger().error(event, instance=self._instance, **about)


def logger_of(instance: str) -> Logger:
    """A logger of what an instance does."""
    return _Of(instance)


def get_logger() -> Logger:
    """A logger, to which `bind` adds what is known."""
    if _Now.silent:
        return _Silent()
    import structlog

    logger: Logger = structlog.get_logger()
    return logger
