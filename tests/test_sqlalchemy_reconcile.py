"""Mobync.reconcile on real databases: rows that were edited by SQL."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

import databases
import pytest
from sqlalchemy import (
    Column,
    Computed,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    delete,
    insert,
    update,
)
from task_list import TaskList, diff
from test_sqlalchemy_server_edits import of_device
from test_sqlalchemy_values import A_UUID, COLUMNS, GOOD, Things, json_text

from mobync import Difference, InvalidDiffError, Mobync
from mobync._sync import logged_objects, reconciling
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    compact_all,
    create_tables,
    create_triggers,
    reconcile_all,
)

database = databases.database


def pushed(tasks: TaskList, *ids: str) -> Mobync:
    """A server whose log has a task of bob's for each id."""
    mobync = Mobync(tasks.store)
    mobync.push("bob", [("create", "tasks", task(id_)) for id_ in ids])
    return mobync


def task(id_: str) -> dict[str, Any]:
    return {"id": id_, "name": f"task {id_}", "rank": 1, "done": False}


def execute(tasks: TaskList, *statements: Any) -> None:
    with tasks.database.engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)


def test_what_sql_inserted_updated_deleted_and_gave_away_reaches_the_devices(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a", "b", "c", "m")
    t = tasks.tasks
    execute(
        tasks,
        update(t).where(t.c.id == "a").values(name="by an admin"),
        delete(t).where(t.c.id == "b"),
        insert(t).values(id="d", owner="bob", name="new"),
        update(t).where(t.c.id == "m").values(owner="eve"),
    )
    looked = mobync.reconcile("bob", dry_run=True)
    assert looked[:4] == (3, 1, 1, 2)
    assert len(tasks.log()) == 4
    assert mobync.reconcile("bob", "tasks") == looked
    assert of_device(mobync, "bob") == tasks.rows()
    sent = [(d["type"], json.loads(d["json_data"])) for d in mobync.apply(4, [], "bob")["diffs"]]
    assert sorted(sent, key=lambda edit: edit[1]["id"]) == [
        ("update", {"id": "a", "name": "by an admin"}),
        ("delete", {"id": "b"}),
        ("create", {"id": "d", "name": "new", "rank": None, "done": None}),
        ("delete", {"id": "m"}),
    ]
    assert mobync.reconcile("eve")[:4] == (1, 1, 0, 0)
    assert of_device(mobync, "eve") == tasks.rows("eve") != {}
    assert mobync.reconcile("bob").ok
    assert mobync.reconcile("eve").ok


def test_a_result_lists_what_only_one_side_says(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a", "b")
    execute(
        tasks,
        update(tasks.tasks).where(tasks.tasks.c.id == "a").values(rank=7),
        delete(tasks.tasks).where(tasks.tasks.c.id == "b"),
        insert(tasks.tasks).values(id="c", owner="bob"),
    )
    assert mobync.reconcile("bob").differences == [
        Difference("tasks", "a", '{"id": "a", "rank": 1}', '{"id": "a", "rank": 7}'),
        Difference("tasks", "c", None, '{"id": "c", "name": null, "rank": null, "done": null}'),
        Difference("tasks", "b", json.dumps(task("b")), None),
    ]  # fmt: skip


def test_an_edit_of_a_device_that_comes_later_is_merged_with_one_by_sql(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a")
    execute(tasks, update(tasks.tasks).values(name="by an admin"))
    mobync.reconcile("bob")
    reply = mobync.apply(1, [diff("update", id="a", rank=9)], "bob")
    assert [json.loads(d["json_data"]) for d in reply["diffs"]] == [
        {"id": "a", "name": "by an admin"}
    ]
    assert tasks.rows()["a"] == {"id": "a", "name": "by an admin", "rank": 9, "done": False}
    assert mobync.reconcile("bob").ok


def test_no_form_of_a_value_is_mistaken_for_an_edit(database: Any) -> None:
    things = Things(database)
    mobync = Mobync(things.store)
    rows = [json_text(id=str(n), **{field: sent}) for n, (field, sent, *_) in enumerate(GOOD)]
    mobync.push("bob", [("create", "things", row) for row in rows])
    assert mobync.reconcile("bob") == (len(GOOD), 0, 0, 0, [])


BY_SQL: dict[str, Any] = {
    "small": -7,
    "number": 12,
    "big": 2**62,
    "price": Decimal("0.3000"),
    "ratio": 0.1,
    "flag": True,
    "short": "a b ",
    "long": "x\n",
    "day": dt.date(1999, 12, 31),
    "moment": dt.datetime(2001, 2, 3, 4, 5, 6),
    "instant": dt.datetime(2001, 2, 3, 4, 5, 6, tzinfo=dt.timezone.utc),
    "clock": dt.time(1, 2, 3),
    "tree": {"b": [1.5, {"c": None}], "a": True},
    "blob": b"\x00\x01",
    "key": uuid.UUID(A_UUID),
    "mood": "glad",
    "colour": "red",
    "shout": "LOUD",
}


def test_an_edit_by_sql_of_a_column_of_each_type_is_found_once(database: Any) -> None:
    things = Things(database)
    mobync = Mobync(things.store)
    assert BY_SQL.keys() == COLUMNS.keys()
    fields = list(BY_SQL)
    mobync.push("bob", [("create", "things", {"id": field}) for field in fields])
    with database.engine.begin() as connection:
        for field, value in BY_SQL.items():
            changed = update(things.table).where(things.table.c.id == field)
            connection.execute(changed.values({field: value}))
    assert mobync.reconcile("bob")[:4] == (len(fields), 0, len(fields), 0)
    found = of_device(mobync, "bob")
    with things.store.transaction("bob") as inside:
        stored = {row["id"]: row for row in inside.read("things")}
    assert {f: found[f][f] for f in fields} == {f: stored[f][f] for f in fields}
    assert mobync.reconcile("bob").ok
    with database.engine.begin() as connection:
        nothing = {f: None for f in fields if f != "tree"}
        connection.execute(update(things.table).values(nothing))
    assert mobync.reconcile("bob").updated == len(fields) - 1
    assert mobync.reconcile("bob").ok


def test_true_in_a_json_column_is_not_1(database: Any) -> None:
    things = Things(database)
    mobync = Mobync(things.store)
    mobync.push("bob", [("create", "things", {"id": "a", "tree": {"x": [1, 2.0]}})])
    for tree, is_edit in [({"x": [1.0, 2]}, False), ({"x": [True, 2]}, True), ({"x": [1]}, True)]:
        with database.engine.begin() as connection:
            connection.execute(update(things.table).values(tree=tree))
        assert mobync.reconcile("bob").ok is not is_edit


def test_what_the_database_filled_in_before_it_was_read_back_is_an_edit(database: Any) -> None:
    metadata = MetaData()
    things = Table(
        "things",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("n", Integer),
        Column("twice", Integer, Computed("n * 2", persisted=True)),
        Column("state", String(10), server_default="draft"),
        Column("changed", Integer, default=0, onupdate=1),
    )
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, {"things": things}))
    metadata.create_all(database.engine)
    mobync.push("bob", [("create", "things", {"id": "b", "n": 1})])
    assert mobync.reconcile("bob").ok
    mobync.synchronizer.filled_models = None  # as before there was such a thing
    mobync.push("bob", [("create", "things", {"id": "a", "n": 1})])
    made = {"id": "a", "twice": 2, "state": "draft", "changed": 0}
    assert mobync.reconcile("bob").differences == [
        Difference("things", "a", '{"id": "a"}', json.dumps(made))
    ]
    assert mobync.reconcile("bob").ok


def test_rows_from_before_mobync_and_those_edited_before_they_were_adopted_come_whole(
    database: Any,
) -> None:
    tasks = TaskList(database)
    execute(tasks, *(insert(tasks.tasks).values(id=i, owner="bob", name=i) for i in "ab"))
    mobync = Mobync(tasks.store)
    mobync.push("bob", [("update", "tasks", {"id": "a", "rank": 2})])
    assert mobync.reconcile("bob")[:4] == (2, 2, 0, 0)
    assert of_device(mobync, "bob") == tasks.rows()
    assert mobync.reconcile("bob").ok


def test_an_object_that_was_deleted_and_one_that_was_never_there_stay_away(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a", "b")
    mobync.push(
        "bob",
        [("delete", "tasks", {"id": "a"}), ("update", "tasks", {"id": "never", "rank": 1})],
    )
    assert mobync.reconcile("bob") == (1, 0, 0, 0, [])
    execute(tasks, insert(tasks.tasks).values(id="a", owner="bob", name="back"))
    assert mobync.reconcile("bob").created == 1
    assert of_device(mobync, "bob") == tasks.rows()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "PIECE_ROWS", 10)
    monkeypatch.setattr(logged_objects, "PIECE_CLOCKS", 7)


@pytest.mark.usefixtures("small_pieces")
def test_what_devices_write_between_two_pieces_is_no_edit_by_sql(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, *(f"t{i:02}" for i in range(30)))
    steps: list[tuple[int, int]] = []

    def meanwhile(done: int, total: int) -> None:
        steps.append((done, total))
        if done == 30 + 10:  # 30 diffs, and the first piece of rows
            edits = [
                diff("update", id="t05", name="behind"),
                diff("update", id="t15", name="ahead"),
                diff("delete", id="t06"),
                diff("delete", id="t16"),
                diff("create", id="t07b", done=True),
                diff("create", id="t17b", done=True),
            ]
            mobync.apply(30, edits, "bob")

    assert mobync.reconcile("bob", progress=meanwhile).ok
    assert len(tasks.log()) == 36
    assert of_device(mobync, "bob").keys() == tasks.rows().keys()
    assert steps[-1][0] == steps[-1][1] == 60
    assert steps == sorted(steps)


@pytest.mark.usefixtures("small_pieces")
def test_deletes_are_exact_while_devices_and_sql_go_on(database: Any) -> None:
    """Rows that vanish or come after the walk has passed them, or before it comes to them."""
    tasks = TaskList(database)
    mobync = pushed(tasks, *(f"t{i:02}" for i in range(30)))
    t = tasks.tasks
    execute(tasks, delete(t).where(t.c.id.in_(["t02", "t03", "t04", "t22"])))

    def meanwhile(done: int, total: int) -> None:
        if done != 30 + 10:
            return
        execute(
            tasks,
            insert(t).values(id="t02", owner="bob", name="came back behind the walk"),
            delete(t).where(t.c.id == "t05"),  # met already: for the next time
            delete(t).where(t.c.id == "t25"),
        )
        mobync.apply(30, [diff("delete", id="t03")], "bob")

    found = mobync.reconcile("bob", progress=meanwhile)
    assert found[1:4] == (0, 1, 3)
    assert {each.id for each in found.differences} == {"t02", "t04", "t22", "t25"}
    assert mobync.reconcile("bob")[1:4] == (0, 0, 1)
    assert of_device(mobync, "bob") == tasks.rows()
    assert [d["type"] for d in tasks.log()].count("delete") == 5


@pytest.mark.usefixtures("small_pieces")
def test_a_log_that_was_compacted_says_the_same(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, *(f"t{i:02}" for i in range(20)))
    for rank in range(30):
        mobync.push("bob", [("update", "tasks", {"id": "t00", "rank": rank})])
    mobync.push("bob", [("delete", "tasks", {"id": "t01"})])
    assert [owner for owner, _ in compact_all(mobync)] == ["bob"]
    assert mobync.reconcile("bob") == (19, 0, 0, 0, [])


def test_a_piece_that_fails_is_made_again_and_counts_once(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a")
    execute(tasks, insert(tasks.tasks).values(id="b", owner="bob"))
    failures = [True]
    append_log = SQLAlchemySynchronizer.append_log

    class Deadlock(Exception):
        pass

    def fail_once(self: Any, where: str, rows: Any) -> None:
        append_log(self, where, rows)
        if failures:
            failures.pop()
            raise Deadlock

    monkeypatch.setattr(SQLAlchemySynchronizer, "append_log", fail_once)
    monkeypatch.setattr(
        SQLAlchemySynchronizer, "is_transient", lambda self, error: isinstance(error, Deadlock)
    )
    assert mobync.reconcile("bob")[:4] == (2, 1, 0, 0)
    assert len(tasks.log()) == 2
    assert mobync.reconcile("bob").ok


def test_only_looking_writes_nothing_and_waits_for_nobody(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a")
    execute(tasks, update(tasks.tasks).values(name="by an admin"))
    before = tasks.log()
    with tasks.another_store().transaction("bob"):
        assert mobync.reconcile("bob", dry_run=True).updated == 1
        assert mobync.reconcile("nobody", dry_run=True).ok
    assert tasks.log() == before
    assert list(tasks.store.owners()) == ["bob"]


def test_listeners_are_told_of_what_was_brought_in_and_of_nothing_else(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a", "b")
    told: list[tuple[str, int, int]] = []
    mobync.listen(
        lambda report: told.append((report.owner_id, report.logical_clock, report.accepted))
    )
    mobync.reconcile("bob")
    execute(tasks, update(tasks.tasks).values(name="by an admin"))
    mobync.reconcile("bob", dry_run=True)
    assert told == []
    mobync.reconcile("bob")
    assert told == [("bob", 4, 2)]


def test_models_come_in_the_order_of_their_references_and_deletes_the_other_way_round(
    database: Any,
) -> None:
    metadata = MetaData()
    tasks = Table(
        "tasks",
        metadata,
        Column("id", Uuid(), primary_key=True),
        Column("owner", Integer, nullable=False),
        Column("project", Uuid(), ForeignKey("projects.id")),
    )
    projects = Table(
        "projects",
        metadata,
        Column("id", Uuid(), primary_key=True),
        Column("owner", Integer, nullable=False),
    )
    countries = Table("countries", metadata, Column("id", String(40), primary_key=True))
    store = SQLAlchemySynchronizer(
        database.engine,
        {"tasks": tasks, "projects": projects, "countries": countries},
        shared=("countries",),
    )
    metadata.create_all(database.engine)
    mobync = Mobync(store)
    key = uuid.UUID(A_UUID)
    with database.engine.begin() as connection:
        connection.execute(insert(countries).values(id="it"))
        connection.execute(insert(projects).values(id=key, owner=17))
        connection.execute(insert(tasks).values(id=key, owner=17, project=key))
    assert mobync.reconcile("17").created == 2
    sent = mobync.apply(0, [], "17")["diffs"]
    assert [(d["type"], d["model"]) for d in sent] == [("create", "projects"), ("create", "tasks")]
    with database.engine.begin() as connection:
        connection.execute(delete(tasks))
        connection.execute(delete(projects))
    assert mobync.reconcile("17").deleted == 2
    sent = mobync.apply(2, [], "17")["diffs"]
    assert [(d["type"], d["model"]) for d in sent] == [("delete", "tasks"), ("delete", "projects")]
    assert mobync.reconcile("17", "countries").created == 1  # shared, so only if it is named


@pytest.mark.parametrize("by", ["reconcile", "capture", "adopt"])
def test_of_a_log_that_begins_with_rows_by_sql_no_device_without_a_name_can_know(
    by: str, database: Any
) -> None:
    """So none holds its horizon."""
    tasks = TaskList(database)
    store = tasks.another_store(database.engine, capture=by == "capture")
    create_tables(database.engine, tasks.metadata)
    if by == "capture":
        create_triggers(database.engine, store)
    mobync = Mobync(store)
    rows = [{"id": id_, "owner": "bob", "name": "by SQL"} for id_ in "ab"]
    with database.engine.begin() as connection:
        connection.execute(tasks.tasks.insert(), rows)
    if by == "reconcile":
        assert mobync.reconcile("bob").created == 2
    elif by == "adopt":
        assert mobync.adopt("bob", "tasks") == 2
    reply = mobync.apply(0, [], "bob", device="phone", request=1)
    assert len(reply["diffs"]) == 2
    compacted = mobync.compact("bob")
    assert (compacted.horizon, compacted.held_by) == (2, ())


def test_every_owner_is_reconciled_even_one_who_never_synced(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a")
    t = tasks.tasks
    execute(
        tasks,
        update(t).values(owner="eve"),
        insert(t).values(id="b", owner="Eve"),
        insert(t).values(id="c", owner=""),
    )
    looked = {owner: found[1:4] for owner, found in reconcile_all(mobync, dry_run=True) if found}
    assert looked == {"bob": (0, 0, 1), "eve": (1, 0, 0), "Eve": (1, 0, 0)}
    steps: list[tuple[str, int]] = []
    done = dict(reconcile_all(mobync, progress=lambda owner, n, total: steps.append((owner, n))))
    assert done.keys() == looked.keys()
    assert {owner for owner, _ in steps} == looked.keys()
    assert all(found is not None and found.ok for _, found in reconcile_all(mobync))
    assert of_device(mobync, "eve") == tasks.rows("eve") != {}
    assert of_device(mobync, "Eve") == tasks.rows("Eve") != {}


def test_an_owner_who_is_busy_is_left_as_it_is(database: Any) -> None:
    tasks = TaskList(database)
    pushed(tasks, "a")
    execute(tasks, update(tasks.tasks).values(name="by an admin"))
    mobync = Mobync(tasks.another_store(lock_timeout_s=0.05), lock_timeout_s=0.05)
    with tasks.store.transaction("bob"):
        assert dict(reconcile_all(mobync)) == {"bob": None}


def test_an_unknown_model_and_a_row_that_cannot_be_a_diff_are_named(database: Any) -> None:
    tasks = TaskList(database)
    mobync = pushed(tasks, "a")
    with pytest.raises(InvalidDiffError, match="'nothing' is unknown"):
        mobync.reconcile("bob", "nothing")
    execute(tasks, insert(tasks.tasks).values(id="", owner="bob"))
    with pytest.raises(InvalidDiffError, match="id"):
        mobync.reconcile("bob")
    with pytest.raises(TypeError, match="SQLAlchemySynchronizer"):
        reconcile_all(Mobync(MemorySynchronizer()))


# ---- documents ----------------------------------------------------------------------------------


def test_documents_that_sql_edited_reach_the_devices_to_the_letter(database: Any) -> None:
    store = DocumentSynchronizer(database.engine)
    store.metadata.create_all(database.engine)
    mobync = Mobync(store)
    mobync.push(
        "bob",
        [("create", "tasks", f'{{"id": "{id_}", "price": 0.10, "note": "x"}}') for id_ in "abc"]
        + [("create", "gone", {"id": "g"})],
    )
    table = store.documents_table
    with database.engine.begin() as connection:
        for id_, text in [
            ("a", '{"id": "a", "price": 0.100, "note": "x"}'),
            ("b", '{"note": "x", "id": "b"}'),
        ]:
            connection.execute(update(table).where(table.c.id == id_).values(document=text))
        connection.execute(delete(table).where(table.c.model == "gone"))
        connection.execute(
            insert(table).values(owner="bob", model="new", id="n", document='{"id": "n"}')
        )
    assert mobync.reconcile("bob")[:4] == (4, 1, 2, 1)
    assert of_device(mobync, "bob").keys() == {"a", "b", "c", "n"}
    sent = {(d["type"], d["json_data"]) for d in mobync.apply(4, [], "bob")["diffs"]}
    assert ("update", '{"id":"a","price":0.100}') in sent
    assert ("create", '{"note": "x", "id": "b"}') in sent
    assert mobync.reconcile("bob").ok
    assert dict(reconcile_all(mobync))["bob"] == (4, 0, 0, 0, [])


@pytest.mark.parametrize(
    ("text", "reason"), [("nonsense", "expected a JSON object"), ('{"id": "z"}', "another 'id'")]
)
def test_a_document_that_is_none_is_named(tmp_path: Any, text: str, reason: str) -> None:
    with databases.open_database("sqlite", tmp_path) as database:
        store = DocumentSynchronizer(database.engine)
        store.metadata.create_all(database.engine)
        mobync = Mobync(store)
        mobync.push("bob", [("create", "tasks", {"id": "a"})])
        with database.engine.begin() as connection:
            connection.execute(update(store.documents_table).values(document=text))
        with pytest.raises(InvalidDiffError, match=reason) as refusal:
            mobync.reconcile("bob")
        assert refusal.value.diff_id == "a"
