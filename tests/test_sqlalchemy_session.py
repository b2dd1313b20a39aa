"""mobync.sqlalchemy: sharing the transaction of the app's own session."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import databases
import pytest
from databases import Database
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData, String, event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from task_list import TaskList, diff

from mobync import BusyError, InvalidDiffError, Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

database = databases.database

on_servers = pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)


class Base(DeclarativeBase):
    metadata = MetaData()


class Task(Base):
    __tablename__ = "tasks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(40))
    name: Mapped[str | None] = mapped_column(String(40), unique=True)


LOG = diffs_table(Base.metadata)


class App:
    """An app with a session, and mobync in it."""

    def __init__(self, database: Database, **options: Any) -> None:
        Base.metadata.create_all(database.engine)
        self.database = database
        self.session = Session(database.engine, **options)
        self.store = SQLAlchemySynchronizer(self.session, {"tasks": Task}, lock_timeout_s=0.2)
        self.mobync = Mobync(self.store)
        self.elsewhere = SQLAlchemySynchronizer(
            database.new_engine(), {"tasks": Task}, lock_timeout_s=0.2
        )

    def names(self, owner: str = "bob") -> dict[str, Any]:
        """Names of an owner's tasks by id, as another process sees them."""
        with self.database.engine.connect() as connection:
            rows = connection.execute(select(Task.id, Task.name).where(Task.owner == owner))
            return {row.id: row.name for row in rows}


@pytest.fixture
def app(database: Database) -> Iterator[App]:
    made = App(database)
    yield made
    made.session.close()


def test_a_sync_in_a_session_is_committed(app):
    assert app.mobync.apply(0, [diff("create", id="a", name="milk")], "bob")["logical_clock"] == 1
    assert app.names() == {"a": "milk"}
    assert not app.session.in_transaction()
    assert app.session.get(Task, "a").name == "milk"


def test_what_the_app_has_pending_is_committed_with_the_sync(app):
    app.session.add(Task(id="mine", owner="bob", name="by the app"))
    app.mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
    assert app.names() == {"mine": "by the app", "a": "milk"}


def test_a_rule_sees_what_the_app_has_pending(database):
    class Paying(SQLAlchemySynchronizer):
        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            return {"id": "mine", "name": None} in self.read("tasks")

    app = App(database)
    mobync = Mobync(Paying(app.session, {"tasks": Task}))
    with pytest.raises(Exception, match="validate_create refused"):
        mobync.apply(0, [diff("create", id="a")], "bob")
    app.session.add(Task(id="mine", owner="bob"))
    mobync.apply(0, [diff("create", id="a")], "bob")
    assert set(app.names()) == {"mine", "a"}
    app.session.close()


def test_a_sync_that_fails_takes_what_was_pending_with_it(app):
    app.session.add(Task(id="mine", owner="bob", name="by the app"))
    with pytest.raises(InvalidDiffError):
        app.mobync.apply(0, [diff("create", id="a", nonsense=1)], "bob")
    assert app.names() == {}
    assert not app.session.in_transaction()
    assert list(app.session) == []


def test_objects_of_rows_that_the_sync_changed_are_read_anew(database):
    app = App(database, expire_on_commit=False)
    bread = Task(id="a", owner="bob", name="bread")
    eggs = Task(id="b", owner="bob", name="eggs")
    app.session.add_all([bread, eggs])
    app.session.commit()
    app.mobync.apply(0, [diff("update", id="a", name="rye"), diff("delete", id="b")], "bob")
    assert bread.name == "rye"
    assert app.session.get(Task, "b") is None
    app.session.close()


def test_changes_of_an_object_that_are_not_flushed_yet_are_not_lost(database):
    class Renaming(SQLAlchemySynchronizer):
        def validate_update(self, owner_id: str, **diff: Any) -> bool:
            app.session.get(Task, "b").name = "by the rule"
            return True

    app = App(database)
    app.session.add_all([Task(id="a", owner="bob"), Task(id="b", owner="bob")])
    app.session.commit()
    mobync = Mobync(Renaming(app.session, {"tasks": Task}))
    mobync.apply(0, [diff("update", id="a", name="by the device")], "bob")
    assert app.names() == {"a": "by the device", "b": "by the rule"}
    app.session.close()


def test_a_unique_violation_of_the_apps_reaches_the_caller_unchanged_a_devices_does_not(app):
    app.mobync.apply(0, [diff("create", id="a", name="x")], "bob")
    sent = [diff("create", id="b", name="x")]
    with pytest.raises(InvalidDiffError, match="another row has the same 'name'") as refusal:
        app.mobync.apply(1, sent, "bob")
    assert refusal.value.index == 0
    app.session.add(Task(id="b", owner="bob", name="x"))
    with pytest.raises(IntegrityError):
        app.mobync.apply(1, [], "bob")
    with pytest.raises(InvalidDiffError, match="json_data: id cannot be used"):
        app.mobync.apply(0, [diff("create", id="a")], "eve")
    assert app.names() == {"a": "x"}


