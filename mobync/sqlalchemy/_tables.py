"""The tables of mobync: the log, the owners' heads, devices, parts of requests, and documents.

A row of the second table, the owner's *head*, has the highest clock of the owner's log. A sync
locks this row. So owners without diffs can be locked too, and other owners do not wait. The third
table has a row for each named device, the fourth the parts of requests that wait for the last part.
Only a DocumentSynchronizer has the table of documents.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGTEXT

from ..types import FIELD_TIMES

# With utf8mb4 a character takes four bytes in an index, and InnoDB's keys end at 3072 bytes.
KEY_LENGTH = 255
MODEL_LENGTH = 100  # of a document's key of three parts; PostgreSQL's keys end at 2704 bytes

# The default collations of MySQL and MariaDB hold 'a' and 'A' for the same owner.
_MYSQL = {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}
_LATER = {"mobync_later": True}
_OPTIONS: dict[str, Any] = {
    f"{dialect}_{name}": value for dialect in ("mysql", "mariadb") for name, value in _MYSQL.items()
}


def diffs_table(metadata: MetaData, name: str = "diffs") -> Table:
    """Declare the log, and with it ``<name>_heads``, ``<name>_devices`` and ``<name>_parts``.

    ``metadata.create_all`` makes all four, and Alembic's autogenerate sees them.

    Args:
        metadata: the MetaData of the app's own tables.
        name: the name of the log, the same as ``diffs_model_name`` of ``Mobync``.

    Returns:
        The log, for the argument ``diffs`` of ``SQLAlchemySynchronizer``.

    Raises:
        sqlalchemy.exc.InvalidRequestError: ``metadata`` has a table of that name.
    """
    log = Table(
        name,
        metadata,
        Column("id", String(KEY_LENGTH), nullable=False),
        Column("owner", String(KEY_LENGTH), nullable=False),
        Column("logical_clock", BigInteger, nullable=False),
        Column("utc_timestamp", BigInteger, nullable=False),
        Column("type", String(6), nullable=False),
        Column("model", String(KEY_LENGTH), nullable=False),
        Column("json_data", _long_text(), nullable=False),
        Column(FIELD_TIMES, _long_text(), info=_LATER),
        PrimaryKeyConstraint("owner", "id"),
        # Unique, so that a lock that was lost in whatever way cannot fork a log.
        Index(f"{name}_owner_logical_clock", "owner", "logical_clock", unique=True),
        **_OPTIONS,
    )
    heads_of(log)
    devices_of(log)
    parts_of(log)
    return log


def beside(log: Table, what: str) -> tuple[str, Table | None]:
    """The name of a table that belongs to a log, and the table if it was declared before."""
    name = f"{log.name}_{what}"
    key = name if log.schema is None else f"{log.schema}.{name}"
    return name, log.metadata.tables.get(key)


def heads_of(log: Table) -> Table:
    """The table of heads beside a log; declared now if it was not yet."""
    return _declared_beside(
        log,
        "heads",
        Column("owner", String(KEY_LENGTH), primary_key=True),
        Column("logical_clock", BigInteger, nullable=False),
        Column("state", _long_text(), info=_LATER),
    )


def devices_of(log: Table) -> Table:
    """The table of devices beside a log; declared now if it was not yet."""
    return _declared_beside(
        log,
        "devices",
        Column("owner", String(KEY_LENGTH), primary_key=True),
        Column("device", String(KEY_LENGTH), primary_key=True),
        Column("state", _long_text(), nullable=False),
    )


def parts_of(log: Table) -> Table:
    """The table of parts beside a log; declared now if it was not yet."""
    return _declared_beside(
        log,
        "parts",
        Column("owner", String(KEY_LENGTH), primary_key=True),
        Column("device", String(KEY_LENGTH), primary_key=True),
        Column("part", Integer, primary_key=True),
        Column("piece", Integer, primary_key=True),
        Column("diffs", _long_text(), nullable=False),
    )


def _declared_beside(log: Table, what: str, *columns: Column[Any]) -> Table:
    name, declared = beside(log, what)
    if declared is not None:
        return declared
    return Table(name, log.metadata, *columns, schema=log.schema, **_OPTIONS)


def is_later(column: Column[Any]) -> bool:
    """Whether a column is of mobync, and tables that mobync 1.0 made do not have it."""
    return _LATER.items() <= column.info.items()


def documents_table(metadata: MetaData, name: str = "documents") -> Table:
    """Declare the table of a DocumentSynchronizer's documents.

    Raises:
        sqlalchemy.exc.InvalidRequestError: ``metadata`` has a table of that name.
    """
    return Table(
        name,
        metadata,
        Column("owner", String(KEY_LENGTH), primary_key=True),
        Column("model", String(MODEL_LENGTH), primary_key=True),
        Column("id", String(KEY_LENGTH), primary_key=True),
        Column("document", _long_text(), nullable=False),
        **_OPTIONS,
    )


def _long_text() -> Text:
    return Text().with_variant(LONGTEXT(), "mysql", "mariadb")
