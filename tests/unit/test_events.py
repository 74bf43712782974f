"""Whoever is not to log has no structlog."""

from __future__ import annotations

import subprocess
import sys

SILENT = """
import sys
from daemon import events
events.silence()
log = events.get_logger().bind(instance="nunes")
for say in (log.debug, log.info, log.warning, log.error):
    say("opened", server="10.11")
assert "structlog" not in sys.modules
"""


def test_a_silent_logger_writes_nothing_and_imports_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENT], check=False, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
