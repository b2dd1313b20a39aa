"""mobync.sqlalchemy: rows are written in an order that foreign keys allow."""

from __future__ import annotations

import json
import random
from itertools import groupby
from typing import Any

import databases
import pytest
from databases import Database
from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, MetaData, String, Table, event
from task_list import diff, statements

from mobync import InvalidDiffError, Mobync, Synchronizer
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import SQLAlchemySynchronizer

database = databases.database


class Projects:
    """Tasks in projects, and under other tasks; projects may have a first task."""

    def __init__(self, database: Database, first_task: bool = False) -> None:
        metadata = MetaData()
        self.projects = Table(
            "projects",
            metadata,
            Column("owner", String(40), primary_key=True),
            Column("id", String(40), primary_key=True),
            Column("first_task", String(40), ForeignKey("tasks.id") if first_task else None),
        )
        self.tasks = Table(
            "tasks",
            metadata,
            Column("id", String(40), primary_key=True),
            Column("owner", String(40), nullable=False),
            Column("n", String(40)),
            Column("project_id", String(40)),
            Column("parent_id", ForeignKey("tasks.id")),
            ForeignKeyConstraint(["owner", "project_id"], ["projects.owner", "projects.id"]),
        )
        self.engine = database.engine
        if database.kind == "sqlite":
            event.listen(
                self.engine, "connect", lambda c, _: c.execute("PRAGMA foreign_keys = ON").close()
            )
        self.store = SQLAlchemySynchronizer(
            self.engine, {"tasks": self.tasks, "projects": self.projects}
        )
        metadata.create_all(self.engine)
        self.mobync = Mobync(self.store)

    def rows(self, model: str) -> dict[str, Any]:
        with self.store.transaction("bob") as inside:
            return {row["id"]: row for row in inside.read(model)}

    def log(self) -> list[str]:
        with self.store.transaction("bob") as inside:
            rows = sorted(inside.read("diffs"), key=lambda row: row["logical_clock"])
        return [json.loads(row["json_data"])["id"] for row in rows]


def test_a_task_may_be_made_before_the_project_that_it_is_filed_under_later(database):
    app = Projects(database)
    made = [
        diff("create", id="t", n="milk"),
        diff("create", "projects", id="p"),
        diff("update", id="t", project_id="p"),
    ]
    reply = app.mobync.apply(0, made, "bob")
    assert reply["logical_clock"] == 2
    assert app.rows("tasks")["t"]["project_id"] == "p"
    assert app.log() == ["t", "p"]  # as the device did it
    assert [d["logical_clock"] for d in made] == [0, 1, 0]


def test_a_task_may_be_made_before_the_task_that_it_is_put_under_later(database):
    app = Projects(database)
    made = [diff("create", id=i) for i in "abcd"]
    moved = [diff("update", id=i, parent_id=j) for i, j in ("ad", "bc", "cd", "dd")]
    app.mobync.apply(0, made + moved, "bob")
    assert {i: row["parent_id"] for i, row in app.rows("tasks").items()} == dict(
        zip("abcd", "dcdd", strict=True)
    )
    assert app.log() == ["a", "b", "c", "d"]


def test_an_update_may_refer_to_a_create_that_follows_it(database):
    app = Projects(database)
    app.mobync.apply(0, [diff("create", id="t")], "bob")
    app.mobync.apply(
        1, [diff("update", id="t", project_id="p"), diff("create", "projects", id="p")], "bob"
    )
    assert app.rows("tasks")["t"]["project_id"] == "p"


def test_a_push_is_written_in_such_an_order_too(database):
    app = Projects(database)
    clock = app.mobync.push(
        "bob",
        [("create", "tasks", {"id": "t", "project_id": "p"}), ("create", "projects", {"id": "p"})],
    )
    assert clock == 2
    assert app.log() == ["t", "p"]


def test_a_chain_of_references_is_followed_to_its_end(database):
    app = Projects(database)
    depth = 2000
    chain = [diff("create", id=f"t{i}", parent_id=f"t{i + 1}") for i in range(depth)]
    app.mobync.apply(0, [*chain, diff("create", id=f"t{depth}")], "bob")
    assert len(app.rows("tasks")) == depth + 1


