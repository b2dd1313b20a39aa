"""What the database fills in reaches the devices: the server's part of a sync."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import async_databases
import databases
import pytest
from async_databases import Opened
from invoices import SERVER_COLUMNS, create_invoice_triggers, invoice_table, made
from sqlalchemy import (
    Boolean,
    Column,
    Computed,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.types import TypeDecorator
from task_list import diff, statements
from test_sqlalchemy_server_edits import of_device

from mobync import InvalidDiffError, Mobync, SyncReport
from mobync.sqlalchemy import (
    AsyncSQLAlchemySynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    create_tables_async,
    create_triggers,
    diffs_table,
    track,
)

database = databases.database
opened = async_databases.opened

NOW = 1_700_000_000_000
NOTHING = dict.fromkeys(made(""))  # a device may not tell null from what it was not told


class Invoices:
    """A database that fills in much, and a server on it."""

    def __init__(self, database: Any, **options: Any) -> None:
        self.engine = database.engine
        self.metadata = MetaData()
        self.table = invoice_table(self.metadata)
        self.store = self.another_store(self.engine, **options)
        self.metadata.create_all(self.engine)
        with self.engine.begin() as connection:
            create_invoice_triggers(connection, database.kind)
        self.mobync = Mobync(self.store)

    def another_store(self, engine: Any, **options: Any) -> SQLAlchemySynchronizer:
        models = {"invoices": self.table}
        return SQLAlchemySynchronizer(
            engine, models, **{"server_columns": SERVER_COLUMNS} | options
        )

    def rows(self, owner: str = "bob") -> dict[str, Any]:
        with self.store.transaction(owner) as inside:
            return {row["id"]: row for row in inside.read("invoices")}

    def log(self, owner: str = "bob") -> list[dict[str, Any]]:
        with self.store.transaction(owner) as inside:
            return sorted(inside.read("diffs"), key=lambda row: row["logical_clock"])

    def check(self, *devices: Phone, owner: str = "bob") -> None:
        """The rows, the log and the devices say the same."""
        rows = self.rows(owner)
        whole = {id_: NOTHING | row for id_, row in of_device(self.mobync, owner).items()}
        assert whole == rows
        assert self.mobync.reconcile(owner, dry_run=True).differences == []
        assert [device.rows for device in devices] == [rows] * len(devices)


class Phone:
    """A device that edits, and syncs when it is told to."""

    def __init__(self, mobync: Mobync, as_json: bool = False, **named: Any) -> None:
        self.mobync = mobync
        self.as_json = as_json
        self.named = named
        self.clock = 0
        self.rows: dict[str, Any] = {}
        self.sent: list[dict[str, Any]] = []

    def post(self, *diffs: dict[str, Any], **more: Any) -> Any:
        """A request, of which the reply may be lost."""
        if self.as_json:
            body = {"logical_clock": self.clock, "diffs": list(diffs), **self.named, **more}
            return json.loads(self.mobync.apply_json(json.dumps(body), "bob"))
        copies = [dict(each) for each in diffs]
        return self.mobync.apply(self.clock, copies, "bob", **self.named, **more)

    def sync(self, *diffs: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Sync with these edits; gives what came."""
        for each in diffs:
            self.take(each)
        reply = self.post(*diffs)
        self.sent = reply["diffs"]
        for each in self.sent:
            self.take(each)
        self.clock = reply["logical_clock"]
        return [(each["type"], json.loads(each["json_data"])) for each in self.sent]

    def take(self, edit: dict[str, Any]) -> None:
        row = json.loads(edit["json_data"])
        if edit["type"] == "delete":
            self.rows.pop(row["id"], None)
        elif edit["type"] == "create":
            assert row["id"] not in self.rows
            self.rows[row["id"]] = NOTHING | row
        elif row["id"] in self.rows:
            self.rows[row["id"]].update(row)


@pytest.fixture
def app(database: Any) -> Invoices:
    return Invoices(database)


