"""capture=True: triggers note what SQL edits, and the next sync brings it to the devices."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
import uuid
from typing import Any

import databases
import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    delete,
    event,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from task_list import TaskList, diff, statements
from test_sqlalchemy_server_edits import of_device

from mobync import InvalidDiffError, Mobync, SyncReport
from mobync._sync.known_devices import clock_of_listener
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    SQLAlchemySynchronizer,
    capture_ddl,
    create_tables,
    create_triggers,
    diffs_table,
    log_noted,
)
from mobync.sqlalchemy import _notes as notes

database = databases.database


class Captured:
    """A task list whose triggers are made."""

    def __init__(self, database: Any) -> None:
        self.tasks = TaskList(database)
        self.engine = database.engine
        self.store = self.tasks.another_store(database.engine, capture=True)
        self.tasks.metadata.create_all(database.engine)
        create_triggers(database.engine, self.store)
        self.mobync = Mobync(self.store)
        self.table = self.tasks.tasks

    def execute(self, *more: Any) -> None:
        with self.engine.begin() as connection:
            for statement in more:
                connection.execute(statement)

    def update(self, id_: str, **values: Any) -> None:
        self.execute(update(self.table).where(self.table.c.id == id_).values(values))

    def notes(self) -> int:
        with self.engine.connect() as connection:
            count = select(func.count()).select_from(self.store.capture.notes_table)
            return int(connection.scalar(count) or 0)

    def sent(self, clock: int, owner: str = "bob") -> list[tuple[str, dict[str, Any]]]:
        diffs = self.mobync.apply(clock, [], owner)["diffs"]
        return [(d["type"], json.loads(d["json_data"])) for d in diffs]


@pytest.fixture
def app(database: Any) -> Captured:
    return Captured(database)


def task(id_: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "name": f"task {id_}", "rank": 1, "done": False, **more}


def push(app: Captured, *ids: str) -> None:
    app.mobync.push("bob", [("create", "tasks", task(id_)) for id_ in ids])


def test_what_sql_did_is_in_the_reply_of_the_next_poll(app: Captured) -> None:
    push(app, "a", "b", "m")
    assert app.notes() == 0
    t = app.table
    app.update("a", name="by an admin")
    app.execute(
        delete(t).where(t.c.id == "b"), insert(t).values(id="d", owner="bob", name="new", done=True)
    )
    app.update("m", owner="eve")
    assert sorted(app.sent(3), key=lambda edit: edit[1]["id"]) == [
        ("update", {"id": "a", "name": "by an admin"}),
        ("delete", {"id": "b"}),
        ("create", {"id": "d", "name": "new", "rank": None, "done": True}),
        ("delete", {"id": "m"}),
    ]
    assert app.sent(0, "eve") == [("create", task("m"))]
    assert app.notes() == 0
    assert app.sent(7) == app.sent(1, "eve") == []
    assert app.mobync.reconcile("bob").ok
    assert app.mobync.reconcile("eve").ok


OF_SQLITE = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"


def shell_of(database: Any, sql: str) -> list[str]:
    """A command that executes SQL in another process, which knows nothing of mobync."""
    url = database.url
    if database.kind == "sqlite":
        return [sys.executable, "-c", OF_SQLITE, url.database, sql]
    if database.kind == "postgresql":
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return ["psql", "--quiet", "--set=ON_ERROR_STOP=1", plain, f"--command={sql}"]
    place = [f"--host={url.host}", f"--port={url.port or 3306}", f"--user={url.username}"]
    password = [] if url.password is None else [f"--password={url.password}"]
    program = shutil.which("mariadb") or "mysql"
    return [program, *place, *password, f"--database={url.database}", f"--execute={sql}"]


def test_what_is_edited_in_the_shell_of_the_database_is_on_the_devices(app: Captured) -> None:
    push(app, "a", "b")
    sql = (
        "UPDATE tasks SET name = 'in a shell' WHERE id = 'a'; DELETE FROM tasks WHERE id = 'b';"
        " INSERT INTO tasks (id, owner, name) VALUES ('c', 'bob', 'new');"
    )
    subprocess.run(shell_of(app.tasks.database, sql), check=True, timeout=300)
    assert sorted(app.sent(2), key=lambda edit: str(edit[1]["id"])) == [
        ("update", {"id": "a", "name": "in a shell"}),
        ("delete", {"id": "b"}),
        ("create", {"id": "c", "name": "new", "rank": None, "done": None}),
    ]
    assert app.mobync.reconcile("bob").ok


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])  # MariaDB tells no trigger of it
def test_rows_that_go_all_at_once_are_noted(kind: str, tmp_path: Any) -> None:
    with databases.open_database(kind, tmp_path) as database:
        app = Captured(database)
        push(app, "a", "b")
        app.execute(insert(app.table).values(id="e", owner="eve", name="hers"))
        assert app.sent(0, "eve") == [
            ("create", {"id": "e", "name": "hers", "rank": None, "done": None})
        ]
        every = {"sqlite": "DELETE FROM tasks", "postgresql": "TRUNCATE tasks"}
        app.execute(text(every[kind]))
        gone = app.sent(2)
        assert sorted(gone, key=str) == [("delete", {"id": "a"}), ("delete", {"id": "b"})]
        assert app.sent(1, "eve") == [("delete", {"id": "e"})]
        assert app.notes() == 0
        assert app.mobync.reconcile("bob").ok


def test_an_edit_by_sql_is_merged_with_what_a_device_sends(app: Captured) -> None:
    push(app, "a", "b")
    app.update("a", name="by an admin", rank=5)
    app.execute(delete(app.table).where(app.table.c.id == "b"))
    sent = [diff("update", id="a", rank=9, done=True), diff("update", id="b", rank=9)]
    for each in sent:
        each["utc_timestamp"] = 1000  # long before
    reply = app.mobync.apply(2, sent, "bob")
    assert app.tasks.rows() == {"a": task("a", name="by an admin", rank=5, done=True)}
    assert [(d["type"], json.loads(d["json_data"])) for d in reply["diffs"]] == [
        ("update", {"id": "a", "name": "by an admin", "rank": 5}),
        ("delete", {"id": "b"}),
    ]
    assert of_device(app.mobync, "bob") == app.tasks.rows()


def test_an_edit_that_a_device_made_after_that_by_sql_wins(
    app: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(app, "a")
    app.update("a", rank=5)
    later = diff("update", id="a", rank=9)
    later["utc_timestamp"] = app.mobync._now_ms() + 60_000
    monkeypatch.setattr(type(app.mobync), "_now_ms", lambda self: later["utc_timestamp"] + 60_000)
    app.mobync.apply(1, [later], "bob")
    assert app.tasks.rows()["a"]["rank"] == 9
    assert of_device(app.mobync, "bob") == app.tasks.rows()


def test_what_mobync_writes_is_not_noted_and_what_is_noted_without_an_edit_is_no_diff(
    app: Captured,
) -> None:
    for edit in (
        diff("create", id="a", done=True),
        diff("update", id="a", rank=2),
        diff("create", id="b", done=True),
        diff("delete", id="b"),
    ):
        app.mobync.apply(app.mobync.logical_clock("bob"), [edit], "bob")
        assert app.notes() == 0
    app.update("a", rank=2)
    app.execute(insert(app.table).values(id="c", owner="bob"))
    app.execute(delete(app.table).where(app.table.c.id == "c"))
    assert app.notes() == 3
    clock = app.mobync.logical_clock("bob")
    assert app.sent(clock) == []
    assert app.mobync.logical_clock("bob") == clock
    assert app.notes() == 0


def test_a_sync_that_fails_leaves_the_notes_and_notes_nothing(
    app: Captured,
) -> None:
    push(app, "a")
    app.update("a", rank=5)
    with pytest.raises(InvalidDiffError):
        app.mobync.apply(1, [diff("create", id="b"), diff("create", id="c", rank="no")], "bob")
    assert app.notes() == 1
    app.update("a", name="noted on the same connection")
    assert app.notes() == 2
    assert app.sent(1) == [
        ("update", {"id": "a", "name": "noted on the same connection", "rank": 5})
    ]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])  # SQLite has one writer at a time
def test_what_comes_while_a_sync_runs_is_for_the_next_one(kind: str, tmp_path: Any) -> None:
    with databases.open_database(kind, tmp_path) as database:
        app = Captured(database)
        push(app, "a", "b")
        app.update("a", rank=5)
        edits: list[int] = []

        class Meanwhile(SQLAlchemySynchronizer):
            def validate_update(self, owner_id: str, **given: Any) -> bool:
                if not edits:
                    edits.append(1)
                    thread = threading.Thread(target=app.update, args=("a",), kwargs={"rank": 6})
                    thread.start()
                    thread.join()
                return True

        server = Mobync(Meanwhile(database.engine, {"tasks": app.table}, capture=True))
        reply = server.apply(2, [diff("update", id="b", rank=7)], "bob")
        assert [json.loads(d["json_data"])["rank"] for d in reply["diffs"]] == [5]
        assert app.notes() == 1
        assert app.sent(4) == [("update", {"id": "a", "rank": 6})]


def test_listeners_hear_of_it_and_a_job_brings_it_in_before_anybody_syncs(app: Captured) -> None:
    push(app, "a")
    told: list[SyncReport] = []
    app.mobync.listen(told.append)
    app.update("a", rank=5)
    app.execute(insert(app.table).values(id="e", owner="Eve", done=True))
    app.execute(insert(app.table).values(id="f", owner="eve", done=True))
    assert dict(log_noted(app.mobync)) == {"bob": 2, "Eve": 1, "eve": 1}
    heard = {(report.owner_id, report.logical_clock) for report in told if report.accepted}
    assert heard == {("bob", 2), ("Eve", 1), ("eve", 1)}
    assert list(log_noted(app.mobync)) == []
    assert app.sent(1) == [("update", {"id": "a", "rank": 5})]


class InAnother(SQLAlchemySynchronizer):
    """Its transactions are the app's."""

    def transaction(self, owner_id: str) -> Any:
        return super().transaction(owner_id)


