"""Each alert is made to fire by its trouble: a real Prometheus, a real daemon, real servers.

The rules are those of deploy/prometheus, but that time runs faster: see `hastened`.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from daemon.demo.central import schema, seed_bulk
from daemon.lock import lock_name
from tests import mirror
from tests.daemon_process import DaemonProcess
from tests.prometheus import Prometheus, needs_prometheus, promtool

if TYPE_CHECKING:
    from daemon.demo.server import PrivateServer
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

RULES = Path(__file__).parents[2] / "deploy/prometheus"
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]

# (alert, wpp_instance); the instance is empty where the alert is about a daemon.
Firing = tuple[str, str]

pytestmark = [needs_prometheus, pytest.mark.timeout(240)]


def hastened(text: str) -> str:
    """The same rules where a minute is a second, and an hour three: durations after `for:`, in
    brackets and after `offset`, and the minutes in thresholds. Names of series stay."""
    seconds = {"m": 1, "h": 3}
    return re.sub(
        r"(?<![\w.])(\d+)([mh])\b", lambda found: f"{int(found[1]) * seconds[found[2]]}s", text
    ).replace("* 60", "* 1")


def test_time_runs_faster_and_nothing_else_differs() -> None:
    rule = 'count_over_time((a:b:increase1h{c="5m"} > 10 * 60)[6h:1h]) offset 15m # for: 2m'
    assert hastened(rule) == (
        'count_over_time((a:b:increase1h{c="5s"} > 10 * 1)[18s:3s]) offset 15s # for: 2s'
    )


class Watch:
    """What a Prometheus says of one daemon."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus

    def firing(self) -> set[Firing]:
        return self._firing('ALERTS{alertstate="firing"}')

    def ever_fired(self) -> set[Firing]:
        return self._firing('max_over_time(ALERTS{alertstate="firing"}[10m])')

    def _firing(self, expression: str) -> set[Firing]:
        found = [each["metric"] for each in self._prometheus.query(expression)]
        return {(each["alertname"], each.get("wpp_instance", "")) for each in found}

    def until_firing(self, *wanted: Firing, seconds: float) -> None:
        """Until each of them has fired."""
        deadline = time.monotonic() + seconds
        while missing := set(wanted) - self.ever_fired():
            assert time.monotonic() < deadline, f"do not fire: {missing}; {self.all()}"
            time.sleep(0.2)

    def until_silent(self, *wanted: Firing, seconds: float) -> None:
        """Until none of them fires."""
        deadline = time.monotonic() + seconds
        while still := self.firing() & set(wanted):
            assert time.monotonic() < deadline, f"still firing: {still}; {self.all()}"
            time.sleep(0.2)

    def all(self) -> list[dict[str, Any]]:
        return self._prometheus.alerts()


@contextmanager
def watched(directory: Path, *addresses: str) -> Iterator[Watch]:
    """A Prometheus that scrapes these addresses, with the hastened rules."""
    files = []
    directory.mkdir(exist_ok=True)
    for name in ("rules.yml", "alerts.yml"):
        files.append(directory / name)
        files[-1].write_text(hastened((RULES / name).read_text()))
    with Prometheus(directory / "prometheus", list(addresses), files) as prometheus:
        if addresses:
            prometheus.wait_for("up", 20)
        yield Watch(prometheus)


def address(daemon: DaemonProcess) -> str:
    return str(daemon.logged("started")[-1]["http"])


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def said(daemon: DaemonProcess, target: str, body: object = None) -> None:
    """A request that must succeed."""
    answer = daemon.request("POST", f"/v1/{target}", body or {})
    assert answer.status == 200, answer


def test_promtool_finds_nothing_wrong_with_the_metrics(
    databases: Databases, write_config: WriteConfig
) -> None:
    mirror.insert_messages(databases.central, range(1, 21))
    config = write_config(databases.central, {"nunes": databases.local}, entities={})
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        daemon.wait_until(lambda: daemon.metric("wpp_sync_reconcile_chunks_total") > 0)
        done = promtool("check", "metrics", said=daemon.metrics_text())
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


