"""The values of config.yaml: which texts and numbers they may be, and how a wrong one is explained.

Durations become seconds, sizes bytes, relative paths absolute ones. A validator's message never
contains the value, which may be a secret: it goes on where the value as written left off
("'soon' | is not a duration"), or begins with "must".

Validation of a file passes `Context`; without it (models built in Python) durations and sizes are
numbers already.
"""

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

MAX_IDENTIFIER = 64
# sun_path holds 108 bytes with its NUL.
MAX_SOCKET_PATH = 107
# The longest time the servers' own timeout variables take.
MAX_SECONDS = 365 * 86_400.0

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def _example(value: float) -> str:
    """The number for "write 5s, not 5", where it makes a good example."""
    return f"{value}" if 0 < value < 1e12 else "1"


def _seconds(value: object, info: ValidationInfo) -> object:
    if info.context is None:  # built in Python, where durations are seconds already
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"is not a duration: write {_example(value)}s, not {_example(value)}")
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("is not a duration (write 500ms, 1s, 5m or 1h)")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds <= 0:
        raise ValueError("is not a duration: it must be more than zero")
    if seconds > MAX_SECONDS:
        raise ValueError("is more than 8760h (one year)")
    return seconds


def _at_least(minimum: float, text: str) -> Callable[[float], float]:
    """A validator whose message speaks in the file's units."""

    def check(value: float) -> float:
        if value < minimum:
            raise ValueError(f"is less than {text}")
        return value

    return check


def _bytes(value: object, info: ValidationInfo) -> object:
    if info.context is None:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"is not a size: write {_example(value)}B, or use KiB, MiB, GiB")
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("is not a size (write 65536B, 64KiB, 4MiB or 1GiB)")
    return int(match[1]) * _BYTES[match[2]]


def _batch_bounds(value: int) -> int:
    if value < 64 * 1024:
        raise ValueError("is less than 64KiB")
    if value > 1024**3:
        raise ValueError("is more than 1GiB")
    return value


def _settle(value: object, info: ValidationInfo) -> object:
    if value in ("auto", "exact"):  # not a set: a list in the file has no hash
        return value
    try:
        return _seconds(value, info)
    except ValueError as error:
        raise ValueError(f"{error}, and neither auto nor exact") from None


def _settle_bound(value: float | str) -> float | str:
    return value if isinstance(value, str) else _at_least(1.0, "1s")(value)


def _whole(value: object) -> object:
    if isinstance(value, bool | float):
        raise ValueError("is not a whole number")
    return value


def _text(value: str) -> str:
    if problem := text_problem(value):
        raise ValueError(problem)
    return value


def text_problem(value: str) -> str:
    if not value:
        return "must not be empty"
    # Line and paragraph separators (Zl, Zp) break a log line as a newline does.
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        return "must not contain control characters"
    return ""


def identifier_problem(value: str) -> str:
    """What keeps a text from being a name in MySQL, or nothing."""
    too_long = f"is longer than {MAX_IDENTIFIER} characters" if len(value) > MAX_IDENTIFIER else ""
    return text_problem(value) or too_long


def _identifier(value: str) -> str:
    if problem := identifier_problem(value):
        raise ValueError(problem)
    return value


def _directory_of(info: ValidationInfo) -> Path:
    """Where relative paths start: the config file's directory, or here for models built by hand."""
    return info.context["directory"] if info.context else Path()


def _path(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError("is not a path (a text is needed)")
    return _directory_of(info) / _text(value)


class ClosedFile(ValueError):  # noqa: N818 - pydantic makes an error of it
    """We may not read it."""


def _readable(path: Path, info: ValidationInfo) -> Path:
    try:
        if not path.is_file():
            # stat says why: absent, or no permission to look.
            path.stat()
            raise ValueError("is not a file")
        with path.open("rb"):
            return path
    except PermissionError as error:
        raise ClosedFile(f"cannot be read: {error.strerror}{_start(path, info)}") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}{_start(path, info)}") from None


def _is_directory(path: Path, info: ValidationInfo) -> Path:
    try:
        os.listdir(path)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}{_start(path, info)}") from None
    return path


