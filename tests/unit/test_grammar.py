"""What a statement of a migration says: the frame of it, in all the ways to write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.migrations.definition import parse, same_foreign_key
from daemon.migrations.grammar import (
    AlterTable,
    ChangeRows,
    CreateTable,
    DropTables,
    Other,
    RenameTable,
    SetSession,
    name_of,
    quoted,
    refusal,
    understand,
)
from daemon.migrations.statements import pieces


def clause(text: str) -> tuple[str, str, str, str, bool]:
    """kind, what, name, text and tolerance of the one clause of `ALTER TABLE t …`."""
    said = understand(f"ALTER TABLE t {text}")
    assert isinstance(said, AlterTable)
    assert said.table == "t"
    (one,) = said.clauses
    return one.kind, one.what, one.name, one.text, one.tolerant


@pytest.mark.parametrize(
    ("text", "kind", "what", "name"),
    [
        ("ADD COLUMN a INT NULL", "add", "column", "a"),
        ("add `a b` INT", "add", "column", "a b"),
        ("ADD COLUMN a DECIMAL(10,2) DEFAULT '1,2' COMMENT 'x, (y' AFTER b", "add", "column", "a"),
        ("ADD KEY k (a, b(10))", "add", "index", "k"),
        ("ADD INDEX (a)", "add", "index", ""),
        ("ADD INDEX USING BTREE (a)", "add", "index", ""),
        ("ADD UNIQUE (a)", "add", "index", ""),
        ("ADD UNIQUE KEY `u``k` (a)", "add", "index", "u`k"),
        ("ADD CONSTRAINT u UNIQUE (a)", "add", "index", "u"),
        ("ADD CONSTRAINT UNIQUE u (a)", "add", "index", "u"),
        ("ADD FULLTEXT f (a)", "add", "index", "f"),
        ("ADD PRIMARY KEY (a, b)", "add", "index", "PRIMARY"),
        ("ADD CONSTRAINT p PRIMARY KEY (a)", "add", "index", "PRIMARY"),
        ("ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES t (b)", "add", "constraint", "f"),
        ("ADD FOREIGN KEY (a) REFERENCES t (b)", "add", "constraint", ""),
        ("ADD CONSTRAINT CHECK (a > 1)", "add", "constraint", ""),
        ("ADD CONSTRAINT c CHECK (a > 1)", "add", "constraint", "c"),
        ("DROP COLUMN a", "drop", "column", "a"),
        ("DROP a", "drop", "column", "a"),
        ("DROP KEY k", "drop", "index", "k"),
        ("DROP PRIMARY KEY", "drop", "index", "PRIMARY"),
        ("DROP FOREIGN KEY f", "drop", "constraint", "f"),
        ("MODIFY a INT NOT NULL FIRST", "change", "column", "a"),
        ("CHANGE COLUMN a b INT", "change", "column", "b"),
        ("RENAME COLUMN a TO b", "change", "column", "b"),
        ("RENAME INDEX a TO b", "change", "index", "b"),
        ("ALTER COLUMN a SET DEFAULT 1", "change", "column", "a"),
        ("ALTER INDEX a INVISIBLE", "change", "index", "a"),
        ("CONVERT TO CHARACTER SET utf8mb4", "option", "table", ""),
        ("ENGINE = InnoDB", "option", "table", ""),
        ("ADD PARTITION (PARTITION p VALUES LESS THAN (1))", "option", "table", ""),
        ("ALGORITHM = INSTANT", "manner", "table", ""),
        ("LOCK=NONE", "manner", "table", ""),
    ],
)
def test_a_clause(text: str, kind: str, what: str, name: str) -> None:
    assert clause(text) == (kind, what, name, text, False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ADD COLUMN IF NOT EXISTS a INT", "ADD COLUMN a INT"),
        ("ADD UNIQUE KEY IF NOT EXISTS u (a)", "ADD UNIQUE KEY u (a)"),
        ("ADD PRIMARY KEY IF NOT EXISTS (a)", "ADD PRIMARY KEY (a)"),
        ("DROP COLUMN IF EXISTS a", "DROP COLUMN a"),
        ("DROP INDEX if  exists a", "DROP INDEX a"),
        ("MODIFY COLUMN IF EXISTS a INT", "MODIFY COLUMN a INT"),
        ("RENAME INDEX IF EXISTS a TO b", "RENAME INDEX a TO b"),
    ],
)
def test_if_exists_is_ours_and_not_told_to_the_server(text: str, told: str) -> None:
    """MySQL does not know it."""
    assert clause(text)[3:] == (told, True)


def test_a_columns_place_is_no_part_of_its_definition() -> None:
    said = understand("ALTER TABLE t ADD COLUMN a INT NULL\n  AFTER `b`, ADD b INT FIRST")
    assert isinstance(said, AlterTable)
    assert [one.definition for one in said.clauses] == ["INT NULL", "INT"]


def test_several_columns_in_parentheses() -> None:
    said = understand("ALTER TABLE t ADD COLUMN (a DECIMAL(1,1), b INT)")
    assert isinstance(said, AlterTable)
    assert [one.text for one in said.clauses] == ["ADD a DECIMAL(1,1)", "ADD b INT"]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE TABLE `a``b` (x INT) ENGINE=InnoDB",
         CreateTable("a`b", False, "(x INT) ENGINE=InnoDB")),
        ("create table if not exists a (x INT)", CreateTable("a", True, "(x INT)")),
        ("DROP TABLE a, `b`", DropTables(("a", "b"))),
        ("DROP TABLE IF EXISTS a CASCADE", DropTables(("a",))),
        ("RENAME TABLE a TO b", RenameTable("a", "b")),
        ("UPDATE a SET x = 1", ChangeRows("a")),
        ("DELETE FROM a", ChangeRows("a")),
        ("INSERT IGNORE INTO a VALUES (1)", ChangeRows("a")),
        ("WITH x AS (SELECT 1) SELECT 1", ChangeRows("")),
        ("SET SESSION foreign_key_checks = 0", SetSession()),
        ("CREATE VIEW v AS SELECT 1", Other()),
        ("CREATE TABLE a LIKE b", Other()),
        ("ALTER TABLE other.t ADD a INT", Other()),
        ("ALTER TABLE t RENAME TO b", Other()),
        ("TRUNCATE TABLE a", Other()),
        ("OPTIMIZE TABLE a", Other()),
    ],
)  # fmt: skip
def test_a_statement(statement: str, expected: object) -> None:
    assert understand(statement) == expected


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("CREATE UNIQUE INDEX i ON t (a, b)", "ADD UNIQUE KEY i (a, b)"),
        ("CREATE INDEX i USING BTREE ON t (a) ALGORITHM=INPLACE", "ADD KEY i USING BTREE (a)"),
        ("DROP INDEX i ON t", "DROP KEY i"),
        ("DROP INDEX `PRIMARY` ON t", "DROP PRIMARY KEY"),
    ],
)
def test_indexes_by_their_own_statements(statement: str, text: str) -> None:
    said = understand(statement)
    assert isinstance(said, AlterTable)
    assert [one.text for one in said.clauses] == [text]


@pytest.mark.parametrize(
    "statement",
    ["START TRANSACTION", "commit", "USE other", "LOCK TABLES a WRITE", "PREPARE s FROM 'x'",
     "SET sql_mode = ''", "SET GLOBAL foreign_key_checks = 0", "KILL 1", "XA START 'a'",
     "/*!40101 SET NAMES utf8 */"],
)  # fmt: skip
def test_what_is_no_statement_for_a_migration(statement: str) -> None:
    assert refusal(statement)


@pytest.mark.parametrize(
    "statement", ["SET unique_checks = 0", "ALTER TABLE t ADD a INT", "UPDATE a SET b = 'USE'"]
)
def test_what_is_one(statement: str) -> None:
    assert refusal(statement) == ""


NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=64
).map(lambda name: name.rstrip() or "a")


@given(NAMES, NAMES)
def test_any_quoted_name_is_understood(table: str, column: str) -> None:
    said = understand(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(column)} INT, ADD x INT")
    assert isinstance(said, AlterTable)
    assert said.table == table
    assert [one.name for one in said.clauses] == [column, "x"]
    assert name_of(quoted(column)) == column


@given(st.lists(st.sampled_from(["a", "'b,(c'", "(d, e)", "`f,``g`", "h('i''')"]), min_size=1))
def test_pieces_are_what_was_joined(parts: list[str]) -> None:
    assert pieces(", ".join(parts)) == parts


def test_what_servers_print_is_taken_apart() -> None:
    found = parse(
        "CREATE TABLE `t` (\n  `id` bigint(20) NOT NULL,\n"
        "  `a` varchar(10) DEFAULT 'x, (y' COMMENT 'it''s, here',\n"
        "  `e` enum('a','b') CHARACTER SET latin1 COLLATE latin1_bin DEFAULT NULL,\n"
        "  PRIMARY KEY (`id`),\n  UNIQUE KEY `u` (`a`(5),`id`),\n  KEY `k` (`a`) USING BTREE,\n"
        "  CONSTRAINT `f` FOREIGN KEY (`a`) REFERENCES `x` (`y`) ON DELETE CASCADE\n"
        ") ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
    )
    assert found.columns == {
        "id": "bigint(20) NOT NULL",
        "a": "varchar(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT 'x, (y'"
        " COMMENT 'it''s, here'",
        "e": "enum('a','b') CHARACTER SET latin1 COLLATE latin1_bin DEFAULT NULL",
    }
    assert found.indexes == {
        "primary": "PRIMARY KEY (`id`)",
        "u": "UNIQUE KEY (`a`(5),`id`)",
        "k": "KEY (`a`) USING BTREE",
    }
    assert list(found.constraints) == ["f"]
    assert found.options == "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("FOREIGN KEY (`a`) REFERENCES `x` (`y`)", "foreign key (a) references x(y)", True),
        ("FOREIGN KEY (`a`) REFERENCES `x` (`y`)",
         "FOREIGN KEY (a) REFERENCES x (y) ON DELETE RESTRICT ON UPDATE NO ACTION", True),
        ("FOREIGN KEY (`a`) REFERENCES `x` (`y`) ON DELETE CASCADE ON UPDATE SET NULL",
         "FOREIGN KEY i (a) REFERENCES x (y) ON UPDATE SET NULL ON DELETE CASCADE", True),
        ("FOREIGN KEY (`a`) REFERENCES `x` (`y`)",
         "FOREIGN KEY (a) REFERENCES x (y) ON DELETE CASCADE", False),
        ("FOREIGN KEY (`a`) REFERENCES `x` (`y`)", "FOREIGN KEY (a) REFERENCES z (y)", False),
        ("FOREIGN KEY (`a`,`b`) REFERENCES `x` (`y`)", "FOREIGN KEY (b,a) REFERENCES x (y)", False),
    ],
)  # fmt: skip
def test_foreign_keys_are_compared_by_what_they_say(one: str, other: str, same: bool) -> None:
    assert same_foreign_key(one, other) is same