CAUSED = {
    ("WppSyncInstanceFailed", "rewound"),
    ("WppSyncInstanceFailed", "refused"),
    ("WppSyncMigrationFailed", "refused"),
    ("WppSyncSourceRewound", "rewound"),
    ("WppSyncQuarantineNotEmpty", "poison"),
    ("WppSyncNoCopier", "held"),
    ("WppSyncLateRows", "late"),
    ("WppSyncReconcileDiffers", "nunes"),
    ("WppSyncLagGrowing", "throttled"),
    # Whoever cannot be copied is not current, either; `resting`, who is paused, need not be.
    ("WppSyncMirrorStale", "gone"),
    ("WppSyncMirrorStale", "rewound"),
    ("WppSyncMirrorStale", "refused"),
    ("WppSyncMirrorStale", "throttled"),
}


def test_what_befalls_instances(
    servers: Servers,
    databases: Databases,
    local: PrivateServer,
    write_config: WriteConfig,
    tmp_path: Path,
) -> None:
    central = databases.central
    named = {
        name: servers.new_local()
        for name in ("nunes", "late", "poison", "rewound", "refused", "throttled", "held")
    }
    named |= {name: local.create_database(name) for name in ("gone", "resting")}
    config_of: dict[str, dict[str, object]] = {name: dict(each) for name, each in named.items()}
    config_of["rewound"]["entities"] = {"chats": {"enabled": True}}
    config_of["nunes"]["entities"] = {"messages": {"interval": "1s"}}
    own = tmp_path / "own"
    own.mkdir()
    (own / "2099-12-01-001-mine.sql").write_text("-- Mine\nCREATE TABLE wpp_mine (a BIGINT)")
    mirror.run(named["refused"], "CREATE TABLE wpp_mine (a INT); INSERT INTO wpp_mine VALUES (1)")
    mirror.insert_messages(central, range(1, 21))
    mirror.run(central, "INSERT INTO chats (id, instance) VALUES (9, 'rewound')")
    config = write_config(
        central,
        config_of,
        defaults={"poll_interval": "200ms", "entities": {"chats": {"enabled": False}}},
        migrations={"directory": str(own)},
        sync={"settle": "1s", "backoff_max": "2s"},
    )
    with (
        mirror.Session(named["held"]) as somebody,
        mirror.Session(central) as slow_writer,
    ):
        lock = lock_name(str(named["held"]["database"]))
        assert somebody.execute(f"SELECT GET_LOCK('{lock}', 0)") == [["1"]]
        with (
            DaemonProcess(config) as daemon,
            watched(tmp_path, address(daemon)) as watch,
        ):
            for name in named.keys() - {"refused", "held"}:
                daemon.wait_until(lambda name=name: daemon.state(name) == "idle")  # type: ignore[misc]
            daemon.wait_until(lambda: daemon.watermark("chats", "rewound") == 9)
            began = time.monotonic()

            # --- causes
            said(daemon, "instances/resting/pause")
            said(daemon, "instances/throttled/throttle", {"rows_per_second": 5})
            daemon.wait_until(lambda: daemon.state("resting") == "paused")
            local.stop()
            mirror.run(
                central,
                "SET FOREIGN_KEY_CHECKS = 0; TRUNCATE chats;"
                " INSERT INTO chats (instance) VALUES ('rewound')",
            )
            slow_writer.execute(
                "BEGIN; INSERT INTO messages (id, instance, `from`, `to`, type, is_forwarded,"
                " is_edited, timestamp, sent_at, status) VALUES"
                " (30, 'late', '1', '2', 'chat', 0, 0, '3', NOW(3), 'SENT')"
            )
            mirror.insert_messages(central, range(40, 50), "late")
            mirror.run(named["poison"], "ALTER TABLE wpp_messages MODIFY body VARCHAR(20)")
            mirror.insert_message(central, 50, "poison", body="REPEAT('x', 21)")
            daemon.wait_until(lambda: daemon.watermark(instance="late") == 49)
            mirror.seed(central, [seed_bulk("throttled", 20_000, 10, first_id=100_000)])
            slow_writer.execute("COMMIT")
            more = [seed_bulk("throttled", 20_000, 10, first_id=200_000)]
            more_at = began + 20
            while missing := CAUSED - watch.ever_fired():
                assert time.monotonic() < began + 90, f"do not fire: {missing}; {watch.all()}"
                # What was copied disappears again and again.
                mirror.run(named["nunes"], "DELETE FROM wpp_messages ORDER BY id LIMIT 1")
                if more and time.monotonic() > more_at:
                    mirror.seed(central, [more.pop()])
                time.sleep(1)
            print(f"all caused and seen after {time.monotonic() - began:.0f} s")  # noqa: T201

            # --- mended
            local.start()
            said(daemon, "instances/throttled/throttle", {"rows_per_second": None})
            said(daemon, "instances/rewound/resync")
            mirror.run(named["refused"], "DROP TABLE wpp_mine")
            said(daemon, "instances/refused/migrate")
            mirror.run(named["poison"], "ALTER TABLE wpp_messages MODIFY body TEXT")
            said(daemon, "instances/poison/quarantine/retry")
            somebody.execute(f"SELECT RELEASE_LOCK('{lock}')")
            said(daemon, "instances/resting/resume")
            watch.until_silent(*watch.firing(), seconds=40)
            assert watch.ever_fired() == CAUSED