def test_a_stream_does_not_write_in_a_transaction_of_the_apps(app: Captured) -> None:
    push(app, "a")
    app.update("a", rank=5)
    models = {"tasks": app.table}
    with Session(app.engine) as session:
        for store in (
            SQLAlchemySynchronizer(session, models, capture=True),
            InAnother(app.engine, models, capture=True),
        ):
            assert clock_of_listener(Mobync(store), "bob", None) == 1
            assert app.notes() == 1
    assert clock_of_listener(app.mobync, "bob", None) == 2


def test_a_row_that_is_no_diff_does_not_end_the_syncs_of_its_owner(
    app: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    push(app, "a")
    app.execute(insert(app.table).values(id="", owner="bob", done=True))
    app.update("a", rank=5)
    with caplog.at_level(logging.WARNING, "mobync"):
        assert app.sent(1) == [("update", {"id": "a", "rank": 5})]
    assert "no device gets it" in caplog.text
    assert app.notes() == 0


@pytest.mark.parametrize("most", [0, 50])
def test_what_the_log_says_is_found_however_an_id_is_spelled(
    app: Captured, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "MOST_OBJECTS", most)
    ids = ["plain", "a%b_c", "ä€😀", 'quo"te', "back\\slash", "sl/ash", "'", "x"]
    for id_ in ids:
        app.mobync.push("bob", [("create", "tasks", json.dumps(task(id_)))])  # with \\u escapes
    app.mobync.push("bob", [("create", "tasks", '{"id": "\\u0070q\\/", "rank": 1}')])
    app.mobync.push("bob", [("delete", "tasks", {"id": "x"})])
    app.execute(update(app.table).values(rank=7))
    clock = app.mobync.logical_clock("bob")
    found = app.sent(clock)
    assert {edit["id"] for _, edit in found} == {*ids, "pq/"} - {"x"}
    assert all(kind == "update" for kind, _ in found)
    assert all(edit["rank"] == 7 for _, edit in found)
    assert app.mobync.reconcile("bob").ok
    for id_ in ("pq/", "a%b_c", "plain"):  # alone, so that the log is searched for it
        app.update(id_, rank=8)
        clock = app.mobync.logical_clock("bob")
        assert app.sent(clock) == [("update", {"id": id_, "rank": 8})]


def test_owners_and_ids_that_are_no_text_are_found(database: Any) -> None:
    metadata = MetaData()
    files = Table(
        "files",
        metadata,
        Column("id", Uuid(), primary_key=True),
        Column("owner", Uuid()),
    )
    remarks = Table(
        "remarks",
        metadata,
        Column("id", Uuid(), primary_key=True),
        Column("owner", Integer),
        Column("n", Integer),
    )
    store = SQLAlchemySynchronizer(
        database.engine, {"re marks'": remarks, "files": files}, capture=True
    )
    metadata.create_all(database.engine)
    create_triggers(database.engine, store)
    mobync = Mobync(store)
    key, user = uuid.uuid4(), uuid.uuid4()
    with database.engine.begin() as connection:
        connection.execute(insert(remarks).values(id=key, owner=17, n=1))
        connection.execute(insert(remarks).values(id=uuid.uuid4(), owner=None, n=1))
        connection.execute(insert(files).values(id=key, owner=user))
    assert dict(log_noted(mobync)) == {"17": 1, str(user): 1}
    (sent,) = mobync.apply(0, [], "17")["diffs"]
    assert (sent["model"], json.loads(sent["json_data"])) == ("re marks'", {"id": str(key), "n": 1})
    with database.engine.begin() as connection:
        connection.execute(update(files).values(owner=uuid.uuid4()))
    assert [d["type"] for d in mobync.apply(1, [], str(user))["diffs"]] == ["delete"]


class Base(DeclarativeBase):
    pass


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(40))
    name: Mapped[str | None] = mapped_column(String(40))


