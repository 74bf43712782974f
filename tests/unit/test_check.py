"""The pure parts of `wpp-sync check`: privileges, the walk that EXPLAIN tells, the exit code."""

from __future__ import annotations

import json
from itertools import product
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.check import Finding, Level, access_of, exit_code, privileges, rows_of

ALL = {"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "INDEX", "DROP"}


def grant(what: str, on: str) -> str:
    return f"GRANT {what} ON {on} TO `wpp`@`%`"


# --- privileges ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "on", ["*.*", "`local_nunes`.*", "`local\\_nunes`.*", "local_nunes.*", "TABLE `local_nunes`.*"]
)
def test_what_holds_for_the_whole_database_counts(on: str) -> None:
    assert privileges([grant("SELECT, INSERT", on)], "local_nunes") == {"SELECT", "INSERT"}


@pytest.mark.parametrize(
    "grants",
    [
        [],
        [grant("USAGE", "`other`.*")],
        [grant("SELECT", "`other`.*")],
        [grant("SELECT", "`local`.*")],
        [grant("SELECT", "`local_nunes_2`.*")],
        [grant("SELECT", "`my_local_nunes`.*")],
        [grant("SELECT", "`LOCAL_NUNES`.*")],
        [grant("SELECT", "`local_nunes`.`wpp_messages`")],
        [grant("SELECT (`id`, `body`)", "`local_nunes`.`wpp_messages`")],
        [grant("EXECUTE", "PROCEDURE `local_nunes`.`do`")],
        ["GRANT `reader`@`%` TO `wpp`@`%`"],
        ["GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION"],
        ["SET DEFAULT ROLE reader FOR wpp@%"],
        ["no grant at all"],
    ],
)
def test_what_does_not_hold_for_the_whole_database_does_not_count(grants: list[str]) -> None:
    assert privileges(grants, "local_nunes") == frozenset()


def test_an_escaped_wildcard_is_a_plain_character() -> None:
    assert privileges([grant("SELECT", "`local\\_nunes`.*")], "localXnunes") == frozenset()
    assert privileges([grant("SELECT", "`100\\%`.*")], "100%") == {"SELECT"}
    assert privileges([grant("SELECT", "`100\\%`.*")], "1000") == frozenset()


def test_grants_add_up_and_are_told_in_upper_case() -> None:
    grants = [
        grant("USAGE", "*.*"),
        grant("select, Insert", "`nunes`.*"),
        grant("CREATE TEMPORARY TABLES,LOCK TABLES", "`nunes`.*"),
        grant("DELETE", "`karsten`.*"),
    ]

    assert privileges(grants, "nunes") == {
        "USAGE", "SELECT", "INSERT", "CREATE TEMPORARY TABLES", "LOCK TABLES",
    }  # fmt: skip


@pytest.mark.parametrize("what", ["ALL", "ALL PRIVILEGES", "all privileges"])
def test_all_privileges_are_each_of_them(what: str) -> None:
    assert privileges([grant(what, "`nunes`.*")], "nunes") >= ALL


def test_what_a_real_server_prints_behind_the_account_does_not_matter() -> None:
    printed = (
        "GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` IDENTIFIED VIA unix_socket"
        " WITH GRANT OPTION"
    )

    assert privileges([printed], "nunes") >= ALL


def test_a_backtick_in_a_name() -> None:
    assert privileges([grant("SELECT", "`a``b`.*")], "a`b") == {"SELECT"}


@pytest.mark.parametrize(
    ("name", "database"),
    [("local_%", "local_nunes"), ("%", "nunes"), ("local_nunes", "local1nunes"), ("n%s", "nunes")],
)
def test_wildcards_in_the_name_of_a_grant(name: str, database: str) -> None:
    assert privileges([grant("SELECT", f"`{name}`.*")], database) == {"SELECT"}


