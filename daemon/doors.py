"""Where the HTTP applications listen: a Unix socket for commands, a TCP port for metrics.

Whoever may open the control socket may command the daemon: its mode and group are the access
control. A socket that another daemon answers on is never taken; a stale one is replaced.
"""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from daemon.aio import Occupied, wait_first
from daemon.config import Control, Http
from daemon.errors import StoppedError, WppSyncError

_PATIENCE_SECONDS = 2.0
"""So long requests that are under way may take when a door is closed."""

App = Callable[[], web.Application]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Doors:
    """The two doors of a process. They follow a changed configuration."""

    def __init__(self, control: App, public: App) -> None:
        self._control_app = control
        self._public_app = public
        self._control = Control(socket=None)
        self._http = Http(listen=None)
        self._control_door: _ControlDoor | None = None
        self._public_runner: web.AppRunner | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._moving = asyncio.Lock()

    @property
    def listening(self) -> str | None:
        """The TCP address, with the port that was found where any free one was asked for."""
        if self._public_runner is None:
            return None
        host, port = self._public_runner.addresses[0][:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def move(self, control: Control, http: Http) -> None:
        """Listen where these say. Raises WppSyncError; then all stays as it was."""
        async with self._moving:
            if self._hurry.is_set():
                raise StoppedError("the daemon is stopping: it opens no door any more")
            if control.socket is not None and control.socket != self._control.socket:
                # Before anything else: that another daemon runs here says more than its port.
                await _make_way(control.socket)
            before = self._http
            await self._move_public(http)
            try:
                await self._move_control(control)
            except BaseException:
                await self._move_public(before)
                raise

    async def close(self) -> None:
        """Listen nowhere, for good; what is under way has a moment, and is broken off then."""
        self._hurry.set()
        async with self._moving:
            await self._move_public(Http(listen=None))
            await self._move_control(Control(socket=None))
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _move_public(self, wanted: Http) -> None:
        if wanted.listen == self._http.listen:
            return  # what else stands there is asked with each request
        old, before = self._public_runner, self._http
        # One port cannot be listened on twice, also not for another address.
        taken = self.listening
        in_the_way = (
            taken is not None and wanted.listen is not None and taken.endswith(f":{wanted.port}")
        )
        if old is not None and in_the_way:
            self._public_runner, self._http = None, Http(listen=None)
            await old.cleanup()
        try:
            self._public_runner = await _listen(self._public_app(), wanted)
        except BaseException:
            if in_the_way:
                again = before.model_copy(update={"listen": taken})  # not any free port
                self._public_runner = await _listen(self._public_app(), again)
                self._http = before
            raise
        self._http = wanted
        if old is not None and not in_the_way:
            await old.cleanup()

    async def _move_control(self, wanted: Control) -> None:
        old = self._control_door
        if old is not None and old.stands and wanted.socket == self._control.socket:
            if wanted != self._control:
                _permit(wanted)
            self._control = wanted
            return
        if wanted.socket is not None:
            self._control_door = await _ControlDoor.open(self._control_app(), wanted)
        else:
            self._control_door = None
        self._control = wanted
        if old is not None:
            old.unlink()
            # What asks for this may have come through the old one: it gets its answer first.
            retiring = asyncio.ensure_future(old.close(self._hurry))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)


class _ControlDoor:
    """One control socket, and what came through it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._identity: tuple[int, int] | None = None
        self._requests = Occupied()

    @classmethod
    async def open(cls, app: web.Application, settings: Control) -> _ControlDoor:
        """Raises WppSyncError; a live socket, or what is no socket, is not touched."""
        path = settings.socket
        assert path is not None  # noqa: S101 - the caller looked
        await _make_way(path)
        door = cls(path)
        app.middlewares.insert(0, door._count)
        try:
            bound = _bind(path)
        except OSError as error:
            raise _cannot_be_made(path, error) from error
        try:
            door._identity = _identity(path)
            _permit(settings)
            door._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE_SECONDS)
            await door._runner.setup()
            door._site = web.SockSite(door._runner, bound)
            await door._site.start()
        except BaseException:
            bound.close()
            door.unlink()
            raise
        return door

    @property
    def stands(self) -> bool:
        """Whoever opens the path reaches this door: nobody has removed or replaced it."""
        return self._identity is not None and self._identity == _identity(self._path)

    async def close(self, hurry: asyncio.Event) -> None:
        """Let nobody in any more; those who are in may finish, until there is a `hurry`."""
        assert self._site is not None  # noqa: S101 - it was opened
        assert self._runner is not None  # noqa: S101
        if not hurry.is_set():
            await self._site.stop()
            await wait_first(None, hurry, self._requests.free)
        await self._runner.cleanup()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        with self._requests:
            return await handler(request)

    def unlink(self) -> None:
        """Remove the path; another daemon's socket may stand there by now, which stays."""
        if self.stands:
            self._path.unlink(missing_ok=True)


async def _listen(app: web.Application, settings: Http) -> web.AppRunner | None:
    if settings.listen is None:
        return None
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except (OSError, ValueError) as error:  # a name that cannot be one is a ValueError
        await runner.cleanup()
        reason = error.strerror if isinstance(error, OSError) else error
        raise WppSyncError(
            f"cannot listen on {settings.listen}: {reason}",
            hint="another process listens there, or the address is not this machine's: http.listen",
            code="http_listen",
        ) from error
    return runner


def _bind(path: Path) -> socket.socket:
    """Raises OSError, also where somebody else has made the path meanwhile: asyncio would remove
    it. Nobody can open it before it is listened on and its permissions are set."""
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        bound.bind(str(path))
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(before)
    return bound


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _cannot_be_made(path: Path, error: Exception | str) -> WppSyncError:
    return WppSyncError(
        f"the control socket {path} cannot be made: {error}",
        hint="check control.socket and control.group, and that the directory may be written",
        code="control_socket",
    )


def _permit(settings: Control) -> None:
    """Who may open the socket. Raises WppSyncError."""
    path = settings.socket
    assert path is not None  # noqa: S101 - the callers ask
    try:
        group = os.getegid() if settings.group is None else grp.getgrnam(settings.group).gr_gid
        # Not asked for where it is so already: the unit's SystemCallFilter refuses every chown.
        if path.stat().st_gid != group:
            os.chown(path, -1, group)
        path.chmod(settings.mode)
    except KeyError as error:
        raise _cannot_be_made(path, f"there is no group {settings.group}") from error
    except OSError as error:
        raise _cannot_be_made(path, error) from error


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
