"""Tenants of one database, as docs/databases.md has them: policies of PostgreSQL, and schemas."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database, open_database
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ProgrammingError
from task_list import TaskList, diff, statements

from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, create_tables, create_triggers

database = databases.database

DOCUMENT = Path(__file__).parents[1] / "docs" / "databases.md"
SECTION = DOCUMENT.read_text().split("\n## Row level security and tenants\n")[1].split("\n## ")[0]
PYTHON, SQL = (
    re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)[0] for kind in ("python", "sql")
)


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[Database]:
    with open_database("postgresql", tmp_path) as database:
        yield database


@pytest.fixture
def engine(postgresql: Database) -> Iterator[Engine]:
    """The app's, as a role that policies bind; its tables have the policies of the page."""
    TaskList(postgresql)
    role = f"mobync_{uuid.uuid4().hex[:12]}"
    with postgresql.engine.begin() as connection:
        schema = connection.scalar(text("SELECT current_schema()"))
        for table in ("tasks", "diffs", "diffs_heads", "diffs_devices", "diffs_parts"):
            for statement in re.sub(r"\btasks\b", table, SQL).split(";")[:2]:
                connection.exec_driver_sql(statement)
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
    made = create_engine(postgresql.url, pool_size=1, max_overflow=0)

    @event.listens_for(made, "connect")
    def be_the_role(connection: Any, record: Any) -> None:
        connection.execute(f"SET ROLE {role}")
        connection.commit()

    yield made
    made.dispose()
    with postgresql.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {role}")
        connection.exec_driver_sql(f"DROP ROLE {role}")


def store_of_the_page(engine: Engine) -> type[SQLAlchemySynchronizer]:
    names: dict[str, Any] = {"engine": engine, "SQLAlchemySynchronizer": SQLAlchemySynchronizer}
    exec(compile(PYTHON, "docs/databases.md: tenants", "exec"), names)
    store: type[SQLAlchemySynchronizer] = names["Store"]
    return store


def test_syncs_polls_and_pushes_see_their_own_tenant_alone(
    postgresql: Database, engine: Engine
) -> None:
    tasks = TaskList(postgresql).tasks
    server = Mobync(store_of_the_page(engine)(engine, {"tasks": tasks}))
    for owner in ("ann", "bob"):  # by one connection, one after the other
        assert server.apply(0, [diff("create", id=owner, name="milk")], owner)["logical_clock"] == 1
        assert server.push(owner, [("update", "tasks", {"id": owner, "rank": 1})]) == 2
        assert len(server.apply(1, [], owner)["diffs"]) == 1
        assert server.apply(2, [], owner)["diffs"] == []
        assert server.logical_clock(owner) == 2
    with engine.connect() as connection:  # nobody's: the setting is that of who begins
        assert connection.scalar(text("SELECT count(*) FROM tasks")) == 0


def test_a_tenant_that_is_set_too_late_is_none(postgresql: Database, engine: Engine) -> None:
    """So the order matters: the owner's head seems not to be there."""
    server = Mobync(store_of_the_page(engine)(engine, {"tasks": TaskList(postgresql).tasks}))
    server.apply(0, [diff("create", id="a")], "ann")
    plain = Mobync(SQLAlchemySynchronizer(engine, {"tasks": TaskList(postgresql).tasks}))
    with pytest.raises(ProgrammingError, match="row-level security"):
        plain.apply(1, [diff("create", id="b")], "ann")
    assert server.logical_clock("ann") == 1


def test_named_devices_and_their_parts_see_their_own_tenant_alone(
    postgresql: Database, engine: Engine
) -> None:
    server = Mobync(store_of_the_page(engine)(engine, {"tasks": TaskList(postgresql).tasks}))
    for owner in ("ann", "bob"):
        phone: dict[str, Any] = {"device": "phone", "request": 1}
        mark = server.apply(0, [diff("create", id=f"{owner} 1")], owner, **phone)["mark"]
        phone = {"device": "phone", "request": 2, "mark": mark}
        server.apply(1, [diff("create", id=f"{owner} 2")], owner, **phone, part=1, more_diffs=True)
        reply = server.apply(1, [diff("create", id=f"{owner} 3")], owner, **phone, part=2)
        assert reply["logical_clock"] == 3
        assert [device.name for device in server.devices(owner)] == ["phone"]
        assert server.compact(owner).horizon == 1
        assert server.reconcile(owner).rows == 3
    assert server.erase("ann").rows == {"tasks": 3}
    assert server.logical_clock("bob") == 3


@contextmanager
def tenants(database: Database, directory: Path) -> Iterator[list[str]]:
    """Two schemas; on MariaDB these are databases, on SQLite attached files."""
    names = [f"mobync_{name}_{uuid.uuid4().hex[:8]}" for name in "ab"]
    if database.kind == "sqlite":

        @event.listens_for(database.engine, "connect")
        def attach(connection: Any, record: Any) -> None:
            for name in names:
                connection.execute(f"ATTACH '{directory / name}' AS {name}")

        database.engine.dispose()
        yield names
        return
    cascade = "CASCADE" if database.kind == "postgresql" else ""
    with database.engine.begin() as connection:
        for name in names:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    try:
        yield names
    finally:
        with database.engine.begin() as connection:
            for name in names:
                connection.exec_driver_sql(f"DROP SCHEMA {name} {cascade}")


def test_each_tenant_has_a_schema(database: Database, tmp_path: Path) -> None:
    tasks = TaskList(database)
    with tenants(database, tmp_path) as names:
        servers = {}
        for name in names:
            engine = database.engine.execution_options(schema_translate_map={None: name})
            store = SQLAlchemySynchronizer(engine, {"tasks": tasks.tasks}, capture=True)
            servers[name] = engine, Mobync(store)
            create_tables(engine, tasks.metadata)
            with pytest.raises(ValueError, match="needs triggers"):
                servers[name][1].push("ann", [])
            create_triggers(engine, store)
            servers[name][1].push("ann", [])
        for name, (_, server) in servers.items():
            server.apply(0, [diff("create", id=name)], "ann", device="phone", request=1)
        for name, (engine, server) in servers.items():
            with engine.begin() as connection:  # the triggers note it beside the table
                connection.execute(tasks.tasks.update().values(name="by SQL"))
            sent = [json.loads(d["json_data"]) for d in server.apply(0, [], "ann")["diffs"]]
            assert sent == [{"id": name}, {"id": name, "name": "by SQL"}]
            assert [device.name for device in server.devices("ann")] == ["phone"]
        with statements(database.engine) as seen:
            for _, server in servers.values():
                server.push("ann", [])
        assert seen
        assert not [each for each in seen if re.search("sqlite_master|pg_trigger|triggers", each)]
        assert tasks.log("ann") == []


def test_each_tenant_is_checked_on_a_connection_that_knows_another(tmp_path: Path) -> None:
    with (
        open_database("mariadb", tmp_path) as database,
        tenants(database, tmp_path) as names,
    ):
        tasks = TaskList(database)
        servers = []
        for name in names:
            engine = database.engine.execution_options(schema_translate_map={None: name})
            servers.append(Mobync(SQLAlchemySynchronizer(engine, {"tasks": tasks.tasks})))
            create_tables(engine, tasks.metadata)
        with database.engine.begin() as connection:
            latin = f"ALTER TABLE {names[1]}.diffs CONVERT TO CHARACTER SET latin1"
            connection.exec_driver_sql(latin)
        servers[0].push("ann", [])
        with pytest.raises(ValueError, match="'diffs' cannot store every character"):
            servers[1].push("ann", [])