def test_what_the_apps_own_session_has_pending_goes_into_the_same_sync(database: Any) -> None:
    with Session(database.engine, expire_on_commit=False) as session:
        store = SQLAlchemySynchronizer(session, {"tasks": Task}, capture=True)
        Base.metadata.create_all(database.engine)
        create_triggers(database.engine, store)
        mobync = Mobync(store)
        try:
            mobync.push("bob", [("create", "tasks", {"id": "a", "name": "first"})])
            session.get_one(Task, "a").name = "by the app"
            session.add(Task(id="b", owner="bob", name="new"))
            diffs = mobync.apply(1, [], "bob")["diffs"]
            assert {json.loads(d["json_data"])["name"] for d in diffs} == {"by the app", "new"}
            session.get_one(Task, "a").name = "once more"
            assert mobync.push("bob", [("update", "tasks", {"id": "b", "name": "pushed"})]) == 5
            assert mobync.reconcile("bob").ok
            assert session.scalar(select(func.count()).select_from(store.capture.notes_table)) == 0
            session.rollback()
        finally:
            session.close()
            Base.metadata.remove(Base.metadata.tables["diffs"])
            Base.metadata.remove(Base.metadata.tables["diffs_heads"])
            Base.metadata.remove(Base.metadata.tables["diffs_notes"])