def test_many_tasks_made_before_their_projects_are_still_two_runs(database):
    app = Projects(database)
    app.mobync.push("bob", [("create", "projects", {"id": "first"})])
    sent = [diff("create", id=f"t{i}", project_id=f"p{i // 2}") for i in range(50)]
    sent += [diff("create", id=f"free{i}") for i in range(50)]
    sent += [diff("create", "projects", id=f"p{i}") for i in range(25)]
    with statements(app.engine) as seen:
        app.mobync.apply(0, sent, "bob")
    assert len([s for s in seen if s.startswith("INSERT INTO")]) == 3  # one is the log's
    assert len(app.rows("tasks")) == 100


def test_a_misfit_is_named_by_its_place_in_the_request_whatever_was_written_first(database):
    app = Projects(database)
    sent = [
        diff("create", id="t"),
        diff("create", "projects", id="p"),
        diff("create", id="u"),
        diff("create", "projects", id="q", nonsense=1),
        diff("update", id="t", project_id="p"),
        diff("update", id="u", project_id="q"),
    ]
    with pytest.raises(InvalidDiffError, match="'nonsense'") as refusal:
        app.mobync.apply(0, sent, "bob")
    assert (refusal.value.index, refusal.value.diff_id) == (3, sent[3]["id"])

    reply = Mobync(app.store, on_refusal="skip").apply(
        0, [diff("create", id="x"), *sent[3:4]], "bob"
    )
    assert [r["id"] for r in reply["refused"]] == [sent[3]["id"]]


# ---- deletes ------------------------------------------------------------------------------------


def test_a_project_may_be_deleted_before_its_tasks(database):
    app = Projects(database)
    made = [diff("create", "projects", id=i) for i in "pq"]
    made += [diff("create", id=i, project_id="p") for i in "tuv"]
    clock = app.mobync.apply(0, made, "bob")["logical_clock"]
    sent = [
        diff("delete", "projects", id="p"),
        diff("create", "projects", id="r"),
        diff("delete", id="t"),
        diff("update", id="u", project_id=None),
        diff("update", id="v", project_id="r"),
    ]
    app.mobync.apply(clock, sent, "bob")
    assert app.rows("projects").keys() == {"q", "r"}
    filed = {i: row["project_id"] for i, row in app.rows("tasks").items()}
    assert filed == {"u": None, "v": "r"}
    assert app.log()[-5:] == ["p", "r", "t", "u", "v"]  # as the device did it


def test_tasks_may_be_deleted_before_those_under_them(database):
    app = Projects(database)
    depth = 60
    names = [f"t{i}" for i in range(depth)]
    random.Random(3).shuffle(names)  # so that their order says nothing
    above = dict(zip(names, [None, *names], strict=False))
    clock = app.mobync.apply(
        0, [diff("create", id=i, parent_id=j) for i, j in above.items()], "bob"
    )["logical_clock"]
    app.mobync.apply(clock, [diff("delete", id=i) for i in names], "bob")
    assert app.rows("tasks") == {}


def test_a_push_may_delete_parents_first_too(database):
    app = Projects(database)
    app.mobync.apply(0, [diff("create", "projects", id="p")], "bob")
    app.mobync.apply(1, [diff("create", id="t", project_id="p")], "bob")
    app.mobync.push("bob", [("delete", "projects", {"id": "p"}), ("delete", "tasks", {"id": "t"})])
    assert app.rows("projects") == app.rows("tasks") == {}


def test_deletes_in_the_right_order_read_nothing(database):
    app = Projects(database)
    app.mobync.apply(0, [diff("create", "projects", id="p")], "bob")
    app.mobync.apply(1, [diff("create", id="t", project_id="p")], "bob")
    with statements(app.engine) as seen:
        app.mobync.apply(2, [diff("delete", id="t"), diff("delete", "projects", id="p")], "bob")
    assert not [s for s in seen if s.startswith("SELECT") and "FROM tasks" in s]


