"""What is copied: the catalogue of entities, as plain data. Nothing here talks to a server.

An entity is one central table and the local table that mirrors it. The built-in catalogue is the
one of the product; config.yaml may change single keys of it or add entities of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Motion = Literal["incremental", "whole"]


class Through(BaseModel):
    """The row that another one follows: it has no owner of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    """The central table of the row that is followed."""

    key: str
    """Its key column, one that is unique."""

    column: str
    """The column of the entity's own table that holds that key."""

    instance_column: str = "instance"
    """The column of the followed row that names the owner."""


class Derived(BaseModel):
    """A local table that is made of another local one: of each group of rows, the latest.

    It is brought up to date in the transaction that changes the rows it is made of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    local: str
    """The derived table."""

    group: tuple[str, ...]
    """The columns that make a group, and the derived table's primary key. The last one is an
    integer. A row with NULL in one of them is in no group."""

    latest_by: tuple[str, ...]
    """The columns by which a row of a group is later than another: integers and moments, and the
    entity's key at the end, so that no two rows are equally late."""


class Entity(BaseModel):
    """One thing that is synced: where from, where to, by which key and by which motion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The word in state rows, logs and metrics: messages, chats, …"""

    central: str
    """The table in the central database."""

    local: str
    """The table in the instance's database."""

    motion: Motion
    """incremental: ids only grow, copy what lies above the watermark. whole: compare and repair."""

    key: tuple[str, ...]
    """The central key columns; an incremental entity has exactly one, an integer that grows."""

    instance_column: str | None = "instance"
    """The central column that names the owner; None where the rows follow others (`through`), or
    where all rows are everybody's."""

    through: Through | None = None
    """Which rows the entity's rows follow, where they have no owner of their own."""

    columns: Mapping[str, str] = Field(default_factory=dict)
    """local column -> central column, only where the names differ; the rest pairs by name."""

    leave_out: tuple[str, ...] = ()
    """Local columns that are not filled although central has one of that name."""

    encode: Mapping[str, Literal["uri_component"]] = Field(default_factory=dict)
    """Local columns whose text is stored percent-encoded, as encodeURIComponent does it."""

    hot: str | None = None
    """An SQL condition on the local table: rows that are known to change soon. They are compared
    every few seconds; None: none are."""

    interval: float | None = None
    """Seconds between two comparisons of the whole table; None: sync.reconcile_interval for an
    incremental entity, a minute for a whole one."""

    where: str | None = None
    """An SQL condition that a central row must meet to be copied; None copies every row."""

    enabled: bool = True
    """False leaves the entity alone: nothing is read, nothing is written."""

    derived: tuple[Derived, ...] = ()
    """The tables that are derived from the local one. No setting: config.yaml does not know it."""

    @property
    def source(self) -> str:
        """Which central rows are copied, as a short word: another one where others may be. It
        stands in every instance's state rows, so it must not change for an unchanged entity."""
        through = self.through
        followed = through and (
            through.table, through.key, through.column, through.instance_column,
        )  # fmt: skip
        decides = (self.central, self.instance_column, followed, self.where)
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]

    def __hash__(self) -> int:
        # Of its maps there is none; equal names are almost always equal entities.
        return hash((self.name, self.central, self.local))

    @field_validator("where", "hot")
    @classmethod
    def _stands_alone(cls, where: str | None) -> str | None:
        """The condition stands in parentheses beside the one that picks the instance's rows; it
        must not be able to leave them."""
        if where is not None:
            _refuse_if_it_leaves_its_parentheses(where)
        return where


_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`""")
_CLOCK = re.compile(
    r"\b(now|sysdate|cur(rent_)?(date|time)|current_timestamp|local(time|timestamp)"
    r"|utc_(date|time|timestamp)|unix_timestamp)\b",
    re.IGNORECASE,
)
"""What reads the clock in SQL; sooner a column that is called so than one too few."""


def reads_the_clock(condition: str) -> bool:
    """Whether the condition comes true for a row as time passes, though the row stays as it is. A
    stored function's insides are not known."""
    return _CLOCK.search(_QUOTED.sub("''", condition)) is not None


_WHERE_TOKEN = re.compile(
    r"""(?P<quoted>'[^']*'|"[^"]*"|`[^`]*`)|(?P<bad>--|\#|/\*|;|['"`]|\\)|(?P<paren>[()])"""
)


def _refuse_if_it_leaves_its_parentheses(where: str) -> None:
    depth = 0
    for token in _WHERE_TOKEN.finditer(where):
        if token["bad"] or (token["quoted"] and "\\" in token["quoted"]):
            bad = token["bad"] or "\\"
            raise ValueError(f"contains {bad} (no comments, backslashes or open quotes)")
        if token["paren"]:
            depth += 1 if token["paren"] == "(" else -1
        if depth < 0:
            break
    if depth != 0:
        raise ValueError("has parentheses that do not match")


CATALOGUE: Mapping[str, Entity] = MappingProxyType(
    {
        entity.name: entity
        for entity in (
            Entity(
                name="messages",
                central="messages",
                local="wpp_messages",
                motion="incremental",
                key=("id",),
                # A message that has failed, was revoked or read does not change any more.
                hot="status IN ('PENDING', 'SENT', 'RECEIVED')",
                derived=(
                    Derived(
                        local="wpp_last_messages",
                        group=("instance", "contact_id"),
                        latest_by=("sent_at", "id"),
                    ),
                ),
            ),
            Entity(
                name="chats",
                central="chats",
                local="wpp_chats",
                motion="incremental",
                key=("id",),
                columns={"original_id": "id"},
                hot="is_finished = 0",
            ),
            Entity(
                name="contacts",
                central="contacts",
                local="wpp_contacts",
                motion="whole",
                key=("id",),
            ),
            Entity(
                name="contact_sectors",
                central="contacts_sectors",
                local="wpp_contact_sectors",
                motion="whole",
                key=("contactId", "sectorId"),
                instance_column=None,
                through=Through(table="contacts", key="id", column="contactId"),
                columns={"contact_id": "contactId", "sector_id": "sectorId"},
            ),
            Entity(
                name="schedules",
                central="schedules",
                local="wpp_schedules",
                motion="whole",
                key=("id",),
            ),
        )
    }
)
