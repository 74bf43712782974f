"""Connections to MySQL and MariaDB: the only module that knows the driver.

It promises three things. Values come as the server printed them (bytes), in sessions that are set
up alike on every server: utf8mb4, UTC, one sql_mode. An error is told by its number as one of the
kinds of `daemon.errors`. And a connection in doubt is never used again: whatever interrupts a
statement (an error of the connection, a timeout, a cancellation) closes it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import asyncmy
from asyncmy.cursors import SSCursor

from daemon import driver, sql
from daemon.config import Server
from daemon.errors import (
    AccessError,
    CollisionError,
    DatabaseError,
    MissingError,
    RowError,
    TransientError,
)
from daemon.sql import Row, Statement

Role = Literal["central", "local"]

_ROWS_AT_ONCE = 16
"""Small rows taken from a long result before their size is looked at: a third less CPU than
singly."""

_LONG_BYTES = 4 << 20
"""A row that its columns keep below that is taken with others all the same: TEXT has 64 KiB."""

# What a server notes on a statement the driver logs as it came, if it asks (`QuietCursor`).
logging.getLogger("asyncmy").setLevel(logging.ERROR)

_open: Counter[Role] = Counter()


def open_connections() -> Mapping[Role, int]:
    """How many connections this process has open, to central and to local servers."""
    return {"central": _open["central"], "local": _open["local"]}


# Error numbers: MySQL "Server Error Message Reference", MariaDB "Error Codes", client 2000 and up.
_TRANSIENT = frozenset(
    {
        1020,  # record has changed since last read (MariaDB snapshot isolation)
        1021,  # disk full
        1037, 1038, 1041,  # out of memory
        1040, 1203, 1226,  # too many connections
        1047,  # WSREP: node not ready
        1053,  # shutdown in progress
        1114,  # table full
        1129,  # host blocked after many errors
        1152, 1158, 1159, 1160, 1161, 1184,  # the network between
        1180,  # error during COMMIT
        1205,  # lock wait timeout
        1213,  # deadlock
        1290, 1836, 1792,  # read-only: a failover is under way
        1317,  # query interrupted
        1412, 1615,  # definition changed under us
        1927,  # connection killed
        1969, 3024,  # statement timeout
        2000, 2001, 2002, 2003, 2004, 2005, 2006, 2012, 2013, 2014, 2026, 2027, 2055,
        4031,  # disconnected for inactivity
    }
)  # fmt: skip
_ACCESS = frozenset(
    {1044, 1045, 1049, 1130, 1142, 1143, 1227, 1370, 1410, 1698, 1820, 1862, 2059, 3118, 4151}
)
# What a statement takes for granted is not so: no such table, column or index, a column that must
# be filled and has no default, one that is generated. It concerns the table, never a single row.
_MISSING = frozenset({1051, 1054, 1109, 1146, 1176, 1364, 1906, 1932, 3105})
_ROW = frozenset(
    {
        1048, 1062, 1118, 1153, 1216, 1217, 1264, 1265, 1292, 1300, 1366, 1367, 1406, 1411,
        1416, 1451, 1452, 1525, 1586, 1644, 1690, 1977, 3037, 3140, 3144, 3150, 3151, 3156, 3157,
        3548, 3616, 3617, 3643, 3819, 3854, 4025, 4078,
    }
)  # fmt: skip
DUPLICATE_KEY = frozenset({1062, 1586})
NO_PARENT = frozenset({1216, 1452})
NO_SUCH_CONNECTION = 1094
TOOK_TOO_LONG = frozenset({1969, 3024})
NO_SUCH_SYNTAX = frozenset({1064})
# Shutdown, packet too large, killed, disconnected for inactivity.
_HANGS_UP = frozenset({1053, 1153, 1927, 4031})
_GUARD = 1242  # subquery returns more than one row: the guard in sql.upsert_frame

_HINTS = {
    1045: "check user and password, and that the account may connect from this host",
    1698: "check user and password, and how the account is authenticated",
    1044: "check the database's name and the account's privileges (GRANT)",
    1049: "check the database's name",
    1142: "GRANT the missing privilege to the account",
    1143: "GRANT the missing privilege to the account",
    1227: "GRANT the missing privilege to the account",
    1054: "a column that this version expects is missing: was a migration undone, or changed?",
    1146: "a table that this version expects is missing: was it dropped, or renamed?",
    1130: "the server accepts no connection from this host: check the account's host part",
    2003: "check host, port and socket, and that the server runs",
    2026: "check tls.ca, and that the server's certificate names this host; without tls.verify the"
    " connection is encrypted all the same",
    2059: "the account uses an authentication plugin that the driver does not know:"
    " caching_sha2_password and mysql_native_password are known",
    1040: "raise the server's max_connections, or lower central.max_connections",
    1290: "the server is read-only: wait for the failover, or point the configuration elsewhere",
}

# One sql_mode on every session, whatever the server's: strict, so that nothing is truncated; zero
# and invalid dates as they are; a zero id is a zero id; and see `daemon.sql` for the backslash.
_SQL_MODE = (
    "STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_BACKSLASH_ESCAPES,"
    "NO_ENGINE_SUBSTITUTION"
)


def classify(server: str, errno: int, message: str) -> DatabaseError:
    """The error of our own for a server's error number."""
    kind = DatabaseError
    if errno in _TRANSIENT:
        kind = TransientError
    elif errno in _ACCESS:
        kind = AccessError
    elif errno in _MISSING:
        kind = MissingError
    elif errno in _ROW:
        kind = RowError
    elif errno == _GUARD:
        kind = CollisionError
    return kind(server, errno, message, hint=_HINTS.get(errno, ""))