def test_the_owner_is_locked_for_other_processes(app):
    with app.elsewhere.transaction("bob"), pytest.raises(BusyError):
        app.mobync.apply(0, [diff("create", id="a")], "bob")
    with app.store.transaction("bob"), pytest.raises(BusyError):
        Mobync(app.elsewhere).apply(0, [diff("create", id="c")], "bob")
    app.mobync.apply(0, [diff("create", id="a")], "bob")
    assert set(app.names()) == {"a"}


def test_a_session_in_a_savepoint_is_refused(app):
    with app.session.begin_nested(), pytest.raises(RuntimeError, match="savepoint"):
        app.mobync.apply(0, [diff("create", id="a")], "bob")


def test_a_session_that_does_not_begin_by_itself_is_begun(database):
    app = App(database, autobegin=False)
    app.mobync.apply(0, [diff("create", id="a")], "bob")
    assert set(app.names()) == {"a"}
    app.session.close()


def test_outside_of_a_transaction_the_session_is_read(app):
    app.session.add(Task(id="mine", owner="bob"))
    assert [row["id"] for row in app.store.owned_rows("bob", "tasks")] == ["mine"]
    assert app.store.highest_logical_clock("bob") == -1
    app.session.rollback()
    assert list(app.store.owned_rows("bob", "tasks")) == []


@on_servers  # SQLite's driver takes the first savepoint for a transaction of its own
def test_a_session_bound_to_a_connection_shares_its_transaction(database):
    Base.metadata.create_all(database.engine)
    with database.engine.connect() as connection:
        outer = connection.begin()
        session = Session(connection, join_transaction_mode="create_savepoint")
        mobync = Mobync(SQLAlchemySynchronizer(session, {"tasks": Task}))
        mobync.apply(0, [diff("create", id="a")], "bob")
        assert connection.scalars(select(Task.id)).all() == ["a"]
        session.close()
        outer.rollback()
        assert connection.scalars(select(Task.id)).all() == []


# ---- what may be begun again --------------------------------------------------------------------


class Deadlocking(SQLAlchemySynchronizer):
    """Says once that a deadlock broke its transaction."""

    error: Exception | None = None

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        error, type(self).error = type(self).error, None
        if error is not None:
            raise error
        return True


def a_deadlock() -> DBAPIError:
    class Original(Exception):
        sqlstate = "40P01"

    return OperationalError("", {}, Original("deadlock"))


def test_a_transaction_that_holds_only_the_sync_is_begun_again(app):
    mobync = Mobync(Deadlocking(app.session, {"tasks": Task}))
    Deadlocking.error = a_deadlock()
    mobync.apply(0, [diff("create", id="a")], "bob")
    assert set(app.names()) == {"a"}


def test_a_transaction_that_holds_the_apps_own_work_is_not_since_that_is_gone(app):
    mobync = Mobync(Deadlocking(app.session, {"tasks": Task}))
    app.session.add(Task(id="mine", owner="bob"))
    Deadlocking.error = error = a_deadlock()
    with pytest.raises(BusyError) as caught:
        mobync.apply(0, [diff("create", id="a")], "bob")
    assert caught.value.__cause__ is error
    assert app.names() == {}


def test_a_commit_that_fails_is_no_commit_though_a_savepoint_was_released_in_it(app):
    mobync = Mobync(SQLAlchemySynchronizer(app.session, {"tasks": Task}))
    errors = [a_deadlock()]

    def fail_once(session: Session) -> None:
        if session.in_nested_transaction():
            return  # it is the savepoint's
        with session.begin_nested():
            session.add(Task(id=f"of try {2 - len(errors)}", owner="bob"))
        if errors:
            raise errors.pop()

    event.listen(app.session, "before_commit", fail_once)
    mobync.apply(0, [diff("create", id="a")], "bob")
    assert set(app.names()) == {"a", "of try 2"}


def a_taken_name() -> DBAPIError:
    return IntegrityError("", {}, sqlite3.IntegrityError("UNIQUE constraint failed: tasks.name"))


