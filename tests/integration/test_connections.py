"""The two doors without a daemon behind them: strange and slow clients, and moves that fail."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from daemon.config import Control, Http
from daemon.doors import Doors
from daemon.errors import WppSyncError
from daemon.http import connections
from daemon.http.answers import errors_as_json

LARGE = 8 * 1024 * 1024


def app() -> web.Application:
    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * LARGE)

    made = web.Application(middlewares=[errors_as_json])
    made.add_routes([web.get("/healthz", healthz), web.get("/large", large)])
    return made


class Opened:
    """Doors that are open, and how to come to them."""

    def __init__(self, directory: Path) -> None:
        self.doors = Doors(app, app)
        self.control = Control(socket=directory / "control.sock")
        self.http = Http(listen="127.0.0.1:0")

    async def come(self, door: str = "public") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if door == "control":
            return await asyncio.open_unix_connection(str(self.control.socket))
        host, port = (self.doors.listening or "").split(":")
        return await asyncio.open_connection(host, int(port))

    async def ask(self, sent: bytes, door: str = "public") -> tuple[int, dict[str, str], Any]:
        """The answer to these bytes: status, headers, JSON."""
        reader, writer = await self.come(door)
        writer.write(sent)
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), headers, json.loads(body)

    async def healthy(self, door: str = "public") -> bool:
        async with asyncio.timeout(5):
            status, _, _ = await self.ask(
                b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", door
            )
        return status == 200


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    found = Opened(tmp_path)
    await found.doors.move(found.control, found.http)
    try:
        yield found
    finally:
        await found.doors.close()


# --- what is no HTTP ------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["control", "public"])
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: bogus\r\n\r\n", 417),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nExpect: bogus\r\n\r\n", 417),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
async def test_what_is_no_http_is_answered_with_an_error_object(
    opened: Opened, door: str, sent: bytes, expected: int
) -> None:
    status, headers, body = await opened.ask(sent, door)
    assert status == expected
    assert headers["content-type"].startswith("application/json")
    assert body["error"]["code"] == "http"
    assert body["error"]["message"].startswith(f"{expected} ")
    assert "\n" not in body["error"]["message"]
    assert "xxx" not in body["error"]["message"], "what was sent is not sent back"
    assert body["error"]["hint"]


# --- those who say nothing, and those who do not listen -------------------------------------------


@pytest.mark.parametrize("door", ["control", "public"])
@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_who_does_not_ask_is_shown_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.3)
    opened = Opened(tmp_path)
    await opened.doors.move(opened.control, opened.http)
    reader, writer = await opened.come(door)
    writer.write(sent)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await opened.doors.close()


@pytest.mark.parametrize("door", ["control", "public"])
async def test_who_does_not_read_is_hung_up_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.3)
    family = socket.AF_UNIX if door == "control" else socket.AF_INET
    host, port = (opened.doors.listening or "").split(":")
    with socket.socket(family) as client:
        client.setblocking(False)
        address: Any = str(opened.control.socket) if door == "control" else (host, int(port))
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1.5)
        got = 0
        try:
            while some := await asyncio.wait_for(loop.sock_recv(client, 1 << 20), 5):
                got += len(some)
        except ConnectionResetError:
            pass  # as well as the end
    assert 0 < got < LARGE


async def test_a_slow_reader_who_reads_gets_all(opened: Opened) -> None:
    reader, writer = await opened.come()
    writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    got = 0
    while some := await reader.read(1 << 20):
        got += len(some)
        await asyncio.sleep(0.02)
    writer.close()
    assert got > LARGE


@pytest.mark.parametrize("door", ["control", "public"])
async def test_hundreds_who_say_nothing_keep_nobody_from_being_answered_and_us_not_from_leaving(
    opened: Opened, door: str
) -> None:
    silent = [await opened.come(door) for _ in range(2 * connections.MOST)]
    for number, (_, writer) in enumerate(silent):
        if number % 2:
            writer.write(b"GET /heal")
    assert await opened.healthy(door)
    began = time.monotonic()
    await opened.doors.close()
    assert time.monotonic() - began < 2
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize("door", ["control", "public"])
async def test_one_more_than_there_is_room_for_is_told_so(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    monkeypatch.setattr(connections, "MOST", 5)
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    kept = [await opened.come(door) for _ in range(5)]
    for reader, writer in kept:
        writer.write(request)
        assert b"200 OK" in await reader.readuntil(b"}")
    status, headers, body = await opened.ask(request, door)
    assert (status, body["error"]["code"]) == (503, "busy")
    assert body["error"]["hint"]
    assert headers["connection"] == "close"
    kept[0][1].close()
    await asyncio.sleep(0.1)
    assert await opened.healthy(door)
    for _, writer in kept:
        writer.close()


# --- moves that fail ------------------------------------------------------------------------------


async def refused(opened: Opened, control: Control, http: Http) -> None:
    """A move fails, and nobody notices, also not while it is tried."""
    before, stop = opened.doors.listening, asyncio.Event()
    asked = 0

    async def keep_asking() -> None:
        nonlocal asked
        while not stop.is_set():
            assert await opened.healthy("public")
            assert await opened.healthy("control")
            asked += 1

    asking = asyncio.ensure_future(keep_asking())
    await asyncio.sleep(0.05)
    with pytest.raises(WppSyncError):
        await opened.doors.move(control, http)
    await asyncio.sleep(0.05)
    stop.set()
    await asking
    assert asked > 1
    assert opened.doors.listening == before


@pytest.mark.parametrize("listen", [None, "127.0.0.1:0", "0.0.0.0:{port}", "127.0.0.2:{port}"])
async def test_where_the_control_socket_is_refused_the_port_stays_open(
    opened: Opened, tmp_path: Path, listen: str | None
) -> None:
    port = (opened.doors.listening or "").split(":")[1]
    http = Http(listen=listen and listen.format(port=port))
    await refused(opened, Control(socket=tmp_path / "nowhere" / "control.sock"), http)
    unknown = opened.control.model_copy(update={"group": "no-such-group"})
    await refused(opened, unknown, http)
    assert await opened.healthy()


@pytest.mark.parametrize("listen", ["192.0.2.1:{port}", "192.0.2.1:80"])
async def test_where_the_port_is_refused_the_control_socket_stays_as_it_was(
    opened: Opened, tmp_path: Path, listen: str
) -> None:
    port = (opened.doors.listening or "").split(":")[1]
    path = opened.control.socket
    assert path is not None
    other = Control(socket=tmp_path / "other.sock")
    await refused(opened, other, Http(listen=listen.format(port=port)))
    assert other.socket is not None
    assert not other.socket.exists()
    mode = path.stat().st_mode
    wider = opened.control.model_copy(update={"mode": 0o666})
    await refused(opened, wider, Http(listen=listen.format(port=port)))
    assert path.stat().st_mode == mode


async def test_the_same_port_at_another_address_is_moved_to(opened: Opened) -> None:
    port = (opened.doors.listening or "").split(":")[1]
    for host in ("0.0.0.0", "127.0.0.1", "127.0.0.2"):  # noqa: S104 - for a moment
        opened.http = Http(listen=f"{host}:{port}")
        await opened.doors.move(opened.control, opened.http)
        assert opened.doors.listening == f"{host}:{port}"
        assert await opened.healthy()


async def test_a_port_that_another_process_has_there_is_refused_and_ours_comes_back(
    opened: Opened,
) -> None:
    port = int((opened.doors.listening or "").split(":")[1])
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
        other.listen()
        with pytest.raises(WppSyncError, match="cannot listen"):
            await opened.doors.move(opened.control, Http(listen=f"0.0.0.0:{port}"))
    assert opened.doors.listening == f"127.0.0.1:{port}"
    assert await opened.healthy()


async def test_a_control_socket_that_cannot_be_listened_on_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = 0

    def made() -> web.Application:
        application = app()

        async def cleanup(_app: web.Application) -> None:
            nonlocal cleaned
            cleaned += 1

        application.on_cleanup.append(cleanup)
        return application

    async def refuse(*_: object, **__: object) -> None:
        raise OSError(12, os.strerror(12))

    doors = Doors(made, app)
    control = Control(socket=tmp_path / "control.sock")
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "create_server", refuse)
        with pytest.raises(WppSyncError, match="memory"):
            await doors.move(control, Http(listen=None))
    assert cleaned == 1
    assert not (tmp_path / "control.sock").exists()
    await doors.close()
