"""push, adopt and compact on real databases."""

from __future__ import annotations

import json
from typing import Any

import databases
import pytest
from sqlalchemy import Column, Computed, Integer, MetaData, String, Table
from sqlalchemy.schema import FetchedValue
from task_list import TaskList, diff

from mobync import InvalidDiffError, Mobync
from mobync._sync import adopting as _adopting
from mobync._sync import compacting as _compacting
from mobync.sqlalchemy import SQLAlchemySynchronizer

database = databases.database


def test_a_push_reaches_the_tables_and_the_owners_devices(database: Any) -> None:
    tasks = TaskList(database)
    mobync = Mobync(tasks.store)
    mobync.apply(0, [diff("create", id="a", name="milk")], "bob")
    clock = mobync.push(
        "bob",
        [
            ("create", "tasks", {"id": "b", "name": "bread"}),
            ("update", "tasks", {"id": "a", "rank": 7}),
        ],
    )
    assert clock == 3
    pulled = [json.loads(d["json_data"]) for d in mobync.apply(1, [], "bob")["diffs"]]
    assert pulled == [{"id": "b", "name": "bread"}, {"id": "a", "rank": 7}]
    assert mobync.apply(0, [], "eve")["diffs"] == []


def test_a_table_is_adopted_in_pieces_by_itself(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_adopting, "ADOPT_PIECE_ROWS", 10)
    tasks = TaskList(database)
    rows = [
        {"id": f"t{i:02}", "owner": owner, "name": f"task {i}", "done": i % 2 == 0}
        for i, owner in enumerate(["bob"] * 25 + ["eve"] * 5)
    ]
    with database.engine.begin() as connection:
        connection.execute(tasks.tasks.insert(), rows)
    mobync = Mobync(tasks.store)
    seen: list[int] = []
    assert mobync.adopt("bob", "tasks", progress=seen.append) == 25
    assert seen == [10, 20, 25]
    pulled = [json.loads(d["json_data"]) for d in mobync.apply(0, [], "bob")["diffs"]]
    assert [(row["id"], row["name"], row["done"]) for row in pulled] == [
        (row["id"], row["name"], row["done"]) for row in rows[:25]
    ]
    assert mobync.adopt("bob", "tasks") == 0
    assert mobync.adopt("eve", "tasks") == 5


def test_what_the_database_makes_or_changes_by_itself_is_adopted_and_goes_on(database: Any) -> None:
    metadata = MetaData()
    things = Table(
        "things",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("n", Integer),
        Column("twice", Integer, Computed("n * 2", persisted=True)),
        Column("changed", Integer, default=0, onupdate=1),
        Column("touched", Integer, server_default="0", server_onupdate=FetchedValue()),
    )
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, {"things": things}))
    metadata.create_all(database.engine)
    with database.engine.begin() as connection:
        connection.execute(things.insert(), [{"id": "a", "owner": "bob", "n": 4}])
    assert mobync.adopt("bob", "things") == 1
    (sent,) = mobync.apply(0, [], "bob")["diffs"]
    made = {"id": "a", "n": 4, "twice": 8, "changed": 0, "touched": 0}
    assert json.loads(sent["json_data"]) == made
    mobync.push("bob", [("update", "things", {"id": "a", "n": 5})])
    assert of_device(mobync, "bob") == {"a": {**made, "n": 5, "twice": 10, "changed": 1}}


def of_device(mobync: Mobync, owner: str) -> dict[str, Any]:
    """The rows of a device that had none before."""
    rows: dict[str, Any] = {}
    for sent in mobync.apply(0, [], owner)["diffs"]:
        row = json.loads(sent["json_data"])
        if sent["type"] == "create":
            assert row["id"] not in rows
            rows[row["id"]] = row
        elif sent["type"] == "delete":
            rows.pop(row["id"], None)
        elif row["id"] in rows:
            rows[row["id"]].update(row)
    return rows


def test_what_is_synced_between_two_pieces_is_adopted_as_the_table_has_it(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_adopting, "ADOPT_PIECE_ROWS", 10)
    tasks = TaskList(database)
    rows = [{"id": f"t{i:02}", "owner": "bob", "name": "old", "rank": i} for i in range(30)]
    with database.engine.begin() as connection:
        connection.execute(tasks.tasks.insert(), rows)
    mobync = Mobync(tasks.store)

    def meanwhile(seen: int) -> None:
        if seen == 10:
            mobync.push("bob", [("update", "tasks", {"id": "t05", "name": "new"})])
            mobync.apply(
                10,
                [diff("update", id="t15", name="new"), diff("delete", id="t16")],
                "bob",
            )

    assert mobync.adopt("bob", "tasks", progress=meanwhile) == 29
    assert of_device(mobync, "bob") == tasks.rows()
    assert tasks.rows()["t15"]["name"] == "new"
    assert mobync.adopt("bob", "tasks") == 0


def test_a_row_that_was_edited_before_it_was_adopted_reaches_the_devices_whole(
    database: Any,
) -> None:
    tasks = TaskList(database)
    with database.engine.begin() as connection:
        connection.execute(tasks.tasks.insert(), {"id": "a", "owner": "bob", "name": "v1"})
    mobync = Mobync(tasks.store)
    mobync.push("bob", [("update", "tasks", {"id": "a", "rank": 2})])
    assert mobync.adopt("bob", "tasks") == 1
    assert of_device(mobync, "bob") == tasks.rows()
    assert mobync.adopt("bob", "tasks") == 0
    assert len(tasks.log()) == 3


def test_a_model_that_is_unknown_is_neither_pushed_nor_adopted(database: Any) -> None:
    tasks = TaskList(database)
    mobync = Mobync(tasks.store)
    with pytest.raises(InvalidDiffError, match="'nothing' is unknown") as refusal:
        mobync.push("bob", [("create", "nothing", {"id": "a"})])
    assert (refusal.value.index, refusal.value.diff_id) == (0, "a")
    for rows in (None, [], [{"id": "a"}]):
        with pytest.raises(InvalidDiffError, match="'nothing' is unknown"):
            mobync.adopt("bob", "nothing", rows)
    assert tasks.log() == []


def test_a_log_is_compacted_for_its_owner_only(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compacting, "COMPACT_PIECE_CLOCKS", 7)
    mobync = Mobync(TaskList(database).store)
    for owner in ("bob", "eve"):
        mobync.push(owner, [("create", "tasks", {"id": owner, "rank": 0})])
        for i in range(20):
            mobync.push(owner, [("update", "tasks", {"id": owner, "rank": i, "name": str(i)})])
    before = mobync.apply(0, [], "bob")
    assert mobync.compact("bob")[:2] == (21, 2)
    assert mobync.apply(0, [], "bob") == before
    assert mobync.compact("eve").rows_before == 21
    assert mobync.push("bob", [("delete", "tasks", {"id": "bob"})]) == 22
    assert mobync.compact("bob")[:2] == (3, 1)
    assert mobync.apply(22, [], "bob")["logical_clock"] == 22
