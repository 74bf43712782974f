"""The TCP port's application: metrics, health and the status page. It is only read from.

Who may reach the port sees the names of the instances and how they are, and no row of theirs; by
default that is this machine alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime

from aiohttp import web

from daemon import operations, page
from daemon.errors import UsageError
from daemon.http.answers import (
    MAX_BODY,
    Handler,
    error_answer,
    errors_as_json,
    instances_answer,
    json_answer,
)
from daemon.instance import Instance
from daemon.metrics import CONTENT_TYPE, Metrics
from daemon.status import seen, status_now

_HEADERS = {
    "Content-Security-Policy": page.POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_STATIC = {
    "/style.css": "text/css",
    "/refresh.js": "text/javascript",
    "/icon.svg": "image/svg+xml",
}

# With these a server has answered, or will not be asked.
_CONNECTED = frozenset({"migrating", "syncing", "idle", "paused", "standby"})


class PublicApi:
    """The handlers of the TCP port."""

    def __init__(
        self,
        instances: Mapping[str, Instance],
        metrics: Metrics,
        version: str,
        *,
        serving: Callable[[], bool],
        tells_status: Callable[[], bool],
        in_flight: Callable[[], Mapping[str, float]],
    ) -> None:
        """`instances` may change meanwhile. `serving`: the process has started and does not stop;
        `tells_status`: /v1/status is allowed here; `in_flight`: by table, for the metrics."""
        self._instances = instances
        self._metrics = metrics
        self._version = version
        self._serving = serving
        self._tells_status = tells_status
        self._in_flight = in_flight
        self._was_ready = False

    def app(self) -> web.Application:
        """The application with its routes."""
        app = web.Application(middlewares=[_headers, errors_as_json], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/", self._overview),
                web.get("/instances/{instance:[^/]+}", self._instance),
                web.get("/instances", self._instance),
                *(web.get(path, _static) for path in _STATIC),
                web.get("/metrics", self._show_metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/v1/status", self._status),
            ]
        )
        return app

    # --- for machines -----------------------------------------------------------------------------

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        now = [seen(instance) for instance in self._instances.values()]
        # Off the loop: of a thousand instances it is six megabytes.
        text = await asyncio.to_thread(self._metrics.exposition, now, self._in_flight())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, _request: web.Request) -> web.Response:
        """That it answers says that the event loop lives; it tells of the instances' loops, too."""
        stalled = [name for name, each in self._instances.items() if each.stalled]
        reasons = [f"{name}: its loop does not go on" for name in stalled]
        told = {"status": "stalled" if stalled else "ok", "reasons": reasons}
        return json_answer(told, 503 if stalled else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = self._not_ready()
        told = {"status": "not ready" if reasons else "ready", "reasons": reasons}
        return json_answer(told, 503 if reasons else 200)

    def _not_ready(self) -> list[str]:
        """Why it does not do its work: it starts or stops, or nobody can be copied. (That some
        cannot be is theirs, and no reason.)"""
        if not self._serving():
            return ["the process starts or stops"]
        instances = list(self._instances.values())
        if not self._was_ready:
            waiting = sum(1 for each in instances if each.state == "starting")
            if waiting:
                return [f"{waiting} of {len(instances)} instances have not tried to connect yet"]
        if instances and not any(self._can_be_copied(each) for each in instances):
            errors = {each.error.message for each in instances if each.error is not None}
            return ["no instance can be copied", *sorted(errors)[:3]]
        self._was_ready = True
        return []

    def _can_be_copied(self, instance: Instance) -> bool:
        """Also where single entities have failed, and, after a reload, where it begins anew."""
        state = instance.state
        begins = self._was_ready and state == "starting"
        return begins or state in _CONNECTED or (state == "failed" and instance.opened)

    async def _status(self, _request: web.Request) -> web.Response:
        if not self._tells_status():
            return error_answer(
                403, "forbidden", "the status is not told here",
                hint="set http.status: true, or ask the control socket",
            )  # fmt: skip
        return await instances_answer(self._each_status())

    async def _each_status(self) -> AsyncIterator[object]:
        for instance in list(self._instances.values()):
            yield status_now(instance)

    # --- for people -------------------------------------------------------------------------------

    async def _overview(self, request: web.Request) -> web.Response:
        lines = [_line(instance) for instance in self._instances.values()]
        search = request.query.get("q", "")[:200]
        return _html(page.overview(lines, search, version=self._version, now=_now()))

    async def _instance(self, request: web.Request) -> web.Response:
        """Named in the path or, where a path cannot, in the query (`page.Line.href`)."""
        name = request.match_info.get("instance") or request.query.get("name", "")
        try:
            found = operations.pick(self._instances, name)
        except UsageError as error:
            told = page.missing(error.message, version=self._version, now=_now())
            return _html(told, status=404)
        # From memory: nobody who may look here opens connections to customers' databases by it.
        status = status_now(found)
        errors = found.counts.recent.errors
        return _html(page.instance(status, _line(found), errors, version=self._version, now=_now()))


def _line(instance: Instance) -> page.Line:
    own = [] if instance.error is None else [instance.error]
    errors = [(error.message, error.hint) for error in (*own, *instance.motions.errors.values())]
    return page.line(seen(instance), instance.counts.recent, errors, stalled=instance.stalled)


def _html(text: str, status: int = 200) -> web.Response:
    answer = web.Response(text=text, content_type="text/html", charset="utf-8", status=status)
    answer.enable_compression()
    return answer


async def _static(request: web.Request) -> web.Response:
    text = page.static(request.path.removeprefix("/"))
    return web.Response(text=text, content_type=_STATIC[request.path], charset="utf-8")


@web.middleware
async def _headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    answer = await handler(request)
    answer.headers.update(_HEADERS)
    return answer


def _now() -> datetime:
    return datetime.now(UTC)
