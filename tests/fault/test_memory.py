"""Peak memory follows the size of a batch, not the size of the data (promise P6)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.demo.central import seed_bulk
from tests import mirror
from tests.daemon_process import peak_memory

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]


def _peak(
    servers: Servers, config: WriteConfig, note: Path, messages: int, body: int, **sync: object
) -> float:
    """The peak of a first sync of so many messages into a fresh database, in MB."""
    central, local = servers.new_central(), servers.new_local()
    mirror.seed(central, [seed_bulk("nunes", messages, body)])
    peak = peak_memory(
        "sync", "nunes", "-c", config(central, {"nunes": local}, sync=sync), note=note
    )
    assert mirror.number(local, "SELECT COUNT(*) FROM wpp_messages") == messages
    servers.central.execute(f"DROP DATABASE {central['database']}")
    servers.local.execute(f"DROP DATABASE {local['database']}")
    return peak


def test_a_first_sync_of_ten_times_as_many_large_bodies_takes_no_more_memory(
    servers: Servers, write_config: WriteConfig, tmp_path: Path
) -> None:
    note = tmp_path / "peak"
    few = _peak(servers, write_config, note, 200, 60_000, batch_bytes="1MiB")
    many = _peak(servers, write_config, note, 2_000, 60_000, batch_bytes="1MiB")
    assert many < few + 15
    assert many < 120


def test_a_first_sync_of_ten_times_as_many_small_rows_takes_no_more_memory(
    servers: Servers, write_config: WriteConfig, tmp_path: Path
) -> None:
    note = tmp_path / "peak"
    few = _peak(servers, write_config, note, 20_000, 100)
    many = _peak(servers, write_config, note, 200_000, 100)
    assert many < few + 15
    assert many < 120


def test_the_size_of_a_batch_is_what_decides(
    servers: Servers, write_config: WriteConfig, databases: Databases, tmp_path: Path
) -> None:
    """The measurement above can tell a bounded batch from one that holds everything."""
    note = tmp_path / "peak"
    bounded = _peak(servers, write_config, note, 1_000, 60_000, batch_bytes="1MiB")
    unbounded = _peak(servers, write_config, note, 1_000, 60_000, batch_bytes="256MiB")
    assert unbounded > bounded + 50
