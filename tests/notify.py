"""The service manager's end of sd_notify: a real datagram socket, and what came in on it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self


class NotifySocket:
    """Listens at a path while the block runs; keeps each line with the time it came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        self._socket.bind(str(self.path))
        self._socket.settimeout(0.1)
        self._ended = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended:
            try:
                message = self._socket.recv(65536).decode()
            except TimeoutError:
                continue
            now = time.monotonic()
            self.received.extend((now, line) for line in message.split("\n"))

    @property
    def lines(self) -> list[str]:
        return [line for _, line in self.received]

    def wait_for(self, line: Callable[[str], bool], seconds: float = 20.0, after: int = 0) -> int:
        """The index behind the first such line, not before `after`; fails when it does not come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for number, each in enumerate(self.lines[after:], after):
                if line(each):
                    return number + 1
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds:g} s; received: {self.lines}")
