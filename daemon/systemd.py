"""What the service manager is told: sd_notify(3), a datagram; no library for so few lines.

Without $NOTIFY_SOCKET nobody listens, and nothing is said.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog

EXTEND_SECONDS = 60


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

    def tell(self, *lines: str) -> None:
        """Send one message. A manager that does not take it is no reason to stop."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            structlog.get_logger().debug("service manager not told", error=str(error))
