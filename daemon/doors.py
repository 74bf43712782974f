"""Where the HTTP applications listen: a Unix socket for commands, a TCP port for metrics.

Whoever may open the control socket may command the daemon: its mode and group are the access
control. A socket that another daemon answers on is never taken; a stale one is replaced.
"""

from __future__ import annotations

import asyncio
import grp
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from daemon.config import Control, Http
from daemon.errors import WppSyncError

_PATIENCE_SECONDS = 2.0
"""So long requests that are under way may take when a door is closed."""

App = Callable[[], web.Application]


class Doors:
    """The two doors of a process. They follow a changed configuration."""

    def __init__(self, control: App, public: App) -> None:
        self._control_app = control
        self._public_app = public
        self._control = Control(socket=None)
        self._http = Http(listen=None)
        self._control_runner: web.AppRunner | None = None
        self._public_runner: web.AppRunner | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def listening(self) -> str | None:
        """The TCP address, with the port that was found where any free one was asked for."""
        if self._public_runner is None:
            return None
        host, port = self._public_runner.addresses[0][:2]
        return f"{host}:{port}"

    async def move(self, control: Control, http: Http) -> None:
        """Listen where these say. Raises WppSyncError; then all stays as it was."""
        before = self._http
        await self._move_public(http)
        try:
            await self._move_control(control)
        except BaseException:
            await self._move_public(before)
            raise

    async def close(self) -> None:
        """Listen nowhere."""
        await self._move_public(Http(listen=None))
        await self._move_control(Control(socket=None))
        if self._closing:
            await asyncio.wait(self._closing)

    async def _move_public(self, wanted: Http) -> None:
        if wanted.listen == self._http.listen:
            return  # what else stands there is asked with each request
        old, before = self._public_runner, self._http
        # One port cannot be listened on twice, also not for another address.
        in_the_way = old is not None and wanted.listen is not None and wanted.port == before.port
        if old is not None and in_the_way:
            await old.cleanup()
            self._public_runner = None
        try:
            self._public_runner = await _listen(self._public_app(), wanted)
        except WppSyncError:
            if in_the_way:
                self._public_runner = await _listen(self._public_app(), before)
            raise
        self._http = wanted
        if old is not None and not in_the_way:
            await old.cleanup()

    async def _move_control(self, wanted: Control) -> None:
        if wanted == self._control:
            return
        old, before = self._control_runner, self._control
        if old is not None and wanted.socket == before.socket:
            _permit(wanted)
            self._control = wanted
            return
        self._control_runner = await _open_socket(self._control_app(), wanted)
        self._control = wanted
        if old is not None and before.socket is not None:
            # What asks for this may have come through the old one: it gets its answer first.
            closing = asyncio.ensure_future(_close_socket(old, before.socket))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _listen(app: web.Application, settings: Http) -> web.AppRunner | None:
    if settings.listen is None:
        return None
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE_SECONDS)
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
    return runner


async def _open_socket(app: web.Application, settings: Control) -> web.AppRunner | None:
    path = settings.socket
    if path is None:
        return None
    await _make_way(path)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE_SECONDS)
    await runner.setup()
    try:
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(path)).start()
        finally:
            os.umask(before)
        _permit(settings)
    except OSError as error:
        await runner.cleanup()
        raise _cannot_be_made(path, error) from error
    except WppSyncError:
        await _close_socket(runner, path)
        raise
    return runner


async def _close_socket(runner: web.AppRunner, path: Path) -> None:
    _unlink(path)
    await runner.cleanup()


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _cannot_be_made(path: Path, error: Exception) -> WppSyncError:
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
        group = -1 if settings.group is None else grp.getgrnam(settings.group).gr_gid
        os.chown(path, -1, os.getegid() if group == -1 else group)
        path.chmod(settings.mode)
    except (OSError, KeyError) as error:
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
