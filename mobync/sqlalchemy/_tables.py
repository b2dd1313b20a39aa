"""The tables of mobync: the log, beside it one row for each owner, and the documents.

The row in the second table, the owner's *head*, holds the highest clock of the owner's log.  Who
has locked it may sync for that owner; so even owners who have no diffs yet can be locked, and
nobody else waits.  The table of documents is for a DocumentSynchronizer only.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGTEXT

# With utf8mb4 a character takes four bytes in an index, and InnoDB's keys end at 3072 bytes.
KEY_LENGTH = 255
MODEL_LENGTH = 100  # of a document's key of three parts; PostgreSQL's keys end at 2704 bytes

# The default collations of MySQL and MariaDB hold 'a' and 'A' for the same owner.
_MYSQL = {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}
_OPTIONS: dict[str, Any] = {
    f"{dialect}_{name}": value for dialect in ("mysql", "mariadb") for name, value in _MYSQL.items()
}


def diffs_table(metadata: MetaData, name: str = "diffs") -> Table:
    """Declare the log, and beside it the table of the owners' heads, ``<name>_heads``.

    ``metadata.create_all`` makes both, and Alembic's autogenerate sees them.

    Args:
        metadata: where the app declares its own tables.
        name: what the log is called; the same as ``diffs_model_name`` of ``Mobync``.

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
        PrimaryKeyConstraint("owner", "id"),
        # Unique, so that a lock that was lost in whatever way cannot fork a log.
        Index(f"{name}_owner_logical_clock", "owner", "logical_clock", unique=True),
        **_OPTIONS,
    )
    heads_of(log)
    return log


def heads_of(log: Table) -> Table:
    """The table of heads beside a log; declared now if it was not yet."""
    name = f"{log.name}_heads"
    key = name if log.schema is None else f"{log.schema}.{name}"
    declared = log.metadata.tables.get(key)
    if declared is not None:
        return declared
    return Table(
        name,
        log.metadata,
        Column("owner", String(KEY_LENGTH), primary_key=True),
        Column("logical_clock", BigInteger, nullable=False),
        schema=log.schema,
        **_OPTIONS,
    )


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
