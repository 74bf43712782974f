"""What is copied: the catalogue of entities, as plain data. Nothing here talks to a server.

An entity is one central table and the local table that mirrors it. The built-in catalogue is the
one of the product; config.yaml may change single keys of it or add entities of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Motion = Literal["incremental", "whole"]


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
    """The central column that names the owner; None where the entity follows another one."""

    columns: Mapping[str, str] = Field(default_factory=dict)
    """local column -> central column, only where the names differ; the rest pairs by name."""

    where: str | None = None
    """An SQL condition that a central row must meet to be copied; None copies every row."""

    enabled: bool = True
    """False leaves the entity alone: nothing is read, nothing is written."""


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
            ),
            Entity(
                name="chats",
                central="chats",
                local="wpp_chats",
                motion="incremental",
                key=("id",),
                columns={"original_id": "id"},
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
