"""The catalogue: what is copied by default, from where to where."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import cast

import pytest
from pydantic import ValidationError

from daemon.entities import CATALOGUE, Derived, Entity, Through, reads_the_clock


@pytest.mark.parametrize(
    ("name", "central", "local", "motion", "key"),
    [
        ("messages", "messages", "wpp_messages", "incremental", ("id",)),
        ("chats", "chats", "wpp_chats", "incremental", ("id",)),
        ("contacts", "contacts", "wpp_contacts", "whole", ("id",)),
        (
            "contact_sectors",
            "contacts_sectors",
            "wpp_contact_sectors",
            "whole",
            ("contactId", "sectorId"),
        ),
        ("schedules", "schedules", "wpp_schedules", "whole", ("id",)),
    ],
)
def test_the_catalogue(
    name: str, central: str, local: str, motion: str, key: tuple[str, ...]
) -> None:
    entity = CATALOGUE[name]

    assert entity.name == name
    assert (entity.central, entity.local, entity.motion, entity.key) == (
        central,
        local,
        motion,
        key,
    )
    assert entity.enabled
    assert entity.where is None


def test_there_are_no_others() -> None:
    assert list(CATALOGUE) == ["messages", "chats", "contacts", "contact_sectors", "schedules"]


def test_the_columns_that_have_another_name() -> None:
    assert {name: dict(e.columns) for name, e in CATALOGUE.items() if e.columns} == {
        "chats": {"original_id": "id"},
        "contact_sectors": {"contact_id": "contactId", "sector_id": "sectorId"},
    }


def test_every_entity_but_the_one_that_follows_its_contact_says_whose_it_is() -> None:
    owners = {name: entity.instance_column for name, entity in CATALOGUE.items()}

    assert owners.pop("contact_sectors") is None
    assert set(owners.values()) == {"instance"}


def test_an_incremental_entity_has_exactly_one_key_column() -> None:
    for entity in CATALOGUE.values():
        assert entity.motion == "whole" or len(entity.key) == 1


def test_no_two_entities_share_a_local_table_or_write_one_that_is_derived() -> None:
    tables = [entity.local for entity in CATALOGUE.values()]
    tables += [derived.local for entity in CATALOGUE.values() for derived in entity.derived]

    assert len(set(tables)) == len(tables)


def test_the_last_message_of_each_contact_is_derived_from_messages() -> None:
    derived = {name: entity.derived for name, entity in CATALOGUE.items() if entity.derived}

    assert derived == {
        "messages": (
            Derived(
                local="wpp_last_messages",
                group=("instance", "contact_id"),
                latest_by=("sent_at", "id"),
            ),
        )
    }


def test_the_catalogue_and_its_entities_cannot_be_changed() -> None:
    """Instances share them: a change for one would be a change for all."""
    with pytest.raises(TypeError):
        cast(MutableMapping[str, Entity], CATALOGUE)["messages"] = CATALOGUE["chats"]
    with pytest.raises(ValidationError, match="frozen"):
        CATALOGUE["messages"].local = "other"


def test_an_unknown_key_of_an_entity_is_an_error() -> None:
    with pytest.raises(ValidationError, match="tabel"):
        Entity.model_validate(
            {"name": "a", "central": "a", "local": "b", "motion": "whole", "key": ["id"],
             "tabel": 1}
        )  # fmt: skip


@pytest.mark.parametrize("motion", ["Incremental", "", "both", None])
def test_there_are_two_motions(motion: object) -> None:
    with pytest.raises(ValidationError, match="motion"):
        Entity.model_validate(
            {"name": "a", "central": "a", "local": "b", "motion": motion, "key": ["id"]}
        )


@pytest.mark.parametrize(
    ("condition", "reads"),
    [
        ("send_at < NOW() + INTERVAL 1 HOUR", True),
        ("send_at < now (3)", True),
        ("day = CURRENT_DATE AND status = 'PENDING'", True),
        ("day = curdate()", True),
        ("t > UTC_TIMESTAMP() OR t > LOCALTIMESTAMP", True),
        ("t > UNIX_TIMESTAMP() - 60", True),
        ("status IN ('PENDING', 'SENT', 'RECEIVED')", False),
        ("status = 'NOW()' OR `sysdate` = 1 OR \"now\" = 1", False),
        ("snow = 1 AND nowhere = 0 AND known = 1", False),
    ],
)
def test_a_condition_that_reads_the_clock(condition: str, *, reads: bool) -> None:
    assert reads_the_clock(condition) == reads


def test_no_condition_of_the_catalogue_does() -> None:
    """An entity whose hot rows change with the time never rests."""
    assert not any(reads_the_clock(each.hot or "") for each in CATALOGUE.values())


# --- which rows belong ---------------------------------------------------------------------------


def test_the_source_of_an_entity_stays_what_it_is_from_version_to_version() -> None:
    """It stands in the state rows of every instance: another word has all copied again."""
    assert {name: entity.source for name, entity in CATALOGUE.items()} == {
        "messages": "33c46abe76868608",
        "chats": "6a446907106d300b",
        "contacts": "4211605ae244bc96",
        "contact_sectors": "10fce53b599453d2",
        "schedules": "eaeceaecae1aac08",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"central": "Messages"},
        {"instance_column": "owner"},
        {"instance_column": None},
        {"where": "id > 1"},
        {"where": ""},
        {"through": Through(table="contacts", key="id", column="contact_id")},
    ],
)
def test_what_decides_which_rows_belong_makes_another_source(change: dict[str, object]) -> None:
    entity = CATALOGUE["messages"]

    assert entity.model_copy(update=change).source != entity.source


@pytest.mark.parametrize("field", sorted(Through.model_fields))
def test_how_rows_follow_others_makes_another_source(field: str) -> None:
    entity = CATALOGUE["contact_sectors"]
    assert entity.through is not None
    through = entity.through.model_copy(update={field: "another"})

    assert entity.model_copy(update={"through": through}).source != entity.source


def test_nothing_else_makes_another_source() -> None:
    entity = CATALOGUE["messages"]
    changes: dict[str, object] = {
        "name": "more", "local": "wpp_more", "motion": "whole", "key": ("id", "id2"),
        "columns": {"a": "b"}, "leave_out": ("a",), "encode": {"a": "uri_component"},
        "hot": "id > 1", "interval": 1.0, "enabled": False, "derived": (),
    }  # fmt: skip
    assert changes.keys() == Entity.model_fields.keys() - {
        "central", "instance_column", "through", "where"
    }  # fmt: skip
    for change, value in changes.items():
        assert entity.model_copy(update={change: value}).source == entity.source
