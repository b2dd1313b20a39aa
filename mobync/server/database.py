"""The database that a URL names, opened for the server and its commands."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import create_engine, insert, inspect
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from ..sqlalchemy import DocumentSynchronizer, create_tables
from ..sqlalchemy._connections import dropping_if_spoiled
from ..sqlalchemy._errors import Kind, kind_of
from ..sqlalchemy._tables import is_later

# A URL names the kind of a database; SQLAlchemy also needs the driver.
_DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_SQLITE_OPTIONS = {"timeout"}  # the driver's other options would change how mobync uses it
NOT_OF_1_0 = ("diffs_devices", "diffs_parts")  # tables

_PACKAGES = {"psycopg": "psycopg[binary]", "pymysql": "pymysql"}

# SQLAlchemy 2.1 decodes all parts; 2.0 decodes only user and password.
_SQLALCHEMY_DECODES_NAMES = make_url("sqlite:///%41").database == "A"

PREPARE_THRESHOLD = "prepare_threshold"
"""The option of psycopg after how many times it prepares a statement; None: never."""

CONNECTION_TIMEOUT_S = 10.0  # no longer than a sync waits for its owner's lock


class DatabaseError(Exception):
    """A database cannot be used; the message says which and why, for a person to read."""


def database_url(text: str) -> URL:
    """Read the URL of a database; a kind without driver (``postgresql:``) gets the driver that we
    use.

    ``%20`` in the name of a file or a database is a space, in every version of SQLAlchemy.

    Raises:
        DatabaseError: it is not a URL, its kind is unknown, or it is SQLite without a file.
    """
    try:
        url = make_url(text)
        if url.database is not None and not _SQLALCHEMY_DECODES_NAMES:
            url = url.set(database=unquote(url.database))
        if "\0" in (url.database or ""):
            raise ValueError
    except (ArgumentError, ValueError):
        raise DatabaseError(
            f"{text!r:.200} is not a database URL such as sqlite:///file.db, "
            "postgresql://user:password@host/name or mariadb://user:password@host/name"
        ) from None
    kind = url.drivername.partition("+")[0]
    if kind not in _DRIVERS:
        raise DatabaseError(f"mobync does not support {kind!r}, but {', '.join(_DRIVERS)}")
    if kind == "sqlite" and (url.database in (None, "", ":memory:") or "uri" in url.query):
        raise DatabaseError("a server needs a file to keep its data in: sqlite:///file.db")
    strangers = url.query.keys() - _SQLITE_OPTIONS if kind == "sqlite" else ()
    if strangers:
        raise DatabaseError(f"a URL of SQLite has no option {min(strangers)!r:.100}")
    return url.set(drivername=_DRIVERS[kind]) if url.drivername in _DRIVERS else url


def database_file(url: URL) -> Path | None:
    """The file of a SQLite database; None for a database that is on a server."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return None
    return Path(url.database)


def check_directory(url: URL) -> None:
    """Make sure that there is a directory for the file of a SQLite database.

    Raises:
        DatabaseError: there is no directory.
    """
    path = database_file(url)
    if path is not None and not path.parent.is_dir():
        raise DatabaseError(f"there is no directory {path.parent} for the database {path.name}")


@contextmanager
def open_database(url: URL) -> Iterator[Engine]:
    """Open a database for as long as the context lasts.

    Raises:
        DatabaseError: the driver is not installed.
    """
    engine = new_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def new_engine(url: URL, connections: int = 1) -> Engine:
    """Make the engine of a database. The caller disposes of it.

    Args:
        url: as database_url() reads it.
        connections: how many stay open; as many again are opened when needed. If all of them are
            in use for CONNECTION_TIMEOUT_S, SQLAlchemy raises a TimeoutError.

    Raises:
        DatabaseError: the driver is not installed, or there is none of that name, or it is of
            asyncio, or it cannot read an option of the URL.
    """
    url, options = _driver_options(url)
    try:
        engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=connections,
            max_overflow=connections,
            pool_timeout=CONNECTION_TIMEOUT_S,
            connect_args=options,
            hide_parameters=True,  # people's data must not get into a logged error
        )
    except ImportError as error:
        package = _PACKAGES.get(error.name or "", error.name)
        raise DatabaseError(
            f"{url.get_backend_name()} needs a driver: pip install '{package}'"
        ) from error
    except NoSuchModuleError as error:
        raise DatabaseError(f"{url.drivername!r} is not a driver that SQLAlchemy knows") from error
    except (ArgumentError, TypeError, ValueError) as error:  # of a part or an option of the URL
        raise _cannot_use(url, error) from error
    if engine.dialect.is_async:
        raise DatabaseError(f"{url.drivername!r} is an asyncio driver: use a blocking one")
    return engine


