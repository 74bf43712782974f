"""Several daemons with the same configuration: how many instances each of them copies.

Nobody assigns anything. Each instance's lock decides who copies it (`daemon.lock`); this decides
what a daemon asks for. `wpp_sync_copier`, in the instance's database, says who copies it and how
many others he does; a daemon that has fewer asks for it by a second lock, and gets it.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from daemon.aio import Clock
from daemon.db import Connection
from daemon.errors import MissingError
from daemon.sql import Statement

_PAUSE_SECONDS = 1.0
"""A daemon hands over one instance after the other, so that the other's count can follow."""


@dataclass(frozen=True, slots=True)
class Copier:
    """Who copies an instance, as he has written it."""

    host: str
    pid: int
    version: str
    instances: int
    """So many instances he copied when he wrote it."""

    since: str
    """UTC, `YYYY-MM-DD HH:MM:SS`."""


def wants(theirs: int, ours: int, wished: int) -> bool:
    """Whether a daemon that copies `ours` and has asked for `wished` more should ask another one,
    who copies `theirs`, for one of his. Pure. Small differences are left alone."""
    return theirs - ours - wished >= max(2, theirs // 10)


class Seats:
    """The instances of one daemon, and how many there may be."""

    def __init__(self, most: int | None, version: str, clock: Clock) -> None:
        self.most = most
        self.version = version
        self._clock = clock
        self._taken: set[str] = set()
        self._wished: set[str] = set()
        self._handed_over_at = float("-inf")

    @property
    def taken(self) -> int:
        """So many instances this daemon copies."""
        return len(self._taken)

    def take(self, name: str) -> bool:
        """Have a place for this instance, if there is one."""
        if name not in self._taken and self.most is not None and self.taken >= self.most:
            return False
        self._taken.add(name)
        self._wished.discard(name)
        return True

    def leave(self, name: str) -> None:
        """It needs no place any more, and is not asked for."""
        self._taken.discard(name)
        self._wished.discard(name)

    def wish(self, name: str, theirs: int) -> bool:
        """Whether to ask the other daemon for this instance."""
        room = self.most is None or self.taken + len(self._wished) < self.most
        if room and wants(theirs, self.taken, len(self._wished)):
            self._wished.add(name)
        return name in self._wished

    def may_hand_over(self) -> bool:
        """Whether one may go to whoever asked for it now."""
        now = self._clock()
        if now - self._handed_over_at < _PAUSE_SECONDS or self.taken < 2:
            return False
        self._handed_over_at = now
        return True


async def read(connection: Connection, note: str) -> Copier | None:
    """Who copies it, as he has written it; he may be gone since."""
    columns = "host, pid, version, instances, since"
    try:
        rows = await connection.fetch(
            Statement(f"SELECT {columns} FROM wpp_sync_copier WHERE id = 1", (), note)
        )
    except MissingError:
        return None
    for host, pid, version, instances, since in rows:
        return Copier(
            (host or b"").decode(errors="replace"),
            int(pid or 0),
            (version or b"").decode(errors="replace"),
            int(instances or 0),
            (since or b"").decode(),
        )
    return None


async def write(connection: Connection, seats: Seats, note: str) -> None:
    """We copy it."""
    us = (socket.gethostname()[:255], os.getpid(), seats.version[:50], seats.taken)
    await connection.execute(
        Statement(
            "INSERT INTO wpp_sync_copier (id, host, pid, version, instances) VALUES"
            " (1, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE"
            " since = IF(host = VALUES(host) AND pid = VALUES(pid), since, CURRENT_TIMESTAMP),"
            " host = VALUES(host), pid = VALUES(pid), version = VALUES(version),"
            " instances = VALUES(instances)",
            us,
            note,
        )
    )
