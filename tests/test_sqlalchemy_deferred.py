"""mobync.sqlalchemy: what a database looks at only at the commit names its diff all the same."""

from __future__ import annotations

import json
from typing import Any

import databases
import pytest
from databases import Database
from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from task_list import diff, statements

from mobync import InvalidDiffError, Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

database = databases.database

deferring = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


# ---- foreign keys -------------------------------------------------------------------------------


class Trees:
    """Trees that grow on others, by a key that is looked at when the sync commits."""

    def __init__(self, database: Database, declared: bool = True) -> None:
        if database.kind == "sqlite":
            event.listen(
                database.engine,
                "connect",
                lambda c, _: c.execute("PRAGMA foreign_keys = ON").close(),
            )
        metadata = MetaData()
        self.store = SQLAlchemySynchronizer(
            database.engine, {"trees": self.table(metadata if declared else MetaData(), declared)}
        )
        if not declared:
            self.table(metadata, True)
            diffs_table(metadata)
        metadata.create_all(database.engine)

    def table(self, metadata: MetaData, declared: bool) -> Table:
        late = ForeignKey("trees.id", name="grows_on", deferrable=True, initially="DEFERRED")
        return Table(
            "trees",
            metadata,
            Column("id", String(40), primary_key=True),
            Column("owner", String(40), nullable=False),
            Column("under", *([late] if declared else [String(40)])),
        )

    def rows(self) -> set[str]:
        with self.store.transaction("bob") as inside:
            return {row["id"] for row in inside.read("trees")}


deferring = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def tree(kind: str, id_: str, **fields: Any) -> dict[str, Any]:
    return diff(kind, "trees", id=id_, **fields)


@deferring
def test_a_deferred_reference_that_is_broken_names_its_diff_and_the_others_arrive(database):
    app = Trees(database)
    raising, skipping = Mobync(app.store), Mobync(app.store, on_refusal="skip")
    circle = [tree("create", i, under=j) for i, j in ("ab", "ba")]
    assert raising.apply(0, circle, "bob")["logical_clock"] == 2
    for refused, reason in (
        (tree("create", "e", under="none"), "'under' refers to a row that is not there"),
        (tree("update", "a", under="none"), "'under' refers to a row that is not there"),
        (tree("delete", "b"), "rows that are still there refer to it"),
    ):
        sent = [tree("create", f"new {refused['id']}", under="a"), refused]
        with pytest.raises(InvalidDiffError, match=reason) as refusal:
            raising.apply(2, sent, "bob")
        assert refusal.value.index == 1
        reply = skipping.apply(2, sent, "bob")
        assert [r["id"] for r in reply["refused"]] == [refused["id"]]
        assert f"new {refused['id']}" in app.rows()
    clock = skipping.apply(2, [], "bob")["logical_clock"]
    raising.apply(clock, [tree("delete", i) for i in sorted(app.rows())], "bob")
    assert app.rows() == set()


@deferring
@pytest.mark.parametrize("skip", [False, True])
def test_a_deferred_reference_that_is_not_declared_names_its_diff(database, skip):
    app = Trees(database, declared=False)
    mobync = Mobync(app.store, on_refusal="skip" if skip else "raise")
    mobync.apply(0, [tree("create", "c"), tree("create", "d", under="c")], "bob")
    for refused, sent in (
        (1, [tree("create", "b"), tree("create", "a", under="none")]),
        (0, [tree("delete", "c"), tree("create", "e")]),
    ):
        if skip:
            reply = mobync.apply(2, sent, "bob")
            assert [r["id"] for r in reply["refused"]] == [sent[refused]["id"]]
            continue
        with pytest.raises(InvalidDiffError, match="refer") as refusal:
            mobync.apply(2, sent, "bob")
        assert refusal.value.index == refused
    assert app.rows() == ({"b", "c", "d", "e"} if skip else {"c", "d"})


# ---- keys that only a SQLite database knows -----------------------------------------------------

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
INLINE = "CREATE TABLE trees (id VARCHAR(40) PRIMARY KEY, owner VARCHAR(40) NOT NULL, under TEXT{})"
LATE = " REFERENCES Trees(ID) DEFERRABLE INITIALLY DEFERRED"


