"""mobync.sqlalchemy: what only the database can refuse names the diff, and the others arrive."""

from __future__ import annotations

import re
import secrets
from itertools import pairwise
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database, open_database
from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy.orm import Session
from task_list import diff, statements

from mobync import InvalidDiffError, Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, create_tables, diffs_table

database = databases.database


def shop(metadata: MetaData, strict: bool = True) -> dict[str, Table]:
    """Shelves and the jars on them; what is not strict declares nothing but columns."""
    constraints: list[Any] = [
        UniqueConstraint("owner", "label", name="one_label"),
        CheckConstraint("filled <= size", name="not_too_full"),
    ]
    shelves = Table(
        "shelves",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
    )
    jars = Table(
        "jars",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("label", String(40)),
        Column("size", Integer),
        Column("filled", Integer),
        Column("price", Integer, nullable=not strict, server_default="1"),
        Column("code", String(4 if strict else 40)),
        Column("note", Text, index=strict) if strict else Column("note", Text),
        Column("shelf", ForeignKey("shelves.id", name="on_a_shelf") if strict else String(40)),
        *(constraints if strict else ()),
        mysql_engine="InnoDB",
    )
    return {"shelves": shelves, "jars": jars}


class Shop:
    """The tables in an empty database, and a synchronizer that is told of them, or of less."""

    def __init__(self, database: Database, declared: bool = True, session: bool = False) -> None:
        if database.kind == "sqlite":
            event.listen(
                database.engine,
                "connect",
                lambda c, _: c.execute("PRAGMA foreign_keys = ON").close(),
            )
        metadata = MetaData()
        models = shop(metadata)
        if database.kind == "mariadb":  # which indexes no text without a length
            models["jars"].indexes.clear()
        diffs_table(metadata)
        metadata.create_all(database.engine)
        told = models if declared else shop(MetaData(), strict=False)
        engine: Any = Session(database.engine) if session else database.engine
        self.database = database
        self.store = SQLAlchemySynchronizer(engine, told)
        self.raising = Mobync(self.store)
        self.skipping = Mobync(self.store, on_refusal="skip")
        self.clock = 0

    def sync(self, *edits: dict[str, Any]) -> None:
        self.clock = self.raising.apply(self.clock, list(edits), "bob")["logical_clock"]

    def jars(self) -> set[str]:
        with self.store.transaction("bob") as inside:
            return {row["id"] for row in inside.read("jars")}


def jar(kind: str, id_: str, **fields: Any) -> dict[str, Any]:
    return diff(kind, "jars", id=id_, **fields)


LONG = secrets.token_hex(5000)  # which does not compress, so that no index holds it
PLACES = range(9)

REFUSED = [
    (jar("create", "x", label="salt"), "another row has the same"),
    (jar("update", "b", label="salt"), "another row has the same"),
    (jar("create", "x", size=1, filled=2), "it breaks the check 'not_too_full'"),
    (jar("update", "b", filled=20), "it breaks the check 'not_too_full'"),
    (jar("create", "x", shelf="none"), "refers to a row that is not there"),
    (jar("update", "b", shelf="none"), "refers to a row that is not there"),
    (diff("delete", "shelves", id="s"), "rows that are still there refer to it"),
]


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_row_that_only_the_database_refuses_names_its_diff_and_the_others_arrive(
    database, declared
):
    app = Shop(database, declared)
    app.sync(
        diff("create", "shelves", id="s"),
        jar("create", "a", label="salt", shelf="s"),
        jar("create", "b", label="rice", size=9, filled=1),
        *(jar("create", f"o{n}") for n in PLACES),
        *(diff("create", "shelves", id=f"o{n}") for n in PLACES),
    )
    for number, (refused, reason) in enumerate(REFUSED):
        kind, model = refused["type"], refused["model"]
        prefix = f"new {number} " if kind == "create" else "o"
        innocent = [diff(kind, model, id=f"{prefix}{n}") for n in PLACES]
        for sent in ([refused], [*innocent[:6], refused, *innocent[6:]]):
            with pytest.raises(InvalidDiffError, match=reason) as refusal:
                app.raising.apply(app.clock, sent, "bob")
            assert refusal.value.diff_id == refused["id"]
            assert "salt" not in str(refusal.value)
        reply = app.skipping.apply(app.clock, sent, "bob")
        (left_out,) = reply["refused"]
        assert (left_out["id"], left_out["code"]) == (refused["id"], "invalid")
        assert reason in left_out["message"]
        app.clock = reply["logical_clock"]
    assert app.jars() >= {f"new {i} {n}" for i in (0, 2, 4) for n in PLACES}


LATE = {  # in SQLite a text of any length fits, and MariaDB indexes none without a length
    "sqlite": {"price": None},
    "mariadb": {"price": None, "code": "12345"},
    "postgresql": {"price": None, "code": "12345", "note": LONG},
}
SAYS = {"price": "'price' must not be null", "code": "not fit its column", "note": "for an index"}


