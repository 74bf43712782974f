"""How much is asked of central at once. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.reads import Page


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds one batch, and so the memory of an instance: about four times `bytes`."""

    rows: int = 5000
    bytes: int = 4 << 20


class Reach:
    """How much to ask of central at once, learnt from its last answers and from how long the local
    server took with them. Pure.

    The rows of an instance lie thin among those of others: a statement that looks for the next
    2,000 of them may have to pass millions. `span`, the width of ids that one statement may look
    at, follows the time that it took; `rows` follows the bytes that came, and what is `most` the
    time that it took to write them.
    """

    __slots__ = ("_limits", "most", "rows", "span")

    FAST = 0.2
    _SLOW = 1.0
    _LEAST = 1_000
    _MOST = 1 << 62

    _FEW_ROWS = 2_000
    """A batch of so many is nearly as fast as can be. It begins with them, and goes back to them
    where a larger batch would hold its transaction, and whoever waits for its end, for long."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.span = 100_000
        self.most = self.rows = min(limits.rows, self._FEW_ROWS)

    def learn(self, page: Page, parts: int = 1) -> None:
        """Adjust to what came back when a batch, or one of its parts, was asked for."""
        size = page.size * parts
        if size >= self._limits.bytes:
            # A little less than what fitted: a result that is cut costs its connection.
            self.rows = max(1, len(page.rows) * parts * 3 // 4)
        elif size < self._limits.bytes // 2:
            self.rows = min(self.most, self.rows * 2)
        if page.full:
            return
        if page.seconds < self.FAST:
            self.span = min(self._MOST, self.span * 4)
        elif page.seconds > self._SLOW:
            self.span = max(self._LEAST, self.span // 4)

    def wrote(self, rows: int, seconds: float) -> None:
        """A batch of so many rows was written in so long."""
        if seconds > self._SLOW:
            self.most = min(self._limits.rows, self._FEW_ROWS)
        elif rows >= self.rows and seconds < self.FAST:
            self.most = self._limits.rows
        self.rows = min(self.rows, self.most)

    def shrink(self) -> None:
        """A statement ran into its time limit."""
        self.span = max(self._LEAST, self.span // 16)
