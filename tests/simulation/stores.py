"""The stores that a simulation can run on.

A database is made once for a whole run, and emptied before each history.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from mobync import Synchronizer
from mobync.memory import MemorySynchronizer

from .rules import Rules
from .world import FIELDS, MODELS, MakeStore

NAMES = (
    *("memory", "sqlite", "postgresql", "mariadb"),
    *("django sqlite", "django postgresql", "django mariadb"),
)


class MemoryStore(Rules, MemorySynchronizer):
    pass


def memory() -> AbstractContextManager[Synchronizer]:
    return nullcontext(MemoryStore())


@contextmanager
def open_stores(name: str, by_sql: bool = False) -> Iterator[MakeStore]:
    """What makes a fresh store for each history; `name` is one of NAMES.

    With `by_sql` it has triggers, and knows its tables and engine.
    """
    if name == "memory":
        yield memory
        return

    if name.startswith("django "):
        with _open_django(name.removeprefix("django ")) as make_store:
            yield make_store
        return

    import databases
    from sqlalchemy import Column, Integer, MetaData, String, Table
    from sqlalchemy.engine import Engine

    from mobync.sqlalchemy import SQLAlchemySynchronizer, create_triggers

    class SQLStore(Rules, SQLAlchemySynchronizer):
        engine: Engine
        tables: dict[str, Table]

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
        store = SQLStore(database.engine, models, capture=by_sql)
        store.engine, store.tables = database.engine, models
        metadata.create_all(database.engine)
        if by_sql:
            create_triggers(database.engine, store)

        @contextmanager
        def emptied() -> Iterator[Synchronizer]:
            with database.engine.begin() as connection:
                for table in metadata.sorted_tables:
                    connection.execute(table.delete())
                if store.capture is not None:  # which the triggers have just filled
                    connection.execute(store.capture.notes_table.delete())
            yield store

        yield emptied


@contextmanager
def _open_django(kind: str) -> Iterator[MakeStore]:
    import django_databases
    from django.apps import apps
    from django.db import models

    from mobync.django import DjangoSynchronizer

    class DjangoStore(Rules, DjangoSynchronizer):
        pass

    def model_of(name: str) -> type[models.Model]:
        label = f"simulated{name}"
        if label in apps.all_models["django_app"]:
            return apps.all_models["django_app"][label]
        members = {
            "id": models.CharField(max_length=40, primary_key=True),
            "owner": models.CharField(max_length=40),
            **{field: models.IntegerField(null=True) for field in FIELDS},
            "Meta": type("Meta", (), {"app_label": "django_app", "db_table": name}),
            "__module__": __name__,
        }
        return type(label, (models.Model,), members)

    sources = {name: model_of(name) for name in MODELS}
    own = [apps.get_model("mobync", name) for name in ("Diff", "Head", "Device", "Note")]
    with (
        tempfile.TemporaryDirectory() as directory,
        django_databases.django_database(kind, Path(directory), list(sources.values())) as alias,
    ):
        store = DjangoStore(sources, using=alias, capture=False)

        @contextmanager
        def emptied() -> Iterator[Synchronizer]:
            for source in (*sources.values(), *own):
                source._base_manager.using(alias).all().delete()
            yield store

        yield emptied