class Found(Trees):
    """Trees whose table the app made by a statement of its own."""

    def __init__(self, database: Database, *made: str) -> None:
        super().__init__(database, declared=False)
        self.engine = database.engine
        self.raising, self.skipping = Mobync(self.store), Mobync(self.store, on_refusal="skip")
        self.run("DROP TABLE trees", *made)

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def refused(self, *sent: dict[str, Any]) -> list[str]:
        """What is left out, by the row's id; a server that leaves nothing out names one of them."""
        clock = self.raising.logical_clock("bob")
        reply = self.skipping.apply(clock, list(sent), "bob")
        ids = [each["id"] for each in reply.get("refused", ())]
        found = [each for each in sent if each["id"] in ids]
        if found:
            with pytest.raises(InvalidDiffError) as refusal:
                self.raising.apply(
                    clock, [{**each, "id": f"{each['id']}!"} for each in found], "bob"
                )
            assert refusal.value.index in range(len(found))
        return [json.loads(each["json_data"])["id"] for each in found]


@on_sqlite
def test_a_key_that_stands_behind_its_column_is_found(database):
    app = Found(database, INLINE.format(LATE))
    missing = tree("create", "b", under="none")
    assert app.refused(tree("create", "a", under="b"), missing) == ["a", "b"]
    assert app.refused(tree("create", "a", under="b"), tree("create", "b", under="a")) == []


@on_sqlite
def test_a_row_that_a_table_of_the_app_refers_to_is_not_deleted(database):
    nests = "CREATE TABLE nests (name TEXT, tree TEXT" + LATE + ")"
    app = Found(database, INLINE.format(""), nests)
    assert app.refused(tree("create", "a"), tree("create", "b")) == []
    app.run("INSERT INTO nests VALUES ('n', 'a')")
    assert app.refused(tree("delete", "a"), tree("delete", "b")) == ["a"]
    assert app.rows() == {"a"}


@on_sqlite
def test_a_key_that_comes_later_is_noticed_at_the_first_refusal(database):
    app = Found(database, INLINE.format(""))
    assert app.refused(tree("create", "a", under="none")) == []
    for made in (INLINE.format(LATE), INLINE.format(" REFERENCES trees")):
        app.run("DELETE FROM trees", "DROP TABLE trees", made)
        assert app.refused(tree("create", "b", under="b"), tree("create", "c", under="no")) == ["c"]


@on_sqlite
def test_keys_of_a_database_that_the_app_told_to_defer_all_are_noticed(database):
    app = Found(database, INLINE.format(" REFERENCES trees"))

    def defer(connection: Any) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")

    event.listen(database.engine, "begin", defer)
    assert app.refused(tree("create", "b", under="b"), tree("create", "c", under="no")) == ["c"]


# ---- whatever PostgreSQL defers -----------------------------------------------------------------

TRIGGER = [
    """CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.note = 'forbidden' OR TG_OP = 'DELETE' AND OLD.note = 'kept' THEN
        RAISE EXCEPTION 'eve has it';
    END IF; RETURN NULL; END $$""",
    """CREATE CONSTRAINT TRIGGER guard AFTER INSERT OR UPDATE OR DELETE ON seats
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION guard()""",
]


class Theatre:
    """Seats with a number of their own each, in rows that do not overlap; all looked at late."""

    def __init__(self, database: Database, *, declared: bool = False, session: bool = False):
        metadata = MetaData()
        late: dict[str, Any] = {"deferrable": True, "initially": "DEFERRED"}
        of_seats = [
            UniqueConstraint("owner", "number", name="one_number", **late),
            ExcludeConstraint(
                (text("int4range(first, last)"), "&&"),
                name="apart",
                where=text("first IS NOT NULL"),
                **late,
            ),
            CheckConstraint("number < 1000", name="few"),
        ]
        seats = self.table(metadata, of_seats)
        diffs_table(metadata)
        metadata.create_all(database.engine)
        with database.engine.begin() as connection:
            for statement in TRIGGER:
                connection.exec_driver_sql(statement)
        told = seats if declared else self.table(MetaData(), [])
        self.database = database
        self.session = Session(database.engine) if session else None
        engine: Any = self.session or database.engine
        self.store = SQLAlchemySynchronizer(engine, {"seats": told})
        self.raising = Mobync(self.store)
        self.skipping = Mobync(self.store, on_refusal="skip")
        self.clock = 0

    @staticmethod
    def table(metadata: MetaData, constraints: list[Any]) -> Table:
        return Table(
            "seats",
            metadata,
            Column("id", String(40), primary_key=True),
            Column("owner", String(40), nullable=False),
            Column("number", Integer),
            Column("first", Integer),
            Column("last", Integer),
            Column("note", String(40)),
            *constraints,
        )

    def sync(self, *edits: dict[str, Any], skip: bool = False) -> list[str]:
        """Sync, and give the ids of what was refused."""
        server = self.skipping if skip else self.raising
        reply = server.apply(self.clock, list(edits), "bob")
        self.clock = reply["logical_clock"]
        return [each["id"] for each in reply.get("refused", ())]

    def seats(self) -> dict[str, Any]:
        """The numbers of seats by id, as another connection sees them."""
        with self.database.engine.connect() as connection:
            return dict(map(tuple, connection.exec_driver_sql("SELECT id, number FROM seats")))


