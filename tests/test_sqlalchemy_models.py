"""mobync.sqlalchemy: what may be a model, and what creates, updates and deletes do to its rows."""

from __future__ import annotations

import itertools
import json
import uuid
from typing import Any

import databases
import pytest
from databases import Database, open_database
from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    Column,
    Computed,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    Uuid,
    create_engine,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import FetchedValue
from task_list import TaskList, diff, statements, task_table

from mobync import InvalidDiffError, Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

database = databases.database


@pytest.fixture
def tasks(database: Database) -> TaskList:
    return TaskList(database)


def written(store: SQLAlchemySynchronizer, kind: str, *rows: dict[str, Any], model: str = "tasks"):
    """Make edits as one transaction of bob's."""
    with store.transaction("bob") as inside:
        getattr(inside, f"{kind}_many")(model, [json.dumps(row) for row in rows])


# ---- rows ---------------------------------------------------------------------------------------


def test_an_update_touches_only_the_fields_that_it_carries(tasks):
    written(tasks.store, "create", {"id": "a", "name": "milk", "rank": 1, "done": True})
    written(tasks.store, "update", {"id": "a", "rank": None})
    assert tasks.rows() == {"a": {"id": "a", "name": "milk", "rank": None, "done": True}}
    written(tasks.store, "update", {"id": "a"})
    assert tasks.rows() == {"a": {"id": "a", "name": "milk", "rank": None, "done": True}}


def test_updates_and_deletes_that_find_no_row_do_nothing(tasks):
    written(tasks.store, "create", {"id": "a", "name": "milk"})
    written(tasks.store, "update", {"id": "b", "name": "x"}, {"id": "c", "rank": 1})
    written(tasks.store, "delete", {"id": "b"}, {"id": "c", "junk": [1]})
    assert set(tasks.rows()) == {"a"}
    assert tasks.rows()["a"]["name"] == "milk"


def test_edits_of_one_row_in_one_run_happen_in_their_order(tasks):
    written(tasks.store, "create", {"id": "a"})
    written(tasks.store, "update", {"id": "a", "name": "1", "rank": 1}, {"id": "a", "name": "2"})
    assert tasks.rows()["a"] == {"id": "a", "name": "2", "rank": 1, "done": None}


def test_no_rows_are_no_statement(tasks):
    with tasks.store.transaction("bob") as inside, statements(tasks.database.engine) as seen:
        for write in (inside.create_many, inside.update_many, inside.delete_many):
            write("tasks", [])
            write("diffs", [])
    assert [s for s in seen if s.startswith(("INSERT", "UPDATE", "DELETE"))] == []


def test_null_is_refused_where_the_column_is_not_null(tasks):
    flags = Table(
        "flags",
        MetaData(),
        Column("id", String(40), primary_key=True),
        Column("owner", String(64), nullable=False),
        Column("done", Boolean, nullable=False, server_default="0"),
    )
    engine, log = tasks.database.engine, tasks.metadata.tables["diffs"]
    store = SQLAlchemySynchronizer(engine, {"flags": flags}, diffs=log)
    for kind in ("create", "update"):
        with pytest.raises(InvalidDiffError, match="json_data: 'done' must not be null"):
            written(store, kind, {"id": "a", "done": None}, model="flags")


def test_an_id_that_the_column_cannot_hold_is_refused(tasks):
    for kind in ("create", "update", "delete"):
        with pytest.raises(InvalidDiffError, match="json_data: 'id' is longer than 40 characters"):
            written(tasks.store, kind, {"id": "x" * 41})


def test_what_is_no_row_is_refused(tasks):
    for text_ in ("[]", "1", "{}", '{"id": 1}', '{"id": null}', "nonsense", '{"id": "a"'):
        for kind in ("create", "update", "delete"):
            with (
                pytest.raises(InvalidDiffError, match="json_data: "),
                tasks.store.transaction("bob") as inside,
            ):
                getattr(inside, kind)("tasks", text_)


