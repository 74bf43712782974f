"""A TCP proxy before a database server that knows enough of the protocol to cut at a statement.

It counts the commands that clients send, over all connections, and can be told to cut one of them:
*before* it reaches the server, *during* its answer (the server has carried it out, the client gets
half of what it said) or *after* it (the client has the answer, and then no connection any more).
It runs in the event loop of the test. TLS is not understood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

Moment = Literal["before", "during", "after"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

COM_QUIT = 0x01
COM_QUERY = 0x03
COM_STMT_PREPARE = 0x16
COM_STMT_BULK_EXECUTE = 0xFA

_DEPRECATE_EOF = 1 << 24
_SSL = 1 << 11
_MORE_RESULTS = 1 << 3


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a client. `text` is a query's text, or what is done with a prepared statement;
    other commands are named by number."""

    number: int
    text: str


class Proxy:
    """Listens on a port of its own and speaks with one server; closed with everything it holds."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.commands: list[Command] = []
        """Every command since the last `forget`."""

        self.cut: Command | None = None
        """What was cut, once it happened."""

        self.listener: Callable[[Command], None] = lambda _: None
        """Told of each command before the server has it."""

        self._target = host, port
        self._wanted: tuple[Callable[[Command], bool], Moment, bool] | None = None
        self._links: set[_Link] = set()
        self._stranded: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.forget()
        for link in list(self._links):
            link.close()
        await asyncio.gather(*(link.ended.wait() for link in list(self._links)))
        await self._server.wait_closed()

    @property
    def open(self) -> int:
        """Clients that are connected now."""
        return len(self._links)

    def forget(self) -> None:
        """Begin to count anew, and cut nothing."""
        self.commands.clear()
        self.cut = None
        self._wanted = None
        for writer in self._stranded:
            writer.close()
        self._stranded.clear()

    def cut_at(
        self, wanted: int | Callable[[Command], bool], moment: Moment, *, half_open: bool = False
    ) -> None:
        """Cut the command with this number, or the first that passes the test; once.

        `half_open`: the server does not hear of it, as when a firewall forgets a connection; its
        side stays open until `forget`.
        """
        self.forget()
        number = wanted
        test = wanted if callable(wanted) else lambda command: command.number == number
        self._wanted = test, moment, half_open

    def saw(self, payload: bytes) -> Moment | None:
        """Note a command; the moment when it is to be cut, if it is."""
        kind, body = payload[0], payload[1:]
        command = Command(len(self.commands), _text(kind, body))
        self.commands.append(command)
        self.listener(command)
        if self._wanted is None or self.cut is not None or not self._wanted[0](command):
            return None
        self.cut = command
        return self._wanted[1]

    def strand(self, writer: asyncio.StreamWriter) -> bool:
        """Keep the server's side of a cut connection, if that is what is wanted."""
        if self._wanted is None or not self._wanted[2]:
            return False
        self._stranded.append(writer)
        return True

    async def _accept(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            to_client.transport.abort()
            return
        link = _Link(self, from_client, to_client, from_server, to_server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            link.ended.set()


class _Link:
    """One client's connection and the server's that belongs to it."""

    def __init__(
        self,
        proxy: Proxy,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self.ended = asyncio.Event()
        self._proxy = proxy
        self._from_client, self._to_client = from_client, to_client
        self._from_server, self._to_server = from_server, to_server
        self._moment: Moment | None = None
        self._held = bytearray()
        self._answer = _Answer(deprecate_eof=False)
        self._deprecate_eof = False

    async def run(self) -> None:
        """Until either side hangs up, or it is cut."""
        pumps = [asyncio.ensure_future(self._up()), asyncio.ensure_future(self._down())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.close()

    def close(self) -> None:
        self._to_client.close()
        if self._moment is None or not self._proxy.strand(self._to_server):
            self._to_server.close()

    async def _up(self) -> None:
        greeted = False
        with suppress(EOFError, OSError):
            while True:
                header, payload = await _packet(self._from_client)
                if not greeted:
                    greeted = True
                    flags = int.from_bytes(payload[:4], "little")
                    assert not flags & _SSL, "the proxy does not speak TLS"
                    self._deprecate_eof = bool(flags & _DEPRECATE_EOF)
                elif header[3] == 0:  # the first packet of a command; the handshake's are numbered
                    self._moment = self._proxy.saw(payload)
                    prepares = payload[0] == COM_STMT_PREPARE
                    self._answer = _Answer(deprecate_eof=self._deprecate_eof, prepares=prepares)
                    if self._moment == "before":
                        self._to_client.transport.abort()
                        return
                self._to_server.write(header + payload)
                await self._to_server.drain()

    async def _down(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                header, payload = await _packet(self._from_server)
                if self._moment is None:
                    self._to_client.write(header + payload)
                    await self._to_client.drain()
                    continue
                self._held += header + payload
                if self._answer.ends_with(payload):
                    half = len(self._held) // 2
                    self._to_client.write(
                        self._held[:half] if self._moment == "during" else self._held
                    )
                    await self._to_client.drain()
                    return


class _Answer:
    """Where a server's answer to one command ends, which may have several statements."""

    def __init__(self, *, deprecate_eof: bool, prepares: bool = False) -> None:
        self._deprecate_eof = deprecate_eof
        self._prepares = prepares
        self._definitions = -1

    def ends_with(self, packet: bytes) -> bool:
        """Note the next packet; True when it is the last one."""
        if packet[0] == 0xFF:
            return True
        if self._prepares:
            return self._ends_preparing(packet)
        if self._definitions < 0:
            if packet[0] == 0x00:
                return not _more_follows(packet)
            # Column definitions, and the packet that marks their end in the old way.
            self._definitions = packet[0] + (0 if self._deprecate_eof else 1)
            return False
        longest = 0xFFFFFF if self._deprecate_eof else 9
        if self._definitions > 0 or packet[0] != 0xFE or len(packet) >= longest:
            self._definitions = max(0, self._definitions - 1)
            return False
        self._definitions = -1
        return not _more_follows(packet, old=not self._deprecate_eof)

    def _ends_preparing(self, packet: bytes) -> bool:
        """What a statement has of columns and parameters is defined behind the first packet."""
        if self._definitions < 0:
            numbers = [int.from_bytes(packet[at : at + 2], "little") for at in (5, 7)]
            ends = 0 if self._deprecate_eof else sum(number > 0 for number in numbers)
            self._definitions = sum(numbers) + ends
        else:
            self._definitions -= 1
        return self._definitions == 0


def _more_follows(packet: bytes, *, old: bool = False) -> bool:
    """Whether the server says behind a statement that it goes on with the next one. `old`: an EOF
    packet, in which warnings stand before the status; in an OK packet two numbers do."""
    place = 3
    if not old:
        place = 1
        for _ in range(2):
            place += {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(packet[place], 1)
    return bool(int.from_bytes(packet[place : place + 2], "little") & _MORE_RESULTS)


def _text(kind: int, body: bytes) -> str:
    if kind == COM_STMT_BULK_EXECUTE:
        return "BULK EXECUTE"
    if kind not in {COM_QUERY, COM_STMT_PREPARE}:
        return f"command {kind}"
    text = body.decode("utf-8", "replace")
    return f"PREPARE {text}" if kind == COM_STMT_PREPARE else text


async def _packet(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    header = await reader.readexactly(4)
    return header, await reader.readexactly(int.from_bytes(header[:3], "little"))
