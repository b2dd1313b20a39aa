"""Checks that a database is set up to store exactly what devices send.

Without strict mode, MariaDB and MySQL cut or change a value instead of refusing it, and store ``?``
for a letter that a connection or a column does not have. A PostgreSQL database in LATIN1 has few
letters, and one in SQL_ASCII has none. So mobync refuses to use them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from sqlalchemy import Table, text
from sqlalchemy.engine import Connection, Engine

from .._relational.store import complaint_about_sql_mode
from ._values import is_mysql

_CHECKED, _MYSQL_SETTINGS = "mobync_checked", "mobync_mysql_settings"
_NONE: frozenset[str] = frozenset()
_CHARSET = "utf8mb4"
_SHOW_SETTINGS = (
    "SHOW SESSION VARIABLES WHERE Variable_name IN ('sql_mode', 'character_set_client',"
    " 'character_set_connection', 'max_allowed_packet', 'wsrep_on',"
    " 'innodb_snapshot_isolation')"
)
_OTHER_CHARSET = text(
    "SELECT column_name, character_set_name FROM information_schema.columns"
    " WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name"
    f" AND character_set_name <> '{_CHARSET}'"
)


class MySQLSettings(NamedTuple):
    """The settings of one connection to MariaDB or MySQL.

    Attributes:
        most_bytes: the limit for one statement, ``max_allowed_packet``.
        is_galera: whether the server is a node of a Galera cluster.
        locks_its_snapshot_only: whether a transaction at REPEATABLE READ cannot lock a row that was
            changed since it first read, ``innodb_snapshot_isolation``.
    """

    most_bytes: int
    is_galera: bool
    locks_its_snapshot_only: bool


def schema_of(table: Table, bind: Engine | Connection) -> str | None:
    """The schema that a table is in; the engine may have another for the one that is declared."""
    translated = bind.get_execution_options().get("schema_translate_map") or {}
    schema: str | None = translated.get(table.schema, table.schema)
    return schema


def named(table: Table, connection: Connection) -> str:
    """The name of a table, as it is written in a statement on this connection."""
    quote = connection.dialect.identifier_preparer.quote
    return ".".join(quote(part) for part in (schema_of(table, connection), table.name) if part)


def check_once(connection: Connection, tables: Mapping[str, Table]) -> None:
    """Do what check_settings() does, once for each connection of a pool.

    Args:
        connection: of a pool.
        tables: by their full names.
    """
    if not is_checked(connection, tables):
        check_settings(connection, tables.values())
        connection.info.setdefault(_CHECKED, set()).update(_full_names(connection, tables))


def is_checked(connection: Connection, tables: Mapping[str, Table]) -> bool:
    """Whether check_once() was done."""
    checked: Set[str] = connection.info.get(_CHECKED, _NONE)
    return _full_names(connection, tables) <= checked


def _full_names(connection: Connection, tables: Mapping[str, Table]) -> Set[str]:
    """The full names of tables in the schemas that the connection's engine has for them."""
    if not connection.get_execution_options().get("schema_translate_map"):
        return tables.keys()
    placed = [(schema_of(table, connection), table.name) for table in tables.values()]
    return {".".join(part for part in names if part) for names in placed}


def check_settings(connection: Connection, tables: Iterable[Table]) -> None:
    """Make sure that a database stores exactly what it is given.

    Args:
        connection: to the database.
        tables: mobync's own, which must be there.

    Raises:
        ValueError: it does not; the message says what to set.
    """
    if is_mysql(connection.dialect):
        _check_mysql(connection)
        for table in tables:
            _check_charset(connection, table)
    elif connection.dialect.name == "postgresql":
        _check_postgresql(connection)


def mysql_settings(connection: Connection) -> MySQLSettings | None:
    """The settings that the check of the connection found; None for another database."""
    found: MySQLSettings | None = connection.info.get(_MYSQL_SETTINGS)
    return found


def _check_mysql(connection: Connection) -> None:
    found = dict(map(tuple, connection.exec_driver_sql(_SHOW_SETTINGS)))
    complaint = complaint_about_sql_mode(found["sql_mode"])
    if complaint is not None:
        raise ValueError(complaint)
    for name in ("character_set_client", "character_set_connection"):
        if found[name] != _CHARSET:
            raise ValueError(
                f"the connection to the database cannot store every character: its {name} is "
                f"{found[name]}; add charset={_CHARSET} to the database's URL"
            )
    connection.info[_MYSQL_SETTINGS] = MySQLSettings(
        int(found["max_allowed_packet"]),
        found.get("wsrep_on") == "ON",
        found.get("innodb_snapshot_isolation") == "ON",
    )


def _check_charset(connection: Connection, table: Table) -> None:
    named = {"schema": schema_of(table, connection), "name": table.name}
    other = connection.execute(_OTHER_CHARSET, named).first()
    if other is not None:
        column, charset = other
        raise ValueError(
            f"the table {table.name!r} cannot store every character: its column {column!r} is in "
            f"{charset}; ALTER TABLE {table.name} CONVERT TO CHARACTER SET {_CHARSET} COLLATE "
            f"{_CHARSET}_bin"
        )


def _check_postgresql(connection: Connection) -> None:
    for name, whose in (("server_encoding", "database"), ("client_encoding", "connection")):
        encoding = connection.exec_driver_sql(f"SHOW {name}").scalar()
        if encoding != "UTF8":
            raise ValueError(
                f"the {whose} cannot store every character: its {name} is {encoding}, not UTF8"
            )