BUMPS = "UPDATE tasks SET rank = COALESCE(rank, 0) + 1 WHERE id = CONCAT('sum of ', NEW.owner)"

# A trigger on the rows of another table writes to tasks: MariaDB lets none write its own table.
SUMMING = {
    "sqlite": [
        f"CREATE TRIGGER sums AFTER INSERT ON items BEGIN {BUMPS}; END".replace(
            "CONCAT('sum of ', NEW.owner)", "'sum of ' || NEW.owner"
        )
    ],
    "postgresql": [
        f"CREATE FUNCTION sums() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {BUMPS};"
        " RETURN NULL; END $$",
        "CREATE TRIGGER sums AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION sums()",
    ],
    "mariadb": [f"CREATE TRIGGER sums AFTER INSERT ON items FOR EACH ROW {BUMPS}"],
}


def test_what_another_trigger_does_to_other_rows_while_mobync_writes_is_noted(
    database: Any,
) -> None:
    app = Captured(database)
    items = Table(
        "items",
        app.tasks.metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
    )
    models = {"tasks": app.table, "items": items}
    app.store = SQLAlchemySynchronizer(database.engine, models, capture=True)
    app.tasks.metadata.create_all(database.engine)
    create_triggers(database.engine, app.store)
    app.mobync = Mobync(app.store)
    with database.engine.begin() as connection:
        for statement in SUMMING[database.kind]:
            connection.exec_driver_sql(statement)
    app.mobync.apply(0, [diff("create", id="sum of bob", done=True)], "bob")
    assert app.notes() == 0
    clock = app.mobync.apply(1, [diff("create", "items", id="i")], "bob")["logical_clock"]
    assert app.notes() == 1
    assert app.sent(clock) == [("update", {"id": "sum of bob", "rank": 1})]
    assert app.notes() == 0
    # In the same sync the device writes the row that the trigger writes, too.
    clock = app.mobync.logical_clock("bob")
    both = [diff("update", id="sum of bob", name="sum"), diff("create", "items", id="j")]
    clock = app.mobync.apply(clock, both, "bob")["logical_clock"]
    assert app.sent(clock) == [("update", {"id": "sum of bob", "rank": 2})]
    assert app.mobync.reconcile("bob", dry_run=True).ok


