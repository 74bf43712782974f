"""Several daemons with the same configuration: how many instances each of them copies.

Nobody assigns anything. Each instance's lock decides who copies it (`daemon.lock`); this decides
what a daemon asks for, and what it gives away. `wpp_sync_copier`, in the instance's database, says
who copies it and who asks for it, each with how many instances he copies. Whoever has more than the
one who asks gives one away after the other, until there is no difference worth a move.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from collections import defaultdict, deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from daemon.aio import Clock
from daemon.db import Connection
from daemon.errors import MissingError
from daemon.sql import Statement

_PAUSE_SECONDS = 1.0
"""A daemon gives one instance away after the other, so that the other's count can follow."""

_FOLLOW_SECONDS = 5.0
"""What an asker says of himself is at most so old: his standby connections write it every 2.5 s.
What was given to him since may not be in it."""

ALONE_SECONDS = 1800.0
"""So long after another daemon was seen, or may have been there, instances are kept open. It lets
go of those that rest there and that we have taken since within REST_SECONDS of `daemon.instance`,
which is less."""

_COPIER, _ASKER = 1, 2

_SIGNED = re.compile(r"(?P<version>.*)\+(?P<token>[0-9a-f]{16})", re.DOTALL)
"""How a process signs its version: host names and process ids come twice, in containers above all.
A version before that had no token."""

_PLACE = 8
"""So long is the part of a token that says where the process runs."""


@dataclass(frozen=True, slots=True)
class Copier:
    """Who copies an instance, or asks for it, as he has written it."""

    host: str
    pid: int
    version: str
    instances: int
    """So many instances he copied when he wrote it; 0: a verb, which does one thing and ends."""

    since: str
    """UTC, `YYYY-MM-DD HH:MM:SS`."""

    token: str = ""
    """No other process has the same."""


