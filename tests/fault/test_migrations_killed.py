"""The process is killed (-9) at each point of the migrations of a database from the field.

The points are those of `tests.suspensions`: each statement is sent and not answered, or answered
and nothing has followed. After each death a second process goes on; the schema, the rows and the
record are then those of a life that nobody broke. The ordinary run takes a sample of a small
database; --long takes every point of it, and a sample of one with 200,000 messages, whose
statements take long enough to be killed in their middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.lock import lock_name
from tests import fields, mirror
from tests.integration.test_taking_over import schema_of
from tests.sweep import lives

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig

WriteConfig = Callable[..., Path]

pytestmark = pytest.mark.timeout(7200)

STATE = fields.STATES["columns and indexes missing"]
MANY = """
INSERT INTO wpp_messages (id, instance, wwebjs_id, `from`, `to`, type, body, timestamp, sent_at,
    status) SELECT 10 + a.id * 1000 + b.id, 'nunes', CONCAT('key ', a.id, ' ', b.id), '1', '2',
    'chat', REPEAT('some words ', 10), '3', '2026-01-01 08:00:00', 'SENT'
    FROM numbers a JOIN numbers b WHERE a.id < {thousands};
DROP TABLE numbers;
"""
NUMBERS = "CREATE TABLE numbers (id INT) ENGINE=InnoDB; INSERT INTO numbers VALUES " + ", ".join(
    f"({number})" for number in range(1000)
)


class Field:
    """The database from the field, kept beside, and put back for each life."""

    def __init__(self, local: ServerConfig, thousands: int) -> None:
        self._local = local
        self._kept = f"{local['database']}_kept"
        mirror.run(local, STATE)
        if thousands:
            mirror.run(local, f"{NUMBERS}; {MANY.format(thousands=thousands)}")
        self._tables = [row[0] for row in mirror.rows(local, "SHOW TABLES")]
        mirror.run(local, f"CREATE DATABASE {self._kept}")
        for table in self._tables:
            self._copy(table, self._kept, str(local["database"]))

    def _copy(self, table: str, to: str, source: str) -> None:
        mirror.run(
            self._local,
            f"SET sql_mode = ''; CREATE TABLE {to}.{table} LIKE {source}.{table};"
            f"INSERT INTO {to}.{table} SELECT * FROM {source}.{table}",
        )

    def put_back(self) -> None:
        name = str(self._local["database"])
        mirror.run(
            {**self._local, "database": self._kept},
            f"DROP DATABASE {name}; CREATE DATABASE {name}",
        )
        for table in self._tables:
            self._copy(table, name, self._kept)

    def close(self) -> None:
        mirror.run(self._local, f"DROP DATABASE {self._kept}")

    def look(self) -> list[list[str]]:
        """The schema, a sum over the rows of each table, and the record."""
        rows = [
            mirror.rows(self._local, f"CHECKSUM TABLE {table}")[0]
            for table in self._tables
            if not table.startswith("wpp_sync")
        ]
        record = mirror.rows(self._local, "SELECT id FROM wpp_sync_migrations ORDER BY id")
        journal = mirror.rows(
            self._local,
            "SELECT id, state, statement, statements FROM wpp_sync_migration_journal ORDER BY id",
        )
        return [*schema_of(self._local), *rows, *record, *journal]

    def wait_until_free(self) -> None:
        """The server ends what the dead one had asked for, and holds its lock until then."""
        name = lock_name(str(self._local["database"]))
        deadline = time.monotonic() + 120
        while mirror.number(self._local, f"SELECT COALESCE(IS_USED_LOCK('{name}'), 0)"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("thousands", [0, 200])
async def test_killed_at_each_point_of_its_migrations(
    databases: Databases, write_config: WriteConfig, thousands: int, pytestconfig: pytest.Config
) -> None:
    long = pytestconfig.getoption("--long")
    if thousands and not long:
        pytest.skip("takes some minutes: run with --long")
    central, local = databases
    config = write_config(central, {"nunes": local})
    field = Field(local, thousands)
    broken: list[str] = []
    try:
        with lives(config, "migrate") as live:
            lived = live(-1)
            assert lived.startswith("lived"), lived
            end = field.look()
            points = int(lived.split()[1])
            assert points > 300
            wanted = 80 if thousands else 30
            chosen = range(0, points - 10, 1 if long and not thousands else points // wanted)
            for point in chosen:
                field.put_back()
                died = live(point)
                field.wait_until_free()
                lived = live(-1)
                if died != "killed 0" or not lived.startswith("lived"):
                    broken.append(f"{point}: {died}, {lived}")
                elif field.look() != end:
                    broken.append(f"{point}: {[r for r in field.look() if r not in end]}")
    finally:
        field.close()
    print(f"killed at {len(chosen)} of {points} points")  # noqa: T201 - the report's figure
    assert broken == [], "\n".join(broken)
