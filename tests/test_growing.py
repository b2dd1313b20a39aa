"""docs/growing.md: the tables can be divided by owner, and PostgreSQL does divide them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import server_url
from small_device import SmallDevice
from sqlalchemy import MetaData, Table, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from mobync import Mobync
from mobync.sqlalchemy import DocumentSynchronizer, diffs_table, documents_table

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "growing.md").read_text(encoding="utf-8")


def unique_keys(table: Table) -> list[list[str]]:
    keys = [list(table.primary_key.columns)]
    keys += [list(index.columns) for index in table.indexes if index.unique]
    return [[column.name for column in key] for key in keys]


def test_each_unique_key_has_the_owner_in_it_and_the_page_names_them() -> None:
    metadata = MetaData()
    diffs_table(metadata)
    documents_table(metadata)
    shown = {
        name: [re.findall(r"`(\w+)`", keys) for keys in (primary, others) if "`" in keys]
        for name, primary, others in re.findall(r"^\| `(\w+)` \| (.*?) \| ?(.*?) ?\|$", PAGE, re.M)
    }
    assert shown == {name: unique_keys(table) for name, table in metadata.tables.items()}
    assert all("owner" in key for keys in shown.values() for key in keys)
    distributed = re.findall(r"create_distributed_table\('(\w+)', 'owner'", PAGE)
    assert distributed == list(metadata.tables)


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
        return {**self.app.apply(body["logical_clock"], body["diffs"], self.owner_id)}


def test_devices_of_many_owners_sync_with_a_log_in_partitions(database: URL) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    url = "postgresql+psycopg://user@localhost/app"
    assert url in program
    names: dict = {}
    exec(program.replace(url, database.render_as_string(hide_password=False)), names)
    app, store = names["mobync"], names["store"]
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
    with names["engine"].connect() as connection:
        used = set(connection.scalars(text("SELECT DISTINCT tableoid::regclass::text FROM diffs")))
    names["engine"].dispose()
    assert len(used) > 3
