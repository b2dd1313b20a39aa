"""mobync.sqlalchemy: JSON values become values of the declared column types, or are refused."""

from __future__ import annotations

import datetime as dt
import enum
import json
import uuid
from decimal import Decimal
from typing import Any

import databases
import pytest
from databases import Database, open_database
from sqlalchemy import (
    BINARY,
    CHAR,
    JSON,
    REAL,
    TIMESTAMP,
    VARBINARY,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Enum,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    select,
    type_coerce,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import NullType
from task_list import diff

from mobync import FilterType, InvalidDiffError, Mobync, ReadFilter
from mobync.sqlalchemy import SQLAlchemySynchronizer

database = databases.database

UTC = dt.timezone.utc


class Mood(enum.Enum):
    glad = 1
    sad = 2


class Shouted(TypeDecorator[str]):
    """Keeps text in capitals."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value.upper() if value is not None else None


COLUMNS: dict[str, Any] = {
    "small": SmallInteger(),
    "number": Integer(),
    "big": BigInteger(),
    "price": Numeric(12, 4),
    "ratio": Float(53),
    "flag": Boolean(),
    "short": String(5),
    "long": Text(),
    "day": Date(),
    "moment": DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb"),
    "instant": DateTime(timezone=True),
    "clock": Time(),
    "tree": JSON(),
    "blob": LargeBinary(),
    "key": Uuid(),
    "mood": Enum(Mood, name="mood"),
    "colour": Enum("red", "green", name="colour"),
    "shout": Shouted(),
}

A_UUID = "9f1c2d3e-0000-4000-8000-00000000abcd"
NOON = dt.datetime(2024, 2, 29, 12, 0)
FINE = NOON.replace(microsecond=120003)
TREE = {"a": [1, 0.5, None, "x", True, 2**70]}

# field, what a device sends, what is in the column, what read() gives
GOOD: list[tuple[str, Any, Any, Any]] = [
    ("small", -(2**15), -(2**15), -(2**15)),
    ("number", 2**31 - 1, 2**31 - 1, 2**31 - 1),
    ("number", Decimal("7.0"), 7, 7),
    ("big", 2**63 - 1, 2**63 - 1, 2**63 - 1),
    ("big", 9007199254740993, 9007199254740993, 9007199254740993),
    ("price", Decimal("12345678.1234"), Decimal("12345678.1234"), 12345678.1234),
    ("price", Decimal("0.10000"), Decimal("0.1"), 0.1),
    ("price", "-0.0001", Decimal("-0.0001"), -0.0001),
    ("price", Decimal("1E+3"), Decimal(1000), 1000),
    ("price", 3, Decimal(3), 3),
    ("ratio", Decimal("0.1"), 0.1, 0.1),
    ("ratio", 2, 2.0, 2.0),
    ("ratio", Decimal("-1e-300"), -1e-300, -1e-300),
    ("flag", True, True, True),
    ("flag", 0, False, False),
    ("short", "äöü€😀", "äöü€😀", "äöü€😀"),
    ("short", "", "", ""),
    ("long", "it's; -- \\ % %s :x \" \n", "it's; -- \\ % %s :x \" \n", "it's; -- \\ % %s :x \" \n"),
    ("day", "2024-02-29", dt.date(2024, 2, 29), "2024-02-29"),
    ("day", 86_400_000, dt.date(1970, 1, 2), "1970-01-02"),
    ("moment", "2024-02-29T12:00:00", NOON, "2024-02-29T12:00:00"),
    ("moment", "2024-02-29 12:00", NOON, "2024-02-29T12:00:00"),
    ("moment", "2024-02-29T13:30:00.000+01:30", NOON, "2024-02-29T12:00:00"),
    ("moment", "2024-02-29T12:00:00.120003Z", FINE, "2024-02-29T12:00:00.120003"),
    ("moment", 1, dt.datetime(1970, 1, 1, 0, 0, 0, 1000), "1970-01-01T00:00:00.001000"),
    ("moment", -1000, dt.datetime(1969, 12, 31, 23, 59, 59), "1969-12-31T23:59:59"),
    ("instant", "2024-02-29T12:00:00Z", NOON.replace(tzinfo=UTC), "2024-02-29T12:00:00+00:00"),
    ("instant", "2024-02-29T11:00:00-0100", NOON.replace(tzinfo=UTC), "2024-02-29T12:00:00+00:00"),
    ("instant", 1_709_208_000_000, NOON.replace(tzinfo=UTC), "2024-02-29T12:00:00+00:00"),
    ("clock", "23:59", dt.time(23, 59), "23:59:00"),
    ("clock", "23:59:58", dt.time(23, 59, 58), "23:59:58"),
    ("tree", {"a": [1, Decimal("0.50"), None, "x", True, 2**70]}, TREE, TREE),
    ("tree", -(2**63) + 1, -(2**63) + 1, -(2**63) + 1),
    ("tree", 0.25, 0.25, 0.25),
    ("tree", "text", "text", "text"),
    ("blob", "AP9h", b"\x00\xffa", "AP9h"),
    ("blob", "", b"", ""),
    ("key", A_UUID, uuid.UUID(A_UUID), A_UUID),
    ("mood", "sad", Mood.sad, "sad"),
    ("colour", "green", "green", "green"),
    ("shout", "hey", "HEY", "HEY"),
    *((field, None, None, None) for field in COLUMNS if field != "tree"),
]  # fmt: skip

# field, the JSON text that a device sends, a part of the reason
BAD = [
    ("small", "32768", "-32768 to 32767"),
    ("number", "2147483648", "-2147483648 to 2147483647"),
    ("number", "1.5", "integer"),
    ("number", "1e400", "-2147483648 to"),
    ("number", "true", "integer"),
    ("number", '"1"', "integer"),
    ("number", "[]", "integer"),
    ("big", "9223372036854775808", "9223372036854775807"),
    ("price", "123456789", "8 digits before"),
    ("price", "0.00001", "4 digits after"),
    ("price", "1e400", "8 digits before"),
    ("price", '"1e2"', "a number"),
    ("price", '"NaN"', "a number"),
    ("price", '"\uff11"', "a number"),
    ("price", "false", "a number"),
    ("ratio", "1e400", "too large"),
    ("ratio", '"1"', "a number"),
    ("flag", "2", "true or false"),
    ("flag", '"true"', "true or false"),
    ("flag", "1.0", "true or false"),
    ("short", '"123456"', "5 characters"),
    ("short", "1", "a string"),
    ("short", r'"\u0000"', r"U\+0000"),
    ("day", '"2024-02-30"', "a date"),
    ("day", '"20240229"', "a date"),
    ("day", "1", "a date"),
    ("day", "true", "a date"),
    ("day", str(86_400_000 * 10**9), "a date"),
    ("moment", '"2024-02-29"', "date and time"),
    ("moment", '"2024-02-29T24:00:00"', "date and time"),
    ("moment", '"2024-02-29T12:00:00.1234567Z"', "date and time"),
    ("moment", '"0001-01-01T00:00:00+10:00"', "date and time"),
    ("moment", '"\uff12024-02-29T12:00:00"', "date and time"),
    ("moment", "1.5", "date and time"),
    ("moment", "1" + "0" * 30, "date and time"),
    ("clock", '"24:00"', "a time"),
    ("clock", '"12:00Z"', "a time"),
    ("clock", "1", "a time"),
    ("tree", "1e400", "a double"),
    ("tree", "[0.12345678901234567890]", "a double"),
    ("tree", "[" * 300 + "]" * 300, "(200|31) levels"),
    ("blob", '"AP9"', "base64"),
    ("blob", '"A*=="', "base64"),
    ("blob", '"ä"', "base64"),
    ("blob", "1", "base64"),
    ("key", '"9F1C2D3E-0000-4000-8000-00000000ABCD"', "lower-case"),
    ("key", '"9f1c2d3e000040008000000000000abcd"', "UUID"),
    ("mood", '"angry"', "'glad', 'sad'"),
    ("mood", "1", "one of"),
    ("colour", '"Red"', "one of"),
    ("shout", '"' + "x" * 21 + '"', "20 characters"),
]  # fmt: skip


class Things:
    """A table with a column of each type."""

    def __init__(self, database: Database) -> None:
        self.database = database
        metadata = MetaData()
        self.table = Table(
            "things",
            metadata,
            Column("id", String(40), primary_key=True),
            Column("owner", String(40), nullable=False),
            *(Column(name, type_.copy()) for name, type_ in COLUMNS.items()),
        )
        self.store = SQLAlchemySynchronizer(database.engine, {"things": self.table})
        metadata.create_all(database.engine)

    def stored(self, row_id: str, field: str) -> Any:
        """What the column holds, as an app reads it."""
        column = self.table.c[field]
        if field == "price":
            column = type_coerce(column, NullType())  # SQLAlchemy warns of SQLite's floats
        with self.database.engine.connect() as connection:
            value = connection.scalar(select(column).where(self.table.c.id == row_id))
        if field == "price" and isinstance(value, float):
            return Decimal(repr(value))
        if field == "instant" and value is not None and value.tzinfo is None:
            return value.replace(tzinfo=UTC)  # SQLite and MariaDB keep no zone
        return value


@pytest.fixture
def things(database: Database) -> Things:
    return Things(database)


def json_text(**row: Any) -> str:
    """JSON with the digits of Decimals as they are."""
    marked = json.dumps(row, default=lambda number: f"<<{number}>>")
    return marked.replace('"<<', "").replace('>>"', "")


def test_what_fits_is_kept_as_the_column_type_and_given_back_as_json(things):
    with things.store.transaction("bob") as inside:
        rows = [json_text(id=str(n), **{f: sent}) for n, (f, sent, *_) in enumerate(GOOD)]
        inside.create_many("things", rows)
        read = {row["id"]: row for row in inside.read("things")}
    for number, (field, sent, stored, given) in enumerate(GOOD):
        row_id = str(number)
        assert things.stored(row_id, field) == stored, (field, sent)
        assert read[row_id][field] == given, (field, sent)
        assert type(read[row_id][field]) is type(given), (field, sent)


def test_updates_that_carry_different_fields_keep_the_types_too(things):
    with things.store.transaction("bob") as inside:
        ids = [str(n) for n in range(len(GOOD))]
        inside.create_many("things", [json_text(id=i) for i in ids])
        sent = [json_text(id=i, **{g[0]: g[1]}) for i, g in zip(ids, GOOD, strict=True)]
        inside.update_many("things", sent)
        read = {row["id"]: row for row in inside.read("things")}
    for row_id, (field, sent, stored, given) in zip(ids, GOOD, strict=True):
        assert things.stored(row_id, field) == stored, (field, sent)
        assert read[row_id][field] == given, (field, sent)
        others = set(COLUMNS) - {field, "tree"}
        assert {read[row_id][other] for other in others} == {None}


def test_what_read_gives_may_be_sent_again(things):
    full = {field: sent for field, sent, *_ in GOOD if sent is not None}
    with things.store.transaction("bob") as inside:
        inside.create("things", json_text(id="a", **full))
        row = inside.read("things")[0]
        inside.create("things", json.dumps({**row, "id": "b"}))
        first, second = inside.read("things")
    assert {**first, "id": 0} == {**second, "id": 0}


def test_what_does_not_fit_is_refused_by_name(things):
    for field, sent, reason in BAD:
        complaint = f"^invalid diff 0: json_data: '{field}' .*{reason}"
        for write in ("create", "update"):
            with (
                pytest.raises(InvalidDiffError, match=complaint),
                things.store.transaction("bob") as inside,
            ):
                getattr(inside, write)("things", f'{{"id": "a", "{field}": {sent}}}')
                raise AssertionError((field, sent))
    with things.store.transaction("bob") as inside:
        assert inside.read("things") == []


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "a", "number": 1e9999999999999999999}',
        '{"id": "a", "number": ' + "1" * 5000 + "}",
        '{"id": "a", "tree": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_numbers_and_nesting_beyond_all_measure_are_refused(tmp_path, text):
    with open_database("sqlite", tmp_path) as database:
        things = Things(database)
        with pytest.raises(InvalidDiffError), things.store.transaction("bob") as inside:
            inside.create("things", text)


def test_filters_compare_as_the_column_type(things):
    rows = [
        json_text(id="1", price=9.5, day="2024-01-01", key=A_UUID, short="a", mood="sad"),
        json_text(id="2", price=10.5, day="2024-06-01", short="A", mood="glad"),
        json_text(id="3", price=10.5, day="2024-12-01", short="b"),
    ]
    questions: list[tuple[str, FilterType, Any, set[str]]] = [
        ("price", FilterType.major, 9.5, {"2", "3"}),
        ("price", FilterType.majorOrEqual, Decimal("9.5"), {"1", "2", "3"}),
        ("price", FilterType.minor, "10.50", {"1"}),
        ("day", FilterType.minorOrEqual, "2024-06-01", {"1", "2"}),
        ("day", FilterType.equal, dt.date(2024, 6, 1), {"2"}),
        ("key", FilterType.equal, A_UUID, {"1"}),
        ("key", FilterType.equal, uuid.UUID(A_UUID), {"1"}),
        ("key", FilterType.equal, None, {"2", "3"}),
        ("key", FilterType.major, None, set()),
        ("short", FilterType.equal, "a", {"1"}),
        ("mood", FilterType.equal, "glad", {"2"}),
        ("mood", FilterType.equal, Mood.sad, {"1"}),
    ]
    with things.store.transaction("bob") as inside:
        inside.create_many("things", rows)
        for field, how, value, expected in questions:
            found = inside.read("things", [ReadFilter(field, how, value)])
            assert {row["id"] for row in found} == expected, (field, how, value)
        with pytest.raises(ValueError, match="filter on 'price': 'x' must be a number"):
            inside.read("things", [ReadFilter("price", FilterType.equal, "x")])
        with pytest.raises(ValueError, match="has no field 'nothing'"):
            inside.read("things", [ReadFilter("nothing", FilterType.equal, 1)])


def test_sqlite_refuses_decimals_that_its_floats_cannot_keep(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        _, store = one_column(database, Numeric(20, 10))
        with store.transaction("bob") as inside:
            inside.create("rows", '{"id": "a", "value": 0.0000000001}')
        with (
            pytest.raises(InvalidDiffError, match="'value' has more digits than SQLite keeps"),
            store.transaction("bob") as inside,
        ):
            inside.create("rows", '{"id": "b", "value": 1234567890.0123456789}')


def test_sqlite_refuses_a_json_number_that_it_would_make_a_float(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        _, store = one_column(database, JSON())
        with (
            pytest.raises(InvalidDiffError, match="'value' is too large"),
            store.transaction("bob") as inside,
        ):
            inside.create("rows", f'{{"id": "b", "value": {2**63}}}')


@pytest.mark.parametrize("text", ["0e-999999999999999", "-0.0", "0e999999999999999"])
def test_a_zero_takes_no_more_room_than_a_zero(database, text):
    table, store = one_column(database, Numeric(12, 4))
    with store.transaction("bob") as inside:
        inside.create("rows", f'{{"id": "a", "value": {text}}}')
    with database.engine.connect() as connection:
        assert connection.scalar(select(table.c.value)) == 0


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_the_other_databases_keep_all_digits_of_a_decimal(database):
    table, store = one_column(database, Numeric(38, 20))
    sent = ["123456789012345678.12345678901234567890", "0.00000000000000000001"]
    with store.transaction("bob") as inside:
        inside.create_many("rows", [f'{{"id": "{i}", "value": {v}}}' for i, v in enumerate(sent)])
        assert {row["value"] for row in inside.read("rows")} == {sent[0], 1e-20}
    with database.engine.connect() as connection:
        assert set(connection.scalars(select(table.c.value))) == set(map(Decimal, sent))


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("type_", "good", "bad", "reason"),
    [
        (Numeric(), "1234567890", "0.5", "0 digits after"),
        (Text(), '"' + "ä" * 32_767 + '"', '"' + "ä" * 32_768 + '"', "65535 bytes"),
        (mysql.TINYTEXT(), '"x"', '"' + "x" * 256 + '"', "255 bytes"),
        (LargeBinary(), '"' + "AAAA" * 21_845 + '"', '"' + "AAAA" * 21_846 + '"', "65535 bytes"),
        (mysql.TINYINT(), "127", "128", "-128 to 127"),
        (mysql.MEDIUMINT(), "8388607", "8388608", "8388607"),
        (mysql.INTEGER(unsigned=True), "4294967295", "-1", "0 to 4294967295"),
    ],
    ids=str,
)
def test_mariadb_types_are_refused_what_they_would_cut_or_round(database, type_, good, bad, reason):
    _, store = one_column(database, type_)
    with store.transaction("bob") as inside:
        inside.create("rows", f'{{"id": "a", "value": {good}}}')
        assert json.dumps(inside.read("rows")[0]["value"], ensure_ascii=False) == good
    with (
        pytest.raises(InvalidDiffError, match=f"'value' .*{reason}"),
        store.transaction("bob") as inside,
    ):
        inside.create("rows", f'{{"id": "b", "value": {bad}}}')


ON_SERVERS = ("postgresql", "mariadb")
ON_ALL = ("sqlite", *ON_SERVERS)
MS = "1700000000123"
FINE_MOMENT, LATE = '"2024-01-01T00:00:00.0001"', '"2038-01-17T00:00:00"'
EPOCH = '"1970-01-01T00:00:00+00:00"'
WITH_MS = '"2023-11-14T22:13:20.123000"'

# kind of database, type, what is kept, what it is read as, what is refused, why
PLAIN_TYPES: list[tuple[str, Any, str, str, str | None, str]] = [
    *(("sqlite", Float(), f, f, None, "") for f in ("0.1", "3.141592653589793", "1e-300")),
    *(("postgresql", Float(), f, f, None, "") for f in ("0.1", "3.141592653589793", "1e-300")),
    ("mariadb", Float(), "0.1", "0.1", "3.141592653589793", "6 digits"),
    ("mariadb", Float(), "-340282e33", "-3.40282e+38", "1e39", "6 digits"),
    ("mariadb", Float(), "123456", "123456.0", "1234567", "6 digits"),
    ("mariadb", Float(), "0", "0.0", "1e-320", "6 digits"),
    ("mariadb", Float(24), "1e-37", "1e-37", "123456.5", "6 digits"),
    ("mariadb", mysql.FLOAT(6, 2), "1234.5", "1234.5", "0.125", "2 digits after"),
    ("mariadb", mysql.DOUBLE(8, 3), "12345.125", "12345.125", "123456", "5 digits before"),
    *(("mariadb", t, "16777217.5", "16777217.5", None, "") for t in (REAL(), Double(), Float(25))),
    *(("postgresql", t, "1.5e-3", "0.0015", "16777217", "6 digits") for t in (REAL(), Float(24))),
    ("postgresql", Double(), "16777217.5", "16777217.5", None, ""),
    ("sqlite", DateTime(), MS, WITH_MS, None, ""),
    ("postgresql", DateTime(), MS, WITH_MS, None, ""),
    ("mariadb", DateTime(), '"2024-01-01T00:00:00"', '"2024-01-01T00:00:00"', MS, "0 decimals"),
    ("mariadb", mysql.DATETIME(fsp=3), MS, WITH_MS, FINE_MOMENT, "3 decimals"),
    ("postgresql", postgresql.TIMESTAMP(precision=3), MS, WITH_MS, FINE_MOMENT, "3 decimals"),
    ("postgresql", DateTime(timezone=True), "0", EPOCH, '"0001-01-01T00:00:00Z"', "0001-01-02"),
    ("mariadb", TIMESTAMP(), LATE, LATE, '"2038-01-20T00:00:00"', "to 2038-01-18"),
    ("mariadb", TIMESTAMP(), LATE, LATE, '"1960-01-01T00:00:00"', "must be from 1970-01-02"),
    ("sqlite", Time(), '"23:59:58.5"', '"23:59:58.500000"', None, ""),
    ("postgresql", Time(), '"23:59:58.5"', '"23:59:58.500000"', None, ""),
    ("mariadb", Time(), '"23:59:58"', '"23:59:58"', '"23:59:58.5"', "0 decimals"),
    ("mariadb", mysql.TIME(fsp=1), '"12:00:00.5"', '"12:00:00.500000"', '"12:00:00.55"', "1 dec"),
    ("postgresql", postgresql.TIME(precision=0), '"12:00"', '"12:00:00"', '"12:00:00.5"', "0 dec"),
    *((kind, CHAR(5), '"abc"', '"abc"', '"abc "', "ends in a space") for kind in ON_SERVERS),
    *((kind, CHAR(), '"a"', '"a"', '"ab"', "1 characters") for kind in ON_SERVERS),
    ("sqlite", CHAR(5), '"abc "', '"abc "', '"abcdef"', "5 characters"),
    *((kind, String(5), '"abc  "', '"abc  "', '"abcdef"', "5 characters") for kind in ON_ALL),
    ("mariadb", BINARY(3), '"AAEC"', '"AAEC"', '"AAE="', "must have 3 bytes"),
    ("mariadb", VARBINARY(3), '"AAE="', '"AAE="', '"AAECAw=="', "3 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("database", "type_", "good", "given", "bad", "reason"),
    PLAIN_TYPES,
    ids=lambda value: repr(value)[:30],
    indirect=["database"],
)
def test_a_database_keeps_a_value_as_it_was_sent_or_is_not_given_it(
    database, type_, good, given, bad, reason
):
    _, store = one_column(database, type_)
    with store.transaction("bob") as inside:
        inside.create("rows", f'{{"id": "a", "value": {good}}}')
        inside.create("rows", '{"id": "b"}')
        inside.update("rows", f'{{"id": "b", "value": {good}}}')
        for row in inside.read("rows"):
            assert json.dumps(row["value"]) == given
    if bad is None:
        return
    for write in ("create", "update"):
        with (
            pytest.raises(InvalidDiffError, match=f"'value' .*{reason}"),
            store.transaction("bob") as inside,
        ):
            getattr(inside, write)("rows", f'{{"id": "c", "value": {bad}}}')


def test_a_char_is_an_id_like_any_other(database):
    metadata = MetaData()
    table = Table(
        "rows",
        metadata,
        Column("id", CHAR(10), primary_key=True),
        Column("owner", CHAR(10), nullable=False),
        Column("n", Integer),
    )
    store = SQLAlchemySynchronizer(database.engine, {"rows": table})
    metadata.create_all(database.engine)
    mobync = Mobync(store)
    mobync.apply(0, [diff("create", "rows", id="a", n=1), diff("create", "rows", id="b")], "bob")
    mobync.apply(2, [diff("update", "rows", id="a", n=2), diff("delete", "rows", id="b")], "bob")
    assert mobync.adopt("bob", "rows") == 0
    with store.transaction("bob") as inside:
        assert inside.read("rows") == [{"id": "a", "n": 2}]


@pytest.mark.parametrize("database", ON_SERVERS, indirect=True)
def test_what_only_the_database_finds_not_to_fit_is_refused_with_its_place(database):
    table, store = one_column(database, String(10))
    narrow = MetaData()
    Table("rows", narrow, *(Column(name, String(4)) for name in ("id", "owner", "value")))
    table.drop(database.engine)
    narrow.create_all(database.engine)
    mobync = Mobync(store, on_refusal="skip")
    rows = [diff("create", "rows", id=v[:4], value=v) for v in ("abc", "abcde", "xyz")]
    updates = [diff("update", "rows", id="abc", value=v) for v in ("x", "longer")]
    reply = mobync.apply(0, rows, "bob")
    assert [r["id"] for r in reply["refused"]] == [rows[1]["id"]]
    named = "'value'" if database.kind == "mariadb" else "a value"  # PostgreSQL names no column
    assert reply["refused"][0]["message"] == f"json_data: {named} does not fit its column"
    assert [r["id"] for r in mobync.apply(2, updates[1:], "bob")["refused"]] == [updates[1]["id"]]
    with database.engine.connect() as connection:
        assert set(connection.scalars(select(table.c.value))) == {"abc", "xyz"}


def one_column(database: Database, type_: Any) -> tuple[Table, SQLAlchemySynchronizer]:
    metadata = MetaData()
    table = Table(
        "rows",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("value", type_),
    )
    store = SQLAlchemySynchronizer(database.engine, {"rows": table})
    metadata.create_all(database.engine)
    return table, store
