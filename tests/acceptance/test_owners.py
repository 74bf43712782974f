"""The daemon as a process: a configuration that says of other rows where they belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.demo.central import seed_varied
from tests import mirror
from tests.daemon_process import DaemonProcess, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

ENTITIES = ("messages", "chats", "contacts", "contact_sectors", "schedules")
QUICK: dict[str, Any] = {
    "entities": {},
    "defaults": {"poll_interval": "100ms"},
    "sync": {"settle": "1s", "whole_interval": "1s", "hot_interval": "1s"},
}


def equal(central: ServerConfig, local: ServerConfig, name: str) -> bool:
    return mirror.differences(central, local, name, ENTITIES) == ""


def settled(daemon: DaemonProcess, name: str) -> bool:
    entity = daemon.entity(instance=name)
    return daemon.state(name) == "idle" and entity["settled_id"] == entity["head"] != 0


def says(config: Path, *arguments: str) -> None:
    done = run_cli(*arguments, "-c", config)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_name_and_a_condition_are_corrected_by_a_reload(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=600))
    narrow: dict[str, Any] = {**QUICK, "entities": {"messages": {"where": "id > 1100"}}}
    with DaemonProcess(write_config(central, {"nunez": local}, **narrow)) as daemon:
        daemon.wait_until(lambda: settled(daemon, "nunez"))
        says(write_config(central, {"nunes": local}, **narrow), "reload")
        daemon.wait_until(lambda: settled(daemon, "nunes"))
        few = mirror.number(local, "SELECT COUNT(*) FROM wpp_messages")
        assert 0 < few < len(mirror.central_ids(central))
        says(write_config(central, {"nunes": local}, **QUICK), "reload")
        daemon.wait_until(lambda: equal(central, local, "nunes"), 10)
        says(write_config(central, {"nunes": local}, **narrow), "reload")
        daemon.wait_until(
            lambda: mirror.number(local, "SELECT COUNT(*) FROM wpp_messages") == few, 30
        )
        assert daemon.logged("renamed")[0]["before"] == ["nunez"]
        assert [line["entity"] for line in daemon.logged("other rows wanted")] == ["messages"] * 2


def test_swapped_databases_are_left_alone_until_a_resync(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, first = databases
    second = servers.new_local()
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=600))
    right = write_config(central, {"nunes": first, "karsten": second}, **QUICK)

    def as_they_were() -> bool:
        return equal(central, first, "nunes") and equal(central, second, "karsten")

    def refused(name: str) -> bool:
        status = daemon.status(name)
        return (status["state"], (status["error"] or {}).get("code")) == (
            "failed", "another_instance",
        )  # fmt: skip

    with DaemonProcess(right) as daemon:
        daemon.wait_until(lambda: settled(daemon, "nunes") and settled(daemon, "karsten"))
        daemon.wait_until(as_they_were)
        swapped = write_config(central, {"nunes": second, "karsten": first}, **QUICK)
        says(swapped, "reload")
        daemon.wait_until(lambda: refused("nunes") and refused("karsten"))
        compared = run_cli("reconcile", "karsten", "-c", swapped)
        assert compared.returncode == 1, compared.stdout
        assert "was copied for nunes" in compared.stderr
        assert run_cli("reconcile", "karsten", "--dry-run", "-c", swapped).returncode == 4
        daemon.hup()
        daemon.wait_until(lambda: len(daemon.logged("reset")) == 2)
        daemon.wait_until(lambda: refused("nunes") and refused("karsten"))
        assert as_they_were()

        says(swapped, "resync", "karsten", "--wait")
        daemon.wait_until(lambda: equal(central, first, "karsten"))
        assert daemon.state("karsten") in {"idle", "syncing"}
        assert refused("nunes")
        assert equal(central, second, "karsten")
        assert daemon.stop() == 0
    assert run_cli("sync", "nunes", "-c", swapped).returncode == 1
    says(swapped, "resync", "nunes")
    says(swapped, "sync", "nunes")
    with DaemonProcess(swapped) as daemon:
        daemon.wait_until(lambda: equal(central, second, "nunes"))
