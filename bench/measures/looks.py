"""How fast many instances can be looked at: metrics, page, status."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench import processes, seed
from bench.measures.start import thousand
from bench.place import Place
from bench.processes import Daemon
from bench.results import Line, Outcome


def take(place: Place) -> Outcome:
    fleet = place.shared("thousand", thousand)
    count = len(fleet.locals)
    page = f"/instances/{seed.instance_name(0)}"
    with Daemon(fleet.config(count)) as daemon:
        daemon.wait_until_idle()
        status = [*processes.WPP_SYNC, "status", "-c", str(daemon.config)]
        looks: dict[str, Callable[[], int]] = {
            "GET /metrics": lambda: len(daemon.get("/metrics")),
            "the status page": lambda: len(daemon.get("/")),
            "the page of one instance": lambda: len(daemon.get(page)),
            "GET /v1/status": lambda: len(repr(daemon.instances())),
            "wpp-sync status": lambda: len(processes.run(status).said),
        }
        lines = tuple(_line(name, look, place.rounds) for name, look in looks.items())
    return Outcome(lines=lines, settings={"instances": f"{count:,}"})


def _line(name: str, look: Callable[[], int], rounds: int) -> Line:
    took = []
    for _ in range(rounds):
        began = time.monotonic()
        size = look()
        took.append((time.monotonic() - began) * 1000)
    return Line(name, "ms", tuple(took), f"{size // 1000} kB")