def seat(kind: str, id_: str, **fields: Any) -> dict[str, Any]:
    return diff(kind, "seats", id=id_, **fields)


REFUSED = [
    (seat("create", "x", number=1), "another row has the same"),
    (seat("update", "b", number=1), "another row has the same"),
    (seat("create", "x", first=3, last=5), "it breaks the constraint 'apart'"),
    (seat("update", "b", first=0, last=2), "it breaks the constraint 'apart'"),
    (seat("create", "x", note="forbidden"), "a trigger refuses it"),
    (seat("update", "b", note="forbidden"), "a trigger refuses it"),
    (seat("delete", "k"), "a trigger refuses it"),
]


@pytest.fixture(params=["declared", "undeclared", "session"])
def theatre(request: pytest.FixtureRequest, database: Database) -> Theatre:
    kind = request.param
    made = Theatre(database, declared=kind == "declared", session=kind == "session")
    made.sync(
        seat("create", "a", number=1, first=1, last=4),
        seat("create", "b", number=2, first=4, last=6),
        seat("create", "k", note="kept"),
        *(seat("create", f"o{n}") for n in range(9)),
    )
    return made


@on_postgresql
@pytest.mark.parametrize(("refused", "reason"), REFUSED)
def test_what_is_refused_late_names_its_diff_and_the_others_arrive(theatre, refused, reason):
    kind = refused["type"]
    innocent = [seat(kind, f"new{n}" if kind == "create" else f"o{n}") for n in range(9)]
    for sent in ([refused], [*innocent[:6], refused, seat("create", "y"), *innocent[6:]]):
        with pytest.raises(InvalidDiffError, match=reason) as refusal:
            theatre.sync(*sent)
        assert refusal.value.diff_id == refused["id"]
        assert refusal.value.index == sent.index(refused)
        assert "eve" not in str(refusal.value)
        assert "y" not in theatre.seats()
    assert theatre.sync(*sent, skip=True) == [refused["id"]]
    seats = theatre.seats()
    assert "y" in seats
    assert {f"new{n}" in seats for n in range(9)} == {kind == "create"}
    assert {f"o{n}" in seats for n in range(9)} == {kind != "delete"}


@on_postgresql
def test_two_rows_may_swap_a_value(theatre):
    theatre.sync(seat("update", "a", number=2), seat("update", "b", number=1))
    seats = theatre.seats()
    assert (seats["a"], seats["b"]) == (2, 1)


@on_postgresql
@pytest.mark.parametrize("far", [0, 5])
def test_a_swap_beside_refused_diffs_arrives(theatre, far):
    between = [seat("update", f"o{n}", note="x") for n in range(far)]
    taken = [seat("create", "x", number=1), seat("create", "y", number=2)]
    sent = [seat("update", "a", number=2), *between, *taken, seat("update", "b", number=1)]
    assert theatre.sync(*sent, skip=True) == [each["id"] for each in taken]
    seats = theatre.seats()
    assert (seats["a"], seats["b"]) == (2, 1)


