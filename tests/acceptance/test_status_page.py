"""The status page in a real browser."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, Route, expect

from daemon import page
from daemon.demo.central import seed_varied
from daemon.recent import Recent
from daemon.seen import EntitySeen, InstanceSeen
from tests import mirror
from tests.browser import DESK, PHONE, Browser, browser, overflows, overlaps
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]
STATIC = {
    "style.css": "text/css",
    "refresh.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
LONG = "Ação & <b>Irmãos</b> – uma empresa com um nome realmente muito comprido ltda"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def daemon(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> Iterator[DaemonProcess]:
    """One that copies two instances and cannot reach the database of a third one."""
    mirror.seed(databases.central, seed_varied(["nunes", "azul"], messages=50))
    instances = {
        "azul": servers.new_local(),
        "nunes": databases.local,
        "zebra": {**databases.local, "database": "elsewhere", "port": 1},
    }
    config = write_config(
        databases.central, instances, defaults={"poll_interval": "200ms"}, entities={}
    )
    with DaemonProcess(config) as started:
        for name in ("azul", "nunes"):
            started.wait_until(lambda name=name: started.state(name) == "idle")  # type: ignore[misc]
        started.wait_until(lambda: started.state("zebra") == "backoff")
        yield started


def address(daemon: DaemonProcess) -> str:
    return f"http://{daemon.logged('started')[-1]['http']}"


def test_an_operator_clicks_from_the_trouble_to_its_cause_and_back(
    daemon: DaemonProcess, chromium: Browser
) -> None:
    with chromium.page() as shown:
        shown.goto(address(daemon))
        expect(shown.locator("h1")).to_have_text("1 of 3 instances in trouble")
        first = shown.locator("tbody tr").first
        expect(first).to_contain_text("zebra")
        expect(first).to_contain_text("cannot connect")
        first.get_by_role("link").click()
        expect(shown.locator("h1")).to_contain_text("zebra")
        expect(shown.locator("section.error")).to_contain_text("cannot connect")
        expect(shown.locator("table.errors")).to_contain_text("unreachable")
        shown.get_by_role("link", name="wpp-sync").click()
        shown.get_by_role("searchbox").fill("nun")
        shown.get_by_role("button", name="Search").click()
        expect(shown.locator("tbody tr")).to_have_count(1)
        shown.get_by_role("link", name="nunes").click()
        expect(shown.locator("table.entities tbody tr")).to_have_count(5)
        expect(shown.locator("table.migrations")).to_contain_text("add-bot-id-column")
    assert chromium.complaints == [], "nothing was asked for that is not there"


def test_the_page_follows_what_happens_without_being_loaded_again(
    daemon: DaemonProcess, chromium: Browser
) -> None:
    with chromium.page() as shown:
        shown.goto(address(daemon))
        shown.evaluate("window.here = true")
        assert daemon.request("POST", "/v1/instances/azul/pause", {"reason": "x"}).status == 200
        expect(shown.get_by_role("row").filter(has_text="azul")).to_contain_text(
            "paused", timeout=8_000
        )
        assert shown.evaluate("window.here") is True
        assert daemon.stop() == 0
        expect(shown.locator("body.silent")).to_be_visible(timeout=8_000)
    # A page whose server is gone has to complain.
    chromium.complaints.clear()


def test_an_answer_that_is_no_page_of_ours_leaves_what_is_there(
    daemon: DaemonProcess, chromium: Browser
) -> None:
    """A proxy in front of a daemon that is away."""
    with chromium.page() as shown:
        shown.goto(address(daemon))
        shown.route("**/*", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
        expect(shown.locator("body.silent")).to_be_visible(timeout=8_000)
        expect(shown.locator("tbody tr")).to_have_count(3)
        shown.unroute("**/*")
        expect(shown.locator("body:not(.silent)")).to_be_visible(timeout=8_000)
        expect(shown.locator("tbody tr")).to_have_count(3)
    # It is right to complain.
    chromium.complaints.clear()


def test_without_javascript_everything_is_there(daemon: DaemonProcess, chromium: Browser) -> None:
    with chromium.page(javascript=False) as shown:
        shown.goto(f"{address(daemon)}/?q=zebra")
        expect(shown.locator("tbody tr")).to_have_count(1)
        shown.get_by_role("link", name="zebra").click()
        expect(shown.locator("h1")).to_contain_text("zebra")


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("dark", [False, True])
def test_an_instances_page_fits(
    daemon: DaemonProcess, chromium: Browser, width: int, dark: bool
) -> None:
    with chromium.page(width, dark=dark) as shown:
        for target in ("/", "/instances/nunes", "/instances/zebra", "/instances/nobody"):
            shown.goto(address(daemon) + target)
            fits(shown, dark=dark)
    chromium.complaints[:] = [c for c in chromium.complaints if "404" not in c]


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("number", [3, 1000])
def test_many_instances_fit_with_the_trouble_on_top(
    chromium: Browser, number: int, width: int
) -> None:
    lines = made_up(number)
    html = page.overview(lines, "", version="1.2.3", now=datetime.now(UTC))

    def answer(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        if name in STATIC:
            route.fulfill(body=page.static(name), content_type=STATIC[name])
        else:
            route.fulfill(body=html, content_type="text/html; charset=utf-8")

    with chromium.page(width) as shown:
        shown.route("**/*", answer)
        shown.goto("http://daemon.test/")
        fits(shown, dark=False)
        rows = shown.locator("tbody tr")
        expect(rows).to_have_count(number)
        expect(rows.first).to_have_class("trouble")
        troubled = [line for line in lines if line.trouble]
        assert shown.locator("tbody tr.trouble ~ tr:not(.trouble) ~ tr.trouble").count() == 0
        assert shown.locator("tbody tr.trouble").count() == len(troubled)


def fits(shown: Page, *, dark: bool) -> None:
    """Nothing sticks out, nothing lies over something else, and the colours are those asked for."""
    assert overflows(shown) == []
    assert overlaps(shown, "h1, h2, form > *, tbody th, tbody td, dt, dd") == []
    background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark


def made_up(number: int) -> list[page.Line]:
    """Instances of every kind, the last one with a name that is text and nothing else."""
    rng = random.Random(1)
    lines = []
    for place in range(number):
        kind = rng.choice(["idle"] * 40 + ["failed", "backoff", "standby", "paused", "late"])
        kind = "late" if place == 0 else kind
        entities = {
            "messages": EntitySeen(
                lag_seconds=421.3 if kind == "late" else 0.0,
                lag_rows=123_456 if kind == "late" else 0,
                rewound=0,
                quarantined_rows=rng.choice([0] * 30 + [7]),
            )
        }
        state = "idle" if kind == "late" else kind
        name = LONG if place == number - 1 else f"customer-{place:04}"
        seen = InstanceSeen(
            name, state, {} if kind == "standby" else entities,
            last_success_timestamp_seconds=time.time() - 3, migrations_pending=0,
        )  # fmt: skip
        recent, written = Recent(), 0
        for _ in range(60):
            written += rng.randint(0, 40)
            recent.sample(written)
        errors = [("local x: " + "a long story of what happened " * 4, "do something")]
        wrong = errors if kind in {"failed", "backoff"} else []
        lines.append(page.line(seen, recent, wrong, stalled=False))
    return lines
