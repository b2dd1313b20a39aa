"""capture=True, and rows that foreign keys delete or change with another: on each database."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databases
import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    event,
    insert,
    text,
)
from sqlalchemy.engine import Engine
from task_list import diff
from test_sqlalchemy_server_edits import of_device
from test_sqlalchemy_tenants import tenants

from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, capture_ddl, create_triggers

database = databases.database


def table(metadata: MetaData, name: str, *columns: Any, owner: bool = True) -> Table:
    owners = [Column("owner", String(40), nullable=False)] if owner else []
    return Table(name, metadata, Column("id", String(40), primary_key=True), *owners, *columns)


def refers(name: str, target: str, ondelete: str | None) -> Column[Any]:
    return Column(name, ForeignKey(f"{target}.id", ondelete=ondelete))


class Shop:
    """Tables of which some rows go, or change, with others.

    A ``team`` is no model.  ``projects`` go with it, ``tasks`` with their project or with the task
    above them, and the ``notes`` of a task lose it.
    """

    def __init__(self, database: Any) -> None:
        self.engine: Engine = database.engine
        if database.kind == "sqlite":
            event.listen(self.engine, "connect", _with_foreign_keys)
            self.engine.dispose()
        metadata = MetaData()
        self.teams = table(metadata, "teams", owner=False)
        self.projects = table(metadata, "projects", refers("team", "teams", "CASCADE"))
        self.tasks = table(
            metadata,
            "tasks",
            refers("project", "projects", "CASCADE"),
            refers("above", "tasks", "CASCADE"),
        )
        self.notes = table(metadata, "notes", refers("task", "tasks", "SET NULL"))
        models = {t.name: t for t in (self.projects, self.tasks, self.notes)}
        self.store = SQLAlchemySynchronizer(self.engine, models, capture=True)
        metadata.create_all(self.engine)
        create_triggers(self.engine, self.store)
        self.mobync = Mobync(self.store)
        self.execute(insert(self.teams).values(id="t"))
        rows = [
            ("projects", {"id": "p", "team": "t"}),
            ("projects", {"id": "q", "team": None}),
            ("tasks", {"id": "a", "project": "p", "above": None}),
            ("tasks", {"id": "b", "project": None, "above": "a"}),
            ("tasks", {"id": "c", "project": None, "above": "b"}),
            ("tasks", {"id": "d", "project": "q", "above": None}),
            ("notes", {"id": "n", "task": "c"}),
            ("notes", {"id": "m", "task": "d"}),
        ]
        self.mobync.push("bob", [("create", model, row) for model, row in rows])
        self.mobync.push("eve", [("create", "tasks", {"id": "e", "project": "p", "above": None})])
        self.clock = self.mobync.logical_clock("bob")

    def execute(self, statement: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)

    def sent(self, owner: str, clock: int) -> list[tuple[str, str, dict[str, Any]]]:
        diffs = self.mobync.apply(clock, [], owner)["diffs"]
        said = [(d["type"], d["model"], json.loads(d["json_data"])) for d in diffs]
        return sorted(said, key=lambda each: (each[1], each[2]["id"]))

    def check(self) -> None:
        """The log leads to what the tables have."""
        for owner in ("bob", "eve"):
            self.mobync.push(owner, [])
            assert self.mobync.reconcile(owner, dry_run=True).differences == []


def _with_foreign_keys(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


@pytest.fixture
def shop(database: Any) -> Shop:
    return Shop(database)


GONE_WITH_P = [
    ("update", "notes", {"id": "n", "task": None}),
    ("delete", "projects", {"id": "p"}),
    ("delete", "tasks", {"id": "a"}),
    ("delete", "tasks", {"id": "b"}),
    ("delete", "tasks", {"id": "c"}),
]


def test_what_goes_or_changes_with_a_row_that_sql_deletes_is_noted(shop: Shop) -> None:
    shop.execute(delete(shop.projects).where(shop.projects.c.id == "p"))
    assert shop.sent("bob", shop.clock) == GONE_WITH_P
    assert shop.sent("eve", 1) == [("delete", "tasks", {"id": "e"})]
    shop.check()


def test_so_it_is_in_the_schema_of_a_tenant(database: Any, tmp_path: Path) -> None:
    with tenants(database, tmp_path) as (name, _):
        engine = database.engine.execution_options(schema_translate_map={None: name})
        shop = Shop(SimpleNamespace(kind=database.kind, engine=engine))
        shop.mobync.apply(shop.clock, [diff("delete", "projects", id="q")], "bob")
        gone = [("update", "notes", {"id": "m", "task": None}), ("delete", "tasks", {"id": "d"})]
        assert shop.sent("bob", shop.clock + 1) == gone
        if database.kind == "sqlite":  # its file can have any name, or be the main one
            with closing(sqlite3.connect(tmp_path / name)) as other, other:
                other.execute("PRAGMA foreign_keys = ON")
                other.execute("DELETE FROM teams")
        else:
            shop.execute(delete(shop.teams))
        assert shop.sent("bob", shop.clock + 3) == GONE_WITH_P
        assert shop.sent("eve", 1) == [("delete", "tasks", {"id": "e"})]
        shop.check()


def test_so_is_what_goes_with_a_row_of_a_table_that_is_no_model(shop: Shop) -> None:
    shop.execute(delete(shop.teams))
    assert shop.sent("bob", shop.clock) == GONE_WITH_P
    assert shop.sent("eve", 1) == [("delete", "tasks", {"id": "e"})]
    shop.check()


def test_so_is_what_goes_with_a_row_that_a_device_deletes(shop: Shop) -> None:
    reply = shop.mobync.apply(shop.clock, [diff("delete", "projects", id="p")], "bob")
    assert reply["diffs"] == []
    gone = [each for each in GONE_WITH_P if each[1] != "projects"]
    assert shop.sent("bob", reply["logical_clock"]) == gone
    assert shop.sent("eve", 1) == [("delete", "tasks", {"id": "e"})]
    shop.check()


def test_where_a_device_deletes_what_refers_too_nothing_is_noted(shop: Shop) -> None:
    edits = [diff("delete", "projects", id="q"), diff("delete", "tasks", id="d")]
    clock = shop.mobync.apply(shop.clock, edits, "bob")["logical_clock"]
    assert shop.sent("bob", clock) == [("update", "notes", {"id": "m", "task": None})]
    shop.check()


def test_an_owner_who_is_erased_leaves_no_notes_of_their_own(shop: Shop) -> None:
    shop.execute(delete(shop.tasks).where(shop.tasks.c.id == "e"))
    shop.mobync.erase("bob")
    with shop.engine.connect() as connection:
        assert shop.store.capture.owners(connection) == ["eve"]


def test_keys_of_several_columns_and_default_values_are_followed(database: Any) -> None:
    act = "SET NULL" if database.kind == "mariadb" else "SET DEFAULT"  # which InnoDB lacks
    engine = database.engine
    if database.kind == "sqlite":
        event.listen(engine, "connect", _with_foreign_keys)
        engine.dispose()
    metadata = MetaData()
    key = [Column(name, String(40), primary_key=True) for name in ("owner", "id")]
    lists = Table("lists", metadata, *(c._copy() for c in key), Column("n", Integer))
    items = Table(
        "items",
        metadata,
        *(c._copy() for c in key),
        Column("list", String(40), server_default="inbox"),
        ForeignKeyConstraint(["owner", "list"], ["lists.owner", "lists.id"], ondelete="CASCADE"),
    )
    logs = table(
        metadata,
        "logs",
        Column("list_owner", String(40)),
        Column("list", String(40), server_default="inbox"),
        ForeignKeyConstraint(["list_owner", "list"], ["lists.owner", "lists.id"], ondelete=act),
    )
    store = SQLAlchemySynchronizer(
        engine, {"lists": lists, "items": items, "logs": logs}, capture=True
    )
    metadata.create_all(engine)
    create_triggers(engine, store)
    mobync = Mobync(store)
    for owner in ("bob", "eve"):
        mobync.push(
            owner,
            [
                ("create", "lists", {"id": "inbox", "n": 0}),
                ("create", "lists", {"id": "x", "n": 1}),
                ("create", "items", {"id": "i", "list": "x"}),
                ("create", "logs", {"id": f"l{owner}", "list": "x", "list_owner": owner}),
            ],
        )
    mobync.push("bob", [("delete", "lists", {"id": "x"})])
    mobync.push("bob", [])
    assert of_device(mobync, "bob").keys() == {"inbox", "lbob"}
    assert of_device(mobync, "eve").keys() == {"inbox", "x", "i", "leve"}
    for owner in ("bob", "eve"):
        assert mobync.reconcile(owner, dry_run=True).ok


def test_triggers_that_an_older_version_made_are_not_enough(shop: Shop) -> None:
    name = shop.store.capture.trigger_name("projects", "c")
    on = " ON projects" if shop.engine.dialect.name == "postgresql" else ""
    shop.execute(text(f"DROP TRIGGER {name}{on}"))
    shop.engine.dispose()
    with pytest.raises(ValueError, match=f"'{name}' is missing"):
        shop.mobync.apply(0, [], "bob")
    for statement in capture_ddl(shop.store, shop.engine):
        with shop.engine.begin() as connection:
            connection.exec_driver_sql(statement)
    shop.mobync.apply(0, [], "bob")


def test_where_nothing_acts_there_is_no_trigger_more(tmp_path: Any) -> None:
    with databases.open_database("sqlite", tmp_path) as database:
        metadata = MetaData()
        models = {
            "lists": table(metadata, "lists"),
            "items": table(metadata, "items", refers("list", "lists", None)),
        }
        store = SQLAlchemySynchronizer(database.engine, models, capture=True)
        assert store.capture.cascades(database.engine.dialect) == []
        assert len(capture_ddl(store, database.engine)) == 12


@pytest.mark.parametrize(("kind", "is_error"), [("sqlite", False), ("mariadb", True)])
def test_foreign_keys_that_cannot_be_followed_are_an_error_at_once(
    kind: str, is_error: bool, tmp_path: Any
) -> None:
    with databases.open_database(kind, tmp_path) as database:
        metadata = MetaData()
        models = {
            "hens": table(metadata, "hens", refers("egg", "eggs", "CASCADE")),
            "eggs": table(metadata, "eggs", refers("hen", "hens", "CASCADE")),
        }
        SQLAlchemySynchronizer(database.engine, models)
        says = pytest.raises(ValueError, match="cannot follow ON DELETE CASCADE in a circle")
        with says if is_error else nullcontext():
            SQLAlchemySynchronizer(database.engine, models, capture=True)
