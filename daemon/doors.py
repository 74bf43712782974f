"""Where the HTTP applications listen: a Unix socket for commands, a TCP port for metrics.

Whoever may open the control socket may command the daemon: its mode and group are the access
control. A socket that another daemon answers on is never taken; a stale one is replaced.
"""

from __future__ import annotations

import asyncio
import fcntl
import grp
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from errno import EADDRINUSE
from pathlib import Path

from aiohttp import web

from daemon.aio import wait_first
from daemon.config import Control, Http
from daemon.errors import StoppedError, WppSyncError
from daemon.http.connections import Clients, Connection

_PATIENCE_SECONDS = 2.0
"""So long requests that are under way may take when a door is closed."""

_TURN_SECONDS = 5.0
"""So long another daemon that makes a socket in the same directory is waited for."""

_BACKLOG = 128
"""So many may wait to be let in."""

App = Callable[[], web.Application]


class Doors:
    """The two doors of a process. They follow a changed configuration."""

    def __init__(self, control: App, public: App) -> None:
        self._control_app = control
        self._public_app = public
        self._control = Control(socket=None)
        self._http = Http(listen=None)
        self._control_door: _ControlDoor | None = None
        self._public_door: _Door | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._moving = asyncio.Lock()

    @property
    def listening(self) -> str | None:
        """The TCP address, with the port that was found where any free one was asked for."""
        if self._public_door is None:
            return None
        return _written(*self._public_door.address)

    async def move(self, control: Control, http: Http) -> None:
        """Listen where these say. Raises WppSyncError; then all stays as it was."""
        async with self._moving:
            if self._hurry.is_set():
                raise StoppedError("the daemon is stopping: it opens no door any more")
            await self._move(control, http)

    async def close(self) -> None:
        """Listen nowhere, for good; what is under way has a moment, and is broken off then."""
        self._hurry.set()
        async with self._moving:
            await self._move(Control(socket=None), Http(listen=None))
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _move(self, control: Control, http: Http) -> None:
        """The control socket first: it can be taken back without anybody noticing, and that another
        daemon runs here says more than its port."""
        door = await self._control_at(control)
        try:
            public = await self._public_at(http)
        except BaseException:
            if door is not self._control_door:
                self._retire(door)
            elif door is not None and control != self._control:
                _permit(self._control)
            raise
        old, self._control, self._control_door = self._control_door, control, door
        if door is not old:
            self._retire(old)
        before, self._http, self._public_door = self._public_door, http, public
        if before is not None and before is not public:
            await before.close()

    async def _control_at(self, wanted: Control) -> _ControlDoor | None:
        """The door that stands there, or another one. Raises WppSyncError."""
        if wanted.socket is None:
            return None
        old = self._control_door
        if old is not None and old.stands and wanted.socket == self._control.socket:
            if wanted != self._control:
                _permit(wanted)
            return old
        return await _ControlDoor.open(self._control_app(), wanted)

    def _retire(self, door: _ControlDoor | None) -> None:
        """What asks for this may have come through it: it gets its answer first."""
        if door is None:
            return
        door.unlink()
        retiring = asyncio.ensure_future(door.close(self._hurry))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def _public_at(self, wanted: Http) -> _Door | None:
        """The door that listens there, or another one. Raises WppSyncError."""
        if wanted.listen == self._http.listen:
            return self._public_door  # what else stands there is asked with each request
        if wanted.listen is None:
            return None
        door = _Door(self._public_app())
        try:
            await self._listen(door, wanted)
        except BaseException:
            await door.close()
            raise
        return door

    async def _listen(self, door: _Door, wanted: Http) -> None:
        """The old door stays open meanwhile, but where it is in the way: one port cannot be
        listened on twice, also not for another address."""
        old = self._public_door
        try:
            await _listen(door, wanted.host, wanted.port)
        except WppSyncError as error:
            taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == EADDRINUSE
            if old is None or not taken or old.address[1] != wanted.port:
                raise
        else:
            return
        old.listen_no_more()
        try:
            await _listen(door, wanted.host, wanted.port)
        except BaseException:
            await _listen(old, self._http.host, wanted.port)
            raise


