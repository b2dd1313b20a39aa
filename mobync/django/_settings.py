"""How a database of Django must be set up so that it keeps what devices send to the letter."""

from __future__ import annotations

from typing import Any

from django.db import connections

_CHECKED = "_mobync_checked"
_CHARSET = "utf8mb4"


def check_settings_once(using: str) -> None:
    """Check, once for each connection, that a database keeps what it is given.

    Raises:
        ValueError: it would not; the message says what to set.
    """
    connection = connections[using]
    connection.ensure_connection()
    driver = connection.connection
    if getattr(connection, _CHECKED, None) is driver:
        return
    complaint = complaint_about(connection)
    if complaint is not None:
        raise ValueError(complaint)
    setattr(connection, _CHECKED, driver)


def complaint_about(connection: Any) -> str | None:
    """What is wrong with a database, and what to set; None if nothing is."""
    if connection.vendor == "mysql":
        return _complaint_about_mysql(connection)
    if connection.vendor == "postgresql":
        return _complaint_about_postgresql(connection)
    return None


def _complaint_about_mysql(connection: Any) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@SESSION.sql_mode, @@SESSION.character_set_connection")
        modes, charset = cursor.fetchone()
    if not {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"} & set(modes.split(",")):
        return (
            "the database would cut or change values that do not fit: "
            "add STRICT_TRANS_TABLES to its sql_mode"
        )
    if charset != _CHARSET:
        return (
            "the connection to the database cannot store every character: it is in "
            f"{charset}; add 'charset': '{_CHARSET}' to the OPTIONS of the database"
        )
    return None


def _complaint_about_postgresql(connection: Any) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_encoding")
        (encoding,) = cursor.fetchone()
    if encoding != "UTF8":
        return f"the database cannot store every character: its encoding is {encoding}, not UTF8"
    return None
