"""Asks the running daemon over its control socket.

With the standard library's client: the command line answers sooner than aiohttp is imported.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from daemon.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ConfigError,
    DaemonUnreachableError,
    MigrationFilesError,
    NoDaemonError,
    StoppedError,
    WppSyncError,
)

# What the verb would have ended with in this process.
_EXIT_CODES = {400: EXIT_USAGE, 404: EXIT_USAGE, 503: EXIT_UNREACHABLE}
_ABOUT_FILES = frozenset({ConfigError.code, MigrationFilesError.code})

_CONNECT_SECONDS = 2.0

_LINES = "application/x-ndjson"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("daemon", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_SECONDS)
        self.sock.connect(str(self._path))
        self.sock.settimeout(self.timeout)


class Client:
    """Speaks to the daemon behind one control socket. One request, one connection."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def alive(self) -> dict[str, Any]:
        """What the daemon says of itself: version, instances, address of the TCP port.

        Raises as `get` does, also where something else answers.
        """
        found = self.get("/v1/alive")
        names = found.get("instances")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._stranger()
        return found

    def get(self, path: str, *, timeout: float | None = 5.0) -> dict[str, Any]:
        """The answer's JSON object. Raises NoDaemonError where nobody listens,
        DaemonUnreachableError, or the daemon's own error.

        `timeout`: seconds the daemon may be silent; None waits until it is done.
        """
        return self._ask("GET", path, None, timeout)

    def post(
        self, path: str, body: dict[str, Any], *, timeout: float | None = None
    ) -> dict[str, Any]:
        """As `get`."""
        return self._ask("POST", path, body, timeout)

    def follow(
        self, path: str, body: dict[str, Any], told: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """As `post`; `told` gets the status of the instance, again and again until it is done.

        Whoever leaves it (Ctrl-C) ends the work after its batch.
        """
        return self._ask("POST", path, body, None, told)

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        timeout: float | None,
        told: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        if self._path is None:
            raise NoDaemonError("control.socket is switched off: no daemon can be asked")
        connection = _UnixConnection(self._path, timeout)
        headers = {"Content-Type": "application/json"} | ({"Accept": _LINES} if told else {})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            if told is not None and response.headers.get_content_type() == _LINES:
                status, answer = _last_line(response, told)
            else:
                status, answer = response.status, json.loads(response.read())
        except (OSError, http.client.IncompleteRead) as error:
            self._explain(self._path, error)
        except (http.client.HTTPException, ValueError, RecursionError) as error:
            raise self._stranger() from error
        finally:
            connection.close()
        if status >= 400:
            raise self._refused(status, answer)
        if not isinstance(answer, dict):
            raise self._stranger()
        return answer

    def _explain(self, path: Path, error: OSError | http.client.IncompleteRead) -> NoReturn:
        """Why nobody answers there. Raises NoDaemonError, DaemonUnreachableError."""
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            raise NoDaemonError(
                f"no daemon answers at {path}", hint="start it: wpp-sync run"
            ) from error
        if isinstance(error, PermissionError):
            raise DaemonUnreachableError(
                f"no permission to ask the daemon at {path}",
                hint=f"{_who_may(path)} `id` tells your groups; a new one counts after a new login",
                code="socket_denied",
            ) from error
        why = "it hung up" if isinstance(error, ConnectionError) else str(error)
        if isinstance(error, http.client.IncompleteRead):
            why = "it hung up in the middle of its answer"
        raise DaemonUnreachableError(
            f"the daemon at {path} does not answer: {why}",
            hint="see its log: it may have been stopped meanwhile, hang or be frozen",
        ) from error

    def _stranger(self) -> DaemonUnreachableError:
        return DaemonUnreachableError(
            f"what answers at {self._path} is no wpp-sync daemon",
            hint="is control.socket the right one? `ss -xlp` tells who listens there",
        )

    def _refused(self, status: int, answer: object) -> WppSyncError:
        """The error that the daemon has answered with."""
        told = answer.get("error") if isinstance(answer, dict) else None
        if not isinstance(told, dict):
            return self._stranger()
        code, message, hint = (told.get(key) for key in ("code", "message", "hint"))
        if not (isinstance(code, str) and isinstance(message, str) and isinstance(hint, str)):
            return self._stranger()
        refused = WppSyncError(message, hint=hint, code=code)
        refused.exit_code = _EXIT_CODES.get(status, EXIT_FAILED)
        if code in _ABOUT_FILES:
            refused.exit_code = EXIT_USAGE
        elif code == StoppedError.code:
            refused.exit_code = EXIT_INTERRUPTED
        return refused


def _who_may(path: Path) -> str:
    """Whom the socket, or the first directory on the way to it that is closed, lets in."""
    import grp  # only here is it needed

    for place in (*reversed(path.parents), path):
        try:
            found = place.stat()
        except OSError:
            break  # what was looked at last is closed
        if not os.access(place, os.W_OK if place == path else os.X_OK):
            break
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return f"are you in the group {group}, or root?"


def _last_line(
    response: http.client.HTTPResponse, told: Callable[[dict[str, Any]], None]
) -> tuple[int, Any]:
    """The outcome that lines of progress end with, as if it had been the answer."""
    for line in response:
        if not line.endswith(b"\n"):
            break  # cut off
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("a line that is no object")
        if "progress" in found:
            told(found["progress"])
        elif "done" in found:
            return 200, found["done"]
        else:
            status = found.get("status")
            return status if isinstance(status, int) else 500, found
    raise http.client.IncompleteRead(b"")


def instance_path(name: str, verb: str = "") -> str:
    """The path of an instance, or of a verb on it."""
    return f"/v1/instances/{quote(name, safe='')}" + (f"/{verb}" if verb else "")