def at(edit: dict[str, Any], seconds: int) -> dict[str, Any]:
    return {**edit, "utc_timestamp": NOW + seconds * 1000}


def invoice(kind: str, id_: str = "i1", seconds: int = 0, **row: Any) -> dict[str, Any]:
    return at(diff(kind, "invoices", id=id_, **row), seconds)


def filled(id_: str, **row: Any) -> dict[str, Any]:
    """What the database fills in of an invoice that a device makes with ``net`` alone."""
    return {k: v for k, v in made(id_, **row).items() if k != "net" and v is not None}


# ---- one sync ------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_what_the_database_fills_in_comes_with_the_reply_and_to_others_by_the_log(
    app: Invoices, as_json: bool
) -> None:
    phone, tablet = Phone(app.mobync, as_json), Phone(app.mobync, as_json)
    tablet.sync(invoice("create", "i0", net=1))
    assert phone.sync(invoice("create", title="Milk", net=100)) == [
        ("create", {"id": "i0", "net": 1}),
        ("update", filled("i0", gross=21)),
        ("update", filled("i1", title="milk")),
    ]
    app.check(phone)
    assert phone.rows["i1"] == made("i1", title="milk")

    edit = invoice("update", net=200, seconds=1)
    assert phone.sync(edit)[-1] == (
        "update",
        {"id": "i1", "state": "changed", "gross": 220, "version": 2},
    )
    tablet.sync()
    app.check(phone, tablet)


def test_the_servers_part_is_a_diff_of_its_own_behind_what_it_follows_from(app: Invoices) -> None:
    reports: list[SyncReport] = []
    app.mobync.listen(reports.append)
    create, other = invoice("create", net=100, seconds=3), invoice("create", "i2", net=1, seconds=7)
    reply = Phone(app.mobync).post(create, other)
    parts = reply["diffs"]
    log = app.log()
    assert [row["id"] for row in log[:2]] == [create["id"], other["id"]]
    assert [{name: row[name] for name in parts[0]} for row in log[2:]] == parts
    assert [part["logical_clock"] for part in parts] == [2, 3]
    assert reply["logical_clock"] == 4 == reports[0].logical_clock
    assert [part["utc_timestamp"] for part in parts] == [NOW + 3000, NOW + 7000]
    assert [part["type"] for part in parts] == ["update", "update"]
    assert len({uuid.UUID(part["id"]) for part in parts}) == 2
    assert (reports[0].accepted, reports[0].sent) == (2, 2)
    assert Phone(app.mobync).post()["logical_clock"] == 4


def test_only_what_no_diff_said_is_in_it(app: Invoices) -> None:
    phone = Phone(app.mobync)
    first = invoice("create", net=100, title="milk", priority=5, state="sent")
    assert phone.sync(first) == [("update", {"id": "i1", "gross": 120, "version": 1})]
    edits = [invoice("update", state="paid", seconds=1), invoice("update", title="X", seconds=2)]
    assert phone.sync(*edits) == [("update", {"id": "i1", "title": "x", "version": 3})]
    assert phone.sync(invoice("delete", seconds=3)) == []
    again = [invoice("create", net=1, seconds=4), invoice("delete", seconds=5)]
    assert phone.sync(*again) == []
    assert phone.sync(invoice("update", "never", net=1)) == []
    app.check(phone)


def test_a_row_that_is_deleted_and_made_again_in_one_sync_is_compared_from_its_create(
    app: Invoices,
) -> None:
    phone = Phone(app.mobync)
    phone.sync(invoice("create", net=100, title="old"))
    phone.sync(invoice("delete", seconds=1), invoice("create", net=1, seconds=2))
    assert app.log()[-1]["utc_timestamp"] == NOW + 2000
    app.check(phone)
    assert phone.rows["i1"] == made("i1", net=1, gross=21)