def test_ids_that_differ_in_case_or_by_a_space_are_different_rows(tasks):
    if tasks.database.kind == "mariadb":
        # Its default collation takes them for one key, so the second create fails; but an edit of
        # one never reaches the other.
        written(tasks.store, "create", {"id": "a", "name": "small"})
        written(tasks.store, "update", {"id": "A", "name": "x"}, {"id": "a ", "name": "x"})
        written(tasks.store, "delete", {"id": "A"}, {"id": "á"}, {"id": "a "})
        assert tasks.rows() == {"a": {"id": "a", "name": "small", "rank": None, "done": None}}
        return
    written(tasks.store, "create", {"id": "a"}, {"id": "A"}, {"id": "a "}, {"id": "á"})
    written(tasks.store, "delete", {"id": "A"})
    assert set(tasks.rows()) == {"a", "a ", "á"}


def test_many_rows_are_read_in_pages_in_the_order_of_their_ids(tasks, monkeypatch):
    monkeypatch.setattr("mobync.sqlalchemy._synchronizer.PAGE_ROWS", 7)
    ids = [f"{n:03}" for n in range(21)]
    written(tasks.store, "create", *({"id": i} for i in reversed(ids)))
    with statements(tasks.database.engine) as seen:
        found = [row["id"] for row in tasks.store.owned_rows("bob", "tasks")]
    assert found == ids
    assert len(seen) == 4
    assert list(tasks.store.owned_rows("eve", "tasks")) == []


# ---- defaults -----------------------------------------------------------------------------------


class Defaults:
    """A table with defaults of every origin, and one field without any."""

    def __init__(self, database: Database) -> None:
        count = itertools.count(1)
        metadata = MetaData()
        self.table = Table(
            "things",
            metadata,
            Column("id", String(40), primary_key=True),
            Column("owner", String(40), nullable=False),
            Column("needed", Integer, nullable=False),
            Column("scalar", Integer, nullable=False, default=7),
            Column("counted", Integer, nullable=False, default=lambda: next(count)),
            Column("sql", String(9), nullable=False, default=func.lower("SQL")),
            Column("server", String(9), nullable=False, server_default="it's"),
            Column("flag", Boolean, nullable=False, server_default="1"),
            Column("stamp", String(40), nullable=False, server_default=text("('x')")),
            Column("changes", Integer, default=0, onupdate=lambda: next(count) * 100),
        )
        self.store = SQLAlchemySynchronizer(database.engine, {"things": self.table})
        metadata.create_all(database.engine)

    def rows(self) -> dict[str, dict[str, Any]]:
        with self.store.transaction("bob") as inside:
            return {row["id"]: row for row in inside.read("things")}


def test_a_field_that_must_be_there_and_has_no_default_is_asked_for_by_name(database):
    things = Defaults(database)
    with pytest.raises(InvalidDiffError, match="json_data: 'needed' is missing"):
        written(things.store, "create", {"id": "a"}, model="things")


def test_fields_that_a_create_leaves_out_get_their_defaults(database):
    things = Defaults(database)
    written(things.store, "create", {"id": "a", "needed": 1}, model="things")
    assert things.rows()["a"] == {
        "id": "a",
        "needed": 1,
        "scalar": 7,
        "counted": 1,
        "sql": "sql",
        "server": "it's",
        "flag": True,
        "stamp": "x",
        "changes": 0,
    }


def test_defaults_are_the_same_when_other_creates_of_the_run_bring_a_value(database):
    things = Defaults(database)
    full = {"scalar": 1, "counted": 0, "sql": "a", "server": "b", "flag": False, "stamp": "c"}
    with statements(database.engine) as seen:
        written(
            things.store,
            "create",
            {"id": "a", "needed": 1},
            {"id": "b", "needed": 2, **full},
            {"id": "c", "needed": 3, "scalar": 3},
            model="things",
        )
    assert len([s for s in seen if s.startswith("INSERT INTO things")]) == 1
    rows = things.rows()
    defaults = {"scalar": 7, "sql": "sql", "server": "it's", "flag": True, "stamp": "x"}
    assert rows["a"] == {"id": "a", "needed": 1, "counted": 1, "changes": 0, **defaults}
    assert rows["b"] == {"id": "b", "needed": 2, "changes": 0, **full}
    defaults["scalar"] = 3
    assert rows["c"] == {"id": "c", "needed": 3, "counted": 2, "changes": 0, **defaults}


