"""What the service manager is told: sd_notify(3), a datagram; no library for so few lines.

Without $NOTIFY_SOCKET nobody listens, and nothing is said.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from daemon import events

EXTEND_SECONDS = 60

EXTEND = f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}"
"""So long from now on no timeout of the unit's ends a start or stop."""

_TURNS = ("READY=", "RELOADING=", "STOPPING=")
"""What the manager waits for, and is told once."""

_PATIENCE_SECONDS = 1.0


def heartbeat(
    *,
    watched: bool,
    states: Iterable[str],
    stalled: Sequence[str],
    migrating: Sequence[str],
    finishing: bool = False,
) -> list[str]:
    """What the manager is told every few seconds. Pure.

    The watchdog is fed while every loop goes on: `stalled` are the instances whose does not. While
    migrations run, which nothing should kill, or the last batches are `finishing`, there is more
    time.
    """
    lines = [status_line(states)]
    if migrating:
        lines = [f"STATUS=migrating {'; '.join(migrating[:3])}"]
    if stalled:
        lines = [f"STATUS=stalled: {', '.join(stalled[:3])}"]
    elif watched:
        lines.append("WATCHDOG=1")
    if finishing or (migrating and not stalled):
        lines.append(EXTEND)
    return lines


def status_line(states: Iterable[str]) -> str:
    """How many instances are in which state, for `systemctl status`."""
    counts = Counter(states)
    told = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    return f"STATUS={counts.total()} instances: {told}"


class Notifier:
    """Speaks to the service manager that started this process, if one did."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with @ (sd_notify(3)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        pid = environ.get("WATCHDOG_PID", "")
        usec = environ.get("WATCHDOG_USEC", "")
        ours = pid in {"", str(os.getpid())}
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and ours else None
        """So often at least the watchdog must hear of us."""

    def reloading(self) -> None:
        """Until the next READY=1 the configuration is read again (sd_notify(3), RELOADING)."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def tell(self, *lines: str) -> None:
        """Send one message. A manager that does not take it is no reason to stop.

        Its socket may be full for a moment: what it waits for is worth a second of everybody's
        time; what is said again in a few seconds is not.
        """
        if not self._address:
            return
        turn = any(line.startswith(_TURNS) for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PATIENCE_SECONDS if turn else 0.0)
                sender.connect(self._address)  # only so can there be waited for room
                sender.send("\n".join(lines).encode())
        except OSError as error:
            events.get_logger().warning("service manager not told", lines=lines, reason=str(error))
