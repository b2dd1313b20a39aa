"""Real databases for tests: each test gets an empty one, and it is gone afterwards.

A test that takes the fixture ``database`` runs on SQLite, PostgreSQL and MariaDB; its module says

    import databases
    database = databases.database

Elsewhere there is ``with open_database(kind, directory) as database``.

The servers are those that these environment variables name, as SQLAlchemy URLs:

    MOBYNC_TEST_POSTGRESQL_URL   default postgresql+psycopg://root@127.0.0.1:5432/test
    MOBYNC_TEST_MARIADB_URL      default mariadb+pymysql://root@127.0.0.1:3306/test

Each test makes a schema of its own in the PostgreSQL database, and a database of its own on the
MariaDB server; the user must be allowed to.  A server that does not answer fails the test.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

KINDS = ("sqlite", "postgresql", "mariadb")

_SERVERS = {
    "postgresql": (
        "MOBYNC_TEST_POSTGRESQL_URL",
        "postgresql+psycopg://root@127.0.0.1:5432/test",
        "service postgresql start",
    ),
    "mariadb": (
        "MOBYNC_TEST_MARIADB_URL",
        "mariadb+pymysql://root@127.0.0.1:3306/test",
        "service mariadb start",
    ),
}

CONNECT_TIMEOUT_S = 5


class Database:
    """An empty database of a test.

    Attributes:
        kind: one of KINDS.
        url: for a program of its own, too: it names the schema or file of this test.
        engine: the first engine; others are made by new_engine().
    """

    def __init__(self, kind: str, url: URL) -> None:
        self.kind = kind
        self.url = url
        self._engines: list[Engine] = []
        self.engine = self.new_engine()

    def new_engine(self, **options: object) -> Engine:
        """Another engine on the same database, as another server process would have."""
        engine = create_engine(self.url, **options)
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()

    def __repr__(self) -> str:
        return f"<{self.kind} {self.url.render_as_string()}>"


@contextmanager
def open_database(kind: str, directory: Path) -> Iterator[Database]:
    """Make an empty database, and drop it in the end.

    Args:
        kind: one of KINDS.
        directory: where the file of SQLite goes.
    """
    name = f"mobync_{uuid.uuid4().hex[:16]}"
    opened = {"sqlite": _sqlite, "postgresql": _postgresql, "mariadb": _mariadb}[kind]
    with opened(name, directory) as url:
        database = Database(kind, url)
        try:
            yield database
        finally:
            database.close()


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with open_database(request.param, tmp_path) as opened:
        yield opened


@contextmanager
def _sqlite(name: str, directory: Path) -> Iterator[URL]:
    yield URL.create("sqlite", database=str(directory / f"{name}.db"))


@contextmanager
def _postgresql(name: str, directory: Path) -> Iterator[URL]:
    server = server_url("postgresql")
    with _made("postgresql", f"CREATE SCHEMA {name}", f"DROP SCHEMA {name} CASCADE"):
        yield server.update_query_dict({"options": f"-csearch_path={name}"})


@contextmanager
def _mariadb(name: str, directory: Path) -> Iterator[URL]:
    server = server_url("mariadb")
    with _made("mariadb", f"CREATE DATABASE {name}", f"DROP DATABASE {name}"):
        yield server.set(database=name)


def server_url(kind: str) -> URL:
    """The URL of a server for tests."""
    variable, default, _ = _SERVERS[kind]
    return make_url(os.environ.get(variable, default)).update_query_dict(
        {"connect_timeout": str(CONNECT_TIMEOUT_S)}
    )


@contextmanager
def _made(kind: str, make: str, drop: str) -> Iterator[None]:
    _run(kind, make)
    try:
        yield
    finally:
        _run(kind, drop)


def _run(kind: str, statement: str) -> None:
    server = server_url(kind)
    variable, _, start = _SERVERS[kind]
    engine = create_engine(server, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    except OperationalError as error:
        pytest.fail(
            f"{kind} does not answer at {server.render_as_string()}: start it with "
            f"`{start}`, or name another server in {variable}.\n{error.orig}",
            pytrace=False,
        )
