"""The dashboard's queries, answered by a real Prometheus: about two daemons that share an instance
and have troubles of all kinds, and about disagreements that no test can bring about in time."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from daemon.demo.central import seed_varied
from tests import mirror
from tests.daemon_process import DaemonProcess
from tests.mirror import Server
from tests.prometheus import JOB, Prometheus, needs_prometheus, promtool

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

pytestmark = needs_prometheus

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/wpp-sync.json").read_text())
PANELS: dict[tuple[str, str], dict[str, Any]] = {}
for _panel in DASHBOARD["panels"]:
    if _panel["type"] == "row":
        _row = _panel["title"].partition(":")[0]
    else:
        PANELS[_row, _panel["title"]] = _panel

RULES = [ROOT / "deploy/prometheus" / name for name in ("rules.yml", "alerts.yml")]
RECORDED = [
    rule["record"]
    for path in RULES
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
]

CHOSEN = {"$job": JOB, "$wpp_instance": ".+", "$entity": ".+", "$__rate_interval": "2m"}


def queries(row: str, title: str, **chosen: str) -> list[str]:
    """A panel's queries as Grafana sends them, but for zeroes that stand for nothing."""
    values = CHOSEN | {f"${name}": value for name, value in chosen.items()}
    found = []
    for target in PANELS[row, title]["targets"]:
        query = str(target["expr"]).replace(" or vector(0)", "")
        for name, value in values.items():
            query = query.replace(name, value)
        assert "$" not in query, query
        found.append(query)
    return found


class Board:
    """The dashboard as somebody sees it who looks at a Prometheus through it."""

    def __init__(self, prometheus: Prometheus) -> None:
        self.prometheus = prometheus

    def series(self, row: str, title: str, **chosen: str) -> dict[tuple[str, ...], float]:
        """What a panel's first query shows: the labels' values, in the order of their names, and
        the value."""
        (query, *_) = queries(row, title, **chosen)
        return {
            tuple(value for name, value in sorted(one["metric"].items()) if name != "__name__"): (
                float(one["value"][1])
            )
            for one in self.prometheus.query(query)
        }

    def wait_for(self, row: str, title: str, condition: Callable[[Any], bool]) -> None:
        """Until the panel shows that."""
        deadline = time.monotonic() + 30
        while not condition(found := self.series(row, title)):
            assert time.monotonic() < deadline, f"{title}: {found}"
            time.sleep(0.2)

    def troubles(self) -> Iterator[str]:
        """What is wrong with panels: no answer, no number, or a legend that names no label."""
        for (row, title), panel in PANELS.items():
            for query, target in zip(queries(row, title), panel["targets"], strict=True):
                found = self.prometheus.query(query)
                if not found:
                    yield f"{row}, {title}: no answer to {query}"
                elif all(math.isnan(float(one["value"][1])) for one in found):
                    yield f"{row}, {title}: no number for {query}"
                wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                for missing in {name for one in found for name in wanted - one["metric"].keys()}:
                    yield f"{row}, {title}: no label {missing}"
        for variable in DASHBOARD["templating"]["list"]:
            asked = variable["query"]
            if isinstance(asked, dict):
                match = re.fullmatch(r"label_values\((.*), (\w+)\)", asked["query"])
                assert match is not None
                found = self.prometheus.query(match[1].replace("$job", JOB))
                if not any(match[2] in one["metric"] for one in found):
                    yield f"variable {variable['name']}: nothing to choose from"


def second(config: Path) -> Path:
    """The same configuration for one more daemon on this machine."""
    document = yaml.safe_load(config.read_text())
    socket = Path(document["control"]["socket"])
    document["control"]["socket"] = str(socket.with_name("second.sock"))
    path = config.with_name("second.yaml")
    path.write_text(yaml.safe_dump(document))
    return path


def address(daemon: DaemonProcess) -> str:
    return str(daemon.logged("started")[-1]["http"])


