"""Several daemons with one configuration share the instances, and take over from each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tests import mirror
from tests.daemon_process import DaemonProcess, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

COPIES = {"idle", "syncing"}


@contextmanager
def daemons(config: Path, rooms: Sequence[int | None]) -> Iterator[list[DaemonProcess]]:
    """So many daemons with one configuration but for the socket and the room; all started."""
    with ExitStack() as stack:
        started = []
        for number, room in enumerate(rooms):
            document = yaml.safe_load(config.read_text())
            socket = Path(document["control"]["socket"])
            document["control"]["socket"] = str(socket.with_name(f"{number}.sock"))
            document["sync"] = {**document.get("sync", {}), "max_instances": room}
            own = config.with_name(f"daemon{number}.yaml")
            own.write_text(yaml.safe_dump(document))
            started.append(stack.enter_context(DaemonProcess(own)))
        yield started


def copied(daemon: DaemonProcess) -> set[str]:
    """The instances that a daemon copies now."""
    found = daemon.request("GET", "/v1/status").body["instances"]
    return {each["instance"] for each in found if each["state"] in COPIES}


def many(servers: Servers, count: int) -> dict[str, ServerConfig]:
    return {f"i{number:02}": servers.new_local() for number in range(count)}


def test_three_share_sixty_and_take_over_when_one_is_killed(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    central, _ = databases
    servers.local.execute("SET GLOBAL max_connections = 500")
    locals_ = many(servers, 60)
    config = write_config(central, locals_)
    with daemons(config, [None, None, None]) as (first, second, third):
        everyone = (first, second, third)
        first.wait_until(lambda: sum(len(copied(each)) for each in everyone) == 60, 60)
        shares: list[int] = []

        def fair() -> bool:
            shares[:] = [len(copied(each)) for each in everyone]
            return sum(shares) == 60 and min(shares) >= 12

        took = first.wait_until(fair, 90)
        print(f"shares {shares} after {took:.0f} s")  # noqa: T201
        lost = copied(second)
        second.kill()
        killed = time.monotonic()
        gone: dict[str, float] = {}
        while len(gone) < len(lost):
            now = time.monotonic() - killed
            assert now < 15.0, f"nobody copies {sorted(lost - gone.keys())}"
            for name in (lost & (copied(first) | copied(third))) - gone.keys():
                gone[name] = now
            time.sleep(0.05)
        times = sorted(gone.values())
        print(  # noqa: T201
            f"took over {len(times)}: median {times[len(times) // 2]:.1f} s, last {times[-1]:.1f} s"
        )
        # One or the other may be on its way to its fair share.
        first.wait_until(lambda: len(copied(first)) + len(copied(third)) == 60)
        mirror.insert_messages(central, [7], instance=min(lost))
        first.wait_until(lambda: mirror.local_ids(locals_[min(lost)]) == [7])


def test_a_host_that_is_silent_has_lost_its_instances(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    """As after a power failure: nobody closes its connections."""
    central, _ = databases
    config = write_config(central, many(servers, 3))
    with daemons(config, [None, None]) as (first, second):
        first.wait_until(lambda: len(copied(first)) + len(copied(second)) == 3)
        silent, other = (first, second) if copied(first) else (second, first)
        silent.pause()
        took = other.wait_until(lambda: len(copied(other)) == 3, 20)
        print(f"took over after {took:.1f} s of silence")  # noqa: T201
        assert took < 15.0
        silent.resume()
        # Woken up, it sees that it lost them, or shares them out anew; but nobody copies twice.
        silent.wait_until(lambda: len(copied(silent)) + len(copied(other)) == 3)
        mirror.insert_messages(central, [8], instance="i00")
        other.wait_until(
            lambda: any(
                part["last_synced_id"] == 8
                for daemon in (first, second)
                for part in daemon.status("i00")["sync_state"]
            )
        )


def test_nobody_copies_more_than_he_may_and_who_has_room_takes_the_rest(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    central, _ = databases
    config = write_config(central, many(servers, 6))
    with daemons(config, [2, 3]) as (first, second):
        first.wait_until(lambda: len(copied(first)) == 2)
        second.wait_until(lambda: len(copied(second)) == 3)
        assert copied(first) & copied(second) == set()
        (left,) = {f"i0{number}" for number in range(6)} - copied(first) - copied(second)
        refused = first.request("POST", f"/v1/instances/{left}/sync")
        assert refused.status == 409
        assert "sync.max_instances" in refused.body["error"]["message"]
        held = second.status(min(copied(first)))
        assert held["state"] == "standby"
        # With more room, the one that nobody had is taken, without a restart of the process.
        document = yaml.safe_load(first.config.read_text())
        document["sync"]["max_instances"] = 5
        first.config.write_text(yaml.safe_dump(document))
        assert run_cli("reload", "-c", first.config).returncode == 0
        first.wait_until(lambda: len(copied(first)) + len(copied(second)) == 6)
        assert len(copied(second)) <= 3


def test_whoever_stands_by_says_who_copies(databases: Databases, write_config: WriteConfig) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with daemons(config, [None, None]) as (first, second):
        first.wait_until(lambda: bool(copied(first) | copied(second)))
        copier, other = (first, second) if copied(first) else (second, first)
        other.wait_until(lambda: other.status()["copier"] is not None)
        told = other.status()["copier"]
        assert (told["pid"], told["instances"]) == (copier.pid, 1)
        assert run_cli("pause", "nunes", "--reason", "backup", "-c", copier.config).returncode == 0
        assert run_cli("throttle", "nunes", "20", "-c", copier.config).returncode == 0
        shown = run_cli("status", "nunes", "-c", other.config).stdout
        assert f"nunes: copied from {told['host']} (process {copier.pid})" in shown
        assert "nunes: paused since" in shown
        assert "nunes: throttled to 20 rows per second" in shown
        assert run_cli("resume", "nunes", "-c", copier.config).returncode == 0
        assert other.status()["paused"] is None
        refused = other.request("POST", "/v1/instances/nunes/sync")
        assert refused.status == 409
        assert refused.body["error"]["code"] == "locked"
        assert ", from " in refused.body["error"]["message"]


def shares(*daemons: DaemonProcess) -> list[int]:
    return [len(copied(each)) for each in daemons]


def test_shares_are_fair_when_they_rest_also_after_a_restart(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, many(servers, 10))
    with daemons(config, [None, None]) as (first, second):
        first.wait_until(lambda: sum(shares(first, second)) == 10, 30)
        assert second.stop() == 0
        first.wait_until(lambda: shares(first) == [10])
        second.start()

        def rest() -> list[int]:
            """The shares, once nothing has been handed over for some seconds."""
            moved, quiet = -1, 0
            while quiet < 16:
                now = len(first.logged("handed over")) + len(second.logged("handed over"))
                quiet = quiet + 1 if now == moved and sum(shares(first, second)) == 10 else 0
                moved = now
                time.sleep(0.5)
            return shares(first, second)

        found = rest()
        assert max(found) - min(found) <= 2, found
        assert second.stop() == 0
        first.wait_until(lambda: shares(first) == [10])
        second.start()
        again = rest()
        assert max(again) - min(again) <= 2, again


def test_a_daemon_that_cannot_read_central_copies_nobody_in_the_place_of_one_that_can(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, many(servers, 4))
    with daemons(config, [None]) as (well,):
        well.wait_until(lambda: shares(well) == [4])
        document = yaml.safe_load(config.read_text())
        document["central"]["port"] = 1
        document["control"]["socket"] = str(well.socket.with_name("sick.sock"))
        sick_config = config.with_name("sick.yaml")
        sick_config.write_text(yaml.safe_dump(document))
        with DaemonProcess(sick_config) as sick:
            sick.wait_until(lambda: sick.state("i00") == "standby")
            time.sleep(8.0)
            assert shares(well) == [4]
            assert well.logged("handed over") == []


def test_a_daemon_that_loses_central_lets_go_for_one_that_has_it(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, many(servers, 3))
    servers.central.execute("CREATE USER lost@'%'; GRANT SELECT ON *.* TO lost@'%'")
    document = yaml.safe_load(config.read_text())
    document["central"] |= {"user": "lost", "password": ""}
    document["control"]["socket"] = document["control"]["socket"].replace("control", "lost")
    own = config.with_name("lost.yaml")
    own.write_text(yaml.safe_dump(document))
    with DaemonProcess(own) as lost:
        lost.wait_until(lambda: shares(lost) == [3])
        servers.central.execute("DROP USER lost@'%'; KILL USER 'lost'")
        with DaemonProcess(config) as well:
            took = well.wait_until(lambda: shares(well) == [3], 40)
            print(f"taken over {took:.1f} s after central was lost")  # noqa: T201
            assert all(lost.state(name) != "syncing" for name in ("i00", "i01", "i02"))


def test_servers_out_of_reach_take_no_seat_from_those_that_answer(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    gone = {f"gone{number}": {**databases.local, "port": 1} for number in range(3)}
    there = many(servers, 3)
    config = write_config(
        databases.central,
        {**{n: {**g, "database": n} for n, g in gone.items()}, **there},
    )
    with daemons(config, [3]) as (daemon,):
        daemon.wait_until(lambda: copied(daemon) == set(there))
        time.sleep(5.0)
        assert copied(daemon) == set(there)


def test_whoever_stands_by_claims_to_know_nothing(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    mirror.insert_messages(databases.central, [7], instance="nunes")
    config = write_config(databases.central, {"nunes": databases.local})
    with daemons(config, [None, None]) as (first, second):
        first.wait_until(lambda: bool(copied(first) | copied(second)))
        copier, other = (first, second) if copied(first) else (second, first)
        copier.wait_until(lambda: copier.watermark() == 7)
        other.wait_until(lambda: other.state() == "standby")
        # All at once: from memory. One: from its database.
        (listed,) = other.request("GET", "/v1/status").body["instances"]
        assert listed["pending_migrations"] == []
        assert listed["sync_state"][0]["last_synced_id"] is None
        assert listed["sync_state"][0]["lag_seconds"] is None
        asked = other.status()
        assert asked["sync_state"][0]["last_synced_id"] == 7
        assert len(asked["migrations"]) == len(copier.status()["migrations"])
        assert other.metric("wpp_sync_lag_seconds") == 0.0
        assert not any(
            sample.labels["wpp_instance"] == "nunes"
            for sample in other.metrics().get("wpp_sync_lag_seconds", [])
        )