def test_a_task_filed_under_a_project_that_was_deleted_meanwhile_is_refused_and_says_so(database):
    app = Projects(database)
    app.mobync.apply(0, [diff("create", "projects", id="p")], "bob")
    app.mobync.apply(1, [diff("delete", "projects", id="p")], "bob")
    filed = [diff("create", id="t", project_id="p"), diff("create", id="u")]
    with pytest.raises(InvalidDiffError, match="refers to a row that is not there, or was deleted"):
        app.mobync.apply(1, filed, "bob")
    reply = Mobync(app.store, on_refusal="skip").apply(1, filed, "bob")
    assert [r["id"] for r in reply["refused"]] == [filed[0]["id"]]
    assert app.rows("tasks").keys() == {"u"}


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_deleted_and_moved_is_written_in_an_order_that_the_keys_allow(database, seed):
    chance = random.Random(seed)
    app = Projects(database)
    projects, tasks = [f"p{i}" for i in range(6)], [f"t{i}" for i in range(20)]
    made = [diff("create", "projects", id=i) for i in projects]
    for place, i in enumerate(tasks):
        fields = {"project_id": chance.choice(projects)}
        fields["parent_id"] = chance.choice([None, *tasks[:place]])
        made.append(diff("create", id=i, **fields))
    clock = app.mobync.apply(0, made, "bob")["logical_clock"]
    gone = {*chance.sample(projects, 4), *chance.sample(tasks, 10)}
    kept = [i for i in projects if i not in gone]
    sent = [diff("delete", "projects" if i in projects else "tasks", id=i) for i in gone]
    sent += [
        diff("update", id=i, project_id=chance.choice([None, *kept]), parent_id=None)
        for i in tasks
        if i not in gone
    ]
    chance.shuffle(sent)
    app.mobync.apply(clock, sent, "bob")
    assert app.rows("projects").keys() | app.rows("tasks").keys() == {*projects, *tasks} - gone


# ---- the order itself ---------------------------------------------------------------------------


def order(app: Projects, *operations: tuple[str, str, dict[str, Any]]) -> list[int]:
    sent = [(kind, model, json.dumps(row)) for kind, model, row in operations]
    return list(app.store.write_order(sent))


@pytest.fixture
def app(tmp_path):
    with databases.open_database("sqlite", tmp_path) as database:
        yield Projects(database, first_task=True)


def test_what_refers_to_nothing_new_keeps_its_order(app):
    assert order(
        app,
        ("create", "projects", {"id": "p"}),
        ("create", "tasks", {"id": "t", "project_id": "p", "parent_id": "old"}),
        ("delete", "projects", {"id": "q"}),
        ("create", "unknown", {"id": "t", "project_id": 7}),
        ("update", "tasks", {"id": "t", "project_id": None, "parent_id": "t"}),
    ) == [0, 1, 2, 3, 4]


def test_a_create_is_never_moved_before_a_delete_of_the_same_object(app):
    old_one = ("update", "tasks", {"id": "t", "project_id": "p"})
    gone = ("delete", "projects", {"id": "p"})
    again = ("create", "projects", {"id": "p"})
    assert order(app, old_one, gone, again) == [0, 1, 2]
    assert order(app, gone, old_one, again) == [0, 2, 1]


def test_creates_that_need_each_other_keep_their_order(app):
    assert order(
        app,
        ("create", "tasks", {"id": "t", "project_id": "p"}),
        ("create", "tasks", {"id": "free"}),
        ("create", "projects", {"id": "p", "first_task": "t"}),
    ) == [1, 0, 2]


def some_operations(chance: random.Random) -> list[tuple[str, str, dict[str, Any]]]:
    """Creates in any order, that refer to each other in no circle."""
    rank = {(m, f"{m}{i}"): chance.random() for m in REFERENCES for i in range(8)}
    names = list(rank)
    chance.shuffle(names)
    operations = []
    for name in names:
        row = {"id": name[1]}
        for field, target in REFERENCES[name[0]]:
            above = [i for m, i in names if m == target and rank[m, i] > rank[name]]
            row[field] = chance.choice([None, *above])
        operations.append(("create", name[0], row))
    return operations


def test_any_request_comes_out_whole_with_each_row_after_what_it_needs(app):
    chance = random.Random(7)
    for _ in range(300):
        operations = some_operations(chance)
        places = order(app, *operations)
        assert sorted(places) == list(range(16))
        written: set[tuple[str, str]] = set()
        for place in places:
            _, model, row = operations[place]
            for field, target in REFERENCES[model]:
                assert row[field] is None or (target, row[field]) in written
            written.add((model, row["id"]))


REFERENCES = {
    "tasks": [("project_id", "projects"), ("parent_id", "tasks")],
    "projects": [("first_task", "tasks")],
}


def test_an_order_that_loses_an_operation_is_refused():
    class Forgetful(MemorySynchronizer):
        def write_order(self, operations):
            return range(len(operations) - 1)

    with pytest.raises(ValueError, match="each place once"):
        Mobync(Forgetful()).apply(0, [diff("create", id="a"), diff("create", id="b")], "bob")


def test_the_default_order_is_that_of_the_request():
    places = Synchronizer.write_order(MemorySynchronizer(), [("create", "m", "{}")] * 3)
    assert [run for run, _ in groupby(places)] == [0, 1, 2]
