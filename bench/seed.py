"""Rows made inside a server, the same ones on both sides, and the sum that shows that they are.

`messages` is an INSERT … SELECT from MariaDB's sequence engine: a row is made of its id alone, so a
local table can be filled without anybody copying. A row takes some 430 bytes, as in the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daemon.demo.server import client
from daemon.errors import WppSyncError

COLUMNS = (
    "id, instance, wwebjs_id, wwebjs_id_stanza, waba_id, gupshup_id, gupshup_request_id, `from`,"
    " `to`, type, quoted_id, chat_id, contact_id, is_forwarded, is_edited, body, timestamp,"
    " status_timestamp, sent_at, status, file_id, file_name, file_type, file_size, user_id,"
    " agent_id, billing_category, client_id"
)

# Final: no comparison in the background is to look after it.
SETTLED_STATUS = "READ"

# What the names of the instances begin with.
PREFIX = "i"

# Rows of one statement: a transaction of a million rows is slower, and its undo log stays.
_PER_STATEMENT = 100_000

# Databases that one statement looks at.
_PER_QUESTION = 100

# How many rows there are of nobody's, and their sum.
NOTHING = (0, 0)

Server = Mapping[str, object]


def instance_name(number: int) -> str:
    return f"{PREFIX}{number:04}"


def messages(
    table: str,
    last: int,
    *,
    first: int = 1,
    step: int = 1,
    instances: int = 1,
    body_bytes: int = 200,
    contacts: int = 0,
    owner: str = PREFIX,
) -> str:
    """Statements that insert the messages `first`, `first + step`, … up to `last`, which belong to
    so many instances in turn: the message 1 to the first, 2 to the second.

    They are of so many contacts in turn, which must be there, or of none.
    """
    contact = f"1 + seq MOD {contacts}" if contacts else "NULL"
    insert = (
        f"INSERT INTO {table} ({COLUMNS}) SELECT seq,"
        f" CONCAT('{owner}', LPAD((seq - 1) MOD {instances}, 4, '0')), CONCAT('wwebjs-', seq),"
        " CONCAT('stanza-', seq), CONCAT('waba-', seq), CONCAT('gupshup-', seq), NULL,"
        f" CONCAT('55', 11900000000 + seq MOD 5000), '551140000000', 'chat', NULL, NULL, {contact},"
        " seq MOD 50 = 0, seq MOD 70 = 0,"
        f" RPAD(CONCAT('message ', seq, ' '), {body_bytes}, 'all work and no play '),"
        " 1767254400 + seq, 1767254400 + seq,"
        " TIMESTAMP'2026-01-01 08:00:00.000' + INTERVAL seq * 250000 MICROSECOND,"
        f" '{SETTLED_STATUS}', NULL, NULL, NULL, NULL, seq MOD 50, NULL, 'service', NULL"
    )
    ids = _PER_STATEMENT * step
    return "".join(
        f"{insert} FROM seq_{begin}_to_{min(begin + ids - 1, last)}_step_{step};\n"
        for begin in range(first, last + 1, ids)
    )


def contacts(last: int) -> str:
    """A statement that inserts the contacts 1 to `last` of the first instance into central."""
    return (
        "INSERT INTO contacts (id, name, phone, instance, is_deleted, is_blocked, is_only_admin,"
        f" created_at) SELECT seq, CONCAT('contact ', seq), 11900000000 + seq,"
        f" '{instance_name(0)}', 0, 0, 0, TIMESTAMP'2026-01-01 08:00:00' FROM seq_1_to_{last};\n"
    )


def rows(server: Server, sql: str) -> list[list[str]]:
    """What a statement answers."""
    answer = client(server, sql, "--skip-column-names").decode()
    return [line.split("\t") for line in answer.splitlines()]


def content(server: Server, table: str, where: str = "TRUE") -> tuple[int, int]:
    """How many rows a table has, and a checksum of them."""
    (found,) = rows(
        server, f"SELECT COUNT(*), COALESCE(BIT_XOR({crc()}), 0) FROM {table} WHERE {where}"
    )
    return int(found[0]), int(found[1])


def by_instance(central: Server) -> dict[str, tuple[int, int]]:
    """The same of each instance's messages in central."""
    found = rows(
        central, f"SELECT instance, COUNT(*), BIT_XOR({crc()}) FROM messages GROUP BY instance"
    )
    return {name: (int(count), int(sum_)) for name, count, sum_ in found}


def by_database(server: Server, databases: Sequence[str], table: str) -> dict[str, tuple[int, int]]:
    """The same of each database's table, asked for many at a time."""
    found: list[list[str]] = []
    for first in range(0, len(databases), _PER_QUESTION):
        some = databases[first : first + _PER_QUESTION]
        found += rows(
            server,
            " UNION ALL ".join(
                f"SELECT '{name}', COUNT(*), COALESCE(BIT_XOR({crc()}), 0) FROM {name}.{table}"
                for name in some
            ),
        )
    return {name: (int(count), int(sum_)) for name, count, sum_ in found}


def crc() -> str:
    """A message's checksum, as one writes it in a minute."""
    return f"CRC32({_text()})"


def sha() -> str:
    """A message's checksum that two equal ones are believed for: 64 bits of SHA-256."""
    return f"CAST(CONV(LEFT(SHA2({_text()}, 256), 16), 16, 10) AS UNSIGNED)"


def _text() -> str:
    # The binary separator makes all of it bytes, whatever the columns' collations.
    columns = ", ".join(f"IFNULL({name.strip()}, '~')" for name in COLUMNS.split(","))
    return f"CONCAT_WS(X'23', {columns})"


def must_equal(central: Server, local: Server, table: str, where: str = "TRUE") -> None:
    """Raises WppSyncError unless the table holds exactly central's messages that are meant."""
    there, here = content(central, "messages", where), content(local, table)
    if there != here:
        raise WppSyncError(
            f"{table} of {local['database']} is no copy: (rows, sum) {here}, in central {there}"
        )
