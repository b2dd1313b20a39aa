"""Upserts of the backend: a create, the fields that differ, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database, open_database
from sqlalchemy import Column, DateTime, MetaData, Numeric, String, Table
from test_apply import PlainStore

from mobync import InvalidDiffError, Mobync
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import DocumentSynchronizer, SQLAlchemySynchronizer

database = databases.database


def in_tables(database: Database) -> Any:
    metadata = MetaData()
    tasks = Table(
        "tasks",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(64)),
        Column("name", String(100)),
        Column("price", Numeric(10, 2)),
        Column("due", DateTime),
    )
    store = SQLAlchemySynchronizer(database.engine, {"tasks": tasks})
    metadata.create_all(database.engine)
    return store


def in_documents(database: Database) -> Any:
    store = DocumentSynchronizer(database.engine)
    store.metadata.create_all(database.engine)
    return store


IN_DATABASES: dict[str, Callable[[Database], Any]] = {
    "tables": in_tables,
    "documents": in_documents,
}
WITHOUT: dict[str, Callable[[], Any]] = {
    "memory": MemorySynchronizer,
    "seven_methods": PlainStore,
}


@pytest.fixture(
    params=[
        *((None, store) for store in WITHOUT),
        *((kind, store) for kind in databases.KINDS for store in IN_DATABASES),
    ],
    ids=str,
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mobync]:
    kind, store = request.param
    if kind is None:
        yield Mobync(WITHOUT[store]())
        return
    with open_database(kind, tmp_path) as database:
        yield Mobync(IN_DATABASES[store](database))


def edits(server: Mobync, clock: int) -> list[tuple[str, dict[str, Any]]]:
    diffs = server.apply(clock, [], "ann")["diffs"]
    return [(each["type"], json.loads(each["json_data"])) for each in diffs]


def log(server: Mobync) -> list[tuple[str, dict[str, Any]]]:
    """All diffs of the log, as a device that keeps up gets them."""
    return edits(server, 1)


def upsert(server: Mobync, **row: Any) -> int:
    return server.push("ann", [("upsert", "tasks", row)])


def test_an_upsert_that_comes_twice_writes_once(server: Mobync) -> None:
    row = {"id": "t", "name": "milk", "price": "1.50", "due": 1_700_000_000_000}
    assert upsert(server, **row) == 1
    assert upsert(server, **row) == 1
    assert edits(server, 0) == [("create", row)]


def test_a_different_one_updates_what_differs_and_leaves_the_rest(server: Mobync) -> None:
    upsert(server, id="t", name="milk", price="1.50")
    assert upsert(server, id="t", name="oat milk", price="1.50") == 2
    assert log(server) == [("update", {"id": "t", "name": "oat milk"})]
    assert upsert(server, id="t", price=None) == 3
    assert upsert(server, id="t", due=None) == 3


def test_one_of_a_dead_object_creates_it_again(server: Mobync) -> None:
    upsert(server, id="t", name="milk")
    server.push("ann", [("delete", "tasks", {"id": "t"})])
    assert upsert(server, id="t", name="milk") == 3
    assert log(server)[-1] == ("create", {"id": "t", "name": "milk"})


def test_several_of_one_object_in_one_push_see_each_other(server: Mobync) -> None:
    server.push(
        "ann",
        [
            ("upsert", "tasks", {"id": "t", "name": "milk"}),
            ("upsert", "tasks", {"id": "t", "name": "milk"}),
            ("upsert", "tasks", {"id": "t", "price": "2.00"}),
            ("create", "tasks", {"id": "u", "name": "bread"}),
            ("delete", "tasks", {"id": "t"}),
            ("upsert", "tasks", {"id": "t", "name": "tea"}),
            ("upsert", "tasks", {"id": "u", "name": "bread"}),
        ],
    )
    assert sorted(str(each) for each in edits(server, 0)) == sorted(
        str(each)
        for each in [
            ("create", {"id": "u", "name": "bread"}),
            ("create", {"id": "t", "name": "tea"}),
        ]
    )


def test_what_is_wrong_with_one_names_its_row_and_its_place(server: Mobync) -> None:
    upsert(server, id="t", name="milk")
    for bad in ('{"name": "no id"}', "[]", "{"):
        with pytest.raises(InvalidDiffError) as raised:
            server.push(
                "ann",
                [("upsert", "tasks", {"id": "t", "name": "milk"}), ("upsert", "tasks", bad)],
            )
        assert raised.value.index == 1
    assert server.logical_clock("ann") == 1


def test_a_field_that_does_not_fit_is_refused_at_its_place(database: Database) -> None:
    server = Mobync(in_tables(database))
    upsert(server, id="t", name="milk")
    for bad in ({"id": "t", "nonsense": 1}, {"id": "t", "name": 5}, {"id": "v", "name": 5}):
        with pytest.raises(InvalidDiffError) as raised:
            server.push(
                "ann",
                [("upsert", "tasks", {"id": "t", "name": "milk"}), ("upsert", "tasks", bad)],
            )
        assert (raised.value.index, raised.value.diff_id) == (1, bad["id"])


def test_the_same_webhook_at_the_same_time_makes_one_row(server: Mobync) -> None:
    with ThreadPoolExecutor(8) as pool:
        clocks = list(pool.map(lambda n: upsert(server, id="t", name="milk"), range(24)))
    assert set(clocks) == {1}
    assert edits(server, 0) == [("create", {"id": "t", "name": "milk"})]


def test_a_push_of_many_goes_in_pieces() -> None:
    server = Mobync(MemorySynchronizer())
    rows = [("upsert", "tasks", {"id": f"t{n}"}) for n in range(5_001)]
    assert server.push("ann", rows) == 5_001
    assert server.push("ann", rows) == 5_001
