"""`wpp-sync check` where central holds little or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import mirror
from tests.daemon_process import run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]


@pytest.mark.parametrize("links", [0, 1, 500])
def test_empty_and_small_central_tables_are_no_failure(
    databases: Databases, write_config: WriteConfig, links: int
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, entities={})
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    if links:
        rows = ", ".join(f"({number}, 1)" for number in range(1, links + 1))
        mirror.run(databases.central, f"INSERT INTO contacts_sectors VALUES {rows}")
    done = run_cli("check", "-c", config)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "contact_sectors: a batch walks along PRIMARY" in done.stdout