# ---- together with devices -----------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("named", [{}, {"device": "phone", "request": 1}])
def test_a_retry_gets_the_same_and_writes_nothing(
    app: Invoices, as_json: bool, named: dict[str, Any]
) -> None:
    phone = Phone(app.mobync, as_json, **named)
    edits = invoice("create", net=100), invoice("create", "i2", net=1)
    lost = phone.post(*edits)
    log = app.log()
    again = phone.post(*edits)
    assert again["diffs"] == lost["diffs"] != []
    assert again["logical_clock"] == lost["logical_clock"]
    assert app.log() == log


def test_a_later_edit_of_what_was_filled_in_wins_and_an_earlier_one_does_not(
    app: Invoices,
) -> None:
    phone, tablet, desk = (Phone(app.mobync) for _ in range(3))
    phone.sync(invoice("create", net=100))
    tablet.sync()
    desk.sync()
    phone.sync(invoice("update", net=200, seconds=50))  # and the state is "changed" by that
    desk.sync(invoice("update", state="early", seconds=40))
    assert app.rows()["i1"]["state"] == "changed"
    tablet.sync(invoice("update", state="late", priority=9, seconds=60))
    assert app.rows()["i1"] == made("i1", 3, net=200, gross=220, state="late", priority=9)
    for device in (phone, desk):
        device.sync()
    app.check(phone, tablet, desk)


def test_an_edit_made_while_the_reply_was_lost_is_not_taken_back_by_a_default(
    app: Invoices,
) -> None:
    phone = Phone(app.mobync)
    create = invoice("create", net=100, seconds=1)
    phone.post(create)  # and the answer is lost
    phone.sync(create, invoice("update", priority=8, seconds=2))
    assert app.rows()["i1"]["priority"] == 8
    app.check(phone)


def test_devices_that_pull_in_pages_get_it_and_push_it_with_the_last(app: Invoices) -> None:
    tablet, phone = Phone(app.mobync), Phone(app.mobync)
    for number in range(5):
        tablet.sync(invoice("create", f"t{number}", net=number))
    create = invoice("create", "p", net=7)
    phone.take(create)
    reply = phone.post(create, limit=3)
    while reply["more"]:
        assert not any('"p"' in each["json_data"] for each in reply["diffs"])
        for each in reply["diffs"]:
            phone.take(each)
        reply = phone.post(create, limit=3, cursor=reply["cursor"])
    assert '"p"' in reply["diffs"][-1]["json_data"]
    for each in reply["diffs"]:
        phone.take(each)
    app.check(phone)


def test_a_device_that_starts_over_learns_of_it_when_it_pulls(app: Invoices) -> None:
    phone = Phone(app.mobync)
    phone.sync(invoice("create", net=100))
    lost = Phone(app.mobync, device="restored", request=1)
    lost.clock = phone.clock
    reply = lost.post(invoice("update", net=5, seconds=9))
    assert (reply["reset"], reply["diffs"], reply["logical_clock"]) == (True, [], 0)
    phone.sync()
    app.check(phone)
    assert phone.rows["i1"]["gross"] == 25


# ---- columns of the server -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["create", "update"])
def test_a_device_may_not_write_what_only_the_server_may(app: Invoices, kind: str) -> None:
    phone = Phone(app.mobync)
    phone.sync(invoice("create", net=100))
    wrong = invoice(kind, "i1" if kind == "update" else "i2", net=7, version=7, seconds=1)
    with pytest.raises(InvalidDiffError, match="'version' is set by the server") as refusal:
        phone.post(invoice("update", net=6, seconds=1), wrong)
    assert (refusal.value.index, refusal.value.diff_id) == (1, wrong["id"])
    assert app.rows()["i1"] == made("i1")

    skips = Phone(Mobync(app.store, on_refusal="skip"))
    skips.clock = phone.clock
    good = invoice("create", "i3", net=1)
    reply = skips.post(wrong, good)
    assert reply["refused"] == [
        {
            "id": wrong["id"],
            "code": "invalid",
            "message": "json_data: 'version' is set by the server",
        }
    ]
    assert app.rows().keys() == {"i1", "i3"}
    assert json.loads(reply["diffs"][-1]["json_data"]) == filled("i3", gross=21)
    app.check()


