"""An error's number decides what it means: may it be tried again, whose fault is it, what to do."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta

import asyncmy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import db, errors
from daemon.config import Server
from daemon.db import _translate, classify
from daemon.errors import (
    AccessError,
    CollisionError,
    ConfigError,
    DatabaseError,
    MigrationFilesError,
    MissingError,
    RowError,
    TransientError,
    WppSyncError,
)
from daemon.migrations.runner import ALREADY_THERE

BY_NUMBER: dict[type[DatabaseError], list[int]] = {
    TransientError: [
        1020,  # record changed (MariaDB snapshot isolation)
        1021, 1114,  # disk or table full
        1037, 1038, 1041,  # out of memory
        1040, 1203, 1226,  # too many connections
        1047,  # Galera node not ready
        1053, 1927,  # shutdown, killed
        1129,  # host blocked
        1158, 1159, 1160, 1161,  # network
        1180,  # COMMIT failed
        1205, 1213,  # lock wait timeout, deadlock
        1290, 1792, 1836,  # read-only
        1317, 1969, 3024,  # interrupted, statement timeout (MariaDB, MySQL)
        1412, 1615,  # definition changed
        2002, 2003, 2006, 2013, 2055, 4031,  # connection
    ],
    AccessError: [1044, 1045, 1049, 1130, 1142, 1143, 1227, 1370, 1698, 1820, 1862, 2059, 3118,
                  4151],
    MissingError: [1051, 1054, 1146, 1176, 1364, 1906, 1932, 3105],
    RowError: [
        1048,  # NULL
        1062, 1586,  # duplicate key
        1118, 1153,  # row or packet too large
        1216, 1217, 1451, 1452,  # foreign key
        1264, 1265, 1292, 1300, 1366, 1406, 1416, 1690,  # a value that does not fit
        1644,  # SIGNAL in a trigger
        3140, 3157, 3643, 3819, 4025,  # JSON, SRID, CHECK (MySQL, MariaDB)
    ],
    CollisionError: [1242],
    DatabaseError: [0, 1064, 1231, 1305, 9999],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "errno"), [(kind, errno) for kind, numbers in BY_NUMBER.items() for errno in numbers]
)
def test_the_kind_of_a_server_error(kind: type[DatabaseError], errno: int) -> None:
    error = classify("local nunes", errno, "It did not work")

    assert type(error) is kind
    assert (error.server, error.errno) == ("local nunes", errno)
    assert str(error) == f"local nunes: It did not work (error {errno})"


def test_no_number_is_of_two_kinds() -> None:
    """The order of the questions in `classify` would decide without a word."""
    kinds = [db._TRANSIENT, db._ACCESS, db._MISSING, db._ROW, frozenset({db._GUARD})]

    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    assert db.DUPLICATE_KEY <= db._ROW


def test_what_stands_already_is_not_taken_for_trouble_that_passes() -> None:
    """A migration skips these; a retry would run it again for ever."""
    for errno in ALREADY_THERE:
        assert type(classify("local", errno, "")) is DatabaseError


@given(st.integers(0, 10_000), st.text())
def test_every_number_has_a_kind_and_the_servers_words_are_kept(errno: int, message: str) -> None:
    error = classify("central", errno, message)

    assert isinstance(error, DatabaseError)
    assert message in str(error)


@pytest.mark.parametrize("errno", sorted(db._HINTS))
def test_every_hint_belongs_to_a_kind_and_is_a_sentence_for_an_operator(errno: int) -> None:
    error = classify("central", errno, "x")

    assert type(error) is not DatabaseError
    assert error.hint == db._HINTS[errno]


@pytest.mark.parametrize("errno", [1044, 1045, 1049, 1130, 1142, 1143, 1227, 1698, 2003, 1290])
def test_what_an_operator_can_mend_has_a_hint(errno: int) -> None:
    assert classify("central", errno, "x").hint


# --- what the driver raises ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "kind", "errno"),
    [
        (asyncmy.errors.OperationalError(1213, "Deadlock found"), TransientError, 1213),
        (asyncmy.errors.OperationalError(2013, "Lost connection"), TransientError, 2013),
        (asyncmy.errors.OperationalError(1045, "Access denied"), AccessError, 1045),
        (asyncmy.errors.IntegrityError(1062, "Duplicate entry"), RowError, 1062),
        (asyncmy.errors.DataError(1406, "Data too long"), RowError, 1406),
        (asyncmy.errors.OperationalError(1242, "Subquery returns"), CollisionError, 1242),
        (asyncmy.errors.ProgrammingError(1146, "Table doesn't exist"), MissingError, 1146),
        (asyncmy.errors.ProgrammingError(1064, "Syntax"), DatabaseError, 1064),
        (asyncmy.errors.InternalError(1927, "Connection was killed"), TransientError, 1927),
        # The driver decides by its own table what class it raises; only the number counts.
        (asyncmy.errors.InternalError(1406, "Data too long"), RowError, 1406),
        # Without a number the stream is broken.
        (asyncmy.errors.InterfaceError("Cancelled during execution"), TransientError, 2013),
        (asyncmy.errors.InterfaceError(0, "Not connected"), TransientError, 2013),
        (asyncmy.errors.InternalError("Packet sequence number wrong"), TransientError, 2013),
        (asyncmy.errors.InternalError(), TransientError, 2013),
        # The socket, and what a packet that was cut off ends in.
        (TimeoutError(), TransientError, 2013),
        (ConnectionResetError(104, "Connection reset by peer"), TransientError, 2013),
        (BrokenPipeError(32, "Broken pipe"), TransientError, 2013),
        (asyncio.IncompleteReadError(b"ab", 4), TransientError, 2013),
        (AssertionError("Packet header"), TransientError, 2013),
        (IndexError("index out of range"), TransientError, 2013),
        (AttributeError("'NoneType' has no attribute 'read'"), TransientError, 2013),
    ],
    ids=repr,
)
def test_the_kind_of_what_the_driver_raised(
    raised: BaseException, kind: type[DatabaseError], errno: int
) -> None:
    error = _translate("central", raised)

    assert type(error) is kind
    assert (error.server, error.errno) == ("central", errno)
    words = [word for word in raised.args if isinstance(word, str)]
    assert all(word in str(error) for word in words)
    assert isinstance(raised, db._DRIVER_ERRORS)


def test_an_answer_that_did_not_come_in_time_says_so() -> None:
    error = _translate("local nunes", TimeoutError())

    assert str(error) == "local nunes: no answer in time (error 2013)"
    assert error.hint == "the server hangs or is overloaded"


def test_a_lost_connection_names_what_was_seen() -> None:
    error = _translate("central", ConnectionResetError(104, "Connection reset by peer"))

    assert "connection lost (ConnectionResetError: [Errno 104]" in str(error)


def test_a_way_to_authenticate_that_the_driver_lacks_a_library_for_is_no_lost_connection() -> None:
    """It does not mend by itself."""
    raised = RuntimeError("'pynacl' package is required for ed25519_password auth method")

    error = db._cannot_connect(Server(database="c", user="u"), "central", raised)

    assert type(error) is AccessError
    assert str(error) == f"central: 127.0.0.1:3306: {raised} (error 2059)"
    assert "caching_sha2_password" in error.hint


def test_a_cancellation_is_not_among_what_is_translated() -> None:
    assert not issubclass(asyncio.CancelledError, db._DRIVER_ERRORS)
    assert not issubclass(KeyboardInterrupt, db._DRIVER_ERRORS)


# --- errors as operators and machines see them ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "exit_code"),
    [
        ("WppSyncError", "error", 1),
        ("UsageError", "usage", 2),
        ("NoInstanceError", "usage", 2),
        ("ConfigError", "config", 2),
        ("ClosedFilesError", "config", 2),
        ("MigrationFilesError", "migration_files", 2),
        ("MigrationError", "migration", 1),
        ("SchemaError", "schema", 1),
        ("OwnerError", "another_instance", 1),
        ("StandbyError", "locked", 1),
        ("PausedError", "paused", 1),
        ("StoppedError", "stopped", 130),
        ("LockLostError", "lock_lost", 1),
        ("StateMovedError", "state_moved", 1),
        ("PlanChangedError", "schema_changed", 1),
        ("RewoundError", "rewound", 1),
        ("DaemonUnreachableError", "daemon_unreachable", 3),
        ("NoDaemonError", "daemon_unreachable", 3),
        ("DatabaseError", "database", 1),
        ("TransientError", "unreachable", 3),
        ("AccessError", "access", 3),
        ("RowError", "data", 1),
        ("CollisionError", "collision", 1),
        ("MissingError", "schema", 1),
    ],
)
def test_codes_and_exit_codes_are_an_interface(name: str, code: str, exit_code: int) -> None:
    kind = getattr(errors, name)

    assert issubclass(kind, WppSyncError)
    assert (kind.code, kind.exit_code) == (code, exit_code)


def test_every_kind_is_in_the_list_above() -> None:
    listed = test_codes_and_exit_codes_are_an_interface.pytestmark[0].args[1]  # type: ignore[attr-defined]
    kinds = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, WppSyncError)
    }

    assert kinds == {name for name, _, _ in listed}


def test_the_exit_codes_of_the_command_line() -> None:
    codes = (
        errors.EXIT_OK,
        errors.EXIT_FAILED,
        errors.EXIT_USAGE,
        errors.EXIT_UNREACHABLE,
        errors.EXIT_DIFFERENT,
    )

    assert codes == (0, 1, 2, 3, 4)


def test_an_error_is_its_message_with_a_hint_and_a_time() -> None:
    error = WppSyncError("it broke", hint="mend it", code="special")

    assert (str(error), error.message, error.hint, error.code) == (
        "it broke", "it broke", "mend it", "special",
    )  # fmt: skip
    assert error.since.tzinfo is UTC
    assert abs(datetime.now(UTC) - error.since) < timedelta(minutes=1)
    assert WppSyncError("x").hint == ""
    assert WppSyncError.code == "error"  # the class keeps its own


@pytest.mark.parametrize("kind", [ConfigError, MigrationFilesError])
def test_problems_are_told_one_a_line(kind: type[ConfigError | MigrationFilesError]) -> None:
    error = kind(["one", "two"])

    assert error.problems == ("one", "two")
    assert str(error) == "one\ntwo"
    assert error.hint


def test_an_error_that_many_meet_is_the_same_for_each() -> None:
    first = AccessError("central", 1045, "Access denied", hint="check the password")
    again = first.again()
    assert type(again) is AccessError
    assert again is not first, "each has its own time"
    told = (again.code, again.message, again.hint, again.server, again.errno)
    assert told == (first.code, first.message, first.hint, "central", 1045)