_EVES = "UPDATE tasks SET name = 'by a trigger' WHERE owner = 'eve'"
_BOBS = "DELETE FROM tasks WHERE owner = 'bob' AND id = 'b'"
WRITING_TASKS = {
    "sqlite": [f"CREATE TRIGGER writes AFTER INSERT ON items BEGIN {_EVES}; {_BOBS}; END"],
    "postgresql": [
        f"CREATE FUNCTION writes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {_EVES}; {_BOBS};"
        " RETURN NULL; END $$",
        "CREATE TRIGGER writes AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION writes()",
    ],
    "mariadb": [
        f"CREATE TRIGGER writes AFTER INSERT ON items FOR EACH ROW BEGIN {_EVES}; {_BOBS}; END"
    ],
}


def test_a_note_is_kept_where_mobync_did_not_write_that_row_itself(database: Any) -> None:
    metadata = MetaData()
    tasks, items = (
        Table(
            name,
            metadata,
            Column("owner", String(40), primary_key=True),
            Column("id", String(40), primary_key=True),
            Column("name", String(40)),
        )
        for name in ("tasks", "items")
    )
    store = SQLAlchemySynchronizer(database.engine, {"tasks": tasks, "items": items}, capture=True)
    create_tables(database.engine, metadata)
    create_triggers(database.engine, store)
    with database.engine.begin() as connection:
        for statement in WRITING_TASKS[database.kind]:
            connection.exec_driver_sql(statement)
    mobync = Mobync(store)
    mobync.push("eve", [("create", "tasks", {"id": "a", "name": "hers"})])
    mobync.push("bob", [("create", "tasks", {"id": id_, "name": "his"}) for id_ in ("a", "b")])
    # The trigger writes eve's task with the id of bob's, and deletes the other one of bob's before
    # mobync updates it.
    sent = [diff("create", "items", id="i"), diff("update", id="a", name="new")]
    clock = mobync.apply(2, [*sent, diff("update", id="b", name="new")], "bob")["logical_clock"]

    def reply(clock: int, owner_id: str) -> list[tuple[str, dict[str, Any]]]:
        diffs = mobync.apply(clock, [], owner_id)["diffs"]
        return [(d["type"], json.loads(d["json_data"])) for d in diffs]

    assert reply(1, "eve") == [("update", {"id": "a", "name": "by a trigger"})]
    assert reply(clock, "bob") == [("delete", {"id": "b"})]
    assert mobync.reconcile("bob", dry_run=True).ok
    assert mobync.reconcile("eve", dry_run=True).ok


def test_a_connection_whose_notes_cannot_be_settled_notes_edits_again(tmp_path: Any) -> None:
    with databases.open_database("mariadb", tmp_path) as database:
        app = Captured(database)
        push(app, "a")

        def refuse(*arguments: Any) -> None:
            if "noted_at < " in arguments[2]:
                raise RuntimeError("not now")

        event.listen(database.engine, "before_cursor_execute", refuse)
        with pytest.raises(RuntimeError, match="not now"):
            app.mobync.apply(1, [diff("update", id="a", name="new")], "bob")
        event.remove(database.engine, "before_cursor_execute", refuse)
        app.update("a", rank=7)  # on the same connection
        noted_at = app.store.capture.notes_table.c.noted_at
        with database.engine.connect() as connection:
            assert [ms > 0 for ms in connection.scalars(select(noted_at))] == [True]


