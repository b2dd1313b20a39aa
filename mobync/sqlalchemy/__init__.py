"""Whole Synchronizers over SQLAlchemy 2: SQLite, PostgreSQL, MariaDB and MySQL."""

from ._compacting import compact_all
from ._documents import Document, DocumentSynchronizer
from ._making import create_tables
from ._synchronizer import SQLAlchemySynchronizer
from ._tables import diffs_table, documents_table

__all__ = [
    "Document",
    "DocumentSynchronizer",
    "SQLAlchemySynchronizer",
    "compact_all",
    "create_tables",
    "diffs_table",
    "documents_table",
]
