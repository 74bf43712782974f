"""The control socket's application. Verbs map to operations; no logic."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any

import yaml
from aiohttp import web

from daemon import events, operations
from daemon.errors import UsageError, WppSyncError
from daemon.http.answers import (
    MAX_BODY,
    Handler,
    bug,
    errors_as_json,
    instances_answer,
    json_answer,
    path_of,
    status_of,
)
from daemon.instance import Instance
from daemon.metrics import Metrics
from daemon.migrations.files import Catalogue
from daemon.status import status_now

_BODY_SECONDS = 10.0
"""So long a request's body may take."""

_PROGRESS_SECONDS = 0.5
"""So often a line of progress is sent to whoever asked for them."""

_READER_SECONDS = 5.0
"""So long a client of lines may leave them unread."""

JSON_LINES = "application/x-ndjson"

Work = Callable[[asyncio.Event], Awaitable[dict[str, Any]]]
"""An operation that ends after its batch when the event is set; its answer."""


@web.middleware
async def _log_who_asks(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What changes something is logged with who asked for it (unix(7), SO_PEERCRED)."""
    if request.method == "POST":
        peer: socket.socket | None = (
            request.transport.get_extra_info("socket") if request.transport else None
        )
        who: dict[str, object] = {}
        if "instance" in request.match_info:
            who["instance"] = request.match_info["instance"]
        if peer is not None and peer.family == socket.AF_UNIX:
            size = struct.calcsize("3i")
            raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            who |= zip(("pid", "uid", "gid"), struct.unpack("3i", raw), strict=True)
        events.get_logger().info("asked", path=path_of(request), **who)
    return await handler(request)


class ControlApi:
    """The handlers of the control socket."""

    def __init__(
        self,
        instances: Mapping[str, Instance],
        catalogue: Catalogue,
        metrics: Metrics,
        version: str,
        reload: Callable[[], Awaitable[dict[str, Any]]],
        listening: Callable[[], str | None],
    ) -> None:
        """`instances` may change meanwhile. `listening`: where the TCP port is."""
        self._instances = instances
        self._catalogue = catalogue
        self._metrics = metrics
        self._version = version
        self._reload = reload
        self._listening = listening

    def app(self) -> web.Application:
        """The application with its routes."""
        app = web.Application(middlewares=[errors_as_json, _log_who_asks], client_max_size=MAX_BODY)
        one = "/v1/instances/{instance:[^/]+}"
        app.add_routes(
            [
                web.get("/v1/openapi.json", self._openapi),
                web.get("/v1/alive", self._alive),
                web.get("/v1/status", self._status),
                web.post("/v1/reload", self._reload_config),
                web.get(one, self._instance),
                web.post(f"{one}/sync", self._sync),
                web.post(f"{one}/reset", self._reset),
                web.post(f"{one}/resync", self._resync),
                web.post(f"{one}/reconcile", self._reconcile),
                web.post(f"{one}/migrate", self._migrate),
                web.post(f"{one}/pause", self._pause),
                web.post(f"{one}/resume", self._resume),
                web.post(f"{one}/throttle", self._throttle),
                web.get(f"{one}/quarantine", self._quarantine),
                web.post(f"{one}/quarantine/retry", self._retry),
                web.post(f"{one}/quarantine/discard", self._discard),
            ]
        )
        return app

    def _pick(self, request: web.Request) -> Instance:
        return operations.pick(self._instances, request.match_info["instance"])

    # --- what is ----------------------------------------------------------------------------------

    async def _openapi(self, _request: web.Request) -> web.Response:
        described = resources.files("daemon").joinpath("openapi.yaml").read_text()
        return json_answer(yaml.safe_load(described))

    async def _alive(self, _request: web.Request) -> web.Response:
        told = {"version": self._version, "http": self._listening()}
        return json_answer(told | {"instances": list(self._instances)})

    async def _status(self, _request: web.Request) -> web.Response:
        return await instances_answer(operations.each_status(self._instances))

    async def _instance(self, request: web.Request) -> web.Response:
        return json_answer(await operations.get_sync_status(self._pick(request)))

    async def _quarantine(self, request: web.Request) -> web.Response:
        found = await operations.list_quarantine(self._pick(request))
        return json_answer(operations.told_quarantine(found))

    # --- what takes its time ----------------------------------------------------------------------

    async def _sync(self, request: web.Request) -> web.StreamResponse:
        instance = self._pick(request)
        skip = (await _body(request, {"skip"})).get("skip", [])
        if not isinstance(skip, list) or not all(isinstance(name, str) for name in skip):
            raise UsageError("skip is not a list of entities", hint='{"skip": ["chats"]}')
        operations.check_entities(instance, skip)

        async def work(stop: asyncio.Event) -> dict[str, Any]:
            return operations.told_pass(
                instance, await operations.sync_instance(instance, skip, stop)
            )

        return await _long(request, instance, work)

    async def _resync(self, request: web.Request) -> web.StreamResponse:
        """Without lines of progress it is only begun; with them, they last until it is done."""
        instance = self._pick(request)
        await _body(request, set())
        begun = await operations.force_full_resync(instance)
        self._metrics.resets.labels("control").inc()
        if not _wants_lines(request):
            return json_answer({"resync": begun})

        async def work(stop: asyncio.Event) -> dict[str, Any]:
            unfinished = await operations.wait_for_resync(instance, stop)
            return {"resync": begun, "finished": unfinished is None, "unfinished": unfinished}

        return await _long(request, instance, work)

    async def _reconcile(self, request: web.Request) -> web.StreamResponse:
        instance = self._pick(request)
        body = await _body(request, {"entity", "dry_run"})
        entity, dry_run = body.get("entity"), body.get("dry_run", False)
        if not isinstance(entity, str | None) or not isinstance(dry_run, bool):
            raise UsageError(
                "compare what?", hint='{"entity": "contacts", "dry_run": true}; or {} for all'
            )

        async def work(stop: asyncio.Event) -> dict[str, Any]:
            found = await operations.reconcile(instance, entity, dry_run=dry_run, stop=stop)
            return operations.tallies(found)

        return await _long(request, instance, work)

    async def _migrate(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        await _body(request, set())
        self._catalogue.read_again()  # a new file is why somebody asks
        done = await operations.migrate(instance, instance.stop)
        instance.wake.set()
        return json_answer(done)

    # --- orders -----------------------------------------------------------------------------------

    async def _reload_config(self, request: web.Request) -> web.Response:
        await _body(request, set())
        return json_answer(await self._reload())

    async def _reset(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        entity = (await _body(request, {"entity"})).get("entity")
        if not isinstance(entity, str):
            raise UsageError("which entity?", hint='{"entity": "messages"}, or "all"')
        done = await operations.reset_sync_state(instance, entity)
        self._metrics.resets.labels("control").inc()
        return json_answer({"reset": done})

    async def _pause(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        body = await _body(request, {"entity", "reason"})
        entity, reason = body.get("entity"), body.get("reason", "")
        if not isinstance(entity, str | None) or not isinstance(reason, str):
            raise UsageError("pause what?", hint='{"entity": "messages", "reason": "…"}; or {}')
        return json_answer(await operations.pause(instance, entity, reason))

    async def _resume(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        entity = (await _body(request, {"entity"})).get("entity")
        if not isinstance(entity, str | None):
            raise UsageError("resume what?", hint='{"entity": "messages"}; or {} for all')
        return json_answer(await operations.resume(instance, entity))

    async def _throttle(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        body = await _body(request, {"rows_per_second"})
        rate = body.get("rows_per_second", "missing")
        if rate is not None and type(rate) is not int:
            raise UsageError(
                "how many rows per second?", hint='{"rows_per_second": 500}; null: no bound'
            )
        return json_answer(await operations.throttle(instance, rate))

    async def _retry(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        await _body(request, set())
        done = await operations.retry_quarantine(instance, instance.stop)
        return json_answer(operations.told_retry(done))

    async def _discard(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        body = await _body(request, {"entity", "ids"})
        entity, ids = body.get("entity"), body.get("ids", [])
        known = isinstance(entity, str | None) and isinstance(ids, list)
        if not known or not all(type(key) is int for key in ids) or (ids and entity is None):
            raise UsageError(
                "which rows?", hint='{"entity": "messages", "ids": [7]}; without ids all of them'
            )
        return json_answer(
            {"discarded": await operations.discard_quarantine(instance, entity, ids)}
        )


async def _body(request: web.Request, allowed: set[str]) -> dict[str, Any]:
    """The request's JSON object; raises UsageError for anything else.

    For a query, too: `pause?entity=messages` would otherwise be a pause of all.
    """
    if request.query_string:
        raise UsageError("the query is not read", hint="send a JSON object as the body")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            content = await request.read()
        body = json.loads(content) if content.strip() else {}
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    except (ValueError, RecursionError, web.RequestPayloadError) as error:
        raise UsageError("the body is not JSON", hint="send a JSON object, or nothing") from error
    if not isinstance(body, dict):
        raise UsageError("the body is not a JSON object", hint="send {…}, or nothing")
    unknown = sorted(set(body) - allowed)
    if unknown:
        raise UsageError(
            f"unknown key {', '.join(unknown)}",
            hint=f"known: {', '.join(sorted(allowed)) or 'none'}",
        )
    return body


# --- lines of progress ----------------------------------------------------------------------------


def _wants_lines(request: web.Request) -> bool:
    return JSON_LINES in request.headers.get("Accept", "")


async def _long(request: web.Request, instance: Instance, work: Work) -> web.StreamResponse:
    """The answer of work that takes its time: an object when it is done, or, where the client
    accepts them, lines: `{"progress": …}` every half second, then `{"done": …}` or `{"error": …}`.

    A client of lines who goes away, or reads no more, ends the work after its batch.
    """
    if not _wants_lines(request):
        return json_answer(await work(instance.stop))
    response = web.StreamResponse(headers={"Content-Type": JSON_LINES})
    await response.prepare(request)
    stop = asyncio.Event()
    working = asyncio.ensure_future(work(stop))
    # When the client has gone, nobody else looks at how it ended.
    working.add_done_callback(lambda done: done.cancelled() or done.exception())
    # Whatever we wait for: the work hears at once that the instance is to leave.
    leaving = asyncio.ensure_future(instance.stop.wait())
    leaving.add_done_callback(lambda _: stop.set())
    try:
        while not working.done():
            await asyncio.wait((working,), timeout=_PROGRESS_SECONDS)
            if not working.done() and not stop.is_set():
                await _write(response, {"progress": _progress(status_now(instance))})
        await _write(response, _outcome(working, request))
    except (ConnectionError, TimeoutError):
        stop.set()  # nobody reads any more
        await asyncio.wait((working,))
    finally:
        leaving.cancel()
        working.cancel()
    return response


async def _write(response: web.StreamResponse, data: dict[str, Any]) -> None:
    """Send a line. Raises ConnectionError, TimeoutError when nobody reads it."""
    async with asyncio.timeout(_READER_SECONDS):
        await response.write(json.dumps(data).encode() + b"\n")


def _outcome(working: asyncio.Future[dict[str, Any]], request: web.Request) -> dict[str, Any]:
    try:
        return {"done": working.result()}
    except WppSyncError as error:
        status = status_of(error)
        told = error
    except Exception as error:  # noqa: BLE001 - no traceback reaches whoever asked
        status, told = 500, bug(error, request)
    about = {"code": told.code, "message": told.message, "hint": told.hint}
    return {"error": about, "status": status}


def _progress(status: dict[str, Any]) -> dict[str, Any]:
    """What changes while one waits."""
    return {key: status[key] for key in ("instance", "state", "rows_written", "sync_state")}
