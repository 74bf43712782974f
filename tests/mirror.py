"""What stands in the databases, asked with the command-line client: nothing of it is the daemon's.

A server is a dictionary as `MariaDB.config` returns it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from daemon.demo.compare import Comparison, compare, report, subject
from daemon.demo.server import client, program

INCREMENTAL = ("messages", "chats")
LOCAL_TABLES = {"messages": "wpp_messages", "chats": "wpp_chats"}

Server = Mapping[str, object]


def rows(server: Server, sql: str) -> list[list[str]]:
    """The rows of a query, as text; NULL is the word NULL."""
    answer = client(server, sql, "--skip-column-names").decode()
    return [line.split("\t") for line in answer.splitlines()]


def number(server: Server, sql: str) -> int:
    """The one number that a query returns; 0 for NULL."""
    ((value,),) = rows(server, sql)
    return 0 if value == "NULL" else int(value)


def run(server: Server, sql: str) -> None:
    """Run statements that return nothing."""
    client(server, sql)


class Session:
    """A connection that stays open, for transactions that wait; closed without COMMIT."""

    def __init__(self, server: Server) -> None:
        options = (f"--{key}={server[key]}" for key in ("host", "port", "user", "database"))
        self._client = subprocess.Popen(
            [program("mariadb"), "--no-defaults", "--batch", "--unbuffered", "--protocol=tcp",
             "--skip-column-names", "--default-character-set=utf8mb4", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "MYSQL_PWD": str(server["password"])},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._client.kill()
        self._client.communicate()

    def execute(self, sql: str) -> list[list[str]]:
        """Run statements and return what they print, when they have ended."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(f"{sql};\nSELECT 'this was all';\n")
        self._client.stdin.flush()
        found: list[list[str]] = []
        for line in self._client.stdout:
            if line == "this was all\n":
                return found
            found.append(line.rstrip("\n").split("\t"))
        raise AssertionError(f"{sql}: {self._client.communicate()[1]}")


def seed(server: Server, statements: Iterable[str]) -> None:
    """Fill the central database in one go."""
    client(server, "".join(statements))


def insert_message(central: Server, id_: int | None, instance: str = "nunes", **values: str) -> int:
    """Insert one message with given ids and texts; returns its id."""
    columns = {"wwebjs_id": "NULL", "body": "'text'", **values}
    found = rows(
        central,
        "INSERT INTO messages (id, instance, `from`, `to`, type, is_forwarded, is_edited,"
        f" timestamp, sent_at, status, {', '.join(columns)}) VALUES"
        f" ({'NULL' if id_ is None else id_}, '{instance}', '1', '2', 'chat', 0, 0, '3', NOW(3),"
        f" 'SENT', {', '.join(columns.values())}); SELECT LAST_INSERT_ID()",
    )
    return int(found[0][0]) if id_ is None else id_


def insert_messages(central: Server, ids: Iterable[int], instance: str = "nunes") -> None:
    """Insert one plain message for each id, all in one transaction."""
    values = ", ".join(
        f"({id_}, '{instance}', 'key {id_}', '1', '2', 'chat', 0, 0, 'body {id_}', '3', NOW(3),"
        " 'SENT')"
        for id_ in ids
    )
    run(
        central,
        "INSERT INTO messages (id, instance, wwebjs_id, `from`, `to`, type, is_forwarded,"
        f" is_edited, body, timestamp, sent_at, status) VALUES {values}",
    )


def differences(
    central: Server,
    local: Server,
    instance: str = "nunes",
    entities: Iterable[str] = INCREMENTAL,
) -> str:
    """A report of what differs between both sides; empty when they are equal."""
    found = comparisons(central, local, instance, entities)
    return report([one for one in found if not one.equal])


def comparisons(
    central: Server,
    local: Server,
    instance: str = "nunes",
    entities: Iterable[str] = INCREMENTAL,
) -> list[Comparison]:
    """How both sides compare, entity by entity."""
    return [compare(central, local, subject(instance, entity)) for entity in entities]


def watermarks(local: Server) -> dict[str, int]:
    """`last_synced_id` by entity."""
    found = rows(local, "SELECT entity, last_synced_id FROM wpp_sync_state ORDER BY entity")
    return {entity: int(last) for entity, last in found}


def local_ids(local: Server, entity: str = "messages") -> list[int]:
    """The ids that stand in a local table."""
    found = rows(local, f"SELECT id FROM {LOCAL_TABLES[entity]} ORDER BY id")
    return [int(id_) for (id_,) in found]


def central_ids(
    central: Server, instance: str = "nunes", entity: str = "messages", upto: int = 1 << 40
) -> list[int]:
    """The instance's ids in central; its name is compared byte for byte."""
    owner = f"CAST(instance AS BINARY) = X'{instance.encode().hex()}'"
    found = rows(central, f"SELECT id FROM {entity} WHERE {owner} AND id <= {upto} ORDER BY id")
    return [int(id_) for (id_,) in found]


def statements_sent(server: Server) -> int:
    """How many statements clients have sent to the whole server; this question is one of them."""
    ((_, sent),) = rows(server, "SHOW GLOBAL STATUS LIKE 'Questions'")
    return int(sent)


def table_rows_read(server: Server) -> dict[str, int]:
    """The server's counters of rows that were read, without those of temporary tables."""
    found = rows(server, "SHOW GLOBAL STATUS LIKE 'Handler_read%'")
    return {name: int(value) for name, value in found}