@on_postgresql
def test_what_depends_on_what_is_refused_late_is_left_out_with_it(theatre):
    sent = [seat("create", "x", number=1), seat("create", "y"), seat("update", "x", note="n")]
    assert theatre.sync(*sent, skip=True) == [sent[0]["id"], sent[2]["id"]]
    assert "y" in theatre.seats()


@on_postgresql
def test_many_that_are_refused_late_are_found(theatre):
    sent = [seat("create", f"n{n}", number=10 + n % 20) for n in range(60)]
    assert theatre.sync(*sent, skip=True) == [each["id"] for each in sent[20:]]


@on_postgresql
def test_refusals_at_once_and_late_in_one_request(theatre):
    at_once = [seat("create", f"few{n}", number=1000 + n) for n in range(12)]
    late = [seat("update", "b", number=1), seat("create", "z", note="forbidden")]
    sent = [*at_once[:6], late[0], seat("create", "y"), late[1], *at_once[6:]]
    innocent = sent[7]["id"]
    assert theatre.sync(*sent, skip=True) == [s["id"] for s in sent if s["id"] != innocent]
    assert "y" in theatre.seats()


@on_postgresql
def test_in_a_transaction_of_the_app_the_constraints_stay_as_the_app_set_them(database):
    theatre = Theatre(database, session=True)
    session = theatre.session
    session.execute(text("CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    session.execute(text("CREATE TABLE soon (n int UNIQUE DEFERRABLE)"))
    session.execute(text("INSERT INTO late VALUES (1)"))
    session.execute(text("INSERT INTO soon VALUES (1)"))
    refused = []

    def before_commit(session: Session) -> None:
        session.execute(text("INSERT INTO late VALUES (1)"))
        session.execute(text("DELETE FROM late"))
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(text("INSERT INTO soon VALUES (1)"))
        refused.append("soon")

    event.listen(session, "before_commit", before_commit, once=True)
    theatre.sync(seat("create", "a", number=1))
    assert refused == ["soon"]
    assert theatre.seats() == {"a": 1}


@on_postgresql
def test_a_row_that_the_app_left_broken_is_the_apps(database):
    theatre = Theatre(database, session=True)
    theatre.sync(seat("create", "a", number=1))
    theatre.session.execute(text("INSERT INTO seats (id, owner, number) VALUES ('b', 'bob', 1)"))
    with pytest.raises(IntegrityError, match="one_number"):
        theatre.sync(seat("create", "c"), skip=True)
    assert theatre.seats() == {"a": 1}


@on_postgresql
def test_a_constraint_that_comes_later_or_stands_elsewhere_is_noticed_at_the_first_refusal(
    database,
):
    theatre = Theatre(database)
    with database.engine.begin() as connection:
        for name in ("one_number", "apart"):
            connection.exec_driver_sql(f"ALTER TABLE seats DROP CONSTRAINT {name}")
        connection.exec_driver_sql("DROP TRIGGER guard ON seats")
    theatre.sync(seat("create", "a", number=1))
    with database.engine.begin() as connection:
        for statement in ELSEWHERE:
            connection.exec_driver_sql(statement)
    sent = [seat("create", "b", number=2), seat("create", "c", number=2)]
    assert theatre.sync(*sent, skip=True) == [sent[1]["id"]]
    assert theatre.seats() == {"a": 1, "b": 2}


ELSEWHERE = [
    "CREATE TABLE numbers (number int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO numbers VALUES (NEW.number); RETURN NULL; END $$""",
    "CREATE TRIGGER note AFTER INSERT ON seats FOR EACH ROW EXECUTE FUNCTION note()",
]


# ---- what it costs ------------------------------------------------------------------------------


def test_tables_without_late_constraints_cost_no_statement(database):
    metadata = MetaData()
    jars = Table(
        "jars",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("label", String(40), unique=True),
    )
    server = Mobync(SQLAlchemySynchronizer(database.engine, {"jars": jars}))
    metadata.create_all(database.engine)
    server.apply(0, [diff("create", "jars", id="a")], "bob")
    with statements(database.engine) as seen:
        server.apply(1, [diff("create", "jars", id=id_) for id_ in "bc"], "bob")
    late = ("SET CONSTRAINTS", "pg_trigger")
    assert not [statement for statement in seen if any(word in statement for word in late)]
    assert sum(statement.startswith("SAVEPOINT") for statement in seen) == 2  # of the two runs