def test_the_backend_may_write_them_and_learns_the_clock_behind_them(app: Invoices) -> None:
    phone = Phone(app.mobync)
    phone.sync(invoice("create", net=100))
    with app.engine.begin() as connection:
        drop = {"postgresql": "invoices_w ON invoices"}.get(connection.dialect.name, "invoices_u")
        connection.execute(text(f"DROP TRIGGER {drop}"))
    clock = app.mobync.push("bob", [("update", "invoices", {"id": "i1", "version": 40})])
    clock = app.mobync.push("bob", [("upsert", "invoices", {"id": "i1", "net": 5})])
    assert clock == app.log()[-1]["logical_clock"] + 1
    assert app.mobync.push("bob", [("upsert", "invoices", {"id": "i1", "net": 5})]) == clock
    phone.sync()
    assert phone.clock == clock
    assert phone.rows["i1"] == made("i1", 40, net=5, gross=25, state="changed")
    app.check(phone)
    with pytest.raises(InvalidDiffError, match="set by the server"):
        phone.post(invoice("update", version=1, seconds=1))


def test_with_a_refused_diff_the_true_state_has_what_was_filled_in(app: Invoices) -> None:
    server = Mobync(app.store, on_refusal="skip")
    phone = Phone(server)
    phone.sync(invoice("create", net=100))
    wrong = invoice("update", version=7, seconds=2)
    phone.sync(invoice("update", net=200, seconds=1), wrong)
    assert phone.rows["i1"] == made("i1", 2, net=200, gross=220, state="changed")
    app.check(phone)


# ---- triggers that do more -----------------------------------------------------------------------


def plain_table(database: Any, *columns: Any, **options: Any) -> tuple[Table, Mobync]:
    metadata = MetaData()
    table = Table(
        "things",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        *columns,
    )
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, {"things": table}, **options))
    metadata.create_all(database.engine)
    return table, mobync


def things(mobync: Mobync, *diffs: dict[str, Any], clock: int = 0) -> list[tuple[str, Any]]:
    sent = mobync.apply(clock, list(diffs), "bob")["diffs"]
    return [(each["type"], json.loads(each["json_data"])) for each in sent]


STAYS = {
    "sqlite": ["CREATE TRIGGER stays AFTER DELETE ON things BEGIN INSERT INTO things"
               " VALUES (OLD.id, OLD.owner, 'kept'); END"],
    "postgresql": ["CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql AS"
                   " 'BEGIN UPDATE things SET name = ''kept'' WHERE id = OLD.id;"
                   " RETURN NULL; END'",
                   "CREATE TRIGGER stays BEFORE DELETE ON things FOR EACH ROW"
                   " EXECUTE FUNCTION stays()"],
}  # fmt: skip
GOES = {
    "sqlite": ["CREATE TRIGGER goes AFTER UPDATE ON things WHEN NEW.name = 'go' BEGIN"
               " DELETE FROM things WHERE id = NEW.id; END"],
    "postgresql": ["CREATE FUNCTION goes() RETURNS trigger LANGUAGE plpgsql AS"
                   " 'BEGIN DELETE FROM things WHERE id = NEW.id; RETURN NULL; END'",
                   "CREATE TRIGGER goes AFTER UPDATE ON things FOR EACH ROW"
                   " WHEN (NEW.name = 'go') EXECUTE FUNCTION goes()"],
}  # fmt: skip


@contextmanager
def things_with(kind: str, triggers: dict[str, list[str]], tmp_path: Any) -> Iterator[Mobync]:
    with databases.open_database(kind, tmp_path) as database:
        _, mobync = plain_table(database, Column("name", String(9)), read_back=("things",))
        with database.engine.begin() as connection:
            for statement in triggers[kind]:
                connection.execute(text(statement))
        yield mobync