def idle(daemon: DaemonProcess) -> None:
    daemon.wait_until(lambda: daemon.state() == "idle", 60)


def test_every_panel_has_an_answer_and_it_is_right(
    databases: Databases, servers: Servers, write_config: WriteConfig, tmp_path: Path
) -> None:
    central, local = databases
    torn = servers.new_local()
    own = tmp_path / "own"
    own.mkdir()
    (own / "2099-12-01-001-mine.sql").write_text("-- Mine\nCREATE TABLE wpp_mine (a BIGINT)")
    mirror.run(torn, "CREATE TABLE wpp_mine (a INT); INSERT INTO wpp_mine VALUES (1)")
    mirror.seed(central, seed_varied(["nunes"], messages=200))
    config = write_config(
        central,
        {"nunes": local, "torn": torn, "zebra": {**local, "database": "nowhere", "port": 1}},
        entities={},
        migrations={"directory": str(own)},
        defaults={"poll_interval": "100ms"},
        sync={"settle": "1s", "whole_interval": "1s", "hot_interval": "1s"},
    )
    with ExitStack() as stack:
        first = stack.enter_context(DaemonProcess(config))
        idle(first)
        other = stack.enter_context(DaemonProcess(second(config)))
        other.wait_until(lambda: other.state() == "standby")
        prometheus = stack.enter_context(
            Prometheus(tmp_path / "prometheus", [address(first), address(other)], RULES)
        )
        board = Board(prometheus)
        prometheus.wait_for(f"count(wpp_sync_build_info{{job='{JOB}'}}) == 2", 20)
        make_trouble(first, central, local, stack)
        board.wait_for("Chosen instances", "Late rows", bool)
        board.wait_for("Overview", "Quarantined rows", lambda found: found == {(): 1})
        board.wait_for("Overview", "Instances by state", lambda found: found.get(("idle",)) == 1)
        for row, title in PANELS:
            for query in queries(row, title):
                prometheus.wait_for(query, 20)

        assert list(board.troubles()) == []
        for name in RECORDED:
            prometheus.wait_for(name, 20)

        assert board.series("Chosen instances", "Late rows") == {("messages", "nunes"): 1}
        assert board.series("Errors and processes", "Resets") == {("control",): 1}
        differed = board.series("Chosen instances", "Rows that differed")
        assert differed["contacts", "differing", "nunes"] == pytest.approx(3, rel=0.2)
        states = board.series("Overview", "Instances by state")
        assert states == {("idle",): 1, ("backoff",): 1, ("failed",): 1}, (
            "each once, for both daemons"
        )
        lags = board.series("Overview", "Instances farthest behind")
        assert lags["nunes",] == 0, "contacts, compared whole, do not count"
        assert lags["zebra",] > 0
        assert board.series("Overview", "Worst lag")[()] == pytest.approx(lags["zebra",], abs=3)
        assert board.series("Overview", "Daemons") == {(): 2}
        one = board.series("Chosen instances", "Lag in seconds", wpp_instance="nunes")
        assert {entity for entity, _ in one} == set(mirror.INCREMENTAL) | {
            "contacts", "contact_sectors", "schedules",
        }  # fmt: skip


def make_trouble(daemon: DaemonProcess, central: Server, local: Server, stack: ExitStack) -> None:
    """A row that is refused, a late one, rows that differ, a reset, rows that have to wait."""
    mirror.run(local, "ALTER TABLE wpp_messages ADD CONSTRAINT taste CHECK (body <> 'poison')")
    mirror.insert_message(central, 90_000, body="'poison'")
    slow = stack.enter_context(mirror.Session(central))
    slow.execute(
        "BEGIN; INSERT INTO messages (id, instance, `from`, `to`, type, is_forwarded, is_edited,"
        " timestamp, sent_at, status, body) VALUES"
        " (90001, 'nunes', '1', '2', 'chat', 0, 0, '3', NOW(3), 'READ', 'late')"
    )
    mirror.insert_message(central, 90_002)
    daemon.wait_until(lambda: daemon.watermark() == 90_002)
    slow.execute("COMMIT")
    daemon.wait_until(lambda: 90_001 in mirror.local_ids(local))
    mirror.run(
        central, "UPDATE contacts SET name = 'somebody else' WHERE instance = 'nunes' LIMIT 3"
    )
    daemon.wait_until(lambda: mirror.differences(central, local, entities=["contacts"]) == "")
    assert daemon.request("POST", "/v1/instances/nunes/reset", {"entity": "chats"}).status == 200
    idle(daemon)
    throttle(daemon, 50)
    mirror.insert_messages(central, range(91_000, 91_200))
    daemon.wait_until(lambda: daemon.watermark() == 91_199)
    throttle(daemon, None)
    idle(daemon)


