"""The HTTP applications: control on a unix socket, metrics and health on TCP. Verbs map to
operations; no logic.

Whoever may open the control socket may command the daemon: its mode and group are the access
control. A socket that another daemon answers on is never taken; a stale one is replaced.
"""

from __future__ import annotations

import asyncio
import grp
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from daemon import operations
from daemon.config import Control, Http
from daemon.errors import (
    DatabaseError,
    UsageError,
    WppSyncError,
    internal,
)
from daemon.instance import Instance
from daemon.metrics import Metrics
from daemon.migrations.files import Catalogue

_MAX_BODY = 64 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _json(data: object, status: int = 200) -> web.Response:
    # Escaped to ASCII: what a client sent, half a surrogate pair, say, may stand in an error.
    return web.json_response(data, status=status)


def _error(status: int, code: str, message: str, hint: str = "") -> web.Response:
    return _json({"error": {"code": code, "message": message, "hint": hint}}, status)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is an object with code, message and hint."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _error(error.status, "http", f"{error.status} {error.reason}")
    except WppSyncError as error:
        return _error(_status_of(error, request), error.code, error.message, error.hint)
    except Exception as error:  # noqa: BLE001 - no traceback reaches whoever asked
        told = internal(error)
        structlog.get_logger().error("request failed", path=request.path, error=told.message)
        return _error(500, told.code, told.message, told.hint)


def _status_of(error: WppSyncError, request: web.Request) -> int:
    if isinstance(error, UsageError):
        missing = "instance" in request.match_info and error.message.startswith("there is no")
        return 404 if missing else 400
    # Everything else is a state of things that may change: a server that does not answer, a lock.
    return 503 if isinstance(error, DatabaseError) else 409