@pytest.mark.parametrize("error", [a_taken_name(), a_deadlock(), KeyError("no error of SQL")])
@pytest.mark.parametrize("is_of_all", [False, True], ids=["of one session", "of a sessionmaker"])
@pytest.mark.parametrize("moment", ["after_commit", "after_transaction_end"])
def test_what_fails_after_the_commit_reaches_the_caller_unchanged(app, error, is_of_all, moment):
    sessions = sessionmaker(app.database.engine)
    session = sessions()
    mobync = Mobync(SQLAlchemySynchronizer(session, {"tasks": Task}, lock_timeout_s=0.2))
    mine = Task(id="mine", owner="bob")
    session.add(mine)
    session.commit()
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        raise error

    target = sessions if is_of_all else session
    event.listen(target, moment, fail)
    with pytest.raises(type(error)) as caught:
        mobync.apply(0, [diff("create", id="a", name="x")], "bob")
    event.remove(target, moment, fail)
    assert (caught.value, len(calls)) == (error, 1)
    assert app.names() == {"a": "x", "mine": None}
    assert app.elsewhere.highest_logical_clock("bob") == 0

    mine.name = "y"
    assert mobync.apply(1, [diff("create", id="b")], "bob")["logical_clock"] == 2
    assert app.names() == {"a": "x", "b": None, "mine": "y"}
    session.close()


def test_a_misfit_in_a_transaction_of_the_apps_ends_the_sync_even_where_misfits_are_skipped(app):
    mobync = Mobync(app.store, on_refusal="skip")
    sent = [diff("create", id="a"), diff("create", id="b", nonsense=1)]
    app.session.add(Task(id="mine", owner="bob"))
    with pytest.raises(InvalidDiffError, match="'nonsense'") as refusal:
        mobync.apply(0, sent, "bob")
    assert refusal.value.index == 1
    assert not app.session.in_transaction()
    assert app.names() == {}

    assert [r["id"] for r in mobync.apply(0, sent, "bob")["refused"]] == [sent[1]["id"]]
    assert set(app.names()) == {"a"}


def test_rows_are_not_tried_one_by_one_in_a_transaction_of_the_apps(database):
    lists: list[int] = []

    class Secretive(SQLAlchemySynchronizer):
        def create_many(self, where: str, rows_json: Any) -> None:
            lists.append(len(rows_json))
            if any('"b"' in row for row in rows_json):
                raise InvalidDiffError("one of them")
            super().create_many(where, rows_json)

    app = App(database)
    mobync = Mobync(Secretive(app.session, {"tasks": Task}))
    sent = [diff("create", id=i) for i in "abc"]
    app.session.add(Task(id="mine", owner="bob"))
    with pytest.raises(InvalidDiffError, match="invalid request: one of them"):
        mobync.apply(0, sent, "bob")
    assert lists == [3]
    with pytest.raises(InvalidDiffError, match=r"invalid diff 1 .*: one of them"):
        mobync.apply(0, sent, "bob")
    assert lists == [3, 3, 1, 1]
    app.session.close()


# ---- isolation ----------------------------------------------------------------------------------


@on_servers
def test_a_session_that_had_read_before_another_sync_never_forks_the_log(database):
    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        engine = database.new_engine(isolation_level=level)
        Base.metadata.create_all(engine)
        owner = level
        elsewhere = SQLAlchemySynchronizer(database.engine, {"tasks": Task})
        Mobync(elsewhere).apply(0, [diff("create", id=f"{level} 1")], owner)
        with Session(engine) as session:
            mobync = Mobync(SQLAlchemySynchronizer(session, {"tasks": Task}))
            assert len(session.scalars(select(LOG.c.id).where(LOG.c.owner == owner)).all()) == 1
            session.execute(text("SELECT 1"))
            other = threading.Thread(
                target=Mobync(elsewhere).apply, args=(1, [diff("create", id=f"{level} 2")], owner)
            )
            other.start()
            if (database.kind, level) == ("mariadb", "SERIALIZABLE"):
                session.commit()  # its reads lock what they read
            other.join()
            sent = [diff("create", id=f"{level} 3")]
            if level == "READ COMMITTED" or database.kind == "mariadb":
                assert len(mobync.apply(1, sent, owner)["diffs"]) == 1
            else:
                with pytest.raises(BusyError):
                    mobync.apply(1, sent, owner)
                assert len(mobync.apply(1, sent, owner)["diffs"]) == 1
        with elsewhere.transaction(owner) as inside:
            clocks = sorted(row["logical_clock"] for row in inside.read("diffs"))
        assert clocks == [0, 1, 2]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("snapshot_isolation", ["OFF", "ON"])  # on by default since MariaDB 11.6
