"""What a client may do with a connection to a door. It must ask, and take its answer, within a
time; and there is room for a number of them, so that whoever opens connections and says nothing
keeps nobody else from being answered.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from daemon.aio import Occupied
from daemon.http.answers import Handler, error_answer

SILENT_SECONDS = 75.0
"""A connection may be without a whole request for so long: before the first one, and between two.
Longer than a Prometheus waits as a rule: it asks again on the same connection."""

UNREAD_SECONDS = 60.0
"""So long what is sent may be left unread: of a thousand instances the metrics are six
megabytes."""

MOST = 256
"""Connections that have asked something are no more than so many, at each door."""


class Clients:
    """Those who are connected to a door."""

    def __init__(self) -> None:
        self._all: set[Connection] = set()
        self._silent: dict[Connection, None] = {}  # the oldest first
        self._requests = Occupied()

    @property
    def free(self) -> asyncio.Event:
        """It is set while no request is under way."""
        return self._requests.free

    def come(self, connection: Connection) -> None:
        """Whoever has said nothing yet makes room for a newcomer: who asks at once is answered."""
        if len(self._all) >= MOST and self._silent:
            oldest = next(iter(self._silent))
            self.go(oldest)
            oldest.force_close()
        self._all.add(connection)
        self._silent[connection] = None

    def go(self, connection: Connection) -> None:
        """It is closed."""
        self._all.discard(connection)
        self._silent.pop(connection, None)

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request while it is under way; refuse it where there is no room."""
        self._silent.pop(cast(Connection, request.protocol), None)
        if len(self._all) > MOST:
            answer = error_answer(
                503, "busy", f"more than {MOST} connections are open",
                hint="close those that are not used, and ask again",
            )  # fmt: skip
            answer.force_close()
            return answer
        with self._requests:
            return await handler(request)


class Connection(web.RequestHandler):
    """One client's connection."""

    def __init__(self, server: web.Server, clients: Clients) -> None:
        self._clients = clients
        self._hang_up: asyncio.TimerHandle | None = None
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as web.AppRunner hands it over
            keepalive_timeout=SILENT_SECONDS,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Whatever the kernel does not take at once counts as unread."""
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=0)
        self._clients.come(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._clients.go(self)
        self._read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """What was sent is not taken yet. Closing would wait for it, however long."""
        super().pause_writing()
        if self.transport is not None:
            self._hang_up = asyncio.get_running_loop().call_later(
                UNREAD_SECONDS, self.transport.abort
            )

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

    def _read(self) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """What aiohttp refuses before the application has a say, the path known or not."""
        if isinstance(resp, web.HTTPExpectationFailed):
            told = f"{resp.status} {resp.reason}"
            resp = error_answer(resp.status, "http", told, "Expect is 100-continue, or left out")
            resp.force_close()  # nobody knows whether a body follows
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP never reaches the application: its answer is an object all the same."""
        super().handle_error(request, status, exc, message)  # logs it; raises if one was sent
        # Its first line says what is wrong; below it aiohttp quotes what was sent.
        first = (message or "").partition("\n")[0].rstrip(" :")
        if isinstance(exc, LineTooLong):
            status, first = 431, "the path or a header is too long"  # its line quotes all of it
        told = f"{status} {HTTPStatus(status).phrase}" + (f": {first}" if first else "")
        answer = error_answer(status, "http", told, "send a request as HTTP/1.1 has it")
        answer.force_close()
        return answer
