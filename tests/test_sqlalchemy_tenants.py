"""mobync.sqlalchemy where PostgreSQL hides other tenants' rows, as docs/databases.md has it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import Database, open_database
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ProgrammingError
from task_list import TaskList, diff

from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, create_tables

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


def test_each_tenant_has_a_schema(postgresql: Database) -> None:
    tasks = TaskList(postgresql)
    servers = {}
    for name in ("a", "b"):
        schema = f"mobync_{name}_{uuid.uuid4().hex[:8]}"
        with postgresql.engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        engine = postgresql.engine.execution_options(schema_translate_map={None: schema})
        create_tables(engine, tasks.metadata)
        servers[schema] = Mobync(SQLAlchemySynchronizer(engine, {"tasks": tasks.tasks}))
    try:
        for schema, server in servers.items():
            server.apply(0, [diff("create", id=schema)], "ann")
        for schema, server in servers.items():
            assert [d["json_data"] for d in server.apply(0, [], "ann")["diffs"]] == [
                f'{{"id": "{schema}"}}'
            ]
        assert tasks.log("ann") == []
    finally:
        with postgresql.engine.begin() as connection:
            for schema in servers:
                connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