def test_what_befalls_central(
    central: PrivateServer, servers: Servers, write_config: WriteConfig, tmp_path: Path
) -> None:
    ours = central.create_database("wpp")
    central.execute(schema(), "wpp")
    config = write_config(
        {**ours, "statement_timeout": "3s", "connect_timeout": "1s"},
        {name: servers.new_local() for name in ("nunes", "resting")},
        defaults={"poll_interval": "500ms"},
        sync={"backoff_max": "2s"},
    )
    with DaemonProcess(config) as daemon, watched(tmp_path, address(daemon)) as watch:
        daemon.wait_until(lambda: daemon.state() == daemon.state("resting") == "idle")
        said(daemon, "instances/resting/pause")
        slow, unreachable = ("WppSyncCentralSlow", ""), ("WppSyncCentralUnreachable", "")
        began = time.monotonic()
        while slow not in watch.firing():
            assert time.monotonic() < began + 40, watch.all()
            central.pause()
            time.sleep(1.8)
            central.resume()
            time.sleep(0.05)
        watch.until_silent(slow, seconds=20)
        assert watch.ever_fired() == {slow}
        central.pause()
        watch.until_firing(unreachable, seconds=40)
        central.resume()
        watch.until_silent(*watch.firing(), seconds=20)
        # Long enough for the mirror to be stale; of whoever is paused nobody expects otherwise.
        assert watch.ever_fired() - {slow, ("WppSyncMirrorStale", "nunes")} == {unreachable}


def test_what_befalls_a_daemon(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    """Another one stands by, and takes over while the first one is away: that disturbs nobody."""
    ports = [free_port(), free_port()]
    configs = []
    for number, port in enumerate(ports):
        config = write_config(
            databases.central, {"nunes": databases.local}, http={"listen": f"127.0.0.1:{port}"}
        )
        document = yaml.safe_load(config.read_text())
        path = Path(document["control"]["socket"]).with_name(f"{number}.sock")
        document["control"]["socket"] = str(path)
        configs.append(config.with_name(f"daemon{number}.yaml"))
        configs[-1].write_text(yaml.safe_dump(document))
    config = configs[0]
    with (
        DaemonProcess(config) as daemon,
        watched(tmp_path, *(f"127.0.0.1:{port}" for port in ports)) as watch,
        watched(tmp_path / "blind") as blind,
        DaemonProcess(configs[1]) as other,
    ):
        other.wait_until(lambda: other.state() == "standby")
        daemon.wait_until(lambda: daemon.state() == "idle")
        good = config.read_text()
        config.write_text(f"{good}\nwhat: is this\n")
        assert daemon.request("POST", "/v1/reload").status == 409
        refused = ("WppSyncReloadRefused", "")
        watch.until_firing(refused, seconds=15)
        config.write_text(good)
        said(daemon, "reload")
        watch.until_silent(refused, seconds=10)
        assert watch.ever_fired() == {refused}

        late = ("WppSyncEventLoopLate", "")
        began = time.monotonic()
        while late not in watch.firing():
            assert time.monotonic() < began + 40, watch.all()
            daemon.pause()
            time.sleep(0.8)
            daemon.resume()
            time.sleep(0.3)
        watch.until_silent(late, seconds=20)

        restarting, down = ("WppSyncRestarting", ""), ("WppSyncDaemonDown", "")
        began = time.monotonic()
        while restarting not in watch.firing():
            assert time.monotonic() < began + 30, watch.all()
            daemon.kill()
            daemon.start()
            time.sleep(1.5)
        daemon.kill()
        watch.until_firing(down, seconds=15)
        other.wait_until(lambda: other.state() == "idle")
        daemon.start()
        watch.until_silent(down, seconds=10)
        assert watch.ever_fired() == {refused, late, restarting, down}
        blind.until_firing(("WppSyncNotScraped", ""), seconds=20)
        assert blind.ever_fired() == {("WppSyncNotScraped", "")}