@pytest.mark.parametrize(("limit", "size"), [("_MOST_VALUES", 50), ("_MOST_CHARACTERS", 5)])
def test_a_long_run_whose_rows_must_be_spelled_out_is_cut(database, limit, size, monkeypatch):
    monkeypatch.setattr(f"mobync.sqlalchemy._statements.{limit}", size)
    things = Defaults(database)
    rows = [{"id": str(n), "needed": n, **({"flag": True} if n % 2 else {})} for n in range(10)]
    with statements(database.engine) as seen:
        written(things.store, "create", *rows, model="things")
    assert len([s for s in seen if s.startswith("INSERT INTO things")]) > 1
    assert len(things.rows()) == 10


def test_a_run_of_as_many_values_as_sqlite_takes_at_once_is_one_statement(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        things = Defaults(database)
        rows = [{"id": str(n), "needed": n, **({"flag": True} if n else {})} for n in range(3000)]
        with statements(database.engine) as seen:
            written(things.store, "create", *rows, model="things")
        assert len([s for s in seen if s.startswith("INSERT INTO things")]) == 1


def test_onupdate_of_the_app_runs(database):
    things = Defaults(database)
    written(things.store, "create", {"id": "a", "needed": 1}, model="things")
    written(things.store, "update", {"id": "a", "needed": 2}, model="things")
    assert things.rows()["a"]["changes"] == 200


def test_defaults_that_mobync_cannot_know_are_left_to_the_database(tmp_path):
    def twice(context: Any) -> str:
        return context.get_current_parameters()["id"] * 2

    metadata = MetaData()
    things = Table(
        "things",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("double", String(80), default=twice),
        Column("filled", Integer, server_default=FetchedValue()),
    )
    with open_database("sqlite", tmp_path) as database:
        store = SQLAlchemySynchronizer(database.engine, {"things": things})
        metadata.create_all(database.engine)
        sent = [{"id": "a"}, {"id": "b", "double": "x"}, {"id": "c", "filled": 3}, {"id": "d"}]
        written(store, "create", *sent, model="things")
        with store.transaction("bob") as inside:
            rows = {row["id"]: (row["double"], row["filled"]) for row in inside.read("things")}
    assert rows == {"a": ("aa", None), "b": ("x", None), "c": ("cc", 3), "d": ("dd", None)}


def test_a_json_column_that_is_left_out_is_null_whatever_else_its_run_brings(database):
    class Listed(TypeDecorator[Any]):
        impl = String(40)
        cache_ok = True

        def process_bind_param(self, value: Any, dialect: Any) -> str:
            return "none" if value is None else str(value)

    metadata = MetaData()
    things = Table(
        "things",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("data", JSON),
        Column("listed", Listed),
    )
    store = SQLAlchemySynchronizer(database.engine, {"things": things})
    metadata.create_all(database.engine)
    written(store, "create", {"id": "alone"}, model="things")
    rows = [{"id": "a"}, {"id": "b", "data": {"n": 1}, "listed": "x"}, {"id": "c"}]
    written(store, "create", *rows, {"id": "d", "data": None}, model="things")
    with database.engine.connect() as connection:
        empty = text("SELECT id FROM things WHERE data IS NULL AND listed IS NULL")
        assert set(connection.scalars(empty)) == {"alone", "a", "c"}


@pytest.mark.parametrize("name", ["mobync_id", "mobync_owner", "mobync_value_0", "mobync__x"])
def test_a_column_may_be_called_as_mobync_calls_its_values(database, name):
    metadata = MetaData()
    things = Table(
        "things",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column(name, String(40)),
        Column("n", Integer),
    )
    store = SQLAlchemySynchronizer(database.engine, {"things": things})
    metadata.create_all(database.engine)
    written(store, "create", {"id": "a", name: "x"}, {"id": "b"}, model="things")
    written(store, "update", {"id": "a", name: "y"}, {"id": "b", "n": 1}, model="things")
    written(store, "update", {"id": "a", "n": 2}, model="things")
    written(store, "delete", {"id": "b"}, model="things")
    with store.transaction("bob") as inside:
        assert inside.read("things") == [{"id": "a", name: "y", "n": 2}]


def test_rows_of_a_run_are_written_in_order_as_their_foreign_keys_need(database):
    metadata = MetaData()
    tree = Table(
        "tree",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("parent", ForeignKey("tree.id")),
        Column("flag", Boolean, server_default="1"),
    )
    store = SQLAlchemySynchronizer(database.engine, {"tree": tree})
    metadata.create_all(database.engine)
    rows = [{"id": "9"}, {"id": "5", "parent": "9", "flag": False}, {"id": "7", "parent": "5"}]
    written(store, "create", *rows, model="tree")
    written(store, "delete", {"id": "7"}, {"id": "5"}, {"id": "9"}, model="tree")
    written(store, "create", {"id": "1"}, model="tree")
    if database.kind != "sqlite":  # which enforces no foreign keys unless it is told to
        with pytest.raises(InvalidDiffError, match="'parent' refers to a row that is not there"):
            written(store, "create", {"id": "2", "parent": "none"}, model="tree")


# ---- mapped classes -----------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[uuid.UUID] = mapped_column("note_id", Uuid, primary_key=True)
    owner: Mapped[int] = mapped_column("user_id", Integer, primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column("body", String(50))
    length: Mapped[int] = mapped_column("n", Integer, Computed("LENGTH(body)", persisted=True))


NOTE = "9f1c2d3e-0000-4000-8000-00000000abcd"


def test_fields_of_a_mapped_class_are_its_attributes(database):
    store = SQLAlchemySynchronizer(database.engine, {"notes": Note}, diffs=diffs_table(MetaData()))
    Base.metadata.create_all(database.engine)
    store._log.table.metadata.create_all(database.engine)
    mobync = Mobync(store)
    mobync.apply(0, [diff("create", "notes", id=NOTE, text="hey")], "17")
    mobync.apply(1, [diff("update", "notes", id=NOTE, text="hello")], "17")
    with store.transaction("17") as inside:
        assert inside.read("notes") == [{"id": NOTE, "text": "hello", "length": 5}]
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT user_id, body FROM notes")).all() == [(17, "hello")]

    for field in ("body", "note_id", "user_id", "metadata", "__table__"):
        with pytest.raises(InvalidDiffError, match=f"model 'notes' has no field '{field}'"):
            mobync.apply(2, [diff("update", "notes", id=NOTE, **{field: "x"})], "17")
    with pytest.raises(InvalidDiffError, match="'owner' is set by the server"):
        mobync.apply(2, [diff("update", "notes", id=NOTE, owner=17)], "17")
    with pytest.raises(InvalidDiffError, match="'length' is made by the database"):
        mobync.apply(2, [diff("update", "notes", id=NOTE, length=1)], "17")
    with pytest.raises(InvalidDiffError, match="'id' must be a UUID"):
        mobync.apply(2, [diff("create", "notes", id="1", text="x")], "17")
    for stranger in ("017", "+17", " 17", "17 ", "1_7", "\u0661\u0667", "bob", str(2**31)):
        with pytest.raises(ValueError, match="owner_id "):
            mobync.apply(0, [diff("create", "notes", id=NOTE, text="x")], stranger)


# ---- what may be a model ------------------------------------------------------------------------


def table(*columns: Any, name: str = "things", metadata: MetaData | None = None) -> Table:
    return Table(name, metadata if metadata is not None else MetaData(), *columns)


def text_id() -> Column[Any]:
    return Column("id", String(40), primary_key=True)


def owner() -> Column[Any]:
    return Column("owner", String(40), nullable=False)


class Animal(Base):
    __tablename__ = "animals"
    __mapper_args__ = {"polymorphic_on": "kind"}  # noqa: RUF012 - as SQLAlchemy documents it

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(40))


REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (table(text_id()), {}, ValueError, r"table 'things' has no owner column 'owner'.*shared"),
    (table(text_id(), owner()), {"owner_column": "user"}, ValueError, "no owner column 'user'"),
    (table(text_id(), owner()), {"shared": ["things"]}, ValueError, "it is not shared"),
    (
        table(text_id(), owner()),
        {"shared": ["other"]},
        ValueError,
        "shared names no model: 'other'",
    ),
    (table(text_id(), owner()), {"shared": "things"}, TypeError, "shared must be a list of names"),
    (table(text_id(), Column("owner", Boolean)), {}, ValueError, "must be a String, Integer or"),
    (table(owner()), {}, ValueError, "the primary key must be 'id'"),
    (table(Column("id", String(9)), owner()), {}, ValueError, "the primary key must be 'id'"),
    (
        table(text_id(), owner(), Column("x", Integer, primary_key=True)),
        {},
        ValueError,
        "the primary key must be 'id'",
    ),
    (
        table(Column("id", Integer, primary_key=True), owner()),
        {},
        ValueError,
        "'id' must be a String or Uuid, since devices make ids offline",
    ),
    (
        table(text_id(), owner(), Column("tags", ARRAY(String), nullable=False)),
        {},
        ValueError,
        "things.tags cannot be synced",
    ),
    ("tasks", {}, TypeError, "must be a Table or a mapped class, not 'tasks'"),
    (dict, {}, TypeError, "must be a Table or a mapped class"),
    (Animal, {}, ValueError, "one of several classes"),
    (table(text_id(), owner()), {"lock_timeout_s": -1}, ValueError, "lock_timeout_s"),
    (table(text_id(), owner()), {"lock_timeout_s": float("nan")}, ValueError, "lock_timeout_s"),
    (table(text_id(), owner()), {"lock_timeout_s": "1"}, TypeError, "lock_timeout_s"),
    (table(text_id(), owner()), {"diffs": table(text_id())}, ValueError, "no column 'owner', 'log"),
]


