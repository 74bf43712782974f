"""Ten minutes of live traffic while all three processes are killed, frozen and cut off at random.

Two daemons with the same configuration copy two instances. The application commits late, rolls
back, moves unique keys from row to row, and writes rows that a local table refuses. Meanwhile the
daemons, the central and the local server are killed with -9 or frozen, connections are killed, and
an operator resets. Nothing that was claimed to be settled may be missing at any moment, and when
all is calm again both sides are equal, value for value.

WPP_TEST_SECONDS sets the length, WPP_TEST_SEED the draw.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.demo.central import schema
from daemon.demo.server import MariaDB
from daemon.demo.traffic import Traffic
from daemon.errors import WppSyncError
from tests import mirror
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from tests.conftest import ServerConfig

WriteConfig = Callable[..., Path]

INSTANCES = ("nunes", "karsten")
SECONDS = float(os.environ.get("WPP_TEST_SECONDS", "600"))
SEED = int(os.environ.get("WPP_TEST_SEED", "3"))
LONGEST_FILE_NAME = 20  # characters that the local tables take, until they are mended
CHECK_EVERY = 20.0
CALM_SECONDS = 120.0

SECTIONS: dict[str, object] = {
    "defaults": {
        "poll_interval": "100ms",
        "connect_timeout": "3s",
        "statement_timeout": "5s",
    },
    "sync": {"backoff_max": "1s", "batch_rows": 50},
}


@contextmanager
def traffic(central: ServerConfig) -> Iterator[Traffic]:
    """Writers at work in a thread of their own, until the block ends."""
    made = Traffic(central, INSTANCES, rows_per_second=150, seed=SEED, writers=8)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(made.run(stop))
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
    assert not failed, failed


class KeyMover:
    """The application's awkward side: a few times a second a unique key goes to a new row, or a
    row is written that the local tables refuse."""

    def __init__(self, central: ServerConfig) -> None:
        self.moved = self.refusable = 0
        self._central = central
        self._draw = random.Random(SEED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> KeyMover:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        number = 0
        while not self._stop.wait(self._draw.uniform(0.02, 0.3)):
            number += 1
            instance = self._draw.choice(INSTANCES)
            try:
                if self._draw.random() < 0.15:
                    mirror.insert_message(
                        self._central, None, instance, file_name=f"'{'long' * 10} {number}'"
                    )
                    self.refusable += 1
                else:
                    self._move(instance)
                    self.moved += 1
            except WppSyncError:
                self._stop.wait(0.3)  # the server is away; what was open is rolled back

    def _move(self, instance: str) -> None:
        """The key of one of the newest rows: its row is deleted, or loses it, and a new one has it,
        in one transaction."""
        back = self._draw.randint(0, 30)
        how = self._draw.choice(
            ("DELETE FROM messages", "UPDATE messages SET wwebjs_id = NULL, body = 'keyless'")
        )
        mirror.run(
            self._central,
            f"BEGIN; SELECT id, wwebjs_id INTO @id, @key FROM messages"
            f" WHERE instance = '{instance}' AND wwebjs_id IS NOT NULL"
            f" ORDER BY id DESC LIMIT {back}, 1 FOR UPDATE;"
            f"{how} WHERE id = @id;"
            "INSERT INTO messages (instance, wwebjs_id, `from`, `to`, type, is_forwarded,"
            f" is_edited, body, timestamp, sent_at, status) SELECT '{instance}', @key, '1', '2',"
            " 'chat', 0, 0, 'moved', '3', NOW(3), 'SENT' WHERE @key IS NOT NULL; COMMIT",
        )


class Chaos:
    """What is done to the processes, and how often."""

    def __init__(
        self, central: MariaDB, local: MariaDB, databases: dict[str, ServerConfig],
        daemons: list[DaemonProcess],
    ) -> None:  # fmt: skip
        self.counts: Counter[str] = Counter()
        self._central, self._local = central, local
        self._databases = databases
        self._daemons = daemons
        self._draw = random.Random(SEED)
        self._acts: list[Callable[[], None]] = [
            self._kill_a_daemon, self._kill_a_daemon, self._kill_a_server, self._kill_a_server,
            self._freeze_a_daemon, self._freeze_a_server, self._kill_connections,
            self._kill_connections, self._freeze_and_cut, self._reset,
        ]  # fmt: skip

    def act(self, *, resets: bool) -> None:
        """One misfortune; everything runs again when it returns."""
        act = self._draw.choice(self._acts)
        while act == self._reset and not resets:
            act = self._draw.choice(self._acts)
        act()

    def _pause(self, most: float) -> None:
        time.sleep(self._draw.uniform(0.0, most))

    def _kill_a_daemon(self) -> None:
        daemon = self._draw.choice(self._daemons)
        daemon.kill()
        self._pause(1.0)
        daemon.start()
        self.counts["kills of a daemon"] += 1

    def _kill_a_server(self) -> None:
        server = self._draw.choice((self._central, self._local))
        server.kill()
        self._pause(1.5)
        server.start()
        self.counts[f"kills of the {server.name} server"] += 1

    def _freeze_a_daemon(self) -> None:
        daemon = self._draw.choice(self._daemons)
        daemon.pause()
        self._pause(5.0)
        daemon.resume()
        self.counts["freezes of a daemon"] += 1

    def _freeze_a_server(self) -> None:
        server = self._draw.choice((self._central, self._local))
        server.pause()
        self._pause(5.0)
        server.resume()
        self.counts[f"freezes of the {server.name} server"] += 1

    def _kill_connections(self) -> None:
        server = self._draw.choice((self._central, self._local))
        self.counts[f"{server.name} connections killed"] += self._cut(server, some=True)

    def _freeze_and_cut(self) -> None:
        """The other daemon takes over; then the frozen one wakes up."""
        daemon = self._draw.choice(self._daemons)
        daemon.pause()
        self._cut(self._local, some=False)
        self._pause(6.0)
        daemon.resume()
        self.counts["freezes with all local connections killed"] += 1

    def _cut(self, server: MariaDB, *, some: bool) -> int:
        killed = 0
        found = server.execute(
            "SELECT ID FROM information_schema.PROCESSLIST"
            " WHERE DB IS NOT NULL AND ID <> CONNECTION_ID()"
        )
        for line in found.splitlines()[1:]:
            if not some or self._draw.random() < 0.5:
                with suppress(WppSyncError):  # it has gone by itself
                    server.execute(f"KILL {line}")
                    killed += 1
        return killed

    def _reset(self) -> None:
        instance = self._draw.choice(INSTANCES)
        answer = self._daemons[0].request(
            "POST", f"/v1/instances/{instance}/reset", {"entity": "all"}
        )
        assert answer.status in {200, 503}, answer
        self.counts["resets"] += 1


def claimed_and_missing(central: ServerConfig, local: ServerConfig, instance: str) -> set[int]:
    """Central rows with ids up to the settled id that are neither copied nor in quarantine."""
    settled = mirror.number(
        local,
        "SELECT IF(settled_for = last_synced_id, settled_id, LEAST(settled_id, last_synced_id))"
        " FROM wpp_sync_state WHERE entity = 'messages'",
    )
    wanted = set(mirror.central_ids(central, instance, upto=settled))
    missing = wanted - set(mirror.local_ids(local)) - refused(local)
    # Deleted meanwhile, its key given on: then it is gone on both sides.
    return missing & set(mirror.central_ids(central, instance, upto=settled)) if missing else set()


def refused(local: ServerConfig) -> set[int]:
    found = mirror.rows(local, "SELECT id FROM wpp_sync_quarantine WHERE entity = 'messages'")
    return {int(id_) for (id_,) in found}


def should_be_refused(central: ServerConfig, instance: str) -> set[int]:
    found = mirror.rows(
        central,
        "SELECT id FROM messages WHERE CHAR_LENGTH(file_name) >"
        f" {LONGEST_FILE_NAME} AND instance = '{instance}'",
    )
    return {int(id_) for (id_,) in found}


@pytest.mark.timeout(SECONDS + 600)
def test_ten_minutes_under_load_with_random_kills_end_equal(
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    central: MariaDB,
    local: MariaDB,
    write_config: WriteConfig,
    tmp_path: Path,
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip(f"takes {SECONDS:g} s: run with --long")
    source = central.create_database("central")
    central.execute(schema(), "central")
    targets = {name: local.create_database(name) for name in INSTANCES}
    first_config = write_config({**source, "statement_timeout": "5s"}, targets, **SECTIONS)
    second_config = tmp_path / "second.yaml"
    second_config.write_text(first_config.read_text().replace("control.sock", "second.sock"))
    with DaemonProcess(first_config) as first, DaemonProcess(second_config) as second:
        daemons = [first, second]
        for name, target in targets.items():
            first.wait_until(lambda t=target: "messages" in _marks(t))  # type: ignore[misc]
            mirror.run(
                target, f"ALTER TABLE wpp_messages MODIFY file_name VARCHAR({LONGEST_FILE_NAME})"
            )
            del name
        chaos = Chaos(central, local, targets, daemons)
        with traffic(source) as writing, KeyMover(source) as keys:
            checks = _misfortunes(chaos, source, targets)
        _come_to_rest(daemons, source, targets)
        rows = mirror.number(source, "SELECT COUNT(*) FROM messages")
        with capsys.disabled():
            told = ", ".join(f"{number} {what}" for what, number in sorted(chaos.counts.items()))
            sys.stdout.write(
                f"\n{SECONDS:g} s, seed {SEED}: {told}; {rows:,} messages equal,"
                f" {writing.counters.transactions:,} transactions,"
                f" {writing.counters.rolled_back:,} rolled back,"
                f" {writing.counters.interrupted:,} interrupted, {keys.moved:,} keys moved,"
                f" {keys.refusable:,} rows refused and mended, {checks} checks on the way\n"
            )
        for daemon in daemons:
            assert daemon.logged("instance loop broke") == []


def _marks(target: ServerConfig) -> dict[str, int]:
    try:
        return mirror.watermarks(target)
    except WppSyncError:
        return {}  # not migrated yet


def _misfortunes(chaos: Chaos, source: ServerConfig, targets: dict[str, ServerConfig]) -> int:
    """One after the other until the time is over; now and then nothing claimed may be missing."""
    ends_at = time.monotonic() + SECONDS
    check_at = time.monotonic() + CHECK_EVERY
    checks = 0
    draw = random.Random(SEED)
    while time.monotonic() < ends_at:
        time.sleep(draw.uniform(0.2, 3.0))
        # A reset copies everything again: it would hide at the end what was lost before.
        chaos.act(resets=ends_at - time.monotonic() > SECONDS * 2 / 3)
        if time.monotonic() >= check_at:
            for name, target in targets.items():
                assert claimed_and_missing(source, target, name) == set(), name
                checks += 1
            check_at = time.monotonic() + CHECK_EVERY
    return checks


def _come_to_rest(
    daemons: list[DaemonProcess], source: ServerConfig, targets: dict[str, ServerConfig]
) -> None:
    """Everything is copied or has its reason; when the tables are mended, all is equal."""
    first = daemons[0]
    for name, target in targets.items():
        wanted = should_be_refused(source, name)

        def arrived(
            name: str = name, target: ServerConfig = target, wanted: set[int] = wanted
        ) -> bool:
            missing = set(mirror.central_ids(source, name)) - set(mirror.local_ids(target))
            return missing == wanted == refused(target)

        first.wait_until(arrived, CALM_SECONDS)
        mirror.run(target, "ALTER TABLE wpp_messages MODIFY file_name LONGTEXT")
    for name, target in targets.items():

        def equal(name: str = name, target: ServerConfig = target) -> bool:
            return mirror.differences(source, target, name) == "" and not refused(target)

        # Who copies it takes the rows in; the other one says that it does not.
        for daemon in daemons:
            daemon.request("POST", f"/v1/instances/{name}/quarantine/retry", {})
        try:
            first.wait_until(equal, CALM_SECONDS)
        except AssertionError:
            raise AssertionError(mirror.differences(source, target, name)) from None
