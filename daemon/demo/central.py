"""The central database as the application leaves it: its tables, and rows that are hard to copy.

`schema()` is the tables' definition. The `seed_*` functions return rows as SQL text, the same text
for the same arguments: varied ones for tests of correctness, uniform ones made inside the server
for tests of size. Special characters are written in hexadecimal, so that the statements mean the
same under every sql_mode. Everything is ordinary MySQL and MariaDB.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

MESSAGE_STATUSES = ("PENDING", "SENT", "RECEIVED", "READ", "DOWNLOADED", "ERROR", "REVOKED")
CHAT_TYPES = ("RECEPTIVE", "ACTIVE")
CHAT_PRIORITIES = ("LOW", "NORMAL", "HIGH", "VERY_HIGH", "URGENCY")

# Rows of one INSERT statement.
ROWS_PER_STATEMENT = 1_000

# The share of rows that belong to an instance whose name differs only by case or accent.
LOOKALIKE_SHARE = 0.15

# A TEXT column holds 65,535 bytes; central's longest bodies have exactly that.
LONGEST_BODY = 65_535

SCHEMA = """\
CREATE TABLE clients (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(191) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE contacts (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(191) NOT NULL,
    phone VARCHAR(191) NULL,
    customer_id INT NULL,
    instance VARCHAR(191) NOT NULL,
    is_deleted BOOLEAN NOT NULL,
    is_blocked BOOLEAN NOT NULL,
    is_only_admin BOOLEAN NOT NULL,
    avatar_url TEXT NULL,
    created_at DATETIME(3) NOT NULL,
    updated_at DATETIME(3) NULL,
    conversation_expiration VARCHAR(191) NULL,
    UNIQUE KEY contacts_instance_phone_key (instance, phone)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE chats (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    instance VARCHAR(191) NOT NULL,
    contact_id INT NULL,
    user_id INT NULL,
    wallet_id INT NULL,
    bot_id INT NULL,
    result_id INT NULL,
    sector_id INT NULL,
    schedule_id INT NULL,
    type ENUM('RECEPTIVE', 'ACTIVE') NOT NULL,
    priority ENUM('LOW', 'NORMAL', 'HIGH', 'VERY_HIGH', 'URGENCY') NOT NULL,
    avatar_url TEXT NULL,
    is_finished BOOLEAN NOT NULL,
    started_at DATETIME(3) NULL,
    finished_at DATETIME(3) NULL,
    finished_by INT NULL,
    is_schedule BOOLEAN NOT NULL,
    UNIQUE KEY chats_schedule_id_key (schedule_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE messages (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    instance VARCHAR(191) NOT NULL,
    wwebjs_id VARCHAR(191) NULL,
    wwebjs_id_stanza VARCHAR(191) NULL,
    waba_id VARCHAR(191) NULL,
    gupshup_id VARCHAR(191) NULL,
    gupshup_request_id VARCHAR(191) NULL,
    `from` VARCHAR(191) NOT NULL,
    `to` VARCHAR(191) NOT NULL,
    type VARCHAR(191) NOT NULL,
    quoted_id INT NULL,
    chat_id INT NULL,
    contact_id INT NULL,
    is_forwarded BOOLEAN NOT NULL,
    is_edited BOOLEAN NOT NULL,
    body TEXT NOT NULL,
    timestamp VARCHAR(191) NOT NULL,
    status_timestamp VARCHAR(191) NULL,
    sent_at DATETIME(3) NOT NULL,
    status ENUM('PENDING', 'SENT', 'RECEIVED', 'READ', 'DOWNLOADED', 'ERROR', 'REVOKED') NOT NULL,
    file_id INT NULL,
    file_name VARCHAR(191) NULL,
    file_type VARCHAR(191) NULL,
    file_size VARCHAR(191) NULL,
    user_id INT NULL,
    agent_id INT NULL,
    billing_category VARCHAR(191) NULL,
    client_id INT NULL,
    UNIQUE KEY messages_wwebjs_id_key (wwebjs_id),
    UNIQUE KEY messages_wwebjs_id_stanza_key (wwebjs_id_stanza),
    UNIQUE KEY messages_waba_id_key (waba_id),
    UNIQUE KEY messages_gupshup_id_key (gupshup_id),
    KEY messages_from_to_chat_id_idx (`from`, `to`, chat_id),
    KEY messages_chat_id_user_id_idx (chat_id, user_id),
    KEY messages_instance_sent_at_chat_id_idx (instance, sent_at, chat_id),
    CONSTRAINT messages_chat_id_fkey FOREIGN KEY (chat_id)
        REFERENCES chats (id) ON DELETE SET NULL,
    CONSTRAINT messages_contact_id_fkey FOREIGN KEY (contact_id)
        REFERENCES contacts (id) ON DELETE SET NULL,
    CONSTRAINT messages_client_id_fkey FOREIGN KEY (client_id)
        REFERENCES clients (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE schedules (
    instance VARCHAR(191) NOT NULL,
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    description VARCHAR(191) NULL,
    contact_id INT NOT NULL,
    chat_id INT NULL,
    scheduled_at DATETIME(3) NOT NULL,
    schedule_date DATETIME(3) NOT NULL,
    scheduled_by INT NOT NULL,
    scheduled_for INT NOT NULL,
    sector_id INT NULL,
    UNIQUE KEY schedules_chat_id_key (chat_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE contacts_sectors (
    contactId INT NOT NULL,
    sectorId INT NOT NULL,
    PRIMARY KEY (contactId, sectorId)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;
"""


def schema() -> str:
    """Return the statements that create central's six tables in an empty database."""
    return SCHEMA


# Texts that copies are known to break on. "plain" ones are drawn besides them.
AWKWARD_TEXTS = (
    "",
    " ",
    "trailing spaces   ",
    "😀",
    "👨‍👩‍👧‍👦 a family of seven code points, 🇧🇷 and 👍🏽",
    "composed é, decomposed e\u0301",
    "漢字 𠮷 مرحبا \u202eright to left\u202c",
    "\ufeff byte order mark, \ufffd replacement, \u2028 separator, \U0010ffff last",
    'it\'s "quoted" `thrice`',
    "''",
    "C:\\temp\\new\\0",
    "ends with a backslash \\",
    "NUL \0 in the middle",
    "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "lines\r\nand\ttabs\nand\x1aCtrl-Z",
    "100 % %s %d %(name)s %% %",
    "%F0%9F%98%80+already%20encoded",
    "/* wpp-sync */ -- ; # \\G \\q delimiter //",
    "'); DROP TABLE messages; --",
    "NULL",
    "\\N",
    "0",
    "? :name ${HOME} {0}",
)

# Dates that a driver or a time zone would rewrite. Central stands under a sql_mode without
# NO_ZERO_DATE and NO_ZERO_IN_DATE, as MariaDB's own default is.
AWKWARD_TIMES = (
    "0000-00-00 00:00:00.000",
    "2026-00-00 00:00:00.000",
    "1000-01-01 00:00:00.000",
    "1969-12-31 23:59:59.999",
    "2026-03-08 02:30:00.500",
    "2038-01-19 03:14:08.001",
    "9999-12-31 23:59:59.999",
)

CONTACT_COLUMNS = (
    "id, name, phone, customer_id, instance, is_deleted, is_blocked, is_only_admin, avatar_url, "
    "created_at, updated_at, conversation_expiration"
)
CHAT_COLUMNS = (
    "id, instance, contact_id, user_id, wallet_id, bot_id, result_id, sector_id, schedule_id, "
    "type, priority, avatar_url, is_finished, started_at, finished_at, finished_by, is_schedule"
)
MESSAGE_COLUMNS = (
    "id, instance, wwebjs_id, wwebjs_id_stanza, waba_id, gupshup_id, gupshup_request_id, "
    "`from`, `to`, type, quoted_id, chat_id, contact_id, is_forwarded, is_edited, body, "
    "timestamp, status_timestamp, sent_at, status, file_id, file_name, file_type, file_size, "
    "user_id, agent_id, billing_category, client_id"
)
SCHEDULE_COLUMNS = (
    "instance, id, description, contact_id, chat_id, scheduled_at, schedule_date, scheduled_by, "
    "scheduled_for, sector_id"
)

FIRST_MOMENT = datetime(2026, 1, 1, 8, 0, tzinfo=UTC)


def lookalikes(instance: str) -> tuple[str, ...]:
    """Return names that central's collation takes for `instance`, although their bytes differ."""
    capital = instance[:1].swapcase() + instance[1:]
    vowels = [place for place, letter in enumerate(capital[1:], 1) if letter in "aeiou"]
    accented = capital
    if vowels:
        accent = dict(zip("aeiou", "áéíóú", strict=True))[capital[vowels[0]]]
        accented = capital[: vowels[0]] + accent + capital[vowels[0] + 1 :]
    # A trailing space counts for nothing in a comparison of padded strings.
    names = (capital, accented, f"{instance} ")
    return tuple(dict.fromkeys(name for name in names if name != instance))


def seed_varied(
    instances: Sequence[str], *, messages: int, seed: int = 1, first_id: int = 1
) -> Iterator[str]:
    """Yield INSERT statements that fill all six tables with rows that are hard to copy.

    There are `messages` messages, a fifth as many chats, a tenth as many contacts and a twentieth
    as many schedules. Ids start at `first_id` in every table and have gaps; the instances and
    their lookalikes alternate at random. For more rows later, pass a higher `first_id`.
    """
    return _Seed(instances, seed, first_id).statements(messages)


def seed_bulk(
    instance: str,
    n: int,
    body_bytes: int,
    *,
    first_id: int = 1,
    step: int = 1,
    contact_ids: range | None = None,
) -> str:
    """Return one statement that inserts `n` uniform messages, made inside the server.

    Ids run from `first_id` in steps of `step`. Bodies have `body_bytes` bytes (at most 65,535). The
    messages go round the contacts in `contact_ids`, which must exist, or have none.
    """
    contact = "NULL"
    if contact_ids is not None:
        contact = f"{contact_ids.start} + (seq % {len(contact_ids)}) * {contact_ids.step}"
    message_id = f"{first_id} + (seq - 1) * {step}"
    status = ", ".join(f"'{name}'" for name in MESSAGE_STATUSES)
    return (
        "INSERT INTO messages (id, instance, wwebjs_id, wwebjs_id_stanza, waba_id, gupshup_id,"
        " `from`, `to`, type, contact_id, is_forwarded, is_edited, body, timestamp, sent_at,"
        " status)\n"
        f"SELECT {message_id}, {_text(instance)},"
        f" CONCAT('wwebjs-', {message_id}), CONCAT('stanza-', {message_id}),"
        f" CONCAT('waba-', {message_id}), CONCAT('gupshup-', {message_id}),"
        f" CONCAT('55', 11900000000 + seq % 5000), '551140000000', 'chat', {contact},"
        " seq % 50 = 0, seq % 70 = 0,"
        f" RPAD(CONCAT('message ', seq, ' '), {body_bytes}, 'all work and no play '),"
        " 1767254400 + seq,"
        " TIMESTAMP'2026-01-01 08:00:00.000' + INTERVAL seq * 250000 MICROSECOND,"
        f" ELT(1 + seq % {len(MESSAGE_STATUSES)}, {status})\n"
        f"FROM {_numbers_to(n)};\n"
    )


def seed_bulk_contacts(instance: str, n: int, *, first_id: int = 1) -> str:
    """Return one statement that inserts `n` uniform contacts with ids from `first_id` on."""
    contact_id = f"{first_id} + seq - 1"
    return (
        "INSERT INTO contacts (id, name, phone, instance, is_deleted, is_blocked, is_only_admin,"
        " created_at)\n"
        f"SELECT {contact_id}, CONCAT('contact ', {contact_id}),"
        f" CONCAT('55', 11900000000 + {contact_id}), {_text(instance)}, 0, 0, 0,"
        " TIMESTAMP'2026-01-01 08:00:00.000'\n"
        f"FROM {_numbers_to(n)};\n"
    )


def _numbers_to(n: int) -> str:
    """A derived table `numbers` whose column `seq` runs from 1 to n, in order; for any server.

    Made of decimal places, because a recursive query's depth is bounded by server variables of
    different names. The LIMIT keeps the order: without it, a derived table has none.
    """
    digits = " UNION ALL ".join(["SELECT 0 AS d", *(f"SELECT {digit}" for digit in range(1, 10))])
    places = [10**place for place in range(len(str(n - 1)))]
    total = " + ".join(f"t{place}.d * {place}" for place in places)
    tables = " JOIN ".join(f"({digits}) AS t{place}" for place in places)
    return f"(SELECT 1 + {total} AS seq FROM {tables} ORDER BY seq LIMIT {n}) AS numbers"


def _text(value: str | None) -> str:
    """A string literal that means the same under every sql_mode."""
    if value is None:
        return "NULL"
    if value.isascii() and value.isprintable() and "'" not in value and "\\" not in value:
        return f"'{value}'"
    return f"_utf8mb4 X'{value.encode().hex()}'"


def _number(value: int | None) -> str:
    return "NULL" if value is None else str(value)


def _insert(table: str, columns: str, rows: Iterator[str]) -> Iterator[str]:
    """The rows, each already `a, b, c`, in statements of ROWS_PER_STATEMENT."""
    while chunk := list(islice(rows, ROWS_PER_STATEMENT)):
        values = "),\n(".join(chunk)
        yield f"INSERT INTO {table} ({columns}) VALUES\n({values});\n"


class _Draw(random.Random):
    """A seeded generator with the few draws that rows are made of."""

    def below(self, limit: int) -> int:
        return int(self.random() * limit)

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[int(self.random() * len(choices))]

    def chance(self, share: float) -> bool:
        return self.random() < share

    def number(self, limit: int) -> str:
        """NULL, or a number from 1 to `limit`."""
        return "NULL" if self.random() < 0.3 else str(1 + int(self.random() * limit))

    def moment(self, after: int) -> str:
        """A time of a millisecond's precision, about `after` seconds into the seeded period."""
        moment = FIRST_MOMENT + timedelta(milliseconds=after * 1000 + self.below(600_000))
        return f"'{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}'"

    def ids(self, first: int, count: int) -> list[int]:
        """`count` ascending ids with gaps, as other writers and rollbacks leave them."""
        ids = []
        following = first
        for _ in range(count):
            ids.append(following)
            following += 500 if self.random() < 0.001 else 1 + int(self.random() * 3)
        return ids


class _Seed:
    """One run of `seed_varied`: what its tables' rows must know of one another."""

    def __init__(self, instances: Sequence[str], seed: int, first_id: int) -> None:
        self._draw = _Draw(seed)
        self._first_id = first_id
        self._instances = instances
        self._lookalikes = [other for name in instances for other in lookalikes(name)]
        self._literals = {name: _text(name) for name in (*instances, *self._lookalikes)}
        self._texts = [_text(text) for text in AWKWARD_TEXTS]
        self._times = [f"'{time}'" for time in AWKWARD_TIMES]
        self._contacts: dict[str, list[int]] = {name: [] for name in self._literals}
        self._chats: dict[str, list[int]] = {name: [] for name in self._literals}
        self._scheduled_by: dict[int, str] = {}

    def statements(self, messages: int) -> Iterator[str]:
        draw, first = self._draw, self._first_id
        clients = draw.ids(first, 3)
        contacts = draw.ids(first, max(1, messages // 10))
        chats = draw.ids(first, max(1, messages // 5))
        schedules = draw.ids(first, messages // 20)
        # Each schedule is made for one chat, and each chat for at most one schedule.
        scheduled = dict(zip(draw.sample(chats, len(schedules)), schedules, strict=True))
        yield from _insert("clients", "id, name", (f"{id_}, 'client {id_}'" for id_ in clients))
        yield from _insert("contacts", CONTACT_COLUMNS, map(self._contact, contacts))
        yield from _insert(
            "contacts_sectors", "contactId, sectorId", self._contact_sectors(contacts)
        )
        yield from _insert(
            "chats", CHAT_COLUMNS, (self._chat(id_, scheduled.get(id_)) for id_ in chats)
        )
        yield from _insert(
            "schedules",
            SCHEDULE_COLUMNS,
            (self._schedule(schedule, chat) for chat, schedule in sorted(scheduled.items())),
        )
        yield from _insert("messages", MESSAGE_COLUMNS, self._messages(messages, clients))

    def _owner(self) -> str:
        if self._lookalikes and self._draw.chance(LOOKALIKE_SHARE):
            return self._draw.one_of(self._lookalikes)
        return self._draw.one_of(self._instances)

    def _any_text(self, plain: str) -> str:
        """A literal: mostly the plain text, often an awkward one."""
        return self._draw.one_of(self._texts) if self._draw.chance(0.3) else f"'{plain}'"

    def _text_or_null(self, plain: str) -> str:
        return "NULL" if self._draw.chance(0.4) else self._any_text(plain)

    def _time(self, after: int) -> str:
        return (
            self._draw.one_of(self._times) if self._draw.chance(0.03) else self._draw.moment(after)
        )

    def _flag(self) -> str:
        return "1" if self._draw.chance(0.3) else "0"

    def _contact(self, id_: int) -> str:
        draw = self._draw
        owner = self._owner()
        self._contacts[owner].append(id_)
        phone = "NULL" if draw.chance(0.1) else f"'55119{id_:08}'"
        updated_at = "NULL" if draw.chance(0.5) else self._time(id_)
        return (
            f"{id_}, {self._any_text(f'contact {id_}')}, {phone}, {draw.number(900)},"
            f" {self._literals[owner]}, {self._flag()}, {self._flag()}, {self._flag()},"
            f" {self._text_or_null(f'https://example.com/{id_}.png')}, {self._time(id_)},"
            f" {updated_at}, {self._text_or_null('1767254400')}"
        )

    def _contact_sectors(self, contacts: Sequence[int]) -> Iterator[str]:
        for id_ in contacts:
            for sector in sorted({self._draw.below(9) + 1 for _ in range(self._draw.below(4))}):
                yield f"{id_}, {sector}"

    def _chat(self, id_: int, schedule: int | None) -> str:
        draw = self._draw
        owner = self._owner()
        self._chats[owner].append(id_)
        if schedule is not None:
            self._scheduled_by[schedule] = owner
        finished = draw.chance(0.5)
        finished_at = self._time(id_) if finished else "NULL"
        started_at = "NULL" if draw.chance(0.1) else self._time(id_)
        contact = _number(self._one_or_none(self._contacts[owner]))
        return (
            f"{id_}, {self._literals[owner]}, {contact}, {draw.number(50)}, {draw.number(9)},"
            f" {draw.number(9)}, {draw.number(9)}, {draw.number(9)}, {_number(schedule)},"
            f" '{draw.one_of(CHAT_TYPES)}', '{draw.one_of(CHAT_PRIORITIES)}',"
            f" {self._text_or_null(f'https://example.com/chat/{id_}')}, {int(finished)},"
            f" {started_at}, {finished_at}, {draw.number(50)}, {int(schedule is not None)}"
        )

    def _schedule(self, id_: int, chat: int) -> str:
        draw = self._draw
        owner = self._scheduled_by[id_]
        contact = self._one_or_none(self._contacts[owner]) or self._first_id
        chat_id = "NULL" if draw.chance(0.2) else str(chat)
        return (
            f"{self._literals[owner]}, {id_}, {self._text_or_null(f'call back {id_}')}, {contact},"
            f" {chat_id}, {self._time(id_)}, {self._time(id_)}, {1 + draw.below(50)},"
            f" {1 + draw.below(50)}, {draw.number(9)}"
        )

    def _messages(self, count: int, clients: Sequence[int]) -> Iterator[str]:
        draw = self._draw
        long_bodies = {
            count // 4: _text("long " * 12_000),
            count // 2: _text("😀" * (LONGEST_BODY // 4) + "end"),
            count * 3 // 4: _text("\\'\0" * (LONGEST_BODY // 3)),
        }
        sent_at = draw.moment(0)
        for number, id_ in enumerate(draw.ids(self._first_id, count)):
            owner = self._owner()
            # Some messages of a contact have the very same time.
            sent_at = sent_at if draw.chance(0.05) else self._time(number)
            body = long_bodies.get(number) or self._any_text(f"message {id_}")
            yield (
                f"{id_}, {self._literals[owner]}, {self._external_ids(id_)},"
                f" '55119{number % 5000}', '551140000000', 'chat', {draw.number(id_)},"
                f" {_number(self._one_or_none(self._chats[owner]))},"
                f" {_number(self._one_or_none(self._contacts[owner]))},"
                f" {self._flag()}, {self._flag()}, {body}, '{1_767_254_400 + number}',"
                f" {self._text_or_null(str(id_))}, {sent_at}, '{draw.one_of(MESSAGE_STATUSES)}',"
                f" {self._file(id_)}, {draw.number(50)}, {draw.number(50)},"
                f" {self._text_or_null('service')}, {_number(self._one_or_none(clients))}"
            )

    def _external_ids(self, id_: int) -> str:
        """wwebjs_id, wwebjs_id_stanza, waba_id, gupshup_id (unique) and gupshup_request_id."""
        if self._draw.chance(0.5):
            return f"'true_55@c.us_{id_:X}', '{id_:X}', NULL, NULL, NULL"
        if self._draw.chance(0.5):
            return f"NULL, NULL, 'wamid.{id_}=', NULL, NULL"
        return f"NULL, NULL, NULL, 'gs {id_} 😀', {self._any_text(str(id_))}"

    def _file(self, id_: int) -> str:
        """file_id, file_name, file_type, file_size."""
        if self._draw.chance(0.85):
            return "NULL, NULL, NULL, NULL"
        return f"{id_}, {self._any_text(f'photo {id_}.jpg')}, 'image/jpeg', '{id_}'"

    def _one_or_none(self, ids: Sequence[int]) -> int | None:
        return self._draw.one_of(ids) if ids and self._draw.chance(0.8) else None
