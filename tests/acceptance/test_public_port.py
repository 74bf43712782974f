"""What the TCP port tells: health, readiness, metrics and the status page, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, urljoin
from urllib.request import Request, urlopen

import pytest

from daemon.demo.central import seed_varied
from tests import mirror
from tests.daemon_process import DaemonProcess, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]
QUICK = {"defaults": {"poll_interval": "100ms"}}
HOSTILE = """<script>alert("1")</script>&'`{{7*7}} é"""


class Page(NamedTuple):
    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.text)
        return found


def ask(daemon: DaemonProcess, target: str, method: str = "GET") -> Page:
    """One request to the port."""
    address = daemon.logged("started")[-1]["http"]
    try:
        answer = urlopen(Request(f"http://{address}{target}", method=method), timeout=10)
    except HTTPError as error:
        answer = error
    with answer:
        return Page(answer.status, answer.read().decode(), dict(answer.headers))


def idle(daemon: DaemonProcess, instance: str = "nunes") -> None:
    daemon.wait_until(lambda: daemon.state(instance) == "idle")


def test_a_daemon_that_works_is_alive_and_ready(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        assert ask(daemon, "/healthz").json == {"status": "ok", "reasons": []}
        ready = ask(daemon, "/readyz")
        assert (ready.status, ready.json) == (200, {"status": "ready", "reasons": []})


def test_a_daemon_that_can_copy_nobody_is_alive_and_not_ready_and_says_why(
    databases: Databases, write_config: WriteConfig
) -> None:
    nowhere = {**databases.central, "port": 1}
    config = write_config(nowhere, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "backoff")
        assert ask(daemon, "/healthz").status == 200
        ready = ask(daemon, "/readyz")
        assert ready.status == 503
        reasons = ready.json["reasons"]
        assert isinstance(reasons, list)
        assert reasons[0] == "no instance can be copied"
        assert "cannot connect" in reasons[1]


def test_one_instance_in_trouble_does_not_make_the_daemon_unready(
    databases: Databases, write_config: WriteConfig
) -> None:
    broken = {**databases.local, "port": 1}
    config = write_config(databases.central, {"nunes": databases.local, "karsten": broken}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        daemon.wait_until(lambda: daemon.state("karsten") == "backoff")
        assert ask(daemon, "/readyz").status == 200


def test_the_status_is_told_only_where_it_is_allowed(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        refused = ask(daemon, "/v1/status")
        assert refused.status == 403
        assert "http.status" in refused.text
        config.write_text(config.read_text().replace("http:\n", "http:\n  status: true\n"))
        assert daemon.request("POST", "/v1/reload").status == 200
        allowed = ask(daemon, "/v1/status")
        assert allowed.status == 200
        told: Any = allowed.json["instances"]
        assert [each["instance"] for each in told] == ["nunes"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/v1/instances/nunes/resync", 404),
        ("POST", "/v1/status", 405),
        ("GET", "/v1/instances/nunes", 404),
        ("POST", "/v1/reload", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/style.css/", 404),
        ("DELETE", "/", 405),
    ],
)
def test_nothing_can_be_commanded_here(
    databases: Databases, write_config: WriteConfig, method: str, target: str, status: int
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as daemon:
        answer = ask(daemon, target, method)
        assert answer.status == status
        assert "error" in answer.json
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_the_page_shows_each_instance_with_trouble_first_and_finds_one(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    mirror.seed(databases.central, seed_varied(["nunes", "azul"], messages=50))
    instances = {
        "azul": servers.new_local(),
        "nunes": databases.local,
        "zebra": {**databases.local, "database": "elsewhere", "port": 1},
    }
    config = write_config(databases.central, instances, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon, "azul")
        idle(daemon)
        daemon.wait_until(lambda: daemon.state("zebra") == "backoff")
        shown = ask(daemon, "/")
        assert shown.status == 200
        assert re.findall(r'href="/instances/([a-z]+)"', shown.text) == ["zebra", "azul", "nunes"]
        assert "1 of 3 instances in trouble" in shown.text
        assert "cannot connect" in shown.text
        found = ask(daemon, "/?q=AZU")
        assert re.findall(r'href="/instances/([a-z]+)"', found.text) == ["azul"]
        by_state = ask(daemon, "/?q=backoff")
        assert re.findall(r'href="/instances/([a-z]+)"', by_state.text) == ["zebra"]
        nothing = ask(daemon, f"/?q={quote(HOSTILE)}")
        assert nothing.status == 200
        assert "<script>alert" not in nothing.text
        assert "49" not in nothing.text.split("<main>")[1]
        one = ask(daemon, "/instances/nunes")
        for word in ("messages", "contacts", "2026-02-03-001-add-bot-id-column", "Settling"):
            assert word in one.text
        failing = ask(daemon, "/instances/zebra").text
        assert "Recent errors" in failing
        assert "<code>unreachable</code>" in failing
        missing = ask(daemon, "/instances/nobody")
        assert missing.status == 404
        assert "text/html" in missing.headers["Content-Type"]
        for path, kind in (
            ("/style.css", "text/css"),
            ("/refresh.js", "text/javascript"),
            ("/icon.svg", "image/svg+xml"),
        ):
            static = ask(daemon, path)
            assert static.status == 200
            assert static.headers["Content-Type"].startswith(kind)


@pytest.mark.parametrize("name", [".", "..", "...", "%2E%2E", "a b&c=d#e?"])
def test_a_name_that_means_something_in_an_address_has_its_page(
    databases: Databases, write_config: WriteConfig, name: str
) -> None:
    config = write_config(databases.central, {name: databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: run_cli("status", name, "-c", config).returncode == 0)
        (href,) = re.findall(r'href="(/instances[^"]+)"', ask(daemon, "/").text)
        # As a browser goes there: `.` and `..` are taken out of the path.
        target = urljoin("http://daemon/", unescape(href)).removeprefix("http://daemon")
        one = ask(daemon, target)
        assert one.status == 200
        assert f"<h1>{escape(name)}" in one.text
        assert ask(daemon, "/instances").status == 404


def test_a_hostile_name_is_text_everywhere(databases: Databases, write_config: WriteConfig) -> None:
    name = HOSTILE.replace("/", "")
    config = write_config(databases.central, {name: databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon, quote(name, safe=""))
        shown = ask(daemon, "/")
        assert "<script>alert" not in shown.text
        (href,) = re.findall(r'href="(/instances/[^"]+)"', shown.text)
        one = ask(daemon, href)
        assert one.status == 200
        assert "<script>alert" not in one.text
        assert any(
            sample.labels["wpp_instance"] == name
            for sample in daemon.metrics()["wpp_sync_instance_state"]
        )