def test_a_session_that_has_read_before_another_sync_sees_what_that_one_wrote(
    database, snapshot_isolation
):
    """As where an app looks up its user, and another device of theirs syncs meanwhile."""
    seen: list[Any] = []

    class Looking(SQLAlchemySynchronizer):
        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            seen.append({row["id"]: row["name"] for row in self.read("tasks")})
            seen.append({task.id: task.name for task in session.scalars(select(Task))})
            return True

    engine = database.new_engine(pool_size=1, max_overflow=0)
    setting = "innodb_snapshot_isolation"

    @event.listens_for(engine, "connect")
    def execute(connection, record):
        connection.cursor().execute(f"SET SESSION {setting} = {snapshot_isolation}")

    Base.metadata.create_all(database.engine)
    elsewhere = Mobync(SQLAlchemySynchronizer(database.engine, {"tasks": Task}))
    elsewhere.apply(0, [diff("create", id="a", name="before")], "bob")
    with Session(engine) as session:
        mobync = Mobync(Looking(session, {"tasks": Task}))
        assert session.scalars(select(Task.name)).all() == ["before"]
        known = session.get(Task, "a")
        session.add(Task(id="mine", owner="bob", name="mine"))
        elsewhere.apply(1, [diff("update", id="a", name="after")], "bob")
        reply = mobync.apply(1, [diff("create", id="b")], "bob")
        (sent,) = reply["diffs"]
        assert json.loads(sent["json_data"]) == {"id": "a", "name": "after"}
        assert seen == [{"a": "after", "mine": "mine"}] * 2
        assert known.name == "after"
        session.commit()
        # In its next transaction the session reads as it did.
        assert session.scalars(select(Task.name).order_by(Task.id)).all() == ["after", None, "mine"]
        elsewhere.apply(2, [diff("update", id="a", name="later")], "bob")
        assert session.scalars(select(Task.name).where(Task.id == "a")).all() == ["after"]
        assert session.scalar(text(f"SELECT @@{setting}")) == (snapshot_isolation == "ON")


@on_servers
def test_a_session_whose_statements_commit_themselves_is_refused_if_it_is_in_use(database):
    engine = database.new_engine(isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        mobync = Mobync(SQLAlchemySynchronizer(session, {"tasks": Task}))
        mobync.apply(0, [diff("create", id="a")], "bob")
        session.execute(text("SELECT 1"))
        with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
            mobync.apply(1, [diff("create", id="b")], "bob")


# ---- registries ---------------------------------------------------------------------------------


def test_each_thread_syncs_in_its_own_session_of_a_registry(database):
    Base.metadata.create_all(database.engine)
    registry = scoped_session(sessionmaker(database.engine))
    mobync = Mobync(SQLAlchemySynchronizer(registry, {"tasks": Task}))
    errors: list[BaseException] = []

    def device(number: int) -> None:
        try:
            for i in range(5):
                registry.add(Task(id=f"app {number} {i}", owner="bob"))
                mobync.apply(0, [diff("create", id=f"{number} {i}")], "bob")
        except BaseException as error:
            errors.append(error)
        finally:
            registry.remove()

    threads = [threading.Thread(target=device, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.engine.connect() as connection:
        assert len(connection.scalars(select(Task.id)).all()) == 40
        clocks = connection.scalars(select(LOG.c.logical_clock)).all()
    assert sorted(clocks) == list(range(20))


def test_flask_sqlalchemys_db_can_be_handed_in(database):
    db = SQLAlchemy()

    class Note(db.Model):  # type: ignore[name-defined, misc]
        id = db.Column(db.String(40), primary_key=True)
        owner = db.Column(db.String(40), nullable=False)
        body = db.Column(db.String(40))

    flask = Flask(__name__)
    flask.config["SQLALCHEMY_DATABASE_URI"] = database.url
    db.init_app(flask)
    mobync = Mobync(SQLAlchemySynchronizer(db, {"notes": Note}, diffs=diffs_table(db.metadata)))

    @flask.post("/sync")
    def sync() -> Any:
        db.session.add(Note(id=f"visit {len(Note.query.all())}", owner="bob"))
        return mobync.apply(0, [diff("create", "notes", id="a", body="hey")], "bob")

    with flask.app_context():
        db.create_all()
    assert flask.test_client().post("/sync").get_json()["logical_clock"] == 1
    with flask.app_context():
        assert {note.id: note.body for note in Note.query} == {"a": "hey", "visit 0": None}
        db.session.remove()
        for engine in db.engines.values():
            engine.dispose()


def test_a_task_list_works_in_a_session_too(database):
    tasks = TaskList(database)
    with Session(database.engine) as session:
        mobync = Mobync(tasks.another_store(session))
        mobync.apply(0, [diff("create", id="a", name="x"), diff("create", id="b")], "bob")
        mobync.apply(2, [diff("update", id="a", done=True), diff("delete", id="b")], "bob")
    assert tasks.rows() == {"a": {"id": "a", "name": "x", "rank": None, "done": True}}


def test_a_poll_in_the_apps_session_keeps_what_the_app_has_flushed(app):
    app.mobync.apply(0, [], "bob", device="phone", request=1)
    app.session.add(Task(id="a", owner="bob", name="milk"))
    app.session.flush()
    app.store._poll("bob", "phone")
    assert app.mobync.logical_clock("bob") == 0
    app.session.commit()
    assert app.names() == {"a": "milk"}