@given(st.text(st.characters(min_codepoint=33, exclude_characters="`%_\\."), min_size=1))
def test_every_other_character_of_a_name_stands_for_itself(name: str) -> None:
    grants = [grant("SELECT", f"`{name}`.*")]

    assert privileges(grants, name) == {"SELECT"}
    assert privileges(grants, name + "x") == privileges(grants, name[:-1]) == frozenset()


@pytest.mark.parametrize("name", ["a.b", "a b"])
def test_a_dot_or_a_space_in_a_name(name: str) -> None:
    assert privileges([grant("SELECT", f"`{name}`.*")], name) == {"SELECT"}


# --- EXPLAIN -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("explained", "walk"),
    [
        # MariaDB 10.11
        (
            {"query_block": {"select_id": 1, "cost": 1.5, "nested_loop": [
                {"table": {"table_name": "messages", "access_type": "range",
                           "possible_keys": ["PRIMARY"], "key": "PRIMARY", "rows": 9}}]}},
            ("range", "PRIMARY"),
        ),
        # MySQL
        (
            {"query_block": {"select_id": 1, "cost_info": {"query_cost": "1"},
                             "ordering_operation": {"using_filesort": False, "table": {
                                 "table_name": "messages", "access_type": "range",
                                 "key": "instance_id"}}}},
            ("range", "instance_id"),
        ),
        # MySQL 9, the second version of the format
        (
            {"query": "select", "json_schema_version": "2.0", "query_plan": {
                "limit": 1000, "access_type": "limit", "inputs": [
                    {"access_type": "filter", "inputs": [
                        {"table_name": "messages", "access_type": "index", "index_name": "PRIMARY",
                         "index_access_type": "index_range_scan"}]}]}},
            ("range", "PRIMARY"),
        ),
        (
            {"query_plan": {"access_type": "sort", "inputs": [
                {"table_name": "messages", "access_type": "table"}]}},
            ("table", ""),
        ),
        # Sorting, and a table that is read from end to end, has no key.
        (
            {"query_block": {"filesort": {"sort_key": "id", "temporary_table": {
                "nested_loop": [{"table": {"access_type": "ALL"}}]}}}},
            ("ALL", ""),
        ),
        # The outermost table is the one that is meant.
        (
            {"a": [{"access_type": "ref", "key": "x"}, {"access_type": "ALL", "key": "y"}]},
            ("ref", "x"),
        ),
        ({"query_block": {"message": "Impossible WHERE"}}, ("unknown", "")),
        ([], ("unknown", "")),
        (7, ("unknown", "")),
    ],
)  # fmt: skip
def test_the_walk_that_explain_tells(explained: object, walk: tuple[str, str]) -> None:
    assert access_of(json.dumps(explained)) == walk


@pytest.mark.parametrize("text", ["", "no JSON", '{"query_block": '])
def test_an_explain_that_is_no_json_tells_nothing(text: str) -> None:
    assert access_of(text) == ("unknown", "")
    assert rows_of(text) == inf


@pytest.mark.parametrize("name", ["rows", "rows_examined_per_scan", "estimated_rows"])
def test_the_rows_that_explain_expects(name: str) -> None:
    table = {"access_type": "index", name: 7.5}
    assert rows_of(json.dumps({"query_block": {"table": table}})) == 7.5
    assert rows_of(json.dumps({"query_block": {"table": {**table, name: "many"}}})) == inf


# --- the exit code -------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", list(product(["ok", "note", "fail"], repeat=3)))
@pytest.mark.parametrize("unreachable", [0, 1, 2, None])
def test_the_exit_code_is_that_of_the_worst_finding(
    levels: tuple[Level, ...], unreachable: int | None
) -> None:
    findings = [
        Finding(level, "central", "text", unreachable=level == "fail" and number == unreachable)
        for number, level in enumerate(levels)
    ]

    expected = 0
    for finding in findings:
        if finding.level == "fail":
            expected = max(expected, 3 if finding.unreachable else 1)
    assert exit_code(findings) == expected


def test_nothing_found_is_nothing_failed() -> None:
    assert exit_code([]) == 0


# --- settling in words ---------------------------------------------------------------------------
