"""Become another command that may make no other system calls than a unit allows it.

    python -m tests.filtered deploy/systemd/wpp-sync.service COMMAND…

What systemd does with SystemCallFilter= and SystemCallErrorNumber=EPERM, without systemd running:
the sets are those of its `systemd-analyze syscall-filter`, the filter is libseccomp's, as there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

LIBRARY = "libseccomp.so.2"
ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM


def members(name: str) -> set[str]:
    """The system calls of a set, those of the sets within it too."""
    if not name.startswith("@"):
        return {name}
    told = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True
    ).stdout
    inner = [line.strip() for line in told.splitlines()[1:] if not line.strip().startswith("#")]
    return set().union(*map(members, filter(None, inner)))


def allowed(unit: Path) -> set[str]:
    """What the unit's lines leave, read as systemd.exec(5) says; @default always is."""
    found = members("@default")
    for line in unit.read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "SystemCallFilter":
            named = set().union(*map(members, value.lstrip("~").split()))
            found = found - named if value.startswith("~") else found | named
    return found


def refuse_all_but(names: Iterable[str]) -> None:
    """From here on, for this process and what it becomes."""
    seccomp = ctypes.CDLL(LIBRARY)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(REFUSE)))
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # some belong to other machines
            assert seccomp.seccomp_rule_add(filter_, ctypes.c_uint32(ALLOW), number, 0) == 0
    assert seccomp.seccomp_load(filter_) == 0


if __name__ == "__main__":
    refuse_all_but(allowed(Path(sys.argv[1])))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - it is to become that
