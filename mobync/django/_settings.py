"""Which settings a database needs so that it stores what devices send unchanged."""

from __future__ import annotations

from typing import Any

from django.db import connections

from .._relational.store import complaint_about_sql_mode

_CHECKED = "_mobync_checked"
_CHARSET = "utf8mb4"


def check_settings_once(using: str) -> None:
    """Check, once for each connection, that a database stores values unchanged.

    Raises:
        ValueError: it does not; the message says what to set.
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
    """What is wrong with the settings of a database, and what to set; None: nothing."""
    if connection.vendor == "mysql":
        return _complaint_about_mysql(connection)
    if connection.vendor == "postgresql":
        return _complaint_about_postgresql(connection)
    return None


def _complaint_about_mysql(connection: Any) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@SESSION.sql_mode, @@SESSION.character_set_connection")
        modes, charset = cursor.fetchone()
    complaint = complaint_about_sql_mode(modes)
    if complaint is not None:
        return complaint
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