@pytest.mark.parametrize("kind", STAYS)
def test_a_row_that_a_trigger_keeps_comes_back_to_the_device(kind: str, tmp_path: Any) -> None:
    with things_with(kind, STAYS, tmp_path) as mobync:
        things(mobync, diff("create", "things", id="a", name="x"))
        sent = things(mobync, diff("delete", "things", id="a"), clock=1)
        assert sent == [("create", {"id": "a", "name": "kept"})]
        assert of_device(mobync, "bob") == {"a": {"id": "a", "name": "kept"}}
        assert mobync.reconcile("bob").ok


@pytest.mark.parametrize("kind", GOES)
def test_a_row_that_a_trigger_deletes_is_deleted_on_the_device(kind: str, tmp_path: Any) -> None:
    with things_with(kind, GOES, tmp_path) as mobync:
        things(mobync, *(diff("create", "things", id=i, name="x") for i in "ab"))
        sent = things(mobync, *(diff("update", "things", id=i, name="go") for i in "ab"), clock=2)
        assert sent == [("delete", {"id": "b"}), ("delete", {"id": "a"})]
        assert of_device(mobync, "bob") == {}
        assert mobync.reconcile("bob").ok


def test_a_row_that_cannot_be_read_back_ends_no_sync(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with databases.open_database("sqlite", tmp_path) as database:
        _, mobync = plain_table(database, Column("n", Float), Column("m", Integer, default=1))
        with database.engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE TRIGGER endless AFTER INSERT ON things WHEN NEW.id = 'a' BEGIN"
                    " UPDATE things SET n = 9e999 WHERE id = NEW.id; END"
                )
            )
        with caplog.at_level(logging.WARNING, "mobync"):
            sent = things(mobync, *(diff("create", "things", id=i, n=1.5) for i in "ab"))
        assert sent == [("update", {"id": "b", "m": 1})]
        assert "'a' of 'things'" in caplog.text


# ---- what it costs -------------------------------------------------------------------------------


def test_a_model_pays_nothing_where_nothing_is_filled_in(database: Any) -> None:
    _, plain = plain_table(database, Column("name", String(9)))
    assert plain.synchronizer.filled_models is None


def test_a_new_row_with_all_of_its_fields_is_not_read_back(database: Any) -> None:
    done = Column("done", Boolean, nullable=False, server_default="0")
    _, mobync = plain_table(database, Column("name", String(9)), done)
    edits = [
        diff("create", "things", id="a", done=True),
        diff("update", "things", id="a", name="x"),
        diff("delete", "things", id="a"),
    ]
    things(mobync, diff("create", "things", id="first"))
    with statements(database.engine) as seen:
        for clock, edit in enumerate(edits, 2):
            assert things(mobync, edit, clock=clock) == []
        assert not [each for each in seen if "SELECT" in each and "FROM things" in each]
        assert things(mobync, diff("create", "things", id="b"), clock=5) == [
            ("update", {"id": "b", "done": False})
        ]
        reads = [each for each in seen if "SELECT" in each and "things.done" in each]
        assert len(reads) == 1


# ---- adopted, noted, shared ----------------------------------------------------------------------


def test_what_is_adopted_goes_on_as_the_row_does(app: Invoices) -> None:
    with app.engine.begin() as connection:
        connection.execute(insert(app.table), [{"id": "i1", "owner": "bob", "net": 100}])
    assert app.mobync.adopt("bob", "invoices") == 1
    phone = Phone(app.mobync)
    phone.sync()
    assert phone.rows["i1"] == made("i1")
    phone.sync(invoice("update", net=7, seconds=1))
    app.check(phone)
    assert phone.rows["i1"] == made("i1", 2, net=7, gross=27, state="changed")