def throttle(daemon: DaemonProcess, rows_per_second: int | None) -> None:
    asked = {"rows_per_second": rows_per_second}
    assert daemon.request("POST", "/v1/instances/nunes/throttle", asked).status == 200


# --- what several daemons say of one instance -----------------------------------------------------


def judged(tmp_path: Path, series: dict[str, str], query: str, wanted: dict[str, float]) -> str:
    """What promtool has against it that these series make the query that after two minutes; empty
    when it agrees. `wanted`: labels -> value."""
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "2m",
                "exp_samples": [{"labels": name, "value": value} for name, value in wanted.items()],
            }
        ],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    done = promtool("test", "rules", path)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def told(daemon: str, state: str, lag: str | None) -> dict[str, str]:
    """What a daemon exports of an instance in that state."""
    at = f'job="{JOB}",instance="{daemon}",wpp_instance="nunes"'
    states = ("starting", "syncing", "idle", "standby", "backoff", "failed")
    found = {
        f'wpp_sync_instance_state{{{at},state="{each}"}}': f"{int(each == state)}x20"
        for each in states
    }
    if lag is not None:
        found[f'wpp_sync_lag_seconds{{{at},entity="messages"}}'] = lag
        found[f'wpp_sync_rewound{{{at},entity="messages"}}'] = "0x20"
    return found


COPIES = told("a", "idle", "0x20")
WAITS = told("b", "standby", None)
CANNOT = told("b", "backoff", "900+15x20")
STARTS = told("b", "starting", "0+15x20")
CANNOT_EITHER = told("a", "backoff", "0+15x20")
FAILED = told("a", "failed", "300+15x20")


@pytest.mark.parametrize(
    ("series", "lag"),
    [
        pytest.param(COPIES | WAITS, 0, id="the other one stands by"),
        pytest.param(COPIES | CANNOT, 0, id="the other one cannot reach the database"),
        pytest.param(CANNOT_EITHER | CANNOT, 1020, id="nobody can"),
        pytest.param(FAILED | STARTS, 420, id="one that starts knows nothing yet"),
        pytest.param(FAILED | WAITS, 420, id="the only one that is at it has failed"),
    ],
)
def test_the_lag_is_what_the_daemon_says_that_copies(
    tmp_path: Path, series: dict[str, str], lag: float
) -> None:
    (query,) = queries("Overview", "Instances farthest behind")
    assert judged(tmp_path, series, query, {'{wpp_instance="nunes"}': lag}) == ""


@pytest.mark.parametrize(
    ("series", "states"),
    [
        pytest.param(COPIES | WAITS, {"idle": 1}, id="one copies"),
        pytest.param(told("a", "standby", None) | WAITS, {"standby": 1}, id="nobody copies"),
        pytest.param(COPIES | CANNOT, {"idle": 1, "backoff": 1}, id="one tries in vain"),
    ],
)
def test_an_instance_counts_once_however_many_daemons_stand_by(
    tmp_path: Path, series: dict[str, str], states: dict[str, float]
) -> None:
    (query,) = queries("Overview", "Instances by state")
    wanted = {f'{{state="{state}"}}': value for state, value in states.items()}
    assert judged(tmp_path, series, query, wanted) == ""
