"""From two tables to a plan: what is paired, left out or refused, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import sql
from daemon.entities import CATALOGUE, Entity
from daemon.errors import SchemaError
from daemon.schema import Index, Table, plan
from daemon.sql import Statement
from daemon.values import Column

MESSAGES = Entity(
    name="messages", central="messages", local="wpp_messages", motion="incremental", key=("id",)
)
CHATS = CATALOGUE["chats"]
PRIMARY = Index("PRIMARY", unique=True, columns=("id",), whole=True)


def column(
    name: str,
    kind: str = "int",
    *,
    nullable: bool = False,
    default: str | None = None,
    extra: str = "",
) -> Column:
    return Column(name, kind, kind, nullable, default, extra)


def table(
    name: str, columns: Sequence[str | Column], indexes: Sequence[Index] = (PRIMARY,)
) -> Table:
    return Table(
        name,
        tuple(column(c) if isinstance(c, str) else c for c in columns),
        tuple(indexes),
    )


def index(*columns: str, name: str = "", unique: bool = False, whole: bool = True) -> Index:
    return Index(name or "_".join(columns), unique, columns, whole)


def central(*columns: str | Column, indexes: Sequence[Index] = (PRIMARY,)) -> Table:
    return table("messages", ("id", "instance", *columns), indexes)


def local(*columns: str | Column, indexes: Sequence[Index] = (PRIMARY,)) -> Table:
    return table("wpp_messages", ("id", "instance", *columns), indexes)


def mapped(columns: Mapping[str, str]) -> Entity:
    return MESSAGES.model_copy(update={"columns": dict(columns)})


def refusal(entity: Entity, here: Table | None, there: Table | None) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        plan(entity, here, there)
    assert caught.value.hint
    assert str(caught.value).startswith(f"{entity.name}: ")
    return caught.value


# --- what is paired ------------------------------------------------------------------------------


def test_columns_pair_by_name_the_key_first_the_rest_in_the_local_order() -> None:
    here = table("messages", ["a", "b", "instance", "id", "c"])
    there = table("wpp_messages", ["c", "instance", "a", "id", "b"])

    found = plan(MESSAGES, here, there)

    assert found.local_columns == ("id", "c", "instance", "a", "b")
    assert found.expressions == ("`id`", "`c`", "`instance`", "`a`", "`b`")
    assert (found.central_key, found.local_key) == ("id", "id")
    assert found.note == ""


@given(
    st.permutations(["id", "instance", "a", "b", "c"]),
    st.permutations(["ID", "Instance", "A", "b", "C"]),
)
def test_names_are_compared_without_case_and_kept_as_each_side_writes_them(
    theirs: list[str], ours: list[str]
) -> None:
    found = plan(MESSAGES, table("messages", theirs), table("wpp_messages", ours))

    rest = [name for name in ours if name != "ID"]
    assert [pair.local for pair in found.pairs] == ["ID", *rest]
    assert [pair.central for pair in found.pairs] == [name.lower() for name in found.local_columns]
    assert found.only_central == found.only_local == ()


def test_the_entity_and_the_columns_map_are_compared_without_case_too() -> None:
    entity = MESSAGES.model_copy(
        update={"key": ("ID",), "instance_column": "INSTANCE", "columns": {"ORIGINAL": "Id"}}
    )
    here = central(indexes=[PRIMARY, index("Instance", "Id")])

    found = plan(entity, here, local("original"))

    assert [(pair.local, pair.central) for pair in found.pairs] == [
        ("id", "id"),
        ("instance", "instance"),
        ("original", "id"),
    ]
    assert found.central_index == "Instance_Id"


def test_a_central_column_may_fill_two_local_ones() -> None:
    here = table("chats", ["id", "instance"])
    there = table(
        "wpp_chats",
        ["id", "original_id", "instance"],
        [PRIMARY, index("original_id", unique=True)],
    )

    found = plan(CHATS, here, there)

    assert [(pair.local, pair.central) for pair in found.pairs] == [
        ("id", "id"),
        ("original_id", "id"),
        ("instance", "instance"),
    ]
    assert found.unique == ((1,),)


def test_the_map_wins_over_the_name() -> None:
    found = plan(mapped({"a": "b"}), central("a", "b"), local("a"))

    assert [(pair.local, pair.central) for pair in found.pairs][-1] == ("a", "b")
    assert found.only_central == ("a",)


def test_the_key_may_have_another_name_on_each_side() -> None:
    here = central(indexes=[PRIMARY])
    there = table("wpp_messages", ["instance", "original"], [index("original", name="PRIMARY")])

    found = plan(mapped({"original": "id"}), here, there)

    assert (found.central_key, found.local_key) == ("id", "original")


def test_what_only_one_side_has_is_left_out_and_told() -> None:
    found = plan(
        MESSAGES,
        central("wallet_id", "priority"),
        local(column("mark", nullable=True), column("seen", default="0")),
    )

    assert found.local_columns == ("id", "instance")
    assert found.only_central == ("wallet_id", "priority")
    assert found.only_local == ("mark", "seen")
    assert found.note == (
        "wallet_id, priority of central messages not copied: no such column in wpp_messages;"
        " mark, seen of wpp_messages not filled: no such column in central messages"
    )


# --- generated columns ---------------------------------------------------------------------------

GENERATED = [
    "VIRTUAL GENERATED",
    "STORED GENERATED",
    "PERSISTENT GENERATED",
    "STORED GENERATED, INVISIBLE",
]
NOT_GENERATED = ["", "auto_increment", "DEFAULT_GENERATED", "INVISIBLE",
                 "DEFAULT_GENERATED on update CURRENT_TIMESTAMP",
                 "on update current_timestamp()"]  # fmt: skip


@pytest.mark.parametrize("extra", GENERATED)
def test_a_generated_local_column_is_never_written(extra: str) -> None:
    found = plan(MESSAGES, central("a"), local(column("a", extra=extra)))

    assert found.local_columns == ("id", "instance")
    assert found.only_local == ()  # the server fills it


@pytest.mark.parametrize("extra", GENERATED)
def test_a_generated_central_column_is_copied_like_any_other(extra: str) -> None:
    found = plan(MESSAGES, central(column("a", extra=extra)), local("a"))

    assert found.local_columns == ("id", "instance", "a")


@pytest.mark.parametrize("extra", GENERATED)
def test_a_generated_central_column_that_local_lacks_is_not_worth_a_word(extra: str) -> None:
    assert plan(MESSAGES, central(column("a", extra=extra)), local()).note == ""


@pytest.mark.parametrize("extra", NOT_GENERATED)
def test_mysqls_mark_of_a_default_does_not_make_a_column_generated(extra: str) -> None:
    found = plan(MESSAGES, central(column("a", extra=extra)), local(column("a", extra=extra)))

    assert found.local_columns == ("id", "instance", "a")


# --- how a value is read and written -------------------------------------------------------------


def test_a_float_is_asked_for_as_a_double_so_that_all_its_digits_are_printed() -> None:
    found = plan(
        MESSAGES,
        central(column("f", "float"), column("d", "double"), column("n", "decimal")),
        local(column("f", "float"), column("d", "double"), column("n", "decimal")),
    )

    assert found.expressions[2:] == ("`f` * 1e0", "`d`", "`n`")


def test_a_float_that_becomes_text_is_read_in_full_too() -> None:
    found = plan(MESSAGES, central(column("f", "float")), local(column("f", "varchar")))

    assert found.expressions[-1] == "`f` * 1e0"


def test_a_name_in_an_expression_is_quoted_and_survives_rendering() -> None:
    name = "100%`s"
    found = plan(MESSAGES, central(column(name, "float")), local(column(name, "float")))

    assert sql.render(Statement(found.expressions[-1])).endswith(b" `100%``s` * 1e0")


@pytest.mark.parametrize(
    "kind",
    ["binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "bit", "vector",
     "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring",
     "multipolygon", "geometrycollection", "geomcollection"],
)  # fmt: skip
def test_bytes_go_back_as_bytes(kind: str) -> None:
    found = plan(MESSAGES, central(column("a", kind)), local(column("a", "blob")))

    assert found.binary == (False, False, True)


@pytest.mark.parametrize(
    "kind",
    ["char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "json", "int",
     "bigint", "decimal", "double", "float", "date", "datetime", "timestamp", "time", "year",
     "uuid", "inet6"],
)  # fmt: skip
def test_text_goes_back_as_text_even_into_a_byte_column(kind: str) -> None:
    found = plan(MESSAGES, central(column("a", kind)), local(column("a", "blob")))

    assert found.binary == (False, False, False)


def test_a_bit_is_told_as_a_number_to_a_column_that_is_not_made_of_bytes() -> None:
    found = plan(MESSAGES, central(column("a", "bit")), local(column("a", "tinyint")))

    assert found.expressions[2] == "`a` + 0"
    assert not found.binary[2]


def test_an_integer_is_told_as_bytes_to_a_bit() -> None:
    found = plan(MESSAGES, central(column("a", "int")), local(column("a", "bit")))

    assert found.expressions[2] == "UNHEX(CONCAT(IF(`a` < 0, 'FF', ''), HEX(`a`)))"
    assert found.binary[2]


def test_a_text_whose_character_set_has_codes_without_a_character_is_asked_for_with_a_mark() -> (
    None
):
    text = Column("a", "varchar", "varchar(9)", True, None, "", "gbk")

    found = plan(MESSAGES, central(text), local(text))

    assert found.expressions[2] == sql.text_or_marked("`a`")
    assert not found.binary[2]


# --- what is read back -----------------------------------------------------------------------


def test_only_what_may_change_is_read_back() -> None:
    here = central(
        Column("a", "varchar", "varchar(9)", True, None, ""),
        Column("b", "double", "double", True, None, ""),
        Column("c", "datetime", "datetime(3)", True, None, ""),
    )
    there = local(
        Column("a", "varchar", "varchar(9)", True, None, ""),
        Column("b", "float", "float", True, None, ""),
        Column("c", "datetime", "datetime", True, None, ""),
    )

    found = plan(MESSAGES, here, there)

    assert [(check.place, check.expression) for check in found.checks] == [(3, "`b` * 1e0")]
    assert found.narrower == ("b (float for double)", "c (datetime for datetime(3))")
    assert "wpp_messages holds less than central: b (float for double), c" in found.note


def test_a_document_is_checked_but_holds_no_less() -> None:
    found = plan(MESSAGES, central(column("a", "json")), local(column("a", "json")))

    assert len(found.checks) == 1
    assert found.note == ""


@pytest.mark.parametrize("kind", ["varchar", "decimal", "double", "binary"])
def test_a_local_key_that_could_change_a_key_is_refused(kind: str) -> None:
    there = table("wpp_messages", [column("id", kind), "instance"])
    error = refusal(MESSAGES, central(), there)

    assert f"the primary key id of local wpp_messages is {kind}" in error.message
    assert error.hint == "ALTER TABLE wpp_messages MODIFY id BIGINT NOT NULL"


# --- which index a batch walks along -------------------------------------------------------------


@pytest.mark.parametrize(
    ("indexes", "chosen"),
    [
        ([PRIMARY], "PRIMARY"),
        ([PRIMARY, index("instance")], "instance"),
        ([index("instance"), PRIMARY], "instance"),
        ([PRIMARY, index("instance", "id")], "instance_id"),
        ([PRIMARY, index("instance", "id", "chat_id")], "instance_id_chat_id"),
        ([PRIMARY, index("instance", "id", unique=True)], "instance_id"),
        # The instance first, but something else before the key: not in key order.
        ([PRIMARY, index("instance", "sent_at", "chat_id")], "PRIMARY"),
        ([PRIMARY, index("instance", "sent_at", "id")], "PRIMARY"),
        ([index("instance", "sent_at"), PRIMARY, index("instance", "id")], "instance_id"),
        ([PRIMARY, index("id", "instance")], "PRIMARY"),
        ([PRIMARY, index("sent_at"), index("from", "to", "chat_id")], "PRIMARY"),
        # A prefix of the instance groups instances that only begin alike; neither it nor an
        # expression can be walked by key.
        ([PRIMARY, index("instance", whole=False)], "PRIMARY"),
        ([PRIMARY, index("instance", "id", whole=False)], "PRIMARY"),
        ([PRIMARY, index("", "id", whole=False)], "PRIMARY"),
        ([PRIMARY, index("", whole=False)], "PRIMARY"),
        # A second index on the key is no better than the primary key, whatever it is called.
        ([index("id", name="again", unique=True), PRIMARY], "PRIMARY"),
        ([PRIMARY, index("id", name="again", unique=True)], "PRIMARY"),
        ([PRIMARY, index("id", name="again")], "PRIMARY"),
    ],
)
def test_the_index_for_a_batch(indexes: Sequence[Index], chosen: str) -> None:
    assert plan(MESSAGES, central(indexes=indexes), local()).central_index == chosen


@pytest.mark.parametrize(
    ("indexes", "chosen"),
    [
        ([index("uuid", name="PRIMARY"), index("id", unique=True)], "id"),
        ([index("uuid", name="PRIMARY"), index("id", name="plain")], "plain"),
        (
            [index("id", name="plain"), index("id", name="unique", unique=True)],
            "unique",
        ),
        (
            [index("id", name="unique", unique=True), index("id", name="plain")],
            "unique",
        ),
        # An index on the instance alone ends with the primary key, which here is another column.
        (
            [index("uuid", name="PRIMARY"), index("instance"), index("id", unique=True)],
            "id",
        ),
        (
            [index("uuid", name="PRIMARY"), index("id", unique=True), index("instance", "id")],
            "instance_id",
        ),
    ],
)
def test_the_index_where_the_key_is_not_the_primary_key(
    indexes: Sequence[Index], chosen: str
) -> None:
    assert plan(MESSAGES, central("uuid", indexes=indexes), local()).central_index == chosen


def test_an_entity_without_an_instance_column_walks_along_its_key() -> None:
    entity = MESSAGES.model_copy(update={"instance_column": None})
    indexes = [PRIMARY, index("", whole=False), index("instance"), index("instance", "id")]

    assert plan(entity, central(indexes=indexes), local()).central_index == "PRIMARY"


@pytest.mark.parametrize(
    "indexes",
    [
        [],
        [index("uuid", name="PRIMARY")],
        [index("instance", "sent_at")],
        [index("instance")],
        [index("id", whole=False)],
        [index("uuid", "id", name="PRIMARY")],
    ],
)
def test_a_key_without_an_index_is_refused(indexes: Sequence[Index]) -> None:
    error = refusal(MESSAGES, central("uuid", indexes=indexes), local())

    assert error.message == (
        "messages: central messages has no index on its key id;"
        " every poll would read the whole table"
    )
    assert "entities.messages.key" in error.hint


# --- unique keys ---------------------------------------------------------------------------------


def test_the_unique_keys_are_positions_among_the_pairs() -> None:
    there = local(
        "a",
        "b",
        column("mine", nullable=True),
        indexes=[
            PRIMARY,
            index("a", unique=True),
            index("B", "A", unique=True),
            index("instance"),  # not unique
            index("mine", unique=True),  # not copied: central cannot be asked
            index("a", "mine", unique=True),
            index("b", unique=True, whole=False),  # a prefix, or an expression
            index("", unique=True, whole=False),
        ],
    )

    found = plan(MESSAGES, central("a", "b"), there)

    assert found.local_columns == ("id", "instance", "a", "b")
    assert found.unique == ((2,), (3, 2))


def test_the_primary_key_is_not_among_the_unique_keys() -> None:
    assert plan(MESSAGES, central(), local()).unique == ()


# --- refusals ------------------------------------------------------------------------------------


def test_a_missing_central_table() -> None:
    error = refusal(MESSAGES, None, local())

    assert error.message == (
        "messages: there is no table messages in the central database,"
        " or the account may not see it"
    )
    assert error.hint == "check central.database, and GRANT SELECT ON messages"


def test_a_missing_local_table() -> None:
    error = refusal(MESSAGES, central(), None)

    assert error.message == "messages: there is no table wpp_messages in the local database"
    assert "migration" in error.hint


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"absent": "a"}, "messages: column absent is missing in local wpp_messages"),
        ({"a": "absent"}, "messages: column absent is missing in central messages"),
        ({"absent": "gone"}, "messages: column absent is missing in local wpp_messages"),
    ],
)
def test_a_map_of_a_column_that_is_not_there(columns: dict[str, str], message: str) -> None:
    error = refusal(mapped(columns), central("a"), local("a"))

    assert error.message == message
    ((name, source),) = columns.items()
    assert f"map {name} to central {source}" in error.hint


@pytest.mark.parametrize(
    "indexes", [[], [index("id", unique=True)], [index("id", "instance", name="PRIMARY")]]
)
def test_a_local_table_without_a_primary_key_of_one_column(indexes: Sequence[Index]) -> None:
    error = refusal(MESSAGES, central(), local(indexes=indexes))

    assert error.message == "messages: local wpp_messages has no primary key of one column"
    assert error.hint == "make the column that holds central's id the primary key"


def test_a_local_primary_key_that_does_not_hold_the_central_key() -> None:
    there = table("wpp_messages", ["number", "id", "instance"], [index("number", name="PRIMARY")])
    error = refusal(MESSAGES, central(), there)

    assert error.message == (
        "messages: the primary key number of local wpp_messages"
        " does not hold the key id of central messages"
    )
    assert error.hint == "map it: entities.messages.columns: {number: id}"


def test_a_local_primary_key_that_holds_another_central_column() -> None:
    there = table("wpp_messages", ["id", "instance", "a"], [index("a", name="PRIMARY")])
    error = refusal(MESSAGES, central("a"), there)

    assert "the primary key a of local wpp_messages does not hold the key id" in error.message


def test_the_hint_for_the_primary_key_is_the_cure() -> None:
    there = table("wpp_messages", ["number", "id", "instance"], [index("number", name="PRIMARY")])

    assert plan(mapped({"number": "id"}), central(), there).local_key == "number"


FILLED: list[Column] = [
    column("a", nullable=True),
    column("a", default="0"),
    column("a", default=""),
    column("a", extra="auto_increment"),
    column("a", extra="DEFAULT_GENERATED"),
    column("a", extra="VIRTUAL GENERATED"),
]


@pytest.mark.parametrize("filled", FILLED)
def test_a_column_that_fills_itself_may_be_left_out(filled: Column) -> None:
    assert "a" not in plan(MESSAGES, central(), local(filled)).local_columns


def test_local_columns_that_nothing_would_fill() -> None:
    error = refusal(MESSAGES, central(), local("a", column("b", nullable=True), "c"))

    assert error.message == (
        "messages: a, c of local wpp_messages must be filled (NOT NULL without a default),"
        " but central messages has no such column"
    )
    assert "entities.messages.columns" in error.hint


@pytest.mark.parametrize("kind", ["varchar", "decimal", "float", "double", "binary", "uuid", "bit"])
def test_a_key_that_is_no_integer(kind: str) -> None:
    here = table("messages", [column("id", kind), "instance"])
    error = refusal(MESSAGES, here, local())

    assert error.message == (
        f"messages: the key id of central messages is {kind};"
        " rows are followed and compared along integers"
    )
    assert error.hint == "name integer columns in entities.messages.key"


@pytest.mark.parametrize("kind", ["tinyint", "smallint", "mediumint", "int", "bigint"])
def test_a_key_of_any_integer_type(kind: str) -> None:
    here = table("messages", [column("id", kind), "instance"])

    assert plan(MESSAGES, here, local()).central_key == "id"


def test_a_central_table_that_does_not_say_whose_row_it_is() -> None:
    here = table("messages", ["id", "a"])
    there = table("wpp_messages", ["id", "a"])
    error = refusal(MESSAGES, here, there)

    assert error.message == (
        "messages: central messages has no column instance, which says whose row it is"
    )
    assert error.hint == "correct entities.messages.instance_column"


def test_an_entity_that_follows_another_needs_no_instance_column() -> None:
    entity = MESSAGES.model_copy(update={"instance_column": None})

    found = plan(entity, table("messages", ["id"]), table("wpp_messages", ["id"]))

    assert found.local_columns == ("id",)
