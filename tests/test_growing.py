"""docs/growing.md: the tables can be divided by owner, and PostgreSQL does divide them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import server_url
from server_process import serving
from small_device import SmallDevice
from sqlalchemy import Table, create_engine, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from mobync import Mobync
from mobync.server.pushes import beside_log
from mobync.sqlalchemy import DocumentSynchronizer

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "growing.md").read_text(encoding="utf-8")


def unique_keys(table: Table) -> list[list[str]]:
    keys = [list(table.primary_key.columns)]
    keys += [list(index.columns) for index in table.indexes if index.unique]
    return [[column.name for column in key] for key in keys]


def tables_of_a_server() -> dict[str, Table]:
    """The tables that `mobync serve` makes; an app has some of them."""
    engine = create_engine("sqlite://")
    store = DocumentSynchronizer(engine)
    made = [*store.metadata.tables.values(), *(kept.table for kept in beside_log(engine, store))]
    return {table.name: table for table in made}


def test_each_unique_key_has_the_owner_in_it_and_the_page_names_them() -> None:
    tables = tables_of_a_server()
    assert len(tables) == 7
    shown = {
        name: [re.findall(r"`(\w+)`", keys) for keys in (primary, others) if "`" in keys]
        for name, primary, others in re.findall(r"^\| `(\w+)` \| (.*?) \| ?(.*?) ?\|$", PAGE, re.M)
    }
    assert shown == {name: unique_keys(table) for name, table in tables.items()}
    assert all("owner" in key for keys in shown.values() for key in keys)
    distributed = re.findall(r"create_distributed_table\('(\w+)', 'owner'", PAGE)
    assert distributed == list(tables)


def test_a_server_makes_no_other_tables(tmp_path: Path) -> None:
    with serving(tmp_path):
        made = inspect(create_engine(f"sqlite:///{tmp_path / 'mobync.db'}")).get_table_names()
    assert set(made) == set(tables_of_a_server())


@pytest.fixture
def database() -> Iterator[URL]:
    name = f"mobync_{uuid.uuid4().hex[:16]}"
    engine = create_engine(
        server_url("postgresql"), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield engine.url.set(database=name)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


class Link:
    def __init__(self, app: Mobync, owner_id: str) -> None:
        self.app, self.owner_id = app, owner_id

    def post(self, body: dict) -> dict:
        named = {key: body[key] for key in ("device", "request", "mark") if key in body}
        return {**self.app.apply(body["logical_clock"], body["diffs"], self.owner_id, **named)}


@pytest.fixture
def page(database: URL) -> Iterator[dict[str, Any]]:
    """The names of the page's program, which makes the tables in partitions."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    url = "postgresql+psycopg://user@localhost/app"
    assert url in program
    # What waits for a lock of a partition fails. A generic plan locks all of them before it looks
    # which one it needs.
    options = "-c lock_timeout=60s -c plan_cache_mode=force_custom_plan"
    own = database.update_query_dict({"options": options})
    names: dict[str, Any] = {}
    exec(program.replace(url, own.render_as_string(hide_password=False)), names)
    yield names
    names["engine"].dispose()


def test_devices_of_many_owners_sync_with_a_log_in_partitions(page: dict[str, Any]) -> None:
    app, store = page["mobync"], page["store"]
    assert isinstance(store, DocumentSynchronizer)
    for owner in (f"owner {number}" for number in range(12)):
        phone, tablet = SmallDevice(Link(app, owner)), SmallDevice(Link(app, owner), "tablet")
        phone.edit("create", {"id": "t", "name": "milk"}, 1)
        for device in (phone, tablet):
            device.sync()
        phone.edit("update", {"id": "t", "name": "oat milk"}, 2)
        tablet.edit("update", {"id": "t", "done": True}, 3)
        tablet.edit("create", {"id": "u", "name": "bread"}, 4)
        for device in (phone, tablet, phone):
            device.sync()
        assert (
            phone.rows
            == tablet.rows
            == {
                "t": {"id": "t", "name": "oat milk", "done": True},
                "u": {"id": "u", "name": "bread"},
            }
        )
        app.compact(owner)
    with page["engine"].connect() as connection:
        used = set(connection.scalars(text("SELECT DISTINCT tableoid::regclass::text FROM diffs")))
    assert len(used) > 3


def test_a_sync_looks_into_no_partition_of_other_owners(page: dict[str, Any]) -> None:
    app, engine = page["mobync"], page["engine"]
    phone, tablet = SmallDevice(Link(app, "anna")), SmallDevice(Link(app, "anna"), "tablet")
    for name in ("t", "1"):
        phone.edit("create", {"id": name, "name": "milk"}, 1)
    phone.sync()
    place = text("SELECT tableoid::regclass::text FROM diffs LIMIT 1")
    with engine.begin() as others:
        own = others.scalar(place).removeprefix("diffs_")
        for name in page["store"].metadata.tables:
            for number in set(range(page["PARTITIONS"])) - {int(own)}:
                others.execute(text(f"LOCK TABLE ONLY {name}_{number} IN ACCESS EXCLUSIVE MODE"))
        for now in range(2, 12):  # often enough for a driver to prepare its statements
            tablet.sync()
            tablet.edit("update", {"id": "t", "done": now}, 10 * now)
            phone.edit("create", {"id": f"{now}", "name": "bread"}, 10 * now + 1)
            phone.edit("delete", {"id": f"{now - 1}"}, 10 * now + 2)
            for device in (phone, tablet, phone):
                device.sync()
        assert phone.rows == tablet.rows
        assert len(phone.rows) == 2
        app.push("anna", [("upsert", "tasks", {"id": "w", "name": "salt"})])
        assert app.compact("anna").rows_after < app.logical_clock("anna")
        assert app.reconcile("anna").ok
        assert len(app.devices("anna")) == 2
        assert app.erase("anna").rows == {"tasks": 3}
