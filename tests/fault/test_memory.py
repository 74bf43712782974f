"""Peak memory follows the size of a batch, not the size of the data (promise P6)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.demo.central import seed_bulk
from tests import mirror
from tests.daemon_process import peak_memory, run_cli

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


def test_long_rows_behind_tiny_ones_are_not_taken_unseen(
    servers: Servers, write_config: WriteConfig, tmp_path: Path
) -> None:
    """How long the next row is, no row before it tells."""
    config, note = write_config, tmp_path / "peak"

    def peak(tiny: int) -> float:
        central, local = servers.new_central(), servers.new_local()
        path = config(central, {"nunes": local})
        assert run_cli("migrate", "nunes", "-c", path).returncode == 0
        for server, table in ((central, "messages"), (local, "wpp_messages")):
            mirror.run(server, f"ALTER TABLE {table} MODIFY body LONGTEXT")
        mirror.seed(central, [seed_bulk("nunes", 20 + tiny, 50)])
        mirror.run(
            central, f"UPDATE messages SET body = REPEAT('{'x' * 64}', 65536) WHERE id > {tiny}"
        )
        peak = peak_memory("sync", "nunes", "-c", path, "--only", "messages", note=note)
        sums = "SELECT COUNT(*), BIT_XOR(CRC32(body)) FROM"
        there, here = f"{sums} messages", f"{sums} wpp_messages"
        assert mirror.rows(central, there) == mirror.rows(local, here)
        assert mirror.number(local, "SELECT COUNT(*) FROM wpp_sync_quarantine") == 0
        return peak

    alone = peak(0)
    assert peak(20) < alone + 20