def worth_a_move(more: int, fewer: int) -> bool:
    """Whether a daemon that copies `more` should give one to another that copies `fewer`. Pure.
    Small differences are left alone: a move costs a moment of nobody's copying."""
    return more - fewer >= max(2, more // 10)


class Seats:
    """The instances of one daemon, and how many there may be."""

    def __init__(self, most: int | None, version: str, clock: Clock) -> None:
        self.most = most
        self.version = version
        self._clock = clock
        self._taken: set[str] = set()
        self._wished: set[str] = set()
        self._given_at = self._another_at = float("-inf")
        self._given: dict[tuple[str, int, str], deque[float]] = defaultdict(deque)
        self._told: dict[tuple[str, int, str], deque[tuple[float, int]]] = defaultdict(deque)

    @property
    def taken(self) -> int:
        """So many instances this daemon copies."""
        return len(self._taken)

    @property
    def alone(self) -> bool:
        """No other daemon with these instances has been seen for long, nor is to be expected: it
        would take those that rest here, and leave those for which this one has no room."""
        return self.most is None and self._clock() - self._another_at > ALONE_SECONDS

    def saw_another(self) -> None:
        """Another daemon stands by for one of our instances, or copies one of them."""
        self._another_at = self._clock()

    def room(self, name: str) -> bool:
        """Whether there is a place for this instance."""
        return name in self._taken or self.most is None or self.taken < self.most

    def take(self, name: str) -> bool:
        """Have a place for this instance, if there is one."""
        if not self.room(name):
            return False
        self._taken.add(name)
        self._wished.discard(name)
        return True

    def leave(self, name: str) -> None:
        """It needs no place any more, and is not asked for."""
        self._taken.discard(name)
        self._wished.discard(name)

    def lose(self, name: str) -> None:
        """It is not copied here any more; whether it is asked for, stays as it is."""
        self._taken.discard(name)

    def forgo(self, name: str) -> None:
        """It is not asked for any more."""
        self._wished.discard(name)

    def wish(self, name: str, theirs: int) -> bool:
        """Whether to ask the daemon that copies `theirs` for this instance."""
        self._wished.discard(name)
        # Each one that comes is one more here and one fewer there.
        coming = len(self._wished)
        room = self.most is None or self.taken + coming < self.most
        if room and worth_a_move(theirs - coming, self.taken + coming):
            self._wished.add(name)
        return name in self._wished

    def give(self, asker: Copier) -> bool:
        """Whether to give one instance to this one, who asks for it, now."""
        now, who = self._clock(), (asker.host, asker.pid, asker.token)
        told, given = self._told[who], self._given[who]
        told.append((now, asker.instances))
        while told[0][0] < now - _FOLLOW_SECONDS:
            told.popleft()
        while given and given[0] < now - _FOLLOW_SECONDS:
            given.popleft()
        theirs = max(count for _, count in told) + len(given)
        if now - self._given_at < _PAUSE_SECONDS or not worth_a_move(self.taken, theirs):
            return False
        self._given_at = now
        given.append(now)
        return True


def may_be_there(copier: Copier | None) -> bool:
    """Whether another daemon that has written this, of an instance whose lock we have, may still
    run. What runs on another host cannot be told from here; a verb has ended, where it has no lock.
    """
    if copier is None or is_us(copier) or not copier.instances:
        return False
    # Its process id says something where it runs among the same processes as we do.
    elsewhere = copier.token and copier.token[:_PLACE] != _token()[:_PLACE]
    if copier.host != _host() or elsewhere:
        return True
    try:
        os.kill(copier.pid, 0)
    except (ProcessLookupError, OverflowError):  # whoever wrote it
        return False
    except PermissionError:
        return True
    return True


def is_us(copier: Copier | None) -> bool:
    """Whether this is what this process writes of itself."""
    return copier is not None and copier.token == _token()


def _host() -> str:
    return socket.gethostname()[:255]


@cache
def _token() -> str:
    """This process's own. It begins with what all processes have in common that see each other's
    process ids: the same boot of a kernel, the same container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        place = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux, or no /proc
        place = ""
    hashed = hashlib.sha256(place.encode()).hexdigest()[:_PLACE]
    return hashed + secrets.token_hex((16 - _PLACE) // 2)


def _unsigned(signed: str) -> tuple[str, str]:
    """Version and token."""
    found = _SIGNED.fullmatch(signed)
    return (found["version"], found["token"]) if found else (signed, "")


async def read(connection: Connection, note: str) -> Copier | None:
    """Who copies it, as he has written it; he may be gone since."""
    return await _read(connection, _COPIER, note)


async def read_asker(connection: Connection, note: str) -> Copier | None:
    """Who has asked for it last."""
    return await _read(connection, _ASKER, note)


async def write(connection: Connection, seats: Seats, note: str) -> None:
    """We copy it."""
    await _write(connection, _COPIER, seats, note)


async def write_asker(connection: Connection, seats: Seats, note: str) -> None:
    """We ask for it."""
    await _write(connection, _ASKER, seats, note)


async def _read(connection: Connection, which: int, note: str) -> Copier | None:
    columns = "host, pid, version, instances, since"
    try:
        rows = await connection.fetch(
            Statement(f"SELECT {columns} FROM wpp_sync_copier WHERE id = %s", (which,), note)
        )
    except MissingError:
        return None
    for host, pid, signed, instances, since in rows:
        version, token = _unsigned((signed or b"").decode(errors="replace"))
        return Copier(
            (host or b"").decode(errors="replace"),
            int(pid or 0),
            version,
            int(instances or 0),
            (since or b"").decode(),
            token,
        )
    return None


async def _write(connection: Connection, which: int, seats: Seats, note: str) -> None:
    us = (_host(), os.getpid(), f"{seats.version[:33]}+{_token()}", seats.taken)
    try:
        await connection.execute(
            Statement(
                "INSERT INTO wpp_sync_copier (id, host, pid, version, instances) VALUES"
                " (%s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE"
                " since = IF((host, pid, version) = (VALUES(host), VALUES(pid), VALUES(version)),"
                " since, CURRENT_TIMESTAMP),"
                " host = VALUES(host), pid = VALUES(pid), version = VALUES(version),"
                " instances = VALUES(instances)",
                (which, *us),
                note,
            )
        )
    except MissingError:
        return  # a database that this version has not migrated yet
