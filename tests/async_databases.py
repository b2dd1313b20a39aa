"""The databases of the tests, by drivers that are awaited.

As a program it runs tests of :mod:`mobync.sqlalchemy` on one of them:

    python tests/async_databases.py asyncpg tests/test_sqlalchemy_values.py

All of pytest is in a greenlet then, so that the tests, which are plain functions, wait as
``Mobync.apply_async`` does.  Tests with threads or event loops of their own are not for that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database, open_database
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

DRIVERS = {
    "aiosqlite": "sqlite",
    "asyncpg": "postgresql",
    "psycopg": "postgresql",
    "asyncmy": "mariadb",
}


def async_engine(database: Database, driver: str, **options: Any) -> AsyncEngine:
    """An engine by this driver, on the database of a test."""
    url = database.url.set(drivername=f"{database.kind}+{driver}")
    if driver == "asyncpg":
        schema = str(url.query["options"]).removeprefix("-csearch_path=")
        settings = {"server_settings": {"search_path": schema}}
        options = {"connect_args": settings, **options}
        url = url.set(query={})
    elif database.kind == "mariadb":
        url = url.set(query={})
    # The default; but SQLAlchemy before 2.0.38 opened each connection to SQLite anew.
    options = {"poolclass": AsyncAdaptedQueuePool, **options}
    return create_async_engine(url, **options)


class Opened:
    """A database of a test, and engines by a driver on it."""

    def __init__(self, database: Database, driver: str) -> None:
        self.database = database
        self.kind = database.kind
        self.driver = driver

    def new_engine(self, **options: Any) -> AsyncEngine:
        return async_engine(self.database, self.driver, **options)


@pytest.fixture(params=DRIVERS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    with open_database(DRIVERS[request.param], tmp_path) as database:
        yield Opened(database, request.param)


# ---- the suite of the stores that block ----------------------------------------------------------


def _use(driver: str) -> None:
    """Have the tests' engines be of a driver, and the stores wait as a task does."""
    from mobync.sqlalchemy import SQLAlchemySynchronizer, _connections, _making
    from mobync.sqlalchemy._tasks import IN_A_TASK

    blocking_engine = Database.new_engine

    def new_engine(database: Database, **options: Any) -> Any:
        if database.kind != DRIVERS[driver]:  # a test of another database
            return blocking_engine(database, **options)
        engine = async_engine(database, driver, **options).sync_engine
        database._engines.append(engine)
        return engine

    databases.KINDS = (DRIVERS[driver],)
    databases.database = pytest.fixture(params=databases.KINDS)(
        databases.database.__wrapped__  # type: ignore[attr-defined]
        if hasattr(databases.database, "__wrapped__")
        else databases.database._get_wrapped_function()  # type: ignore[attr-defined]
    )
    Database.new_engine = new_engine  # type: ignore[method-assign]
    _connections.check_blocking = _making.check_blocking = lambda engine: None
    SQLAlchemySynchronizer._waiting = IN_A_TASK


async def _main(driver: str, arguments: list[str]) -> int:
    _use(driver)
    from mobync.sqlalchemy._tasks import IN_A_TASK

    return await IN_A_TASK.run(pytest.main, arguments)


if __name__ == "__main__":
    sys.modules["async_databases"] = sys.modules["__main__"]
    sys.exit(asyncio.run(_main(sys.argv[1], sys.argv[2:])))