def test_of_a_row_that_the_log_does_not_have_nothing_is_made_up(app: Invoices) -> None:
    with app.engine.begin() as connection:
        connection.execute(insert(app.table), [{"id": "i1", "owner": "bob", "net": 100}])
    phone = Phone(app.mobync)
    phone.sync(invoice("update", net=7))
    assert phone.rows == {}
    assert app.mobync.adopt("bob", "invoices") == 1
    phone.sync()
    app.check(phone)


def test_what_sql_edits_and_what_a_device_edits_come_together(database: Any) -> None:
    app = Invoices(database, capture=True)
    create_triggers(app.engine, app.store)
    phone = Phone(app.mobync)
    phone.sync(invoice("create", net=100))
    with app.engine.begin() as connection:
        connection.execute(update(app.table).values(net=50, state="by SQL"))
    phone.sync(invoice("update", priority=1, seconds=1))
    phone.sync()
    app.check(phone)
    assert phone.rows["i1"] == made("i1", 3, net=50, gross=70, state="changed", priority=1)


def test_rows_of_everybody_are_read_back_too(database: Any) -> None:
    metadata = MetaData()
    table = Table(
        "countries",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("n", Integer),
        Column("twice", Integer, Computed("n * 2", persisted=True)),
    )
    store = SQLAlchemySynchronizer(database.engine, {"countries": table}, shared=("countries",))
    metadata.create_all(database.engine)
    sent = things(Mobync(store), diff("create", "countries", id="a", n=2))
    assert sent == [("update", {"id": "a", "twice": 4})]


def test_in_the_apps_session_it_is_part_of_the_apps_transaction(database: Any) -> None:
    app = Invoices(database)
    with Session(app.engine) as session:
        mobync = Mobync(app.another_store(session))
        phone = Phone(mobync)
        assert phone.sync(invoice("create", net=100)) == [("update", filled("i1"))]
        phone.sync(invoice("update", net=7, seconds=1))
        assert not session.in_transaction()
    app.check(phone)


def test_an_edit_by_the_orm_brings_what_the_database_makes_of_it(database: Any) -> None:
    class Base(DeclarativeBase):
        pass

    class Bill(Base):
        __tablename__ = "bills"
        id: Mapped[str] = mapped_column(String(40), primary_key=True)
        owner: Mapped[str] = mapped_column(String(40))
        name: Mapped[str | None] = mapped_column(String(40))
        net: Mapped[int | None]
        gross: Mapped[int | None] = mapped_column(Computed("net + 20", persisted=True))
        state: Mapped[str | None] = mapped_column(String(9), onupdate="changed")

    mobync = Mobync(SQLAlchemySynchronizer(database.engine, {"bills": Bill}))
    Base.metadata.create_all(database.engine)
    sessions = sessionmaker(database.engine)
    track(sessions, mobync)
    with sessions.begin() as session:
        session.add(Bill(id="b", owner="bob", net=100))
    with sessions.begin() as session:
        session.get_one(Bill, "b").net = 7
    assert [row for _, row in things(mobync)] == [
        {"id": "b", "name": None, "net": 100, "gross": 120, "state": None},
        {"id": "b", "net": 7, "gross": 27, "state": "changed"},
    ]
    assert mobync.reconcile("bob").ok