@pytest.mark.parametrize(("model", "options", "error", "reason"), REFUSED)
def test_what_cannot_be_synced_safely_is_refused_at_once(model, options, error, reason):
    engine = create_engine("sqlite://")
    options = {"diffs": diffs_table(MetaData()), **options}
    with pytest.raises(error, match=reason):
        SQLAlchemySynchronizer(engine, {"things": model}, **options)
    engine.dispose()


def test_an_engine_must_be_one():
    for nonsense in ("sqlite://", None, object()):
        with pytest.raises(TypeError, match="engine must be an Engine, a Session"):
            SQLAlchemySynchronizer(nonsense, {"tasks": task_table(MetaData())})


def test_devices_cannot_be_given_the_log_as_a_model():
    engine = create_engine("sqlite://")
    metadata = MetaData()
    log, tasks = diffs_table(metadata), task_table(metadata)
    for models in ({"diffs": tasks}, {"log": log}, {"heads": metadata.tables["diffs_heads"]}):
        with pytest.raises(ValueError, match=r"devices must not write 'diffs'|primary key"):
            SQLAlchemySynchronizer(engine, models, diffs=log)
    engine.dispose()


def test_a_column_of_a_type_that_cannot_be_synced_is_no_field(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        metadata = MetaData()
        things = table(text_id(), owner(), Column("tags", ARRAY(String)), metadata=metadata)
        log = diffs_table(metadata)
        log.metadata.create_all(database.engine, tables=[log, metadata.tables["diffs_heads"]])
        with database.engine.begin() as connection:
            connection.execute(text("CREATE TABLE things (id TEXT, owner TEXT, tags TEXT)"))
        store = SQLAlchemySynchronizer(database.engine, {"things": things})
        written(store, "create", {"id": "a"}, model="things")
        with pytest.raises(InvalidDiffError, match="model 'things' has no field 'tags'"):
            written(store, "update", {"id": "a", "tags": []}, model="things")
        with store.transaction("bob") as inside:
            assert inside.read("things") == [{"id": "a"}]
