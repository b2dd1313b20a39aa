"""Complete Synchronizers over SQLAlchemy 2, for SQLite, PostgreSQL, MariaDB and MySQL."""

from typing import TYPE_CHECKING, Any

from .._extras import needing

if TYPE_CHECKING:
    from ._async import (
        AsyncDocumentSynchronizer,
        AsyncSQLAlchemySynchronizer,
        create_tables_async,
        create_triggers_async,
    )

with needing("sqlalchemy"):
    from ._capture import capture_ddl, create_triggers, log_noted
    from ._compacting import compact_all
    from ._documents import Document, DocumentSynchronizer
    from ._making import create_tables
    from ._reconciling import reconcile_all
    from ._synchronizer import SQLAlchemySynchronizer
    from ._tables import diffs_table, documents_table
    from ._tracking import lock_owners, track

__all__ = [
    "AsyncDocumentSynchronizer",
    "AsyncSQLAlchemySynchronizer",
    "Document",
    "DocumentSynchronizer",
    "SQLAlchemySynchronizer",
    "capture_ddl",
    "compact_all",
    "create_tables",
    "create_tables_async",
    "create_triggers",
    "create_triggers_async",
    "diffs_table",
    "documents_table",
    "lock_owners",
    "log_noted",
    "reconcile_all",
    "track",
]

_AWAITED = (
    "AsyncDocumentSynchronizer",
    "AsyncSQLAlchemySynchronizer",
    "create_tables_async",
    "create_triggers_async",
)


def __getattr__(name: str) -> Any:
    """Import names that need greenlet only when they are used, because SQLAlchemy does not install
    it.
    """
    if name not in _AWAITED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needing("asyncio"):
        import greenlet  # noqa: F401  # SQLAlchemy's own error does not say which extra has it

        from . import _async
    return getattr(_async, name)
