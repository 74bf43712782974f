"""Who keeps a table from being changed: told by the server, where it tells."""

from __future__ import annotations

from daemon.db import Connection
from daemon.errors import DatabaseError, TransientError
from daemon.sql import Row, Statement

# MySQL manual, "The metadata_locks Table"; MariaDB, "METADATA_LOCK_INFO Plugin", which has to be
# loaded. Last what InnoDB tells: the oldest open transactions, of which one may be it.
_MYSQL = """SELECT DISTINCT t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_HOST,
 t.PROCESSLIST_TIME FROM performance_schema.metadata_locks m
 JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID
 WHERE m.OBJECT_TYPE = 'TABLE' AND m.OBJECT_SCHEMA = DATABASE() AND m.OBJECT_NAME = %s
 AND m.LOCK_STATUS = 'GRANTED' AND t.PROCESSLIST_ID <> CONNECTION_ID()
 ORDER BY t.PROCESSLIST_TIME DESC LIMIT 5"""
_MARIADB = """SELECT DISTINCT p.ID, p.USER, p.HOST, p.TIME
 FROM information_schema.METADATA_LOCK_INFO m
 JOIN information_schema.PROCESSLIST p ON p.ID = m.THREAD_ID
 WHERE m.TABLE_SCHEMA = DATABASE() AND m.TABLE_NAME = %s AND p.ID <> CONNECTION_ID()
 ORDER BY p.TIME DESC LIMIT 5"""
_OPEN = """SELECT p.ID, p.USER, p.HOST, TIMESTAMPDIFF(SECOND, x.trx_started, NOW())
 FROM information_schema.INNODB_TRX x
 JOIN information_schema.PROCESSLIST p ON p.ID = x.trx_mysql_thread_id
 WHERE p.ID <> CONNECTION_ID() AND p.DB = DATABASE() ORDER BY x.trx_started LIMIT 5"""


async def words(connection: Connection, table: str, note: str) -> str:
    """`; held by connection 7 (report@10.0.0.5, for 300 s)`, or that the server does not tell."""
    sure = Statement(_MARIADB if connection.mariadb else _MYSQL, (table,), note)
    for statement, who in (
        (sure, "held by"),
        (Statement(_OPEN, (), note), "perhaps held by an open transaction:"),
    ):
        if not connection.usable:
            break
        try:
            rows = await connection.fetch(statement)
        except TransientError:
            break
        except DatabaseError:
            continue  # no such view, or none that this account may read
        if rows:
            return f"; {who} {', '.join(map(_one, rows))}"
    return "; the server does not tell who holds it: SHOW FULL PROCESSLIST, the longest one"


def _one(row: Row) -> str:
    id_, user, host, seconds = ((value or b"?").decode("utf-8", "replace") for value in row)
    return f"connection {id_} ({user}@{host}, for {seconds} s)"
