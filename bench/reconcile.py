"""What comparing costs, beside a plain checksum on the same server in the same run.

    .venv/bin/python bench/reconcile.py [MESSAGES] [HOT]

Two private MariaDB servers, one instance with MESSAGES messages (1,000,000), of which HOT (100,000)
are hot. Prints seconds, bytes that crossed the network, and queries; medians of five.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml

from daemon import app, config, log, operations
from daemon.demo import central as data
from daemon.demo.server import MariaDB, client
from daemon.instance import Instance

ROUNDS = 5
PER_STATEMENT = 100_000


def rows(server: Any, sql: str) -> list[list[str]]:
    answer = client(server, sql, "--skip-column-names").decode()
    return [line.split("\t") for line in answer.splitlines()]


def sent_bytes(*servers: Any) -> int:
    """Bytes that have crossed the servers' connections so far."""
    question = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Bytes_sent', 'Bytes_received')"
    return sum(int(value) for server in servers for _, value in rows(server, question))


def seeded(central: Any, messages: int, hot: int) -> None:
    for first in range(1, messages + 1, PER_STATEMENT):
        client(
            central,
            data.seed_bulk("nunes", min(PER_STATEMENT, messages + 1 - first), 120, first_id=first),
        )
    client(central, f"UPDATE messages SET status = IF(id > {messages - hot}, 'SENT', 'READ')")


async def measured(work: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await work()
    return time.monotonic() - began


async def compare(instance: Instance, central: Any, local: Any, messages: int) -> None:
    plan = instance.motions["messages"].plan
    sums = plan.central_sums
    rivals = {
        "one BIT_XOR(row sum) over central": f"SELECT BIT_XOR({sums.row}) FROM messages",
        "one BIT_XOR(CRC32(CONCAT_WS)) over central": "SELECT BIT_XOR(CRC32(CONCAT_WS('#', "
        + ", ".join(f"`{pair.central}`" for pair in plan.pairs)
        + "))) FROM messages",
    }
    took: dict[str, list[float]] = {name: [] for name in (*rivals, "reconcile, in sync")}
    crossed: list[int] = []
    for _ in range(ROUNDS):
        for name, sql in rivals.items():
            began = time.monotonic()
            client(central, sql.replace("%%", "%"))
            took[name].append(time.monotonic() - began)
        before = sent_bytes(central, local)
        began = time.monotonic()
        found = await operations.reconcile(instance, "messages", dry_run=True)
        took["reconcile, in sync"].append(time.monotonic() - began)
        crossed.append(sent_bytes(central, local) - before)
        if found["messages"].differences or found["messages"].compared != messages:
            raise SystemExit(f"not in sync: {found}")
    for name, seconds in took.items():
        print(
            f"{name:45} {statistics.median(seconds):7.2f} s   ({min(seconds):.2f} – {max(seconds):.2f})"
        )
    print(f"{'bytes, both servers, both directions':45} {statistics.median(crossed):,.0f}")


async def hot(built: app.Parts, instance: Instance, central: Any, local: Any, number: int) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(instance.run(stop))
    try:
        while (
            instance.motions.get("messages") is None or instance.motions["messages"].hot.rows == 0
        ):  # type: ignore[union-attr]
            await asyncio.sleep(0.1)
        # The first round over the whole table would find the changes, too.
        while instance.motions["messages"].compared_at is None:
            await asyncio.sleep(0.1)
        queries = built.metrics.central_queries.labels("hot")
        before, began = queries._value.get(), time.monotonic()
        delays: list[float] = []
        newest = int(rows(central, "SELECT MAX(id) FROM messages")[0][0])
        for turn in range(ROUNDS):
            id_ = newest - turn * (number // ROUNDS)
            client(central, f"UPDATE messages SET status = 'READ' WHERE id = {id_}")
            committed = time.monotonic()
            while rows(local, f"SELECT status FROM wpp_messages WHERE id = {id_}") != [["READ"]]:
                await asyncio.sleep(0.05)
            delays.append(time.monotonic() - committed)
        seconds = time.monotonic() - began
        print(
            f"{number:,} hot rows: a status change is seen after {statistics.median(delays):.1f} s"
            f" (at most {max(delays):.1f}); {(queries._value.get() - before) / seconds:.1f} central"
            " queries a second"
        )
    finally:
        stop.set()
        instance.wake.set()
        await running


async def main(messages: int, number: int) -> None:
    log.silence()
    with tempfile.TemporaryDirectory(prefix="wpp-bench-") as name:
        directory = Path(name)
        for side in ("central", "local"):
            (directory / side).mkdir()
        with (
            MariaDB(
                directory / "central", name="central", options=["--innodb-buffer-pool-size=1G"]
            ) as there,
            MariaDB(
                directory / "local", name="local", options=["--innodb-buffer-pool-size=1G"]
            ) as here,
        ):
            central, local = there.create_database("central"), here.create_database("local")
            there.execute(data.schema(), "central")
            seeded(central, messages, number)
            path = directory / "config.yaml"
            path.write_text(
                yaml.safe_dump(
                    {
                        "central": dict(central),
                        "instances": {"nunes": dict(local)},
                        "control": {"socket": None},
                        "http": {"listen": None},
                        "sync": {"settle": "1s"},
                    }
                )
            )
            async with app.parts(config.load(path)) as built:
                instance = built.instances["nunes"]
                seconds = await measured(lambda: instance.sync_pass(asyncio.Event()))
                print(
                    f"{messages:,} messages copied in {seconds:.1f} s ({messages / seconds:,.0f} rows/s)"
                )
                await compare(instance, central, local, messages)
                await hot(built, instance, central, local, number)


if __name__ == "__main__":
    arguments = [int(each) for each in sys.argv[1:]]
    asyncio.run(main(*(arguments + [1_000_000, 100_000][len(arguments) :])))