def _start(path: Path, info: ValidationInfo) -> str:
    directory = _directory_of(info)
    return f" (looked in {directory})" if path.is_relative_to(directory) else ""


def _socket(path: Path) -> Path:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ValueError(
            f"is longer than the {MAX_SOCKET_PATH} bytes that a socket's path may have"
        )
    return path


def _absolute(value: object) -> object:
    if isinstance(value, str) and not value.startswith("/"):
        raise ValueError("is not an absolute path")
    return value


def _mode(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and re.fullmatch("0?[0-7]{3}", value):
        mode = int(value, 8)
    elif isinstance(value, int) and info.context is None:
        mode = value
    else:
        raise ValueError('is not a mode: write an octal number in quotes, such as "0660"')
    if mode & 0o002:
        raise ValueError("is writable for everyone: whoever reaches the socket can reset instances")
    return mode


def address(listen: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[ipv6]:port`; raises ValueError for anything else."""
    host, colon, port = _text(listen).rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("is not an address and a port (write 127.0.0.1:9188 or [::1]:9188)")
    if not host:
        raise ValueError("is not complete: for every address write 0.0.0.0:port or [::]:port")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError("is not an address: no IPv6 address stands in the brackets") from None
        return host[1:-1], int(port)
    if ":" in host:
        raise ValueError("is not an address and a port (an IPv6 address needs brackets)")
    try:
        name = re.fullmatch(r"[\w.-]+", host) and host.encode("idna")
    except UnicodeError:
        name = None
    if not name:
        raise ValueError("is not an address and a port: the host is no name and no address")
    return host, int(port)


def _listen(value: str) -> str:
    address(value)
    return value


def _sighup_reset(value: object) -> object:
    if value in ("all", "none") or isinstance(value, tuple):
        return value
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("is not all, none, or a list of entities such as [messages, chats]")
    return tuple(value)


Seconds = Annotated[float, BeforeValidator(_seconds)]
PollInterval = Annotated[Seconds, AfterValidator(_at_least(0.05, "50ms"))]
Interval = Annotated[Seconds, AfterValidator(_at_least(1.0, "1s"))]
Settle = Annotated[
    Literal["auto", "exact"] | float, BeforeValidator(_settle), AfterValidator(_settle_bound)
]
BatchBytes = Annotated[int, BeforeValidator(_bytes), AfterValidator(_batch_bounds)]
WholeNumber = Annotated[int, BeforeValidator(_whole)]
Text = Annotated[str, AfterValidator(_text)]
Identifier = Annotated[str, AfterValidator(_identifier)]
ReadableFile = Annotated[Path, BeforeValidator(_path), AfterValidator(_readable)]
Directory = Annotated[Path, BeforeValidator(_path), AfterValidator(_is_directory)]
SocketPath = Annotated[Path, BeforeValidator(_path), AfterValidator(_socket)]
AbsoluteSocketPath = Annotated[SocketPath, BeforeValidator(_absolute)]
Mode = Annotated[int, BeforeValidator(_mode)]
Listen = Annotated[str, AfterValidator(_listen)]
SighupReset = Annotated[Literal["all", "none"] | tuple[str, ...], BeforeValidator(_sighup_reset)]

# Pydantic's own kinds of error in this project's words; {…} are pydantic's own figures.
_EXPLANATIONS: Mapping[str, str] = {
    "missing": "is missing",
    "greater_than_equal": "is less than {ge}",
    "less_than_equal": "is more than {le}",
    "literal_error": "is not {expected}",
    "string_type": "is not text (put it in quotes)",
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is not a whole number of a usable size",
    "bool_type": "is not true or false",
    "bool_parsing": "is not true or false",
    "tuple_type": "is not a list",
    "model_type": "must be a mapping (key: value lines)",
    "dict_type": "must be a mapping (key: value lines)",
    "mapping_type": "must be a mapping (key: value lines)",
}


def explain(kind: str, figures: Mapping[str, Any]) -> str:
    """The text for one of pydantic's errors, by its type and its ctx."""
    if kind == "value_error":
        return str(figures["error"])
    return _EXPLANATIONS.get(kind, "is not acceptable ({kind})").format(kind=kind, **figures)