def test_what_fails_behind_it_leaves_nothing(app: Invoices) -> None:
    phone = Phone(app.mobync)
    phone.sync(invoice("create", net=100))
    log = app.log()

    def fail(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        if "SELECT" in statement and "gross" in statement:
            raise RuntimeError("nothing is read any more")

    event.listen(app.engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(RuntimeError, match="nothing is read"):
            phone.post(invoice("update", net=5, seconds=1))
    finally:
        event.remove(app.engine, "before_cursor_execute", fail)
    assert app.log() == log
    assert app.rows()["i1"] == made("i1")


def test_where_rows_are_refused_the_others_are_filled_in(database: Any) -> None:
    name = Column("name", String(9), unique=True)
    table, _ = plain_table(database, name, Column("n", Integer, server_default="4"))
    skips = Mobync(SQLAlchemySynchronizer(database.engine, {"things": table}), on_refusal="skip")
    edits = [diff("create", "things", id=i, name=f"n{min(2, int(i))}") for i in "1234"]
    reply = skips.apply(0, edits, "bob")
    assert {each["id"] for each in reply["refused"]} == {edits[2]["id"], edits[3]["id"]}
    sent = [(each["type"], json.loads(each["json_data"])) for each in reply["diffs"]]
    assert [each for each in sent if each[0] != "delete"] == [
        ("update", {"id": "1", "n": 4}),
        ("update", {"id": "2", "n": 4}),
    ]
    assert sorted(row["id"] for _, row in sent if _ == "delete") == ["3", "4"]


def test_it_can_be_compacted(app: Invoices) -> None:
    phone = Phone(app.mobync)
    phone.sync(invoice("create", net=100))
    for number in range(5):
        phone.sync(invoice("update", net=number, seconds=number))
    app.mobync.compact("bob")
    app.check(phone)
    late = Phone(app.mobync)
    late.sync()
    app.check(late)


# ---- settings ------------------------------------------------------------------------------------


def test_hidden_columns_reach_no_device_and_no_device_writes_them(database: Any) -> None:
    table, mobync = plain_table(
        database,
        Column("name", String(9)),
        Column("secret", String(9), nullable=False, server_default="s"),
        hidden_columns={"things": ("secret",)},
    )
    assert mobync.synchronizer.filled_models is None
    assert things(mobync, diff("create", "things", id="a")) == []
    with database.engine.connect() as connection:
        assert connection.scalar(select(table.c.secret)) == "s"
    with pytest.raises(InvalidDiffError, match="no field 'secret'"):
        things(mobync, diff("update", "things", id="a", secret="x"), clock=1)
    assert mobync.reconcile("bob").ok


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"server_columns": {"bills": ["n"]}},
            ValueError,
            "server_columns names no model: 'bills'",
        ),
        ({"server_columns": {"things": ["m"]}}, ValueError, "'things' has no such field 'm'"),
        ({"server_columns": {"things": ["id"]}}, ValueError, "'things' has no such field 'id'"),
        ({"server_columns": {"things": ["owner"]}}, ValueError, "no such field 'owner'"),
        ({"server_columns": {"things": "n"}}, TypeError, "server_columns must be a dict"),
        ({"server_columns": ["things"]}, TypeError, "server_columns must be a dict"),
        ({"hidden_columns": {"things": ["m"]}}, ValueError, "hidden_columns: model 'things' has"),
        ({"hidden_columns": {"things": ["must"]}}, ValueError, "things.must cannot be synced"),
        ({"hidden_columns": {"bills": []}}, ValueError, "hidden_columns names no model"),
        ({"read_back": "things"}, TypeError, "read_back must be a list of names"),
        ({"read_back": ["bills"]}, ValueError, "read_back names no model: 'bills'"),
        (
            {"server_columns": {"things": ["n"]}, "hidden_columns": {"things": ["n"]}},
            ValueError,
            "server_columns: model 'things' has no such field 'n'",
        ),
    ],
)
def test_a_mistake_in_the_settings_is_an_error_at_once(
    options: dict[str, Any], error: type[Exception], says: str, tmp_path: Any
) -> None:
    columns = Column("n", Integer), Column("must", Integer, nullable=False)
    with databases.open_database("sqlite", tmp_path) as database, pytest.raises(error, match=says):
        plain_table(database, *columns, **options)


