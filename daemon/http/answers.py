"""What all answers have in common: JSON, and errors as objects with code, message and hint."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from daemon import events
from daemon.errors import DatabaseError, NoInstanceError, UsageError, WppSyncError, internal

MAX_BODY = 64 * 1024
"""Bytes of a request's body."""

_HINTS = {
    404: "GET /v1/openapi.json on the control socket describes all there is",
    405: "the header Allow names the methods that there are",
    408: "send the body at once",
    413: f"a body has at most {MAX_BODY:,} bytes",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_answer(data: object, status: int = 200) -> web.Response:
    # Escaped to ASCII: what a client sent, half a surrogate pair, say, may stand in an error.
    return web.json_response(data, status=status)


async def instances_answer(each: AsyncIterator[object]) -> web.Response:
    """As `json_answer` of all of them: of a thousand it is 7 MB, and the objects together would be
    three times that."""
    text = bytearray(b'{"instances": [')
    separator = b""
    async for told in each:
        text += separator + json.dumps(told).encode()
        separator = b", "
    text += b"]}"
    return web.Response(body=text, content_type="application/json", charset="utf-8")


def error_answer(status: int, code: str, message: str, hint: str = "") -> web.Response:
    return json_answer({"error": {"code": code, "message": message, "hint": hint}}, status)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is an object with code, message and hint."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        answer = error_answer(
            error.status, "http", f"{error.status} {error.reason}", _HINTS.get(error.status, "")
        )
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except WppSyncError as error:
        return error_answer(status_of(error), error.code, error.message, error.hint)
    except ConnectionError:
        return web.Response(status=400)  # nobody is there to read it
    except Exception as error:  # noqa: BLE001 - no traceback reaches whoever asked
        told = bug(error, request)
        return error_answer(500, told.code, told.message, told.hint)


def bug(error: Exception, request: web.Request) -> WppSyncError:
    told = internal(error)
    events.get_logger().error(
        "request failed", path=path_of(request), code=told.code, error=told.message, hint=told.hint
    )
    return told


def path_of(request: web.Request) -> str:
    """For the log. As it was sent: what is decoded may hold anything, line ends too. Without the
    query: nothing of ours has one, and who puts a password there does not want it written down."""
    return request.rel_url.raw_path


def status_of(error: WppSyncError) -> int:
    if isinstance(error, UsageError):
        return 404 if isinstance(error, NoInstanceError) else 400
    # Everything else is a state of things that may change: a server, a lock, a file.
    return 503 if isinstance(error, DatabaseError) else 409