class _Door:
    """An application, and those who come to it."""

    def __init__(self, app: web.Application) -> None:
        self.clients = Clients()
        app.middlewares.insert(0, self.clients.admit)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE_SECONDS)
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The TCP port where it listens."""
        assert self._server is not None  # noqa: S101 - it listens
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def listen(self, host: str, port: int) -> None:
        """Raises OSError, and ValueError for a name that cannot be one."""
        come = await self._visitors()
        self._server = await asyncio.get_running_loop().create_server(
            come, host, port, backlog=_BACKLOG
        )

    async def listen_on(self, bound: socket.socket) -> None:
        """At a socket that has its address."""
        come = await self._visitors()
        self._server = await asyncio.get_running_loop().create_server(
            come, sock=bound, backlog=_BACKLOG
        )

    async def _visitors(self) -> Callable[[], Connection]:
        if self._runner.server is None:
            await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101 - it is set up
        return lambda: Connection(server, self.clients)

    def listen_no_more(self) -> None:
        """Let nobody in any more; those who are in go on."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Those who are in have a moment to finish."""
        self.listen_no_more()
        await self._runner.cleanup()


class _ControlDoor:
    """One control socket, and what came through it."""

    def __init__(self, path: Path, door: _Door) -> None:
        self._path = path
        self._door = door
        self._identity = _identity(path)

    @classmethod
    async def open(cls, app: web.Application, settings: Control) -> _ControlDoor:
        """Raises WppSyncError; a live socket, or what is no socket, is not touched."""
        path = settings.socket
        assert path is not None  # noqa: S101 - the caller looked
        async with _alone_at(path):
            await _make_way(path)
            return await cls._make(app, settings, path)

    @classmethod
    async def _make(cls, app: web.Application, settings: Control, path: Path) -> _ControlDoor:
        try:
            bound = _bind(path)
        except OSError as error:
            raise _cannot_be_made(path, error) from error
        made = cls(path, _Door(app))
        try:
            _permit(settings)
            await made._door.listen_on(bound)
        except BaseException as error:
            bound.close()
            made.unlink()
            await made._door.close()
            if isinstance(error, OSError):
                raise _cannot_be_made(path, error) from error
            raise
        return made

    @property
    def stands(self) -> bool:
        """Whoever opens the path reaches this door: nobody has removed or replaced it."""
        return self._identity is not None and self._identity == _identity(self._path)

    async def close(self, hurry: asyncio.Event) -> None:
        """Let nobody in any more; those who are in may finish, until there is a `hurry`."""
        if not hurry.is_set():
            self._door.listen_no_more()
            await wait_first(None, hurry, self._door.clients.free)
        await self._door.close()

    def unlink(self) -> None:
        """Remove the path; another daemon's socket may stand there by now, which stays."""
        if self.stands:
            self._path.unlink(missing_ok=True)


async def _listen(door: _Door, host: str, port: int) -> None:
    try:
        await door.listen(host, port)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WppSyncError(
            f"cannot listen on {_written(host, port)}: {reason}",
            hint="another process listens there, or the address is not this machine's: http.listen",
            code="http_listen",
        ) from error


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
        hint="check control.socket, control.group, and that its directory may be read and written",
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
        raise _cannot_be_made(path, error) from error


@asynccontextmanager
async def _alone_at(path: Path) -> AsyncIterator[None]:
    """No other daemon removes or makes a socket in this directory meanwhile: one that is not yet
    listened on looks stale, and would be taken. The lock ends with its process, and leaves no file
    behind. Raises WppSyncError."""
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _cannot_be_made(path, error) from error
    try:
        await _lock(directory, path)
        yield
    finally:
        os.close(directory)


async def _lock(directory: int, path: Path) -> None:
    """Whoever has it listens within moments."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _TURN_SECONDS
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if clock() > deadline:
                reason = f"another process locks its directory for {_TURN_SECONDS:g} s"
                raise _cannot_be_made(path, reason) from error
        except OSError as error:
            raise _cannot_be_made(path, error) from error
        await asyncio.sleep(0.02)


async def _make_way(path: Path) -> None:
    """Remove a stale socket; refuse to touch a live one, or anything that is no socket."""
    there = _is_socket(path)
    if there is None:
        return
    if not there:
        raise WppSyncError(
            f"{path} is there and is no socket",
            hint="remove it, or choose another control.socket",
            code="control_socket",
        )
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_unix_connection(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    except OSError as error:
        raise WppSyncError(
            f"whether a daemon answers at the control socket {path} cannot be told: {error}",
            hint="another user's daemon may listen there: run this one as the same user, or give it"
            " a control.socket of its own",
            code="control_socket",
        ) from error
    writer.close()
    raise WppSyncError(
        f"another daemon answers at the control socket {path}",
        hint="stop it first, or give this one a control.socket of its own",
        code="already_running",
    )
