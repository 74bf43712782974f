"""Asks the running daemon over its control socket.

With the standard library's client: the command line answers sooner than aiohttp is imported.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from daemon.errors import (
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ConfigError,
    DaemonUnreachableError,
    MigrationFilesError,
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

    def get(self, path: str, *, timeout: float | None = 5.0) -> dict[str, Any]:
        """The answer's JSON object. Raises DaemonUnreachableError, or the daemon's own error.

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
        if self._path is None or not self._path.exists():
            raise DaemonUnreachableError(
                f"no daemon answers at {self._path or 'control.socket (switched off)'}",
                hint="start it: wpp-sync run",
            )
        connection = _UnixConnection(self._path, timeout)
        headers = {"Content-Type": "application/json"} | ({"Accept": _LINES} if told else {})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            if told is not None and response.headers.get_content_type() == _LINES:
                status, answer = _last_line(response, told)
            else:
                status, answer = (
                    response.status,
                    cast("dict[str, Any]", json.loads(response.read())),
                )
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise DaemonUnreachableError(
                f"no daemon answers at {self._path}: {error or type(error).__name__}",
                hint="start it (wpp-sync run), or check who may open the socket (control.group)",
            ) from error
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer and status >= 400:
            refused = WppSyncError(
                answer["error"]["message"],
                hint=answer["error"]["hint"],
                code=answer["error"]["code"],
            )
            refused.exit_code = _EXIT_CODES.get(status, EXIT_FAILED)
            if refused.code in _ABOUT_FILES:
                refused.exit_code = EXIT_USAGE
            raise refused
        return answer


def _last_line(
    response: http.client.HTTPResponse, told: Callable[[dict[str, Any]], None]
) -> tuple[int, dict[str, Any]]:
    """The outcome that lines of progress end with, as if it had been the answer."""
    for line in response:
        found = json.loads(line)
        if "progress" in found:
            told(found["progress"])
        elif "done" in found:
            return 200, found["done"]
        else:
            return found["status"], found
    raise http.client.IncompleteRead(b"")


def instance_path(name: str, verb: str = "") -> str:
    """The path of an instance, or of a verb on it."""
    return f"/v1/instances/{quote(name, safe='')}" + (f"/{verb}" if verb else "")