def test_what_another_trigger_writes_is_noted_on_postgresql_while_mobync_writes(
    tmp_path: Any,
) -> None:
    with databases.open_database("postgresql", tmp_path) as database:
        app = Captured(database)
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " UPDATE tasks SET rank = 77 WHERE id = NEW.id; RETURN NULL; END $$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER number AFTER INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION number()"
            )
        app.mobync.apply(0, [diff("create", id="a", done=True)], "bob")
        assert app.sent(1) == [("update", {"id": "a", "rank": 77})]


def test_who_edits_needs_no_right_on_the_notes_on_postgresql(tmp_path: Any) -> None:
    with databases.open_database("postgresql", tmp_path) as database:
        app = Captured(database)
        push(app, "a")
        role = f"mobync_{uuid.uuid4().hex[:12]}"
        try:
            with database.engine.begin() as connection:
                name = connection.scalar(select(func.current_schema()))
                connection.execute(text(f"CREATE ROLE {role}"))
                connection.execute(text(f"GRANT USAGE ON SCHEMA {name} TO {role}"))
                connection.execute(text(f"GRANT SELECT, UPDATE ON tasks TO {role}"))
            with database.engine.begin() as connection:
                connection.execute(text(f"SET LOCAL ROLE {role}"))
                connection.execute(update(app.table).values(rank=5))
            assert app.sent(1) == [("update", {"id": "a", "rank": 5})]
        finally:
            with database.engine.begin() as connection:
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))


# ---- how it is put together ---------------------------------------------------------------------


def test_triggers_that_are_missing_are_named_before_anything_is_synced(database: Any) -> None:
    tasks = TaskList(database)
    store = tasks.another_store(database.engine, capture=True)
    create_tables(database.engine, tasks.metadata)
    for ask in (lambda: Mobync(store).apply(0, [], "bob"), lambda: Mobync(store).push("bob", [])):
        with pytest.raises(
            ValueError, match=r"'diffs_notes_tasks_[ut]' is missing.*create_triggers"
        ):
            ask()
    for statement in capture_ddl(store, database.engine):
        with database.engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert Mobync(store).apply(0, [], "bob")["success"]


def test_only_what_captures_has_triggers(database: Any) -> None:
    tasks = TaskList(database)
    with pytest.raises(TypeError, match="capture=True"):
        create_triggers(database.engine, tasks.store)
    with pytest.raises(TypeError, match="capture=True"):
        log_noted(Mobync(MemorySynchronizer()))
    with pytest.raises(TypeError, match="capture must be True or False"):
        tasks.another_store(database.engine, capture="yes")
    assert "diffs_notes" not in tasks.metadata.tables


def test_a_poll_costs_one_read_more_and_without_capture_nothing_does(app: Captured) -> None:
    push(app, "a")
    plain = Mobync(app.tasks.another_store(app.engine))
    for server in (plain, app.mobync) * 2:  # at first that there is such a device is noted
        server.apply(1, [], "bob")
    counts = []
    for server in (plain, app.mobync):
        with statements(app.engine) as seen:
            server.apply(1, [], "bob")
        counts.append(len(seen))
    assert counts[1] == counts[0] + 1
    with statements(app.engine) as seen:
        plain.push("bob", [("update", "tasks", {"id": "a", "rank": 2})])
    assert not any("notes" in each or "mobync_writing" in each for each in seen)


def test_a_log_of_another_name_has_notes_beside_it(database: Any) -> None:
    metadata = MetaData()
    things = Table(
        "things", metadata, Column("id", String(40), primary_key=True), Column("owner", String(40))
    )
    store = SQLAlchemySynchronizer(
        database.engine,
        {"a model with a name longer than any name of a trigger may be": things},
        diffs=diffs_table(metadata, "changes"),
        capture=True,
    )
    assert "changes_notes" in metadata.tables
    create_tables(database.engine, metadata)
    create_triggers(database.engine, store)
    with database.engine.begin() as connection:
        connection.execute(insert(things).values(id="a", owner="bob"))
    assert len(Mobync(store, "changes").apply(0, [], "bob")["diffs"]) == 1


