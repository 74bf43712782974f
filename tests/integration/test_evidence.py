"""What a real server testifies about its transactions, and when its word does not count."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import config, db, evidence
from daemon.db import Connection
from tests import mirror
from tests.in_process import a_pass, parts
from tests.mirror import Session

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig

WriteConfig = Callable[..., Path]

LIST = "SELECT COUNT(*) FROM information_schema.INNODB_TRX"


@asynccontextmanager
async def _connection(path: Path) -> AsyncIterator[Connection]:
    connection = await db.connect(config.load(path).central, "central", "central")
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def _somebody_polls(central: ServerConfig) -> Iterator[None]:
    """Reads the list of transactions all the time, as a monitor may: it is never made anew then."""
    stop = threading.Event()

    def poll() -> None:
        with Session(central) as session:
            while not stop.wait(0.01):
                session.execute(LIST)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        time.sleep(0.3)
        yield
    finally:
        stop.set()
        thread.join()


async def test_a_list_that_is_old_because_somebody_polls_it_is_no_evidence(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    async with _connection(write_config(central, {"nunes": local})) as connection:
        with Session(central) as writer:
            with _somebody_polls(central):
                writer.execute("BEGIN; INSERT INTO clients (name) VALUES ('x')")
                await asyncio.sleep(0.5)
                for _ in range(5):
                    found = await evidence.writers(connection, "clients", time.monotonic)
                    assert found is None or found.oldest is not None, "it says that nobody writes"
            await asyncio.sleep(0.2)
            found = await evidence.writers(connection, "clients", time.monotonic)
            assert found is not None
            assert found.oldest is not None
            writer.execute("COMMIT")
        await asyncio.sleep(0.2)
        found = await evidence.writers(connection, "clients", time.monotonic)
        assert found is not None
        assert found.oldest is None, "our own transaction writes nothing"


async def test_one_list_serves_all_tables(databases: Databases, write_config: WriteConfig) -> None:
    """The second one to ask within 0.1 s would be given old news, and never settle."""
    central, local = databases
    mirror.insert_messages(central, range(1, 10))
    mirror.run(
        central,
        "INSERT INTO chats (instance, type, priority, is_finished, is_schedule)"
        " VALUES ('nunes', 'ACTIVE', 'LOW', 0, 0)",
    )
    path = write_config(central, {"nunes": local}, sync={"settle": "exact"})
    async with parts(path) as built:
        instance = built.instances["nunes"]
        deadline = time.monotonic() + 6
        while "chats" not in instance.motions or instance.motions["chats"].settled < 1:
            assert time.monotonic() < deadline
            mirror.insert_message(central, None)  # messages has something to prove at each pass
            await a_pass(instance)