def test_what_a_column_refuses_late_is_refused_by_name(database):
    app = Shop(database, declared=False)
    app.sync(jar("create", "a"), jar("create", "b"))
    for field, value in LATE[database.kind].items():
        for kind, id_ in (("create", "new"), ("update", "a")):
            sent = [jar("create", f"{field} {kind}"), jar(kind, id_, **{field: value})]
            sent += [jar("update", "b", label=field)]
            with pytest.raises(InvalidDiffError, match=SAYS[field]) as refusal:
                app.raising.apply(app.clock, sent, "bob")
            assert refusal.value.index == 1
            assert LONG[:20] not in str(refusal.value)
            reply = app.skipping.apply(app.clock, sent, "bob")
            assert [r["id"] for r in reply["refused"]] == [sent[1]["id"]]
            assert f"{field} {kind}" in app.jars()
            app.clock = reply["logical_clock"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"seat": "x"}, "another row has the same 'seat'"),
        ({"name": "x", "guest_2": "x"}, "another row has the same 'name', 'guest_2'"),
        ({"guest": "x", "meal": "x"}, "another row has the same values (constraint 'guest_2')"),
    ],
)
def test_only_the_fields_of_the_key_that_is_broken_are_named(
    tmp_path: Path, row: dict[str, str], reason: str
) -> None:
    """MariaDB says only the name of a key, which it may have made from that of a column."""
    names = ("guest", "guest_2", "name", "meal", "seat")
    keys = (("guest", "name"), ("guest", "meal"), ("name", "guest_2"), ("seat",))
    with open_database("mariadb", tmp_path) as database:
        metadata = MetaData()
        guests = Table(
            "guests",
            metadata,
            Column("id", String(40), primary_key=True),
            Column("owner", String(40)),
            *(Column(name, String(40)) for name in names),
            *(UniqueConstraint(*key) for key in keys),
        )
        server = Mobync(SQLAlchemySynchronizer(database.engine, {"guests": guests}))
        create_tables(database.engine, metadata)
        server.apply(0, [diff("create", "guests", id="a", **row)], "bob")
        with pytest.raises(InvalidDiffError, match=f"{re.escape(reason)}$"):
            server.apply(1, [diff("create", "guests", id="b", **row)], "bob")


def test_what_depends_on_a_refused_create_is_left_out_with_it(database):
    app = Shop(database)
    app.sync(jar("create", "a", label="salt"))
    sent = [jar("create", "b", label="salt"), jar("create", "c"), jar("update", "b", size=1)]
    reply = app.skipping.apply(1, sent, "bob")
    assert [(r["id"], r["code"]) for r in reply["refused"]] == [
        (sent[0]["id"], "invalid"),
        (sent[2]["id"], "depends_on_refused"),
    ]
    assert app.jars() == {"a", "c"}


def test_rows_that_two_of_a_request_make_alike_are_refused_but_for_the_first(database):
    app = Shop(database)
    sent = [jar("create", f"j{n}", label=str(n % 7)) for n in range(14)]
    reply = app.skipping.apply(0, sent, "bob")
    assert [r["id"] for r in reply["refused"]] == [d["id"] for d in sent[7:]]
    assert app.jars() == {f"j{n}" for n in range(7)}


def test_a_refusal_in_a_session_names_the_diff_too(database):
    app = Shop(database, session=True)
    app.sync(jar("create", "a", label="salt"))
    sent = [jar("create", "b"), jar("create", "c", label="salt"), jar("create", "d")]
    with pytest.raises(InvalidDiffError, match="another row has the same") as refusal:
        app.raising.apply(1, sent, "bob")
    assert refusal.value.index == 1
    reply = app.skipping.apply(1, sent, "bob")
    assert [r["id"] for r in reply["refused"]] == [sent[1]["id"]]
    assert app.jars() == {"a", "b", "d"}


def test_a_trigger_of_the_app_that_refuses_is_a_refusal(database):
    app = Shop(database)
    with database.engine.begin() as connection:
        for statement in TRIGGER[database.kind]:
            connection.exec_driver_sql(statement)
    sent = [jar("create", "a"), jar("create", "b", label="forbidden")]
    with pytest.raises(InvalidDiffError, match="a trigger refuses it") as refusal:
        app.raising.apply(0, sent, "bob")
    assert refusal.value.index == 1
    assert "eve" not in str(refusal.value)


TRIGGER = {
    "sqlite": [
        "CREATE TRIGGER guard BEFORE INSERT ON jars WHEN NEW.label = 'forbidden' "
        "BEGIN SELECT RAISE(ABORT, 'eve has it'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.label = 'forbidden' THEN RAISE EXCEPTION 'eve has it'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER guard BEFORE INSERT ON jars FOR EACH ROW EXECUTE FUNCTION guard()",
    ],
    "mariadb": [
        "CREATE TRIGGER guard BEFORE INSERT ON jars FOR EACH ROW BEGIN "
        "IF NEW.label = 'forbidden' THEN "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'eve has it'; END IF; END"
    ],
}


# ---- what it costs ------------------------------------------------------------------------------


def cost_of_a_collision(app: Shop, count: int) -> int:
    """How many statements a request costs more when one of its creates collides."""
    app.sync(jar("create", f"taken {count}", label=f"taken {count}"))
    costs = []
    for label in ("free", "taken"):
        sent = [jar("create", f"{label} {count} {n}") for n in range(count)]
        sent[count * 2 // 3] = jar("create", f"{label} {count} !", label=f"{label} {count}")
        with statements(app.database.engine) as seen:
            reply = app.skipping.apply(app.clock, sent, "bob")
        assert len(reply["refused"]) == (label == "taken")
        app.clock = reply["logical_clock"]
        costs.append(len(seen))
    return costs[1] - costs[0]


def test_one_collision_among_many_creates_is_found_by_halves(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        app = Shop(database)
        costs = [cost_of_a_collision(app, count) for count in (500, 1000, 2000, 4000)]
    a_halving = 2 * 3  # a savepoint, a statement and the end of the savepoint, for either half
    for less, more in pairwise(costs):
        assert more - less <= a_halving, costs
    assert costs[-1] <= 14 * a_halving, costs
