"""The stores that a simulation can run on.

A database is made once for a whole run, and emptied before each history.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mobync import Synchronizer
from mobync.memory import MemorySynchronizer

from .world import FIELDS, MODELS, MakeStore

NAMES = ("memory", "sqlite", "postgresql", "mariadb")


class Rules:
    """Refuses a diff that says so itself."""

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return "refuse" not in diff

    validate_update = validate_delete = validate_create


class MemoryStore(Rules, MemorySynchronizer):
    pass


def memory() -> AbstractContextManager[Synchronizer]:
    return nullcontext(MemoryStore())


@contextmanager
def open_stores(name: str) -> Iterator[MakeStore]:
    """What makes a fresh store for each history; `name` is one of NAMES."""
    if name == "memory":
        yield memory
        return

    import databases
    from sqlalchemy import Column, Integer, MetaData, String, Table

    from mobync.sqlalchemy import SQLAlchemySynchronizer

    class SQLStore(Rules, SQLAlchemySynchronizer):
        pass

    with (
        tempfile.TemporaryDirectory() as directory,
        databases.open_database(name, Path(directory)) as database,
    ):
        metadata = MetaData()
        models = {
            model: Table(
                model,
                metadata,
                Column("id", String(40), primary_key=True),
                Column("owner", String(40), primary_key=True),
                *(Column(field, Integer) for field in FIELDS),
            )
            for model in MODELS
        }
        store = SQLStore(database.engine, models)
        metadata.create_all(database.engine)

        @contextmanager
        def emptied() -> Iterator[Synchronizer]:
            with database.engine.begin() as connection:
                for table in metadata.sorted_tables:
                    connection.execute(table.delete())
            yield store

        yield emptied