def _driver_options(url: URL) -> tuple[URL, dict[str, Any]]:
    """Convert the options of a URL that its driver does not take as text, and add what it needs."""
    if url.drivername != "postgresql+psycopg":
        return url, {}
    options: dict[str, Any] = {}
    if "client_encoding" not in url.query:  # else text from a database in SQL_ASCII is bytes
        options["client_encoding"] = "utf8"
    threshold = url.query.get(PREPARE_THRESHOLD)
    if threshold is not None:
        url = url.difference_update_query([PREPARE_THRESHOLD])
        is_number = isinstance(threshold, str) and threshold.isascii() and threshold.isdecimal()
        if not is_number and threshold != "None":
            raise _cannot_use(url, f"{PREPARE_THRESHOLD} must be a number or None")
        options[PREPARE_THRESHOLD] = int(str(threshold)) if is_number else None
    return url, options


def make_tables(store: DocumentSynchronizer, engine: Engine) -> None:
    """Make the tables that are missing.

    Raises:
        DatabaseError: the database does not answer, or has other tables of these names.
    """
    _check_answers(engine)
    with _answering(engine):
        missing = _missing(store, engine)
    for name, columns in missing.items():
        if columns != _all_columns(store, name):
            raise _another_programs(engine, name, columns)
    try:
        with _answering(engine):
            create_tables(engine, store.metadata)
    except ValueError as error:
        raise _cannot_use(engine.url, error) from error


def check_tables(store: DocumentSynchronizer, engine: Engine, *names: str) -> None:
    """Make sure that the tables exist.

    Args:
        store: whose.
        engine: where.
        *names: of the tables; all of them if none is named.

    Raises:
        DatabaseError: one is missing or belongs to another program, or the database does not
            answer.
    """
    path = database_file(engine.url)
    if path is not None and not path.exists():
        raise DatabaseError(f"there is no file {path}: `mobync serve` makes it")
    _check_answers(engine)
    with _answering(engine):
        missing = _missing(store, engine)
    for name, columns in missing.items():
        if name not in names and (names or name in NOT_OF_1_0):
            continue
        if columns == _all_columns(store, name):
            # The commands that need the documents have --app.
            of_app = "; an app's own tables need --app MODULE:NAME" if name == "documents" else ""
            raise DatabaseError(
                f"{shown(engine.url)} has no table {name!r}: `mobync serve` makes it{of_app}"
            )
        raise _another_programs(engine, name, columns)


def check_writes(engine: Engine, store: DocumentSynchronizer) -> None:
    """Write a row that belongs to no owner, and roll it back.

    After a failover or with a full disk, a server still answers reads but accepts no writes.

    Raises:
        DatabaseError: the database does not accept it.
    """
    heads = store.metadata.tables["diffs_heads"]
    nobody = f"{uuid.uuid4().hex} "  # no owner ends in a space
    try:
        with engine.connect() as connection, dropping_if_spoiled(connection):
            connection.execute(insert(heads).values(owner=nobody, logical_clock=-1))
            connection.rollback()
    except NoConnectionError as error:
        raise DatabaseError("all connections are in use") from error
    except DBAPIError as error:
        if kind_of(error) not in (Kind.LOCKED, Kind.CONFLICT):  # another writer has the lock
            raise _cannot_use(engine.url, error.orig) from error


def _another_programs(engine: Engine, name: str, columns: set[str]) -> DatabaseError:
    return DatabaseError(
        f"the table {name!r} of {shown(engine.url)} is not mobync's: "
        f"it has no column {', '.join(map(repr, sorted(columns)))}"
    )


def _missing(store: DocumentSynchronizer, engine: Engine) -> dict[str, set[str]]:
    """The missing columns of each table; if a table is missing, all its columns.

    A table of an earlier version may lack newer columns, and is still mobync's.
    """
    found = inspect(engine)
    missing = {}
    for name in store.metadata.tables:
        has = (
            {column["name"] for column in found.get_columns(name)} if found.has_table(name) else ()
        )
        later = {c.name for c in store.metadata.tables[name].columns if has and is_later(c)}
        lacking = _all_columns(store, name).difference(has, later)
        if lacking:
            missing[name] = lacking
    return missing


def _all_columns(store: DocumentSynchronizer, name: str) -> set[str]:
    return {column.name for column in store.metadata.tables[name].columns}


def _check_answers(engine: Engine) -> None:
    """Connect. A driver may raise any error for an unknown option."""
    check_directory(engine.url)
    try:
        engine.connect().close()
    except DBAPIError as error:
        raise _cannot_use(engine.url, error.orig) from error
    except Exception as error:
        raise _cannot_use(engine.url, error) from error


@contextmanager
def _answering(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise _cannot_use(engine.url, error.orig) from error


def _cannot_use(url: URL, why: object) -> DatabaseError:
    return DatabaseError(f"cannot use {shown(url)}: {' '.join(str(why).split())}")


def shown(url: URL) -> str:
    """A URL without its password."""
    return url.render_as_string(hide_password=True)