def _translate(server: str, error: BaseException) -> DatabaseError:
    """Our error for whatever the driver raised."""
    if isinstance(error, TimeoutError):
        return TransientError(
            server, 2013, "no answer in time", hint="the server hangs or is overloaded"
        )
    if isinstance(error, asyncmy.MySQLError):
        number = error.args[0] if error.args else 0
        message = str(error.args[1]) if len(error.args) > 1 else str(error)
        if isinstance(number, int) and number:
            return classify(server, number, message)
        # InterfaceError and InternalError without a number: the stream is broken.
        return TransientError(server, 2013, str(error) or type(error).__name__)
    # What is left comes from the socket or from a stream that ended in the middle of a packet.
    return TransientError(server, 2013, f"connection lost ({type(error).__name__}: {error})")


# What the driver raises when the stream breaks: its own errors, the socket's, and what parsing a
# cut-off packet can end in (AssertionError, IndexError, …: its parser trusts the stream).
_DRIVER_ERRORS = (
    asyncmy.MySQLError, OSError, EOFError, AssertionError, IndexError, ValueError,
    AttributeError, TypeError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answers:
    """What a server says to statements that were sent together."""

    rows: list[list[Row]] = field(default_factory=list)
    """Of each that it has carried out, in order; none where it is no question."""

    refusal: DatabaseError | None = None
    """Why it has not carried out the next one, and so none of those behind it."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One that has begun."""

    opening: list[list[Row]]
    """What the statements that it began with have brought."""

    attempt: Answers
    """The answers to what was sent with them."""

    last: list[Statement] = field(default_factory=list)
    """What is carried out with the COMMIT, which nothing of it outlives."""


class Connection:
    """One connection with its session set up. Statements of two tasks come one after the other;
    a transaction is for one task."""

    def __init__(
        self, raw: Any, server: Server, name: str, role: Role, longest_silence: int
    ) -> None:
        self._raw = raw
        self._timeout = server.statement_timeout
        self._server = server
        self.role = role
        self.name = name
        """Which server, in the operator's words: "central", "local nunes"."""

        self._signature = sql.comment(name)
        # MariaDB puts 5.5.5- before its version, for the sake of old replicas.
        self.version: str = raw.get_server_info().removeprefix("5.5.5-")
        self.mariadb = "mariadb" in self.version.lower()
        self.thread_id: int = raw.thread_id()
        self.max_packet = 1 << 20
        self.bulk = driver.offers_bulk(raw)
        """Whether `execute_bulk` can be tried."""

        self._prepared = driver.Prepared()
        self._takes_several = True
        """Statements that are sent together are carried out. A proxy may not do that."""

        self.longest_silence = longest_silence
        """Seconds after which the server closes a local connection that says nothing."""

        self.in_transaction = False
        """Between a START TRANSACTION of ours and its end."""

        self.used_at = asyncio.get_running_loop().time()
        self._free = asyncio.Lock()
        _open[role] += 1

    @property
    def usable(self) -> bool:
        """False as soon as anything has gone wrong with it."""
        return self._raw is not None

    def discard(self) -> None:
        """Close at once, without a word to the server. Safe to call again."""
        raw, self._raw = self._raw, None
        if raw is not None:
            # They know the driver's connection and its buffers, which go now, whoever knows us.
            self._prepared = driver.Prepared()
            _open[self.role] -= 1
            driver.abort(raw)

    async def close(self) -> None:
        """Say goodbye and close."""
        if self._raw is None:
            return
        try:
            async with asyncio.timeout(2):
                await self._raw.ensure_closed()
        except _DRIVER_ERRORS as error:
            logging.getLogger(__name__).debug("close: %s", error)
        finally:
            self.discard()

    async def execute(
        self,
        statement: Statement | bytes,
        *,
        timeout: float | Literal["default"] | None = "default",
    ) -> int:
        """Send a statement that returns no rows; the number of rows it affected.

        `timeout` in seconds bounds the answer; None waits for ever (DDL).
        """
        text = statement if isinstance(statement, bytes) else sql.render(statement)
        async with self._guarded(timeout):
            affected: int = await self._raw.query(text)
        return affected

    async def execute_bulk(self, statement: bytes, packet: bytes) -> bool:
        """Carry a statement out for each row of a packet (`bulk.packets`): for all or, when
        it fails, for none. False: this server cannot do that after all, and has done nothing."""
        try:
            async with self._guarded("default"):
                await self._prepared.execute(self._raw, statement, packet)
        except DatabaseError as error:
            if error.errno not in driver.UNABLE or not self.usable:
                raise
            self.bulk = False
        return self.bulk

    async def fetch(self, statement: Statement, *, most: float | None = None) -> list[Row]:
        """All rows of a small result; `most`: the server gives up (TOOK_TOO_LONG) after so many
        seconds."""
        text = sql.render(statement if most is None else self._bounded(statement, most))
        async with self._guarded("default"):
            cursor = self._raw.cursor(driver.QuietCursor)
            await cursor.execute(text)
            rows: list[Row] = list(await cursor.fetchall())
            await cursor.close()
        return rows

    async def exchange(self, statements: Sequence[Statement | bytes]) -> Answers:
        """Send statements together, in one round trip: the server carries out one after the other,
        up to the first that it refuses.

        Raises TransientError when the connection is lost: nobody knows how far it came then.
        """
        texts = [each if isinstance(each, bytes) else sql.render(each) for each in statements]
        if self._takes_several or len(texts) == 1:
            answers = await self._exchange(texts)
            refusal = answers.refusal
            misread = refusal is not None and refusal.errno in NO_SUCH_SYNTAX and not answers.rows
            if not misread or len(texts) == 1:
                return answers
            # Together they were no statement to it, so it has not carried out any of them.
            self._takes_several = False
        rows: list[list[Row]] = []
        for text in texts:
            answers = await self._exchange([text])
            rows += answers.rows
            if answers.refusal is not None:
                return Answers(rows, answers.refusal)
        return Answers(rows)

    async def _exchange(self, texts: Sequence[bytes]) -> Answers:
        rows: list[list[Row]] = []
        try:
            async with self._guarded("default"):
                cursor = self._raw.cursor(driver.QuietCursor)
                await cursor.execute(b"; ".join(texts))
                rows.append(list(await cursor.fetchall()))
                while len(rows) < len(texts):
                    if not await cursor.nextset():
                        raise asyncmy.InternalError("an answer is missing")
                    rows.append(list(await cursor.fetchall()))
                await cursor.close()
        except DatabaseError as error:
            if not self.usable:
                raise
            return Answers(rows, error)
        return Answers(rows)

    async def fetch_each(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """As `fetch`, of several small results in one round trip."""
        answers = await self.exchange(statements)
        if answers.refusal is not None:
            raise answers.refusal
        return answers.rows

    async def fetch_named(self, statement: Statement) -> list[dict[str, bytes | None]]:
        """As `fetch`, with the columns' names, of a result whose columns differ between servers."""
        async with self._guarded("default"):
            cursor = self._raw.cursor(driver.QuietCursor)
            await cursor.execute(sql.render(statement))
            names = [column[0] for column in cursor.description or ()]
            rows = list(await cursor.fetchall())
            await cursor.close()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _bounded(self, statement: Statement, seconds: float) -> Statement:
        """A SELECT that may take no longer; never longer than any statement may."""
        seconds = min(seconds, self._timeout)
        if self.mariadb:
            bound = f"SET STATEMENT max_statement_time = {seconds:g} FOR "
            return statement._replace(sql=bound + statement.sql)
        hint = f"SELECT /*+ MAX_EXECUTION_TIME({max(1, int(seconds * 1000))}) */"
        return statement._replace(sql=statement.sql.replace("SELECT", hint, 1))

    async def fetch_bounded(
        self, statement: Statement, max_bytes: int, limit: int
    ) -> tuple[list[Row], int]:
        """The first rows of a result, until they hold `max_bytes`, or little more (one row, where
        rows may be long); and how many bytes they hold.

        The statement yields at most `limit` rows. Where it is cut before, the connection is closed
        instead of read to the end: the protocol has no way to ask a server to stop, and the rest
        may be gigabytes.
        """
        rows: list[Row] = []
        size, at_once = 0, 1
        text = sql.render(statement)
        async with self._guarded("default"):
            cursor = self._raw.cursor(SSCursor)
            await cursor.execute(text)
            most = 1 if _may_be_long(cursor) else _ROWS_AT_ONCE
            while size < max_bytes or len(rows) >= limit:
                some = await cursor.fetchmany(at_once)
                rows += some
                added = sum(map(len, filter(None, chain.from_iterable(some))))
                size += added
                if len(some) < at_once:
                    await cursor.close()
                    return rows, size
                # Of large rows no more than there is room for: they may have megabytes each.
                room = (max_bytes - size) * len(some) // max(1, added)
                at_once = max(1, min(most, room))
        self.discard()
        return rows, size

    async def set_up(self) -> None:
        """Give the session the settings that everything rests on, whatever has changed them."""
        await _set_up(self, self._server, self.role)

    @asynccontextmanager
    async def transaction(
        self, *opening: Statement, attempt: Sequence[Statement | bytes] = ()
    ) -> AsyncIterator[Transaction]:
        """BEGIN … COMMIT; ROLLBACK when the block fails. A failed COMMIT has an unknown outcome:
        the connection is closed and the caller reads the state again.

        `opening` goes with the BEGIN, in one round trip, and what is refused of it is raised;
        `attempt` goes with both, and a refusal of it is the block's to judge.
        """
        first: list[Statement | bytes] = [self._signature + b"START TRANSACTION", *opening]
        self.in_transaction = True
        try:
            try:
                answers = await self.exchange([*first, *attempt])
                begun = len(first)
                if answers.refusal is not None and len(answers.rows) < begun:
                    raise answers.refusal
                attempted = Answers(answers.rows[begun:], answers.refusal)
                transaction = Transaction(answers.rows[1:begun], attempted)
                yield transaction
                last = transaction.last
                answers = await self.exchange([*last, self._signature + b"COMMIT"])
                if answers.refusal is not None and len(answers.rows) < len(last):
                    raise answers.refusal
            except BaseException as error:
                if isinstance(error, Exception) and self.usable:
                    # Where it fails, the connection is closed, which rolls back as well; what is to
                    # be told is the first error.
                    with suppress(DatabaseError):
                        await self.execute(self._signature + b"ROLLBACK")
                else:
                    self.discard()
                raise
            if answers.refusal is not None:
                self.discard()
                raise answers.refusal
        finally:
            self.in_transaction = False

    async def at_once(self, *statements: Statement | bytes) -> bool:
        """BEGIN, these, COMMIT in one round trip: nothing of it has to be seen before it is
        committed. Whether that was done; where one of them is refused for its own sake, all is
        rolled back.

        Raises TransientError for a server's trouble. Where that meets the COMMIT, or the
        connection, the outcome is unknown: the caller reads the state again.
        """
        begin, commit = self._signature + b"START TRANSACTION", self._signature + b"COMMIT"
        self.in_transaction = True
        try:
            answers = await self.exchange([begin, *statements, commit])
            if (refusal := answers.refusal) is None:
                return True
            if len(answers.rows) > len(statements):
                self.discard()
                raise refusal
            try:
                await self.execute(self._signature + b"ROLLBACK")
            except DatabaseError as error:
                self.discard()  # rolls back as well
                raise (refusal if isinstance(refusal, TransientError) else error) from refusal
            if isinstance(refusal, TransientError) or not answers.rows:
                raise refusal
        except asyncio.CancelledError:
            self.discard()  # between its answer and the ROLLBACK, too
            raise
        finally:
            self.in_transaction = False
        return False

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Inside a transaction: what the block has written is undone when it fails and the
        transaction can go on; whatever ends the transaction is left to its own block."""
        await self.execute(self._signature + b"SAVEPOINT wpp_sync")
        try:
            yield
        except TransientError:
            raise  # a deadlock has undone the savepoint, too
        except Exception:
            await self.execute(self._signature + b"ROLLBACK TO SAVEPOINT wpp_sync")
            raise
        await self.execute(self._signature + b"RELEASE SAVEPOINT wpp_sync")

    @asynccontextmanager
    async def _guarded(self, timeout: float | Literal["default"] | None) -> AsyncIterator[None]:
        """The one place where the driver is called: bounded, translated, closed when in doubt."""
        async with self._free:
            if self._raw is None:
                raise TransientError(self.name, 2006, "the connection is closed")
            seconds = self._timeout + 5.0 if timeout == "default" else timeout
            try:
                async with asyncio.timeout(seconds):
                    yield
                self.used_at = asyncio.get_running_loop().time()
            except _DRIVER_ERRORS as error:
                translated = _translate(self.name, error)
                # A refusal leaves the stream in order. Anything else (2000 to 2999 are the client's
                # own numbers), and what the server hangs up after, does not.
                in_order = isinstance(error, asyncmy.MySQLError) and not isinstance(
                    error, asyncmy.InterfaceError | asyncmy.InternalError
                )
                if not in_order or translated.errno in _HANGS_UP or 2000 <= translated.errno < 3000:
                    self.discard()
                raise translated from error
            except BaseException:
                self.discard()  # cancelled: the answer is still on its way to nobody
                raise


async def connect(
    server: Server, name: str, role: Role, *, longest_silence: int = 28_800
) -> Connection:
    """Connect and set the session up. Raises TransientError or AccessError; never hangs.

    `role` central: read-only, READ COMMITTED, each statement bounded by the server, too. A local
    connection that says nothing for `longest_silence` seconds is closed by the server.
    """
    options: dict[str, Any] = {"unix_socket": str(server.socket)} if server.socket else {}
    if server.tls is not None and server.socket is None:
        options["ssl"] = _tls(server, name)
    raw: Any = None
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    cancellations = task.cancelling()
    try:
        async with asyncio.timeout(server.connect_timeout):
            raw = await asyncmy.connect(
                host=server.host,
                port=server.port,
                user=server.user,
                # bytes, because the driver would encode text as latin1
                password=server.password.get_secret_value().encode(),
                database=server.database,
                charset="utf8mb4",
                use_unicode=False,
                conv={},  # no decoders: every value arrives as the server printed it
                autocommit=True,
                connect_timeout=server.connect_timeout,
                program_name="wpp-sync",
                **options,
            )
            if task.cancelling() > cancellations:
                # The driver's wait_for forgets a cancellation that comes in the moment when the
                # connection is there (CPython issue 86296, before Python 3.12).
                raw.close()
                raise asyncio.CancelledError
    except _DRIVER_ERRORS as error:
        raise _cannot_connect(server, name, error) from error
    driver.slim(raw, driver.LITTLE_BYTES if role == "local" else driver.PAGE_BYTES)
    connection = Connection(raw, server, name, role, longest_silence)
    try:
        await connection.set_up()
    except BaseException:
        connection.discard()
        raise
    return connection


def _may_be_long(cursor: SSCursor) -> bool:
    """Whether rows can be so long that several must not be taken unseen: nothing that came before
    tells of the next one's length. By the columns' types, as the server describes them."""
    # The driver keeps an unsigned number of 32 bits in a signed one.
    lengths: list[int] = [column[3] & 0xFFFFFFFF for column in cursor.description or ()]
    return sum(lengths) > _LONG_BYTES


def _cannot_connect(server: Server, name: str, error: BaseException) -> DatabaseError:
    where = server.address
    if isinstance(error, TimeoutError):
        return TransientError(
            name,
            2003,
            f"no answer from {where} within {server.connect_timeout:g} s",
            hint=_HINTS[2003],
        )
    reason = error.__cause__ if error.__cause__ is not None else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return AccessError(name, 2026, f"{where}: {reason}", hint=_HINTS[2026])
    if isinstance(error, RuntimeError):
        # What the driver says of a way to authenticate for which it lacks a library.
        return AccessError(name, 2059, f"{where}: {error}", hint=_HINTS[2059])
    translated = _translate(name, error)
    if translated.errno == 2013:
        return TransientError(name, 2013, f"{where} hung up while connecting", hint=_HINTS[2003])
    if translated.errno == 2003:
        return TransientError(name, 2003, f"cannot connect to {where}: {reason}", hint=_HINTS[2003])
    return translated


def _tls(server: Server, name: str) -> ssl.SSLContext:
    tls = server.tls
    assert tls is not None  # noqa: S101 - the caller looked
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.cert:
            # Without a password OpenSSL would ask for one on the terminal, and all would wait.
            context.load_cert_chain(
                str(tls.cert), str(tls.key) if tls.key else None, password=lambda: ""
            )
    except (OSError, ssl.SSLError) as error:
        raise AccessError(
            name, 2026, f"the TLS files cannot be used: {error}", hint="check tls.ca, cert and key"
        ) from error
    return context


async def _set_up(connection: Connection, server: Server, role: Role) -> None:
    """The session settings that everything else rests on."""
    mode = _SQL_MODE
    settings = [
        "time_zone = '+00:00'",
        "sql_select_limit = DEFAULT",  # a global limit would cut results short without a word
        "sql_big_selects = 1",
        "sql_safe_updates = 0",
    ]
    if not connection.mariadb:
        # MariaDB cuts the fraction of a second that a column cannot hold; MySQL rounds it, which
        # can change the day. Both cut here.
        mode += ",TIME_TRUNCATE_FRACTIONAL"
        settings.append("information_schema_stats_expiry = 0")
    settings.append(f"sql_mode = '{mode}'")
    if role == "central":
        # Longer than the pool keeps it, whatever the server's own is: a pass must not find that the
        # server has hung up.
        settings.append("wait_timeout = 120")
        if connection.mariadb:
            settings.append(f"max_statement_time = {server.statement_timeout:g}")
        else:
            settings.append(f"max_execution_time = {int(server.statement_timeout * 1000)}")
    else:
        settings += [
            f"wait_timeout = {connection.longest_silence}",
            "innodb_lock_wait_timeout = 20",
            "lock_wait_timeout = 30",
        ]
    access = ", READ ONLY" if role == "central" else ""
    for setting in (
        f"SET NAMES utf8mb4, {', '.join(f'SESSION {setting}' for setting in settings)}",
        f"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED{access}",
    ):
        await connection.execute(Statement(setting, (), connection.name))
    question = Statement("SELECT @@max_allowed_packet", (), connection.name)
    ((packet,),) = await connection.fetch(question)
    connection.max_packet = int(packet or 1 << 20)


async def grants(connection: Connection) -> list[str]:
    """What the connection's account may do, as SHOW GRANTS prints it."""
    rows = await connection.fetch(Statement("SHOW GRANTS", (), connection.name))
    return [(row[0] or b"").decode("utf-8", "replace") for row in rows]


class Pool:
    """At most `size` connections to one server, opened when needed, closed when long idle."""

    # Well under the wait_timeout that `_set_up` asks for, and what firewalls forget after.
    IDLE_SECONDS = 30.0

    def __init__(self, server: Server, name: str, role: Role, size: int) -> None:
        self.database = server.database
        self._server = server
        self._name = name
        self._role: Role = role
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(size)  # first come, first served
        self.size = size
        self.open = 0
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection. It goes back only when it is in order."""
        async with self._places:
            connection = await self._take()
            try:
                yield connection
            finally:
                if connection.usable and not self._closed:
                    self._idle.append(connection)
                else:
                    self.open -= 1
                    await connection.close()

    async def _take(self) -> Connection:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()  # the most recently used one: the others can grow old
            if now - connection.used_at < self.IDLE_SECONDS:
                return connection
            self.open -= 1
            await connection.close()
        connection = await connect(self._server, self._name, self._role)
        self.open += 1
        return connection

    async def close_idle(self) -> None:
        """Close what nobody has used for a while."""
        now = asyncio.get_running_loop().time()
        old = [c for c in self._idle if now - c.used_at >= self.IDLE_SECONDS]
        self._idle = [c for c in self._idle if c not in old]
        for connection in old:
            self.open -= 1
            await connection.close()

    async def close(self) -> None:
        """Close all idle connections; those in use are closed when they come back."""
        self._closed = True
        while self._idle:
            self.open -= 1
            await self._idle.pop().close()