class ControlApi:
    """The handlers of the control socket."""

    def __init__(
        self,
        instances: Mapping[str, Instance],
        catalogue: Catalogue,
        metrics: Metrics,
        stop: asyncio.Event,
    ) -> None:
        self._instances = dict(instances)
        self._catalogue = catalogue
        self._metrics = metrics
        self._stop = stop

    def app(self) -> web.Application:
        """The application with its routes."""
        app = web.Application(middlewares=[_errors_as_json], client_max_size=_MAX_BODY)
        one = "/v1/instances/{instance}"
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get(one, self._instance),
                web.post(f"{one}/sync", self._sync),
                web.post(f"{one}/reset", self._reset),
                web.post(f"{one}/resync", self._resync),
                web.post(f"{one}/reconcile", self._reconcile),
                web.post(f"{one}/migrate", self._migrate),
                web.get(f"{one}/quarantine", self._quarantine),
                web.post(f"{one}/quarantine/retry", self._retry),
                web.post(f"{one}/quarantine/discard", self._discard),
            ]
        )
        return app

    def _pick(self, request: web.Request) -> Instance:
        return operations.pick(self._instances, request.match_info["instance"])

    async def _status(self, _request: web.Request) -> web.Response:
        found = [await operations.get_sync_status(each) for each in self._instances.values()]
        return _json({"instances": found})

    async def _instance(self, request: web.Request) -> web.Response:
        return _json(await operations.get_sync_status(self._pick(request)))

    async def _sync(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        skip = (await _body(request, {"skip"})).get("skip", [])
        if not isinstance(skip, list) or not all(isinstance(name, str) for name in skip):
            raise UsageError("skip is not a list of entities", hint='{"skip": ["chats"]}')
        result = await operations.sync_instance(instance, skip, self._stop)
        errors = {name: operations.error_object(e) for name, e in result.errors.items()}
        return _json({"rows": result.rows, "late": result.late, "errors": errors})

    async def _reset(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        entity = (await _body(request, {"entity"})).get("entity")
        if not isinstance(entity, str):
            raise UsageError("which entity?", hint='{"entity": "messages"}, or "all"')
        done = await operations.reset_sync_state(instance, entity)
        self._metrics.resets.labels("control").inc()
        return _json({"reset": done})

    async def _resync(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        await _body(request, set())
        done = await operations.force_full_resync(instance)
        self._metrics.resets.labels("control").inc()
        return _json({"resync": done})

    async def _reconcile(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        body = await _body(request, {"entity", "dry_run"})
        entity, dry_run = body.get("entity"), body.get("dry_run", False)
        if not isinstance(entity, str | None) or not isinstance(dry_run, bool):
            raise UsageError(
                "compare what?", hint='{"entity": "contacts", "dry_run": true}; or {} for all'
            )
        found = await operations.reconcile(instance, entity, dry_run=dry_run, stop=self._stop)
        return _json(operations.tallies(found))

    async def _migrate(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        await _body(request, set())
        self._catalogue.read_again()  # a new file is why somebody asks
        done = await operations.migrate(instance, self._stop)
        instance.wake.set()
        return _json(done)

    async def _quarantine(self, request: web.Request) -> web.Response:
        found = await operations.list_quarantine(self._pick(request))
        return _json({"rows": [asdict(entry) for entry in found]})

    async def _retry(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        await _body(request, set())
        return _json({"left": await operations.retry_quarantine(instance, self._stop)})

    async def _discard(self, request: web.Request) -> web.Response:
        instance = self._pick(request)
        body = await _body(request, {"entity", "ids"})
        entity, ids = body.get("entity"), body.get("ids", [])
        known = isinstance(entity, str | None) and isinstance(ids, list)
        if not known or not all(type(key) is int for key in ids) or (ids and entity is None):
            raise UsageError(
                "which rows?", hint='{"entity": "messages", "ids": [7]}; without ids all of them'
            )
        return _json({"discarded": await operations.discard_quarantine(instance, entity, ids)})


async def _body(request: web.Request, allowed: set[str]) -> dict[str, Any]:
    """The request's JSON object; raises UsageError for anything else."""
    try:
        content = await request.read()
        body = json.loads(content) if content.strip() else {}
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


def public_app(metrics: Metrics) -> web.Application:
    """Metrics and health, for the TCP port."""

    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def healthz(_request: web.Request) -> web.Response:
        return _json({"status": "ok"})  # that it answers is the news: the event loop lives

    app = web.Application(middlewares=[_errors_as_json], client_max_size=_MAX_BODY)
    app.add_routes([web.get("/metrics", show_metrics), web.get("/healthz", healthz)])
    return app


@asynccontextmanager
async def serve_control(app: web.Application, settings: Control) -> AsyncIterator[None]:
    """Serve on the unix socket while the block runs. Raises WppSyncError when that cannot be."""
    path = settings.socket
    if path is None:
        yield
        return
    await _make_way(path)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(path)).start()
        finally:
            os.umask(before)
        if settings.group is not None:
            os.chown(path, -1, grp.getgrnam(settings.group).gr_gid)
        path.chmod(settings.mode)
    except (OSError, KeyError) as error:
        await runner.cleanup()
        raise WppSyncError(
            f"the control socket {path} cannot be made: {error}",
            hint="check control.socket and control.group, and that the directory may be written",
            code="control_socket",
        ) from error
    try:
        yield
    finally:
        await runner.cleanup()
        path.unlink(missing_ok=True)


def _is_socket(path: Path) -> bool | None:
    """None when there is nothing."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WppSyncError(f"the control socket {path}: {error.strerror}") from error


async def _make_way(path: Path) -> None:
    """Remove a stale socket; refuse to touch a live one, or anything that is no socket."""
    there = _is_socket(path)
    if there is None:
        return
    if not there:
        raise WppSyncError(
            f"{path} is there and is no socket", hint="choose another control.socket"
        )
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_unix_connection(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    except OSError as error:
        raise WppSyncError(f"the control socket {path}: {error}") from error
    writer.close()
    raise WppSyncError(
        f"another daemon answers at the control socket {path}",
        hint="stop it first, or give this one a control.socket of its own",
        code="already_running",
    )


@asynccontextmanager
async def serve_public(app: web.Application, settings: Http) -> AsyncIterator[str | None]:
    """Serve on the TCP port while the block runs; yields the address. Raises WppSyncError."""
    if settings.listen is None:
        yield None
        return
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        await runner.cleanup()
        raise WppSyncError(
            f"cannot listen on {settings.listen}: {error.strerror}",
            hint="another process listens there, or the address is not this machine's: http.listen",
            code="http_listen",
        ) from error
    try:
        host, port = runner.addresses[0][:2]
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()