def test_the_documented_settings_do_what_is_said(tmp_path: Any) -> None:
    page = Path(__file__).parents[1] / "docs" / "databases.md"
    section = page.read_text().split("\n## What the database fills in\n")[1]
    code = section.split("```python\n")[1].split("```")[0]
    metadata = MetaData()
    keys = Column("id", String(40), primary_key=True), Column("owner", String(40), nullable=False)
    tables = {
        "invoices": [Column("number", Integer), Column("created_at", String, default="now")],
        "notes": [Column("text", String)],
    }
    with databases.open_database("sqlite", tmp_path) as database:
        names: dict[str, Any] = {
            "SQLAlchemySynchronizer": SQLAlchemySynchronizer,
            "engine": database.engine,
        }
        for name, columns in tables.items():
            names[name] = Table(name, metadata, *(each._copy() for each in keys), *columns)
        exec(compile(code, str(page), "exec"), names)
        metadata.create_all(database.engine)
        with database.engine.begin() as connection:
            for statement in (
                "CREATE TRIGGER number AFTER INSERT ON invoices BEGIN"
                " UPDATE invoices SET number = 17 WHERE id = NEW.id; END",
                "CREATE TRIGGER trimmed AFTER INSERT ON notes BEGIN"
                " UPDATE notes SET text = trim(NEW.text) WHERE id = NEW.id; END",
            ):
                connection.execute(text(statement))
        edits = [diff("create", "invoices", id="i"), diff("create", "notes", id="n", text=" x ")]
        assert things(Mobync(names["store"]), *edits) == [
            ("update", {"id": "i", "number": 17}),
            ("update", {"id": "n", "text": "x"}),
        ]


# ---- awaited -------------------------------------------------------------------------------------


def test_on_an_engine_that_is_awaited_it_is_the_same(opened: Opened) -> None:
    metadata = MetaData()
    table = invoice_table(metadata)

    async def story() -> None:
        engine = opened.new_engine()
        try:
            store = AsyncSQLAlchemySynchronizer(
                engine, {"invoices": table}, server_columns=SERVER_COLUMNS
            )
            await create_tables_async(engine, metadata)
            with opened.database.engine.begin() as connection:
                create_invoice_triggers(connection, opened.kind)
            mobync = Mobync(store)
            reply = await mobync.apply_async(0, [invoice("create", net=100)], "bob")
            (part,) = reply["diffs"]
            assert json.loads(part["json_data"]) == filled("i1")
            with pytest.raises(InvalidDiffError, match="'version' is set by the server"):
                await mobync.apply_async(2, [invoice("update", version=1)], "bob")
            clock = await mobync.push_async("bob", [("update", "invoices", {"id": "i1", "net": 7})])
            reply = await mobync.apply_async(2, [], "bob")
            assert reply["logical_clock"] == clock == 4
            assert (await mobync.reconcile_async("bob", dry_run=True)).ok
        finally:
            await engine.dispose()

    asyncio.run(story())


class Price:
    """What an app makes of a number."""


class Priced(TypeDecorator[Price]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Price | None, dialect: Any) -> int | None:
        return None if value is None else 5

    def process_result_value(self, value: int | None, dialect: Any) -> Price | None:
        return None if value is None else Price()


def test_a_value_that_cannot_be_json_refuses_no_write(
    database: databases.Database, caplog: pytest.LogCaptureFixture
) -> None:
    """In mobync 1.0 no row was read back, so a column that no device knows was no trouble."""
    metadata = MetaData()
    table = Table(
        "things",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("title", String(40)),
        Column("state", String(10), default="new", onupdate="changed"),
        Column("price", Priced, default=Price()),
    )
    diffs_table(metadata)
    create_tables(database.engine, metadata)
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, {"things": table}))
    created = diff("create", "things", id="t", title="a")
    assert mobync.apply(0, [created], "bob") == {
        "success": True,
        "message": "",
        "logical_clock": 1,
        "diffs": [],
    }
    updated = diff("update", "things", id="t", title="b")
    assert mobync.apply(1, [updated], "bob")["logical_clock"] == 2
    assert "row 't' of 'things' cannot be read: no device gets it" in caplog.text
    with database.engine.connect() as connection:
        assert connection.scalar(select(table.c.title)) == "b"
