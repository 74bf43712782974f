"""What a thousand instances cost that have nothing to do, and how fast they can be looked at.

    .venv/bin/python bench/thousand.py [--instances 1000] [--seconds 30]

One private MariaDB is central and holds all local databases; each is a copy of one that was migrated,
so that the daemon finds them up to date, as after a restart. Then the daemon is measured as a process:
how long until all are idle, what it and the server use while nothing happens, what it asks central, and
how long /metrics, the status page, and `status` take.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from daemon.demo.central import schema
from daemon.demo.server import MariaDB, client

TICKS = os.sysconf("SC_CLK_TCK")
LOOKS = 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--instances", type=int, default=1000)
    options.add_argument("--seconds", type=float, default=30.0)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="wpp-bench-") as directory:
        place = Path(directory)
        (place / "server").mkdir()
        limits = ["--max-connections=5000", "--table-open-cache=20000", "--open-files-limit=65536"]
        with MariaDB(place / "server", name="bench", options=limits) as server:
            config = prepare(server, place, asked.instances)
            print(
                json.dumps(measure(server, config, place, asked.instances, asked.seconds), indent=2)
            )


def prepare(server: MariaDB, place: Path, count: int) -> Path:
    """Central, and so many local databases that are up to date."""
    central = server.create_database("central")
    server.execute(schema(), "central")
    first = server.create_database("i0000")
    config = place / "config.yaml"

    def write(names: list[str]) -> None:
        document = {
            "central": dict(central),
            "instances": {name: {**first, "database": name} for name in names},
            "control": {"socket": str(place / "control.sock")},
            "http": {"listen": "127.0.0.1:0"},
        }
        config.write_text(yaml.safe_dump(document))

    write(["i0000"])
    subprocess.run(
        [sys.executable, "-m", "daemon.cli", "sync", "i0000", "-c", str(config)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    answer = client(first, "SHOW TABLES", "--skip-column-names").decode()
    tables = answer.split()
    names = [f"i{number:04}" for number in range(count)]
    for name in names[1:]:
        copies = "".join(
            f"CREATE TABLE {name}.{t} LIKE i0000.{t}; INSERT INTO {name}.{t} SELECT * FROM i0000.{t};"
            for t in tables
        )
        server.execute(f"CREATE DATABASE {name}; {copies}")
    write(names)
    return config


def measure(
    server: MariaDB, config: Path, place: Path, count: int, seconds: float
) -> dict[str, Any]:
    with (place / "log").open("wb") as log:
        began = time.monotonic()
        daemon = subprocess.Popen(
            [sys.executable, "-m", "daemon.cli", "run", "-c", str(config)], stderr=log
        )
    try:
        path = place / "control.sock"
        while not path.exists():
            time.sleep(0.05)
        while states(path).get("idle", 0) < count:
            time.sleep(0.5)
        started = time.monotonic() - began
        time.sleep(5.0)
        before = usage(daemon.pid), usage(server.pid), asked_of_central(path)
        time.sleep(seconds)
        after = usage(daemon.pid), usage(server.pid), asked_of_central(path)
        host, port = get(path, "/v1/alive")["http"].split(":")

        def look(target: str) -> Callable[[], bytes]:
            def ask() -> bytes:
                connection = http.client.HTTPConnection(host, int(port), timeout=30)
                connection.request("GET", target)
                return connection.getresponse().read()

            return ask

        return {
            "instances": count,
            "until all are idle, s": round(started, 1),
            "idle: daemon, % of a core": round((after[0] - before[0]) / seconds * 100, 2),
            "idle: server, % of a core": round((after[1] - before[1]) / seconds * 100, 2),
            "idle: central queries/s": round((after[2] - before[2]) / seconds, 2),
            "RSS, MB": resident(daemon.pid),
            "/metrics": timed(look("/metrics")),
            "status page": timed(look("/")),
            "page of one instance": timed(look("/instances/i0000")),
            "GET /v1/status": timed(lambda: json.dumps(get(path, "/v1/status")).encode()),
            "wpp-sync status": timed(
                lambda: (
                    subprocess.run(
                        [sys.executable, "-m", "daemon.cli", "status", "-c", str(config)],
                        check=True,
                        stdout=subprocess.PIPE,
                    ).stdout
                )
            ),
        }
    finally:
        daemon.terminate()
        began = time.monotonic()
        daemon.wait(60)
        print(f"left after {time.monotonic() - began:.1f} s", file=sys.stderr)


def timed(ask: Callable[[], bytes]) -> dict[str, Any]:
    took, size = [], 0
    for _ in range(LOOKS):
        began = time.monotonic()
        size = len(ask())
        took.append((time.monotonic() - began) * 1000)
    return {
        "median, ms": round(statistics.median(took)),
        "worst, ms": round(max(took)),
        "kB": size // 1000,
    }


def usage(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("daemon", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def get(path: Path, target: str) -> dict[str, Any]:
    connection = _Unix(path)
    connection.request("GET", target)
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    return found


def states(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in get(path, "/v1/status")["instances"]:
        found[each["state"]] = found.get(each["state"], 0) + 1
    return found


def asked_of_central(path: Path) -> float:
    host, port = get(path, "/v1/alive")["http"].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("wpp_sync_central_queries_total")
    )


if __name__ == "__main__":
    main()