def rows_looked_at(database: Any, work: Any) -> int:
    """How much the database reads for some work: rows on MariaDB, steps of programs on SQLite."""
    engine = database.new_engine(pool_size=1, max_overflow=0)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    def read_so_far() -> int:
        if database.kind == "sqlite":
            return steps
        with engine.connect() as connection:
            status = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler\\_read%%'")
            return sum(int(value) for _, value in status)

    work(engine)  # settings are checked and triggers looked for once
    if database.kind == "sqlite":
        with engine.connect() as connection:
            connection.connection.dbapi_connection.set_progress_handler(count, 1)
    before = read_so_far()
    work(engine)
    return read_so_far() - before


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])  # PostgreSQL has nothing to settle
def test_a_push_does_not_look_at_the_notes_that_wait_for_others(kind: str, tmp_path: Any) -> None:
    with databases.open_database(kind, tmp_path) as database:
        app = Captured(database)
        push(app, "a")

        def edit(engine: Any) -> None:
            server = Mobync(app.tasks.another_store(engine, capture=True))
            server.push("bob", [("update", "tasks", {"id": "a", "rank": 2})])

        alone = rows_looked_at(database, edit)
        waiting = [
            {"owner": "eve", "model": "tasks", "object_id": str(number), "noted_at": 1}
            for number in range(3000)
        ]
        with app.engine.begin() as connection:
            connection.execute(insert(app.store.capture.notes_table), waiting)
        if kind == "mariadb":
            app.execute(text("ANALYZE TABLE diffs_notes"))
        assert rows_looked_at(database, edit) < alone + 500
        assert app.notes() == 3000


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])  # SQLite has one writer at a time
def test_neither_a_sync_nor_an_edit_waits_for_notes_that_are_not_committed(
    kind: str, tmp_path: Any
) -> None:
    with databases.open_database(kind, tmp_path) as database:
        app = Captured(database)
        app.mobync.push("eve", [("create", "tasks", task("e"))])
        push(app, "a", "b")
        change = update(app.table).values(rank=5)
        edited: list[int] = []

        class Meanwhile(SQLAlchemySynchronizer):
            def validate_update(self, owner_id: str, **given: Any) -> bool:
                app.execute(change.where(app.table.c.id == "b"))
                edited.append(app.notes())
                return True

        store = Meanwhile(
            database.new_engine(), {"tasks": app.table}, capture=True, lock_timeout_s=1
        )
        with app.engine.begin() as connection:
            connection.execute(change.where(app.table.c.id == "e"))
            Mobync(store).push("bob", [("update", "tasks", {"id": "a", "rank": 2})])
            Mobync(store).apply(3, [diff("update", id="a", rank=3)], "bob")
        assert edited == [1]
        assert app.sent(4) == [("update", {"id": "b", "rank": 5})]
        assert app.notes() == 1


def test_nor_does_a_sync_in_a_session_that_had_read_before_another_sync(tmp_path: Any) -> None:
    """At REPEATABLE READ its reads take locks on MariaDB, so that they see what that one wrote."""
    with databases.open_database("mariadb", tmp_path) as database:
        app = Captured(database)
        app.mobync.push("eve", [("create", "tasks", task("e"))])
        push(app, "a")
        change = update(app.table).where(app.table.c.id == "e").values(rank=5)
        with Session(database.new_engine(isolation_level="REPEATABLE READ")) as session:
            store = SQLAlchemySynchronizer(
                session, {"tasks": app.table}, capture=True, lock_timeout_s=1
            )
            assert session.scalars(select(app.table.c.id)).all() == ["a", "e"]
            push(app, "b")
            with app.engine.begin() as connection:
                connection.execute(change)
                Mobync(store).push("bob", [("update", "tasks", {"id": "b", "rank": 2})])
        assert app.sent(2) == [("update", {"id": "b", "rank": 2})]
        assert app.notes() == 1
