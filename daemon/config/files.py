"""Reading what the configuration names, with bounds."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class NotRegularError(ValueError):
    """It is a pipe or a device: whoever opens or reads it may wait for ever."""

    def __init__(self) -> None:
        super().__init__("cannot be read: it is no regular file")


def read_bytes(path: Path, most: int, *, pipe: bool = False) -> bytes:
    """The file's content, and one byte more than `most` at most: the size is not looked up, as the
    file may grow.

    Raises OSError, and ValueError for what cannot be a path. Without `pipe` nobody is waited for
    but the file system: then NotRegularError is raised for what is no regular file.
    """

    def opened(name: str, flags: int) -> int:
        # A pipe that nobody writes to would hold the very opening.
        return os.open(name, flags if pipe else flags | os.O_NONBLOCK)

    with open(path, "rb", opener=opened) as file:
        if not pipe and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotRegularError
        return file.read(most + 1)
