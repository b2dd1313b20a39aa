"""Edits that the app's own code makes by the ORM are in the log when it commits."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import async_databases
import databases
import pytest
from databases import Database
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Computed, ForeignKey, MetaData, String, Text, event, select, text, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)
from task_list import diff

from mobync import BusyError, InvalidDiffError, Mobync
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    AsyncSQLAlchemySynchronizer,
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    create_tables_async,
    diffs_table,
    lock_owners,
    track,
)

database = databases.database
opened = async_databases.opened
PATIENCE_S = 120


class Base(DeclarativeBase):
    metadata = MetaData()


class List(Base):
    __tablename__ = "lists"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(40))
    name: Mapped[str | None] = mapped_column(Text)
    tasks: Mapped[list[Task]] = relationship(back_populates="list", cascade="all, delete-orphan")


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    whose: Mapped[str] = mapped_column("owner", String(40))
    title: Mapped[str | None] = mapped_column("name", Text)
    rank: Mapped[int] = mapped_column(server_default="7")
    list_id: Mapped[str | None] = mapped_column(ForeignKey("lists.id"))
    list: Mapped[List | None] = relationship(back_populates="tasks")


class Other(Base):
    __tablename__ = "others"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)


LOG = diffs_table(Base.metadata)
MODELS = {"lists": List.__table__, "tasks": Task.__table__}


class App:
    """An app with a tracked sessionmaker."""

    def __init__(self, database: Database, lock_timeout_s: float = 60) -> None:
        create_tables(database.engine, Base.metadata)
        self.database = database
        store = SQLAlchemySynchronizer(database.engine, MODELS, lock_timeout_s=lock_timeout_s)
        self.mobync = Mobync(store)
        self.sessions = sessionmaker(database.engine)
        track(self.sessions, self.mobync)
        self.clocks: dict[str, int] = {}

    def news(self, owner: str = "anna") -> list[tuple[str, str, dict[str, Any]]]:
        """What a device that is up to date gets now."""
        reply = self.mobync.apply(self.clocks.get(owner, 0), [], owner)
        self.clocks[owner] = reply["logical_clock"]
        return [(d["type"], d["model"], json.loads(d["json_data"])) for d in reply["diffs"]]

    def is_in_order(self) -> None:
        for owner in ("anna", "bob"):
            assert self.mobync.reconcile(owner, dry_run=True).ok


@pytest.fixture
def app(database: Database) -> App:
    return App(database)


def test_what_a_session_commits_is_on_the_devices(app: App) -> None:
    with app.sessions() as session:
        session.add(Other(id="o"))
        session.add(List(id="l", owner="anna", name="Home", tasks=[Task(id="t", whose="anna")]))
        session.commit()
    task = {"id": "t", "name": None, "rank": 7, "list_id": "l"}
    assert app.news() == [
        ("create", "lists", {"id": "l", "name": "Home"}),
        ("create", "tasks", task),
    ]
    with app.sessions.begin() as session:
        found = session.get_one(Task, "t")
        found.title = "Milk"
        found.rank = 7  # as it was
    assert app.news() == [("update", "tasks", {"id": "t", "name": "Milk"})]
    with app.sessions.begin() as session:
        session.get_one(Task, "t").rank = 8
        session.flush()
        session.get_one(Task, "t").title = "Bread"
    assert app.news() == [
        ("update", "tasks", {"id": "t", "rank": 8}),
        ("update", "tasks", {"id": "t", "name": "Bread"}),
    ]
    with app.sessions.begin() as session:
        session.delete(session.get_one(List, "l"))
    assert app.news() == [("delete", "tasks", {"id": "t"}), ("delete", "lists", {"id": "l"})]
    app.is_in_order()


def test_a_field_that_is_set_to_an_expression_of_sql(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Task(id="t", whose="anna"))
    app.news()
    with app.sessions.begin() as session:
        task = session.get_one(Task, "t")
        task.rank = Task.rank + 1
    assert app.news() == [("update", "tasks", {"id": "t", "rank": 8})]
    app.is_in_order()


def test_a_session_that_changes_nothing_logs_nothing(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Task(id="t", whose="anna", title="Milk"))
    app.news()
    with app.sessions.begin() as session:
        task = session.get_one(Task, "t")
        task.title = "Bread"
        task.title = "Milk"
        session.scalars(select(Task)).all()
    assert app.news() == []


def test_what_a_relationship_sets_and_orphans(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(List(id="l", owner="anna"))
        session.add(Task(id="t", whose="anna"))
    app.news()
    with app.sessions.begin() as session:
        session.get_one(Task, "t").list = session.get_one(List, "l")
    assert app.news() == [("update", "tasks", {"id": "t", "list_id": "l"})]
    with app.sessions.begin() as session:
        home = session.get_one(List, "l")
        home.tasks.clear()
    assert app.news() == [("delete", "tasks", {"id": "t"})]
    app.is_in_order()


def test_several_owners_and_a_row_that_is_given_away(app: App) -> None:
    with app.sessions.begin() as session:
        session.add_all([Task(id="b", whose="bob", title="B"), Task(id="a", whose="anna")])
    assert [kind for kind, *_ in app.news("anna") + app.news("bob")] == ["create", "create"]
    with app.sessions.begin() as session:
        session.get_one(Task, "b").whose = "anna"
    given = {"id": "b", "name": "B", "rank": 7, "list_id": None}
    assert app.news("anna") == [("create", "tasks", given)]
    assert app.news("bob") == [("delete", "tasks", {"id": "b"})]
    with app.sessions() as session:
        task = session.get_one(Task, "b")
        session.commit()  # what it was is not loaded any more
        task.whose = "bob"
        session.commit()
    assert app.news("anna") == [("delete", "tasks", {"id": "b"})]
    assert app.news("bob") == [("create", "tasks", given)]
    app.is_in_order()


def test_another_id_is_another_object(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Task(id="t", whose="anna"))
    app.news()
    with app.sessions.begin() as session:
        session.get_one(Task, "t").id = "u"
    assert {(kind, row["id"]) for kind, _, row in app.news()} == {("delete", "t"), ("create", "u")}
    with app.sessions.begin() as session:
        session.delete(session.get_one(Task, "u"))
        session.add(Task(id="u", whose="anna", title="another"))
    (*_, created) = app.news()
    assert created[0::2] == ("create", {"id": "u", "name": "another", "rank": 7, "list_id": None})
    app.is_in_order()


def test_what_is_rolled_back_is_in_no_log(app: App) -> None:
    told: list[Any] = []
    app.mobync.listen(told.append)
    with app.sessions() as session:
        session.add(Task(id="t", whose="anna"))
        session.flush()
        session.rollback()
        session.add(Task(id="u", whose="anna"))
        session.flush()
        session.close()
        session.add(Other(id="o"))
        session.commit()
    assert told == []
    assert app.news() == []
    assert app.mobync.logical_clock("anna") == 0


def test_what_a_savepoint_takes_back_is_in_no_log(app: App) -> None:
    told: list[Any] = []
    app.mobync.listen(told.append)
    with app.sessions() as session:
        session.add(Task(id="before", whose="anna"))
        with session.begin_nested() as savepoint:
            session.add(Task(id="inside", whose="anna"))
            with session.begin_nested():
                session.add(Task(id="deeper", whose="bob"))
            savepoint.rollback()
        with session.begin_nested():
            session.add(Task(id="kept", whose="anna"))
        assert told == []
        session.commit()
    assert [row["id"] for _, _, row in app.news()] == ["before", "kept"]
    assert app.news("bob") == []
    assert [(report.owner_id, report.logical_clock) for report in told[:2]] == [
        ("anna", 1),
        ("anna", 2),
    ]
    app.is_in_order()


class Undoing(SQLAlchemySynchronizer):
    """Its rule deletes a row of the app's session, and takes that back."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, MODELS)
        self.session = session

    def validate_update(self, *args: Any, **diff: Any) -> bool:
        session = self.session
        with session.begin_nested() as savepoint:
            session.delete(session.get_one(Task, "kept"))
            session.flush()
            savepoint.rollback()
        return True


