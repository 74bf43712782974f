"""The daemon, frozen or killed at any moment: nothing is lost, nothing is written twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.demo.central import seed_bulk, seed_varied
from tests import mirror
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig

WriteConfig = Callable[..., Path]

QUICK = {"defaults": {"poll_interval": "100ms"}}


def _no_row_is_ahead_or_missing(central: ServerConfig, local: ServerConfig) -> dict[str, int]:
    """Between watermark and rows, as a crash has left them; returns the watermarks."""
    marks = mirror.watermarks(local)
    for entity, mark in marks.items():
        standing = mirror.local_ids(local, entity)
        assert standing == mirror.central_ids(central, entity=entity, upto=mark), entity
    return marks


def test_killed_again_and_again_in_the_middle_of_a_first_sync(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=3_000))
    mirror.seed(central, [seed_bulk("nunes", 30_000, 300, first_id=100_000, step=2)])
    wanted = len(mirror.central_ids(central))
    config = write_config(central, {"nunes": local}, sync={"batch_rows": 50}, **QUICK)
    draw = random.Random(20)
    seen = [0]
    daemon = DaemonProcess(config)
    with daemon:
        for _ in range(6):
            here = seen[-1]
            daemon.wait_until(lambda here=here: daemon.watermark() > here)  # type: ignore[misc]
            time.sleep(draw.uniform(0.0, 0.25))
            daemon.kill()
            seen.append(_no_row_is_ahead_or_missing(central, local)["messages"])
            daemon.start()
        assert 0 < seen[1] < max(mirror.central_ids(central)), "it was killed before the end"
        daemon.wait_until(lambda: len(mirror.local_ids(local)) == wanted)
        daemon.wait_until(lambda: daemon.state() == "idle")
        assert seen == sorted(seen), "each start went on from where the last one had come to"
        written = daemon.metric("wpp_sync_rows_total", entity="messages")
        assert written <= wanted - len([i for i in mirror.central_ids(central) if i <= seen[-1]])
        assert mirror.differences(central, local) == ""
        assert daemon.stop() == 0


def test_frozen_while_somebody_resets_and_woken_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    """The state row fences it: what it had read before cannot get in behind the reset."""
    central, local = databases
    mirror.seed(central, [seed_bulk("nunes", 20_000, 200)])
    config = write_config(central, {"nunes": local}, sync={"batch_rows": 50}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.watermark() > 500)
        daemon.pause()
        reached = mirror.watermarks(local)["messages"]
        assert reached < 20_000
        # A transaction of the frozen daemon may hold the row's lock: it is killed like the rest.
        for (connection,) in mirror.rows(
            local,
            "SELECT ID FROM information_schema.PROCESSLIST"
            f" WHERE DB = '{local['database']}' AND ID <> CONNECTION_ID()",
        ):
            mirror.run(local, f"KILL {connection}")
        mirror.run(
            local,
            "UPDATE wpp_sync_state SET last_synced_id = 0 WHERE entity = 'messages';"
            "DELETE FROM wpp_messages WHERE id <= 100",
        )
        daemon.resume()
        daemon.wait_until(lambda: mirror.differences(central, local) == "")


def test_a_standby_takes_over_when_the_first_daemon_is_killed(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 100))
    first_config = write_config(central, {"nunes": local}, **QUICK)
    other = first_config.read_text().replace("control.sock", "second.sock")
    second_config = tmp_path / "second.yaml"
    second_config.write_text(other)
    with DaemonProcess(first_config) as first, DaemonProcess(second_config) as second:
        first.wait_until(lambda: first.state() == "idle")
        second.wait_until(lambda: second.state() == "standby")
        mirror.insert_messages(central, range(100, 200))
        first.wait_until(lambda: first.watermark() == 199)
        assert second.state() == "standby"
        assert second.metric("wpp_sync_rows_total") == 0, "only one daemon copies"
        first.kill()
        mirror.insert_messages(central, range(200, 300))
        second.wait_until(lambda: second.watermark() == 299, 6)
        assert second.state() in {"idle", "syncing"}
        first.start()
        first.wait_until(lambda: first.state() == "standby")
        mirror.insert_messages(central, range(300, 310))
        second.wait_until(lambda: second.watermark() == 309, 3)
        assert mirror.differences(central, local) == ""
        assert second.logged("pass failed") == [], "standing by is no error"


def test_a_standby_takes_over_when_the_first_daemon_leaves_in_order(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    central, local = databases
    first_config = write_config(central, {"nunes": local}, **QUICK)
    second_config = tmp_path / "second.yaml"
    second_config.write_text(first_config.read_text().replace("control.sock", "second.sock"))
    with DaemonProcess(first_config) as first, DaemonProcess(second_config) as second:
        second.wait_until(lambda: second.state() == "standby")
        assert first.stop() == 0
        mirror.insert_messages(central, range(1, 10))
        second.wait_until(lambda: second.watermark() == 9, 6)
