"""What stands is not run, what stands otherwise is refused, and a dry run says the same before."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import operations
from daemon.demo.server import client
from daemon.errors import MigrationError, StoppedError, TransientError, WppSyncError
from daemon.migrations import files, journal, runner
from daemon.migrations.files import SHIPPED, Migration
from daemon.migrations.grammar import quoted
from daemon.migrations.runner import Doing, Preview
from daemon.migrations.shadow import Shadow
from daemon.sql import Statement
from tests import fields, mirror
from tests.in_process import a_pass, connected, one, parts

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

ID = "2026-03-01-001-try-it"
FIRST = "2026-01-01-001-create-wpp-sync-migrations.sql"


def migrations(directory: Path, *statements: str, name: str = ID) -> tuple[Migration, ...]:
    """The migration that makes the history, and one of these statements."""
    directory.mkdir(exist_ok=True)
    shutil.copy(SHIPPED / FIRST, directory)
    (directory / f"{name}.sql").write_text("-- Try it\n" + ";\n".join(statements))
    return files.discover([directory])


async def foresee(local: ServerConfig, found: tuple[Migration, ...]) -> Preview:
    async with connected(local) as connection:
        return await runner.preview(connection, found, "nunes migrate")


async def apply(
    local: ServerConfig,
    found: tuple[Migration, ...],
    *,
    told: Callable[[Doing], None] = lambda _doing: None,
    lock_wait_timeout: float = 5,
    stop: asyncio.Event | None = None,
) -> None:
    async with connected(local) as connection:
        standing = await runner.look(connection, found, "nunes migrate")
        await runner.apply(
            connection, standing, version="1", lock_wait_timeout=lock_wait_timeout,
            note="nunes migrate", stop=stop or asyncio.Event(), told=told,
        )  # fmt: skip


def everything(local: ServerConfig) -> list[list[str]]:
    """Each table as SHOW CREATE TABLE prints it."""
    names = [row[0] for row in mirror.rows(local, "SHOW TABLES")]
    return [
        row for name in names for row in mirror.rows(local, f"SHOW CREATE TABLE {quoted(name)}")
    ]


T = "CREATE TABLE t (a INT NOT NULL{}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;"
BIN = "VARCHAR(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
PARENT = "CREATE TABLE p (a INT NOT NULL PRIMARY KEY) ENGINE=InnoDB;"
FK = "CONSTRAINT f FOREIGN KEY (a) REFERENCES p (a)"

# What stands there, the statement, what is to come of it.
CASES: dict[str, tuple[str, str, str]] = {
    "a column": (T.format(""), "ALTER TABLE t ADD COLUMN b INT NULL", "run"),
    "a column that stands": (T.format(", b INT"), "ALTER TABLE t ADD b INT NULL", "stands"),
    "by another word": (T.format(", b TINYINT(1)"), "ALTER TABLE t ADD b BOOLEAN", "stands"),
    "at another place": (T.format(", b INT"), "ALTER TABLE t ADD b INT NULL FIRST", "stands"),
    "of another type": (T.format(", b INT"), "ALTER TABLE t ADD b BIGINT NULL", "refused"),
    "not null": (T.format(", b INT"), "ALTER TABLE t ADD b INT NOT NULL", "refused"),
    "another default": (T.format(", b INT DEFAULT 1"), "ALTER TABLE t ADD b INT DEFAULT 2",
                        "refused"),
    "another comment": (T.format(", b INT COMMENT 'x'"), "ALTER TABLE t ADD b INT", "refused"),
    "another order of texts": (T.format(f", b {BIN}"), "ALTER TABLE t ADD b VARCHAR(10)",
                               "refused"),
    "the same order of texts": (T.format(f", b {BIN}"), f"ALTER TABLE t ADD b {BIN} NULL",
                                "stands"),
    "another, but any will do": (T.format(", b INT"), "ALTER TABLE t ADD IF NOT EXISTS b BIGINT",
                                 "stands"),
    "one of two columns": (T.format(", b INT"), "ALTER TABLE t ADD b INT, ADD c INT", "run"),
    "both columns": (T.format(", b INT, c INT"), "ALTER TABLE t ADD (b INT, c INT)", "stands"),
    "a generated column": (T.format(", b INT AS (a + 1) STORED"),
                           "ALTER TABLE t ADD b INT AS (a + 1) STORED", "stands"),
    "an index": (T.format(""), "ALTER TABLE t ADD KEY k (a)", "run"),
    "an index that stands": (T.format(", KEY k (a)"), "CREATE INDEX k ON t (a)", "stands"),
    "of other columns": (T.format(", b INT, KEY k (a)"), "ALTER TABLE t ADD KEY k (a, b)",
                         "refused"),
    "not unique": (T.format(", KEY k (a)"), "ALTER TABLE t ADD UNIQUE KEY k (a)", "refused"),
    "a prefix": (T.format(", b TEXT, KEY k (b(5))"), "ALTER TABLE t ADD KEY k (b(6))", "refused"),
    "without a name": (T.format(""), "ALTER TABLE t ADD KEY (a)", "run"),
    "without a name, stands": (T.format(", KEY (a)"), "ALTER TABLE t ADD INDEX (a)", "stands"),
    "by another name": (T.format(", UNIQUE KEY a (a)"),
                        "ALTER TABLE t ADD UNIQUE KEY IF NOT EXISTS k (a)", "run"),
    "a primary key": (T.format(""), "ALTER TABLE t ADD PRIMARY KEY (a)", "run"),
    "a primary key that stands": (T.format(", PRIMARY KEY (a)"),
                                  "ALTER TABLE t ADD PRIMARY KEY (a)", "stands"),
    "another primary key": (T.format(", b INT NOT NULL, PRIMARY KEY (b)"),
                            "ALTER TABLE t ADD PRIMARY KEY (a)", "refused"),
    "a primary key anew": (T.format(", b INT NOT NULL, PRIMARY KEY (a)"),
                           "ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (a, b)", "run"),
    "a primary key anew, stands": (T.format(", b INT NOT NULL, PRIMARY KEY (a, b)"),
                                   "ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (a, b)",
                                   "stands"),
    "a column with a key": (T.format(""), "ALTER TABLE t ADD b INT NOT NULL AUTO_INCREMENT UNIQUE",
                            "run"),
    "together only": (T.format(""), "ALTER TABLE t ADD b INT NOT NULL AUTO_INCREMENT, ADD KEY (b)",
                      "run"),
    "drop a column": (T.format(", b INT"), "ALTER TABLE t DROP COLUMN b", "run"),
    "dropped already": (T.format(""), "ALTER TABLE t DROP COLUMN b", "stands"),
    "drop an index": (T.format(", KEY k (a)"), "DROP INDEX k ON t", "run"),
    "an index dropped already": (T.format(""), "ALTER TABLE t DROP KEY k", "stands"),
    "modify": (T.format(""), "ALTER TABLE t MODIFY a BIGINT NOT NULL", "run"),
    "modified already": (T.format(""), "ALTER TABLE t MODIFY COLUMN a INT NOT NULL", "stands"),
    "another order": (T.format(", b INT"), "ALTER TABLE t MODIFY a INT NOT NULL AFTER b", "run"),
    "change": (T.format(""), "ALTER TABLE t CHANGE a b BIGINT NOT NULL", "run"),
    "changed already": (T.format(", b BIGINT NOT NULL").replace("a INT NOT NULL, ", ""),
                        "ALTER TABLE t CHANGE a b BIGINT NOT NULL", "stands"),
    "changed to another": (T.format(", b INT NOT NULL").replace("a INT NOT NULL, ", ""),
                           "ALTER TABLE t CHANGE a b BIGINT NOT NULL", "refused"),
    "rename a column": (T.format(""), "ALTER TABLE t RENAME COLUMN a TO b", "run"),
    "renamed already": (T.format(", b INT").replace("a INT NOT NULL, ", ""),
                        "ALTER TABLE t RENAME COLUMN a TO b", "stands"),
    "rename an index": (T.format(", KEY k (a)"), "ALTER TABLE t RENAME INDEX k TO l", "run"),
    "an index renamed already": (T.format(", KEY l (a)"), "ALTER TABLE t RENAME KEY k TO l",
                                 "stands"),
    "set a default": (T.format(""), "ALTER TABLE t ALTER a SET DEFAULT 7", "run"),
    "the default is set": (T.format(" DEFAULT 7"), "ALTER TABLE t ALTER a SET DEFAULT 7",
                           "stands"),
    "a foreign key": (PARENT + T.format(""), f"ALTER TABLE t ADD {FK}", "run"),
    "a foreign key that stands": (PARENT + T.format(f", {FK}"),
                                  f"ALTER TABLE t ADD {FK} ON DELETE RESTRICT", "stands"),
    "another foreign key": (PARENT + T.format(f", {FK}"),
                            f"ALTER TABLE t ADD {FK} ON DELETE CASCADE", "refused"),
    "drop a foreign key": (PARENT + T.format(f", {FK}"), "ALTER TABLE t DROP FOREIGN KEY f",
                           "run"),
    "a check": (T.format(""), "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 1)", "run"),
    "a check that stands": (T.format(", CONSTRAINT c CHECK (a > 1)"),
                            "ALTER TABLE t ADD CONSTRAINT c CHECK (a>1)", "stands"),
    "another check": (T.format(", CONSTRAINT c CHECK (a > 1)"),
                      "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 2)", "refused"),
    "convert": (T.format(", b TEXT").replace("utf8mb4", "latin1"),
                "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4", "run"),
    "converted already": (T.format(", b TEXT"), "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4",
                          "stands"),
    "the engine": (T.format(""), "ALTER TABLE t ENGINE = InnoDB", "stands"),
    "another engine": (T.format("").replace("InnoDB", "MyISAM"), "ALTER TABLE t ENGINE = InnoDB",
                       "run"),
    "in its manner": (T.format(""), "ALTER TABLE t ADD b INT, ALGORITHM=INPLACE, LOCK=NONE", "run"),
    "in its manner, stands": (T.format(", b INT"), "ALTER TABLE t ADD b INT, ALGORITHM=INPLACE",
                              "stands"),
    "no such table": ("", "ALTER TABLE t ADD b INT", "fails"),
    "no such column": (T.format(""), "ALTER TABLE t MODIFY b INT", "fails"),
    "a table": ("", T.format("").rstrip(";"), "run"),
    "a table that stands": (T.format(", b INT"), T.format(", b INT").rstrip(";"), "stands"),
    "another table": (T.format(", b INT"), T.format(", b BIGINT").rstrip(";"), "refused"),
    "another table, any will do": (T.format(", b INT"), "CREATE TABLE IF NOT EXISTS t (c INT)",
                                   "stands"),
    "drop a table": (T.format(""), "DROP TABLE t", "run"),
    "a table dropped already": ("", "DROP TABLE t", "stands"),
    "rename a table": (T.format(""), "RENAME TABLE t TO u", "run"),
    "a table renamed already": (T.format("").replace("TABLE t", "TABLE u"), "RENAME TABLE t TO u",
                                "stands"),
    "both tables": (T.format("") + T.format("").replace("TABLE t", "TABLE u"),
                    "RENAME TABLE t TO u", "refused"),
    "rows": (T.format("") + "INSERT INTO t VALUES (1);", "UPDATE t SET a = a + 1", "run"),
    "a view": (T.format(""), "CREATE VIEW v AS SELECT * FROM t", "unsure"),
    "a setting": ("", "SET foreign_key_checks = 0", "run"),
    "a comment with everything": (
        "SET sql_mode = '';" + T.format(r", b INT COMMENT 'a\\(b''c,\n'"),
        "ALTER TABLE t ADD COLUMN c INT AFTER b", "run"),
    "a copy cannot be": (T.format(", b TEXT, FULLTEXT KEY (b)"), "ALTER TABLE t ADD c INT",
                         "unsure"),
    "a copy cannot be, stands": (T.format(", b TEXT, c INT, FULLTEXT KEY (b)"),
                                 "ALTER TABLE t ADD c INT", "refused"),
    "a copy cannot be, any will do": (T.format(", b TEXT, c INT, FULLTEXT KEY (b)"),
                                      "ALTER TABLE t ADD COLUMN IF NOT EXISTS c INT", "stands"),
    "a table with a foreign key": (PARENT, T.format(f", {FK}").rstrip(";"), "unsure"),
    "a table with a foreign key, stands": (PARENT + T.format(f", {FK}"),
                                           T.format(f", {FK}").rstrip(";"), "refused"),
    "strange names": ("CREATE TABLE `a``%b` (`%s ` INT) ENGINE=InnoDB;".replace(" `", "`"),
                      "ALTER TABLE `a``%b` ADD COLUMN `c%` INT COMMENT '%d, 100 %'", "run"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_the_dry_run_says_what_then_happens(
    databases: Databases, tmp_path: Path, case: str
) -> None:
    before, statement, expected = CASES[case]
    local = databases.local
    if before:
        mirror.run(local, before)
    found = migrations(tmp_path / "m", statement)
    tables = everything(local)
    foreseen = [s for s in (await foresee(local, found)).steps if s.migration == ID]
    assert [step.state for step in foreseen] == [expected]
    assert everything(local) == tables, "a dry run changes nothing"
    seen: list[Doing] = []
    if expected in {"refused", "fails"}:
        with pytest.raises(MigrationError) as error:
            await apply(local, found, told=seen.append)
        assert f"migration {ID} stopped at statement 1 of 1" in error.value.message
        reason = foreseen[0].words.split(": ", 1)[1]
        if expected == "refused":
            # After that it may name the copy.
            assert reason.split("cannot be told")[0] in error.value.message
        assert [t for t in everything(local) if "wpp_sync" not in t[0]] == tables
        (row,) = mirror.rows(local, "SELECT state, statement FROM wpp_sync_migration_journal"
                             f" WHERE id = '{ID}'")  # fmt: skip
        assert row == ["failed", "0"]
        return
    await apply(local, found, told=seen.append)
    assert seen[-1].finished
    assert seen[-1].already_there == (expected == "stands")
    assert [row[0] for row in mirror.rows(local, "SELECT id FROM wpp_sync_migrations")][-1] == ID
    # A crash may have come between the statement and its record: it is recognised then.
    if expected != "unsure" and not statement.startswith(("UPDATE", "SET")):
        async with connected(local) as connection:
            shadow = Shadow(connection, "nunes")
            assert (await shadow.judge(statement)).stands
            assert mirror.rows(local, "SELECT 1") == [["1"]]


async def test_however_many_clauses_stand_the_server_is_asked_no_more(databases: Databases) -> None:
    local = databases.local
    names = [f"c{number}" for number in range(30)]
    columns = ", ".join(f"{name} INT" for name in names)
    mirror.run(local, f"CREATE TABLE t (id INT PRIMARY KEY, {columns})")
    clauses = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} INT" for name in names)
    async with connected(local) as connection:
        before = mirror.statements_sent(local)
        assert (await Shadow(connection, "nunes").judge(f"ALTER TABLE t {clauses}")).stands
        # SHOW and CREATE … LIKE, SHOW and DROP of the copy; and what the counting client says.
        assert mirror.statements_sent(local) - before <= 10


async def test_a_statement_in_doubt_that_cannot_be_looked_at_is_believed_to_stand(
    databases: Databases, tmp_path: Path
) -> None:
    local = databases.local
    found = migrations(tmp_path / "m", "CREATE VIEW v AS SELECT 1 AS a")
    await apply(local, found)
    mirror.run(
        local,
        f"DELETE FROM wpp_sync_migrations WHERE id = '{ID}';"
        "UPDATE wpp_sync_migration_journal SET state = 'ready', statement = 0"
        f" WHERE id = '{ID}'",
    )
    with pytest.raises(MigrationError, match="already exists"):
        await apply(local, found)
    mirror.run(local, "UPDATE wpp_sync_migration_journal SET state = 'running'")
    await apply(local, found)
    assert (await foresee(local, found)).pending == ()


async def test_a_table_that_no_copy_can_be_made_of_is_believed_when_it_was_under_way(
    databases: Databases, tmp_path: Path
) -> None:
    local = databases.local
    mirror.run(local, PARENT)
    create = T.format(f", {FK}").rstrip(";")
    found = migrations(tmp_path / "m", create, "ALTER TABLE t ADD COLUMN b INT")
    states = [s.state for s in (await foresee(local, found)).steps if s.migration == ID]
    assert states == ["unsure", "unsure"]
    await apply(local, found)
    mirror.run(
        local,
        f"DELETE FROM wpp_sync_migrations WHERE id = '{ID}'; ALTER TABLE t DROP COLUMN b;"
        "UPDATE wpp_sync_migration_journal SET state = 'running', statement = 0,"
        f" reached = SHA2('', 256) WHERE id = '{ID}'",
    )
    await apply(local, found)
    assert mirror.rows(local, "SHOW COLUMNS FROM t LIKE 'b'")


async def test_rows_change_together_with_their_record(databases: Databases, tmp_path: Path) -> None:
    """So a statement that counts one up does it once, wherever it is broken off."""
    local = databases.local
    mirror.run(local, "CREATE TABLE t (a INT) ENGINE=InnoDB; INSERT INTO t VALUES (0)")
    found = migrations(tmp_path / "m", *["UPDATE t SET a = a + 1"] * 3)

    class BrokenOffError(Exception):
        pass

    for die_at in (2, 3):

        def die(doing: Doing, at: int = die_at) -> None:
            if doing.migration.id == ID and doing.statement == at:
                raise BrokenOffError

        with pytest.raises(BrokenOffError):
            await apply(local, found, told=die)
        assert mirror.number(local, "SELECT a FROM t") == die_at - 1
    await apply(local, found)
    assert mirror.number(local, "SELECT a FROM t") == 3


async def test_a_failed_one_goes_on_where_it_was_when_its_file_is_mended(
    databases: Databases, tmp_path: Path
) -> None:
    local = databases.local
    directory = tmp_path / "m"
    mirror.run(local, "CREATE TABLE t (a INT) ENGINE=InnoDB; INSERT INTO t VALUES (0)")
    wrong = migrations(directory, "UPDATE t SET a = a + 1", "ALTER TABLE t ADD b NOTYPE")
    with pytest.raises(MigrationError) as error:
        await apply(local, wrong)
    assert "stopped at statement 2 of 2 (statement 1 is in effect)" in error.value.message
    right = migrations(directory, "UPDATE t SET a = a + 1", "ALTER TABLE t ADD b INT")
    await apply(local, right)
    assert mirror.rows(local, "SELECT * FROM t") == [["1", "NULL"]]
    entry = mirror.rows(local, "SELECT state, statement, error, version, origin,"
                        f" checksum FROM wpp_sync_migration_journal WHERE id = '{ID}'")  # fmt: skip
    assert entry == [["done", "2", "NULL", "1", "own", right[-1].checksum]]


async def test_a_stop_comes_between_two_statements(databases: Databases, tmp_path: Path) -> None:
    local = databases.local
    found = migrations(tmp_path / "m", "CREATE TABLE a (x INT)", "CREATE TABLE b (x INT)")
    stop = asyncio.Event()

    def leave(doing: Doing) -> None:
        if doing.migration.id == ID:
            stop.set()

    with pytest.raises(StoppedError, match="before statement 2 of 2"):
        await apply(local, found, told=leave, stop=stop)
    assert mirror.rows(local, "SHOW TABLES LIKE 'b'") == []
    await apply(local, found)
    assert mirror.rows(local, "SHOW TABLES LIKE 'b'") == [["b"]]


async def test_the_sessions_settings_are_those_for_copying_again(
    databases: Databases, tmp_path: Path
) -> None:
    found = migrations(tmp_path / "m", "SET foreign_key_checks = 0", "CREATE TABLE a (x INT)")
    async with connected(databases.local) as connection:
        standing = await runner.look(connection, found, "nunes")
        await runner.apply(
            connection, standing, version="1", lock_wait_timeout=7, note="nunes",
            stop=asyncio.Event(), told=lambda _doing: None,
        )  # fmt: skip
        values = (
            "SELECT @@foreign_key_checks, @@unique_checks, @@lock_wait_timeout,"
            " @@character_set_client, @@autocommit"
        )
        assert await connection.fetch(Statement(values)) == [(b"1", b"1", b"30", b"utf8mb4", b"1")]
        tables = await connection.fetch(Statement("SHOW TABLES LIKE 'wpp_sync_shadow%%'"))
        assert tables == []


async def test_what_each_statement_of_the_shipped_ones_says_before_is_what_it_does(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.run(local, fields.STATES["columns and indexes missing"])
    async with one(write_config(central, {"nunes": local})) as instance:
        foreseen = await operations.foresee_migrations(instance)
        assert not foreseen["refused"]
        done: dict[str, int] = {}
        told = instance.migrator._told

        def listen(doing: Doing) -> None:
            if doing.finished:
                done[doing.migration.id] = doing.already_there
            told(doing)

        instance.migrator._told = listen  # type: ignore[method-assign]
        await instance.migrate(asyncio.Event())
        assert (await operations.foresee_migrations(instance))["pending"] == []
    said: dict[str, int] = {}
    for step in foreseen["statements"]:
        stands = step["state"] == "stands"
        said[step["migration"]] = said.get(step["migration"], 0) + stands
    assert said == done


# What an ALTER TABLE costs, by its table; what is not known is not claimed.
COSTS = {
    "a column": "ADD COLUMN n INT NULL",
    "a column in between": "ADD COLUMN n INT NOT NULL DEFAULT 3 AFTER id",
    "an index": "ADD KEY n (a)",
    "a unique index": "ADD UNIQUE KEY n (id, a)",
    "column and index": "ADD COLUMN n INT, ADD KEY n (a)",
    "drop a column": "DROP COLUMN b",
    "drop an index": "DROP KEY k",
    "rename a column": "RENAME COLUMN b TO n",
    "rename an index": "RENAME INDEX k TO n",
    "a default": "MODIFY b VARCHAR(20) NULL DEFAULT 'x'",
    "a comment": "MODIFY b VARCHAR(20) NULL COMMENT 'x'",
    "wider": "MODIFY b VARCHAR(50) NULL",
    "much wider": "MODIFY b VARCHAR(300) NULL",
    "narrower": "MODIFY b VARCHAR(10) NULL",
    "another type": "MODIFY a BIGINT NULL",
    "to text": "MODIFY b LONGTEXT NULL",
    "not null": "MODIFY a INT NOT NULL",
    "null": "MODIFY m INT NULL",
    "one more in the list": "MODIFY e ENUM('a','b','c') NULL",
    "another list": "MODIFY e ENUM('b','a') NULL",
    "another character set": "MODIFY u VARCHAR(20) CHARACTER SET utf8mb4 NULL",
    "convert": "CONVERT TO CHARACTER SET latin1",
    "in another order": "MODIFY a INT NULL AFTER b",
    "the primary key": "DROP PRIMARY KEY, ADD PRIMARY KEY (id, a2)",
    "row format": "ROW_FORMAT = COMPACT",
    "table comment": "COMMENT = 'x'",
    "more milliseconds": "MODIFY d DATETIME(3) NULL",
}
COSTED = """CREATE TABLE t (id INT NOT NULL, a INT NULL, a2 INT NOT NULL DEFAULT 0, m INT NOT NULL,
 b VARCHAR(20) NULL, e ENUM('a','b') NULL, d DATETIME NULL, u VARCHAR(20) CHARACTER SET latin1 NULL,
 PRIMARY KEY (id), KEY k (m)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
INSERT INTO t (id, a, m, e) VALUES (1, 1, 1, 'a'), (2, 2, 2, 'b')"""


def what_it_costs(local: ServerConfig, clauses: str, mariadb: bool) -> str:
    """The least that the server accepts for it; of what is done in place, whether it rewrites."""
    table = "INNODB_SYS_TABLES" if mariadb else "INNODB_TABLES"
    table_id = (
        f"SELECT TABLE_ID FROM information_schema.{table} WHERE NAME = '{local['database']}/t'"
    )
    before = mirror.number(local, table_id)
    for manner, words in (
        ("ALGORITHM=INSTANT", "instant"),
        ("ALGORITHM=INPLACE, LOCK=NONE", "in place"),
        ("ALGORITHM=COPY", "copies the table: writers wait"),
    ):
        try:
            mirror.run(local, f"ALTER TABLE t {clauses}, {manner}")
        except WppSyncError as error:
            if "ALGORITHM" not in error.message and "LOCK=" not in error.message:
                raise
            continue
        if words != "in place":
            return words
        rewritten = mirror.number(local, table_id) != before
        how = "rewrites" if rewritten else "reads"
        return f"in place: {how} the table, readers and writers go on"
    raise AssertionError("the server does not do it at all")


@pytest.mark.parametrize("clauses", COSTS.values(), ids=COSTS)
async def test_what_a_dry_run_says_of_the_cost_is_so(
    databases: Databases, tmp_path: Path, clauses: str, request: pytest.FixtureRequest
) -> None:
    local = databases.local
    mirror.run(local, COSTED)
    found = migrations(tmp_path / "m", f"ALTER TABLE t {clauses}")
    (step,) = [s for s in (await foresee(local, found)).steps if s.migration == ID]
    assert step.state == "run"
    mariadb = "mariadb" in mirror.rows(local, "SELECT VERSION()")[0][0].lower()
    really = what_it_costs(local, clauses, mariadb)
    if step.cost != "cost not known":
        if step.cost == "instant" and "reads the table" in really:
            really = "instant"  # nothing but its definition is touched, by the older name
        assert step.cost == really


async def test_a_migration_waits_for_a_reader_no_longer_than_it_may(
    databases: Databases, tmp_path: Path
) -> None:
    """A DDL statement that waits has all later readers wait behind it."""
    local = databases.local
    mirror.run(local, "CREATE TABLE t (a INT) ENGINE=InnoDB; INSERT INTO t VALUES (1)")
    found = migrations(tmp_path / "m", "ALTER TABLE t ADD COLUMN b INT NULL")
    waits: list[float] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            began = time.monotonic()
            client(local, "SELECT COUNT(*) FROM t")
            waits.append(time.monotonic() - began)

    other = threading.Thread(target=read)
    with mirror.Session(local) as reader:
        (mine,) = reader.execute("SELECT CONNECTION_ID()")
        reader.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; BEGIN")
        reader.execute("SELECT * FROM t")
        other.start()
        try:
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(TransientError) as error:
                    await apply(local, found, lock_wait_timeout=1)
                assert time.monotonic() - began < 4
                assert f"connection {mine[0]} (" in error.value.message
                assert "held by" in error.value.message
                assert error.value.retry_after == 1, "those behind it come first"
                await asyncio.sleep(0.3)
            reader.execute("COMMIT")
            await apply(local, found, lock_wait_timeout=1)
        finally:
            over.set()
            other.join()
    assert max(waits) < 3
    assert mirror.rows(local, "SELECT * FROM t") == [["1", "NULL"]]


async def test_an_instance_that_is_ahead_is_left_alone(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 4))
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
    mirror.run(
        local,
        "INSERT INTO wpp_sync_migrations (id, description) VALUES ('2027-01-01-001-later', 'x');"
        "INSERT INTO wpp_sync_migration_journal (id, origin, checksum, statement, statements,"
        " reached, state, version) VALUES ('2027-01-01-001-later', 'shipped', '', 1, 1, '', 'done',"
        " '9.1')",
    )
    mirror.insert_messages(central, range(4, 6))
    async with one(config) as instance:
        with pytest.raises(MigrationError) as error:
            await instance.sync_pass(asyncio.Event())
        status = await operations.get_sync_status(instance)
    assert error.value.code == "database_ahead"
    assert error.value.hint == "start version 9.1 or later"
    assert status["error"]["code"] == "database_ahead"
    assert mirror.local_ids(local) == [1, 2, 3]


async def test_a_new_file_of_the_operators_older_than_the_newest_runs_and_is_told(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    central, local = databases
    own = tmp_path / "own"
    own.mkdir()
    config = write_config(central, {"nunes": local}, migrations={"directory": str(own)})
    async with parts(config) as built:
        instance = built.instances["nunes"]
        await a_pass(instance)
        (own / "2026-02-04-001-add-priority-column.sql").write_text(
            "-- Add priority column to wpp_chats\n"
            "ALTER TABLE wpp_chats ADD COLUMN priority VARCHAR(20) NULL DEFAULT 'NORMAL';"
        )
        built.catalogue.read_again()
        done = await operations.migrate(instance)
        assert done["applied"] == ["2026-02-04-001-add-priority-column"]
        assert "older than" in done["warnings"][0]
        assert (await operations.migrate(instance))["applied"] == []
        assert (await a_pass(instance))["chats"] == 0
        listed = await operations.list_migrations(instance, built.catalogue.migrations)
    states = {row["id"]: row["state"] for row in listed["migrations"]}
    assert states["2026-02-04-001-add-priority-column"] == "applied"
    assert set(states.values()) == {"applied"}
    async with connected(local) as connection:
        entry = (await journal.read(connection, "") or {})["2026-02-04-001-add-priority-column"]
    assert (entry.origin, entry.state, entry.statement) == ("own", "done", 1)


async def test_without_the_privilege_for_copies_names_alone_decide(
    databases: Databases, servers: Servers, write_config: WriteConfig, tmp_path: Path
) -> None:
    """An account that was granted what earlier versions needed still gets there."""
    central, local = databases
    name = str(local["database"])
    servers.local.execute(
        f"CREATE USER 'poor {name}'@'%' IDENTIFIED BY 'x';"
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP"
        f" ON `{name}`.* TO 'poor {name}'@'%'"
    )
    poor = {**local, "user": f"poor {name}", "password": "x"}
    async with one(write_config(central, {"nunes": poor})) as instance:
        await a_pass(instance)
    expected = everything(local)
    mirror.run({**local, "database": "mysql"}, f"DROP DATABASE {name}; CREATE DATABASE {name}")
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    assert everything(local) == expected
    mirror.run({**local, "database": "mysql"}, f"DROP DATABASE {name}; CREATE DATABASE {name}")
    mirror.run(local, T.format(", b BIGINT"))
    found = migrations(tmp_path / "m", "ALTER TABLE t ADD COLUMN b INT")
    with pytest.raises(MigrationError, match="cannot be told"):
        await apply(poor, found)