def test_what_a_savepoint_takes_back_in_a_sync_is_in_no_log(app: App) -> None:
    with app.sessions.begin() as session:
        session.add_all([Task(id="t", whose="anna"), Task(id="kept", whose="anna")])
    app.news()
    with Session(app.database.engine) as session:
        mobync = Mobync(Undoing(session))
        track(session, mobync)
        sent = diff("update", id="t", name="Milk")
        mobync.apply(app.clocks["anna"], [sent], "anna")
    assert app.news() == [("update", "tasks", {"id": "t", "name": "Milk"})]
    app.is_in_order()


class Adding(SQLAlchemySynchronizer):
    """Its rule adds a row to the app's session."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, MODELS)
        self.session = session

    def validate_create(self, *args: Any, **diff: Any) -> bool:
        self.session.add(Task(id="added", whose="anna"))
        return True


def test_a_listener_may_push_when_it_is_told_of_an_edit_in_a_sync(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def answer(report: Any) -> None:
        told.append(report.logical_clock)
        if len(told) == 1:
            mobync.push("anna", [("create", "tasks", {"id": "pushed"})])

    with Session(app.database.engine) as session:
        mobync = Mobync(Adding(session))
        track(session, mobync)
        mobync.listen(answer)
        mobync.apply(0, [diff("create", id="t")], "anna")
    assert "listener" not in caplog.text
    edited, pushed, synced = told
    assert pushed > edited > synced
    assert [row["id"] for kind, _, row in app.news() if kind == "create"] == [
        "t",
        "added",
        "pushed",
    ]
    app.is_in_order()


class Counted(Base):
    __tablename__ = "counted"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(40))
    name: Mapped[str | None] = mapped_column(String(40))
    note: Mapped[str | None] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(40), default="new", onupdate="changed")
    version: Mapped[int] = mapped_column()
    __mapper_args__: ClassVar = {"version_id_col": version}


def test_columns_that_change_with_those_that_are_set(database: Database) -> None:
    create_tables(database.engine, Base.metadata)
    hidden = {"counted": ["note"]}
    store = SQLAlchemySynchronizer(database.engine, {"counted": Counted}, hidden_columns=hidden)
    mobync = Mobync(store)
    sessions = sessionmaker(database.engine)
    track(sessions, mobync)
    with sessions.begin() as session:
        session.add(Counted(id="c", owner="anna"))
    with sessions.begin() as session:
        session.get_one(Counted, "c").name = "Milk"
    (update,) = mobync.apply(1, [], "anna")["diffs"]
    changed = {"id": "c", "name": "Milk", "state": "changed", "version": 2}
    assert json.loads(update["json_data"]) == changed
    with sessions.begin() as session:
        session.get_one(Counted, "c").note = "no device sees it"
    (update,) = mobync.apply(2, [], "anna")["diffs"]
    assert json.loads(update["json_data"]) == {"id": "c", "state": "changed", "version": 3}
    assert mobync.reconcile("anna", dry_run=True).ok


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(40))
    text: Mapped[str | None] = mapped_column(String(40))
    words: Mapped[int | None] = mapped_column()
    twice: Mapped[int | None] = mapped_column(Computed("words * 2", persisted=True))


# A trigger counts words, and gives up a note that says so.
COUNTING = {
    "sqlite": [
        f"CREATE TRIGGER counts_{kind} AFTER {kind} ON notes WHEN NEW.text IS NOT NULL BEGIN"
        " UPDATE notes SET words = length(NEW.text) WHERE id = NEW.id"
        " AND words IS NOT length(NEW.text);"
        " DELETE FROM notes WHERE id = NEW.id AND text = 'gone'; END"
        for kind in ("INSERT", "UPDATE")
    ],
    "postgresql": [
        "CREATE FUNCTION counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.text = 'gone' THEN DELETE FROM notes WHERE id = NEW.id; RETURN NULL; END IF;"
        " UPDATE notes SET words = length(NEW.text) WHERE id = NEW.id"
        " AND words IS DISTINCT FROM length(NEW.text); RETURN NULL; END $$",
        "CREATE TRIGGER counts AFTER INSERT OR UPDATE ON notes FOR EACH ROW"
        " EXECUTE FUNCTION counts()",
    ],
    "mariadb": [
        f"CREATE TRIGGER counts_{kind} BEFORE {kind} ON notes FOR EACH ROW"
        " SET NEW.words = CHAR_LENGTH(NEW.text)"
        for kind in ("INSERT", "UPDATE")
    ],
}


@pytest.mark.parametrize("in_sync", [False, True], ids=["alone", "in a sync"])
def test_what_a_trigger_makes_of_the_row(database: Database, in_sync: bool) -> None:
    create_tables(database.engine, Base.metadata)
    with database.engine.begin() as connection:
        for statement in COUNTING[database.kind]:
            connection.exec_driver_sql(statement)
    notes: dict[str, Any] = {"notes": Note}
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, notes, read_back=["notes"]))

    def edit(work: Callable[[Session], None]) -> list[tuple[str, dict[str, Any]]]:
        clock = mobync.logical_clock("anna")
        with Session(database.engine) as session:
            inner = Mobync(SQLAlchemySynchronizer(session, notes, read_back=["notes"]))
            track(session, inner if in_sync else mobync)
            work(session)
            if in_sync:
                inner.push("anna", [])
            else:
                session.commit()
        news = mobync.apply(clock, [], "anna")["diffs"]
        assert mobync.reconcile("anna", dry_run=True).ok
        return [(d["type"], json.loads(d["json_data"])) for d in news]

    made = {"id": "n", "text": "four", "words": 4, "twice": 8}
    assert edit(lambda s: s.add(Note(id="n", owner="anna", text="four"))) == [("create", made)]
    changed = {"id": "n", "text": "eleven", "words": 6, "twice": 12}

    def set_text(text: str) -> Callable[[Session], None]:
        return lambda session: setattr(session.get_one(Note, "n"), "text", text)

    assert edit(set_text("eleven")) == [("update", changed)]
    ((kind, same),) = edit(set_text("twelve"))
    assert (kind, same["text"], same.get("words", 6)) == ("update", "twelve", 6)
    if database.kind != "mariadb":  # where no trigger may write its own table
        assert edit(set_text("gone")) == [("delete", {"id": "n"})]
        assert edit(lambda s: s.add(Note(id="m", owner="anna", text="gone"))) == []


def test_what_no_flush_sees_is_left_to_reconcile(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Task(id="t", whose="anna"))
    app.news()
    with app.sessions.begin() as session:
        session.execute(update(Task).values(title="by a statement"))
    assert app.news() == []
    assert app.mobync.reconcile("anna").updated == 1
    assert app.news() == [("update", "tasks", {"id": "t", "name": "by a statement"})]


def test_an_edit_that_can_be_no_diff_is_refused(tmp_path: Path) -> None:
    with databases.open_database("sqlite", tmp_path) as database:
        app = App(database)
        with pytest.raises(InvalidDiffError, match="U\\+0000"), app.sessions.begin() as session:
            session.add(Task(id="t", whose="anna", title="a\0b"))
        assert app.news() == []
        with app.sessions() as session:
            assert session.scalars(select(Task)).all() == []


def test_a_sync_waits_for_the_session(database: Database) -> None:
    app = App(database, lock_timeout_s=0.2)
    with app.sessions() as session:
        session.add(Task(id="t", whose="anna"))
        session.flush()
        with pytest.raises(BusyError):
            app.mobync.apply(0, [diff("create", id="u")], "anna")
        session.commit()
    assert [row["id"] for _, _, row in app.news()] == ["t"]


def test_the_session_waits_for_a_sync(database: Database) -> None:
    app = App(database, lock_timeout_s=0.2)
    with app.mobync.synchronizer.transaction("anna"), app.sessions() as session:
        session.add(Task(id="t", whose="anna"))
        with pytest.raises(BusyError, match="another sync of this owner took longer"):
            session.flush()
    assert app.news() == []


def in_threads(*works: Any) -> None:
    failed: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert failed == []


def test_sessions_and_syncs_do_not_wait_for_each_other_crosswise(app: App) -> None:
    """Each locks an owner before a row of that owner, and owners in one order."""
    app.mobync.synchronizer.is_transient = lambda error: False  # type: ignore[method-assign]
    with app.sessions.begin() as session:
        for owner in ("anna", "bob"):
            session.add(Task(id=owner, whose=owner))

    def edit(first: str, second: str) -> None:
        for turn in range(15):
            with app.sessions() as session:
                for owner in (first, second):
                    session.add(Task(id=f"{first}{turn}{owner}", whose=owner))
                session.commit()

    def sync() -> None:
        for turn in range(15):
            row = {"id": "anna", "name": f"{turn}"}
            app.mobync.push("anna", [("update", "tasks", row)])

    in_threads(lambda: edit("anna", "bob"), lambda: edit("bob", "anna"), sync)
    app.is_in_order()
    assert len(app.news("anna")) >= 31


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_two_sessions_that_wait_for_each_other_end_in_a_clear_error(app: App) -> None:
    both_hold = threading.Barrier(2, timeout=PATIENCE_S)
    refused: list[tuple[str, str]] = []

    def edit(first: str, second: str) -> None:
        with app.sessions() as session:
            session.add(Task(id=f"{first} first", whose=first))
            session.flush()
            both_hold.wait()
            session.add(Task(id=f"{first} second", whose=second))
            try:
                session.commit()
            except BusyError as error:
                refused.append((first, str(error)))
                with pytest.raises(InvalidRequestError):
                    session.commit()

    in_threads(lambda: edit("anna", "bob"), lambda: edit("bob", "anna"))
    ((loser, why),) = refused
    assert "lock_owners() avoids it" in why
    (winner,) = {"anna", "bob"} - {loser}
    with app.sessions() as session:
        ids = set(session.scalars(select(Task.id)))
    assert ids == {f"{winner} first", f"{winner} second"}
    app.is_in_order()


def test_sessions_that_lock_their_owners_first_never_wait_for_each_other(app: App) -> None:
    def edit(name: str, owners: list[str]) -> None:
        for turn in range(15):
            with app.sessions.begin() as session:
                lock_owners(session, app.mobync, owners)
                for owner in owners:
                    session.add(Task(id=f"{name}{turn}{owner}", whose=owner))
                    session.flush()

    in_threads(lambda: edit("x", ["anna", "bob"]), lambda: edit("y", ["bob", "anna"]))
    app.is_in_order()
    assert len(app.news("anna")) == len(app.news("bob")) == 30


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_session_that_waited_for_its_owners_reads_what_the_others_wrote(app: App) -> None:
    with app.sessions.begin() as session:
        session.add_all([Task(id="t", whose="bob", rank=1), Task(id="s", whose="anna")])
    sync_holds_bob, session_asks = threading.Event(), threading.Event()

    def sync() -> None:
        with app.mobync.synchronizer.transaction("bob") as store:
            sync_holds_bob.set()
            assert session_asks.wait(PATIENCE_S)
            store.connection.execute(update(Task).values(rank=2).where(Task.id == "t"))

    def note(*arguments: Any) -> None:
        locks = str(arguments[2]).startswith("INSERT") or "FOR UPDATE" in arguments[2]
        if locks and "bob" in str(arguments[3]):
            session_asks.set()

    def edit() -> None:
        assert sync_holds_bob.wait(PATIENCE_S)
        event.listen(app.database.engine, "before_cursor_execute", note)
        with app.sessions.begin() as session:
            lock_owners(session, app.mobync, ["new", "anna", "bob"])
            task = session.get_one(Task, "t")
            assert task.rank == 2
            task.rank += 1

    in_threads(sync, edit)
    app.is_in_order()


def test_owners_whose_log_is_older_than_their_head_can_be_locked(app: App) -> None:
    with app.sessions.begin() as session:
        session.add_all([Task(id="t", whose="anna"), Task(id="s", whose="anna")])
    clock = app.mobync.logical_clock("anna")
    with app.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM diffs_heads"))
    with app.sessions.begin() as session:
        lock_owners(session, app.mobync, ["anna"])
    assert app.mobync.logical_clock("anna") == clock
    with app.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM diffs_heads"))
    with app.sessions.begin() as session:
        session.get_one(Task, "t").rank = 8
    assert app.mobync.logical_clock("anna") == clock + 1
    app.is_in_order()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_session_locks_the_owner_before_the_row(app: App) -> None:
    """Elsewhere the same row cannot be read before the lock, and written after it."""
    app.mobync.synchronizer.is_transient = lambda error: False  # type: ignore[method-assign]
    with app.sessions.begin() as session:
        session.add(Task(id="t", whose="anna"))

    def edit() -> None:
        for turn in range(40):
            with app.sessions.begin() as session:
                session.get_one(Task, "t").rank = turn

    def sync() -> None:
        for turn in range(40):
            app.mobync.push("anna", [("update", "tasks", {"id": "t", "name": f"{turn}"})])

    in_threads(edit, sync)
    app.is_in_order()


def test_the_program_of_the_page(app: App) -> None:
    page = (Path(__file__).parents[1] / "docs" / "databases.md").read_text(encoding="utf-8")
    section = page.split("\n## Edits by the ORM\n")[1].split("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    with app.sessions.begin() as session:
        session.add(Task(id="w", whose="anna"))
    app.news()
    names = {"sessionmaker": sessionmaker, "engine": app.database.engine, "mobync": app.mobync}
    exec(program.replace(".name", ".title"), {**names, "Task": Task})
    assert app.news() == [("update", "tasks", {"id": "w", "name": "by the backend"})]


# ---- in the session of a sync --------------------------------------------------------------------


class Counting(SQLAlchemySynchronizer):
    """A rule of the app that edits a row by the ORM."""

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        session = self._source.session()
        assert session is not None
        session.get_one(Task, "count").rank += 1
        return True


def test_what_a_rule_edits_comes_after_the_sync(database: Database) -> None:
    create_tables(database.engine, Base.metadata)
    with Session(database.engine) as session:
        mobync = Mobync(Counting(session, MODELS))
        track(session, mobync)
        session.add(Task(id="count", whose="anna", rank=0))
        session.commit()
        session.add(Task(id="pending", whose="anna", rank=1))
        reply = mobync.apply(1, [diff("create", id="t", rank=1)], "anna")
        assert reply["logical_clock"] == 2
        news = mobync.apply(2, [], "anna")["diffs"]
        assert {(d["type"], json.loads(d["json_data"])["id"]) for d in news} == {
            ("update", "count"),
            ("create", "pending"),
        }
        assert mobync.reconcile("anna", dry_run=True).ok


def test_flask_sqlalchemy(database: Database) -> None:
    flask = Flask(__name__)
    flask.config["SQLALCHEMY_DATABASE_URI"] = database.url.render_as_string(hide_password=False)
    db = SQLAlchemy(flask)
    create_tables(database.engine, Base.metadata)
    with flask.app_context():
        mobync = Mobync(SQLAlchemySynchronizer(db, MODELS))
        track(db, mobync)
        db.session.add(Task(id="t", whose="anna"))
        db.session.commit()
        assert len(mobync.apply(0, [], "anna")["diffs"]) == 1
        db.session.remove()
        db.engine.dispose()


def test_a_session_that_is_tracked_twice_logs_once(app: App) -> None:
    track(app.sessions, app.mobync)
    track(app.sessions, Mobync(app.mobync.synchronizer))
    with app.sessions.begin() as session:
        session.add(Task(id="t", whose="anna"))
    assert len(app.news()) == 1


@pytest.mark.parametrize("make", ["class", "scoped", "session"])
def test_what_makes_sessions(database: Database, make: str) -> None:
    create_tables(database.engine, Base.metadata)
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, MODELS))

    class Own(Session):
        pass

    made: dict[str, Any] = {
        "class": Own,
        "scoped": scoped_session(sessionmaker(database.engine)),
        "session": Session(database.engine),
    }
    track(made[make], mobync)
    session = Own(database.engine) if make == "class" else made[make]
    session.add(Task(id="t", whose="anna"))
    session.commit()
    session.close()
    assert len(mobync.apply(0, [], "anna")["diffs"]) == 1
    with Session(database.engine) as untracked:
        untracked.add(Task(id="u", whose="anna"))
        untracked.commit()
    assert len(mobync.apply(0, [], "anna")["diffs"]) == 1


def test_an_async_session(opened: async_databases.Opened) -> None:
    async def story() -> None:
        engine = opened.new_engine()
        try:
            await create_tables_async(engine, Base.metadata)
            mobync = Mobync(AsyncSQLAlchemySynchronizer(engine, MODELS))
            sessions = async_sessionmaker(engine)
            track(sessions, mobync)
            async with sessions.begin() as session:
                session.add(Task(id="t", whose="anna", title="Milk"))
            async with sessions() as session:
                (await session.get_one(Task, "t")).title = "Bread"
                await session.flush()
                await session.rollback()
            reply = await mobync.apply_async(0, [], "anna")
            ((data,),) = [[json.loads(d["json_data"]) for d in reply["diffs"]]]
            assert data == {"id": "t", "name": "Milk", "rank": 7, "list_id": None}
        finally:
            await engine.dispose()

    asyncio.run(story())


def test_with_triggers_too_an_edit_is_logged_once(app: App) -> None:
    """A note of the same edit finds the log as the row is."""
    from mobync.sqlalchemy import create_triggers

    captured = SQLAlchemySynchronizer(app.database.engine, MODELS, capture=True)
    create_tables(app.database.engine, Base.metadata)
    create_triggers(app.database.engine, captured)
    app.mobync = Mobync(captured)
    with app.sessions.begin() as session:
        session.add(Task(id="t", whose="anna"))
    assert len(app.news()) == 1
    with app.database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM diffs_notes")) == 0


# ---- what is wrong ------------------------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with databases.open_database("sqlite", tmp_path) as made:
        yield made


def test_arguments_that_cannot_be(sqlite: Database) -> None:
    any_: Any = object()
    mobync = Mobync(SQLAlchemySynchronizer(sqlite.engine, MODELS))
    with pytest.raises(TypeError, match="session_factory must be a sessionmaker"):
        track(any_, mobync)
    with pytest.raises(TypeError, match="mobync must be a Mobync, not object"):
        track(sessionmaker(sqlite.engine), any_)
    with pytest.raises(TypeError, match="session must be a Session, not object"):
        lock_owners(any_, mobync, ["anna"])
    with pytest.raises(TypeError, match="owner_ids must be several owners, not a str"):
        lock_owners(Session(sqlite.engine), mobync, "anna")
    for store in (MemorySynchronizer(), DocumentSynchronizer(sqlite.engine)):
        with pytest.raises(TypeError, match="must be a SQLAlchemySynchronizer"):
            track(sessionmaker(sqlite.engine), Mobync(store))


def test_a_class_without_the_owner_cannot_be_tracked(sqlite: Database) -> None:
    class Ownerless(DeclarativeBase):
        metadata = MetaData()

    app = App(sqlite)
    mapped = Task.__table__
    without = {"__table__": mapped, "__mapper_args__": {"exclude_properties": ["owner"]}}
    kind: Any = type("Lean", (Ownerless,), without)
    with app.sessions() as session:
        session.add(kind(id="t"))
        with pytest.raises(ValueError, match="Lean cannot be tracked: it does not map"):
            session.flush()
