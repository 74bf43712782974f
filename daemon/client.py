"""Asks the running daemon over its control socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import aiohttp

from daemon.errors import (
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    DaemonUnreachableError,
    WppSyncError,
)

# What the verb would have ended with in this process.
_EXIT_CODES = {400: EXIT_USAGE, 404: EXIT_USAGE, 503: EXIT_UNREACHABLE}


class Client:
    """Speaks to the daemon behind one control socket. One request, one connection."""

    def __init__(self, socket: Path | None) -> None:
        self._socket = socket

    async def get(self, path: str, *, timeout: float = 5.0) -> dict[str, Any]:
        """The answer's JSON object. Raises DaemonUnreachableError, or the daemon's own error."""
        return await self._ask("GET", path, None, timeout)

    async def post(
        self, path: str, body: dict[str, Any], *, timeout: float | None = None
    ) -> dict[str, Any]:
        """As `get`; `timeout` None waits until the daemon is done."""
        return await self._ask("POST", path, body, timeout)

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, timeout: float | None
    ) -> dict[str, Any]:
        if self._socket is None or not self._socket.exists():
            raise DaemonUnreachableError(
                f"no daemon answers at {self._socket or 'control.socket (switched off)'}",
                hint="start it: wpp-sync run",
            )
        connector = aiohttp.UnixConnector(path=str(self._socket))
        limit = aiohttp.ClientTimeout(total=timeout, sock_connect=2.0)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=limit) as session,
                session.request(method, f"http://daemon{path}", json=body) as response,
            ):
                answer = json.loads(await response.text())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DaemonUnreachableError(
                f"no daemon answers at {self._socket}: {error or type(error).__name__}",
                hint="start it (wpp-sync run), or check who may open the socket (control.group)",
            ) from error
        if isinstance(answer, dict) and "error" in answer and response.status >= 400:
            told = answer["error"]
            refused = WppSyncError(told["message"], hint=told["hint"], code=told["code"])
            refused.exit_code = _EXIT_CODES.get(response.status, EXIT_FAILED)
            raise refused
        return cast("dict[str, Any]", answer)


def instance_path(name: str, verb: str = "") -> str:
    """The path of an instance, or of a verb on it."""
    return f"/v1/instances/{quote(name, safe='')}" + (f"/{verb}" if verb else "")
