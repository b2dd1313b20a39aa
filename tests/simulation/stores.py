"""The stores that a simulation can run on.

A database is made once for a whole run, and emptied before each history.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mobync import ReadFilter, Synchronizer
from mobync.memory import MemorySynchronizer

from .rules import Rules
from .world import FIELDS, MODELS, MakeStore

NAMES = (
    *("memory", "sqlite", "postgresql", "mariadb"),
    *("django sqlite", "django postgresql", "django mariadb"),
)


class MemoryStore(Rules, MemorySynchronizer):
    def read_log(self, where: str, filters: list[ReadFilter]) -> Iterable[Sequence[Any]]:
        """As of a driver: no text is used again, so memory is where another one was."""
        return [json.loads(json.dumps(row)) for row in super().read_log(where, filters)]


def memory() -> AbstractContextManager[Synchronizer]:
    return nullcontext(MemoryStore())


@contextmanager
def open_stores(name: str, by_sql: bool = False, fills: bool = False) -> Iterator[MakeStore]:
    """What makes a fresh store for each history; `name` is one of NAMES.

    Args:
        name: of the store.
        by_sql: it has triggers that note edits by SQL, and knows its tables and engine.
        fills: `c` has a default, `twice` is computed, and triggers count `version` and make `b`
            even.
    """
    if name == "memory":
        yield memory
        return

    if name.startswith("django "):
        with _open_django(name.removeprefix("django "), fills) as make_store:
            yield make_store
        return

    import databases
    from sqlalchemy import Column, Computed, Integer, MetaData, String, Table
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

        def columns() -> list[Column[Any]]:
            if not fills:
                return [Column(field, Integer) for field in FIELDS]
            return [
                Column("a", Integer),
                Column("b", Integer),
                Column("c", Integer, server_default="5"),
                Column("twice", Integer, Computed("a * 2", persisted=True)),
                Column("version", Integer),
            ]

        models = {
            model: Table(
                model,
                metadata,
                Column("id", String(40), primary_key=True),
                Column("owner", String(40), primary_key=True),
                *columns(),
            )
            for model in MODELS
        }
        server_columns = {model: ["version"] for model in MODELS} if fills else {}
        store = SQLStore(database.engine, models, capture=by_sql, server_columns=server_columns)
        store.engine, store.tables = database.engine, models
        metadata.create_all(database.engine)
        with database.engine.begin() as connection:
            for statement in filling_triggers(name) if fills else ():
                connection.exec_driver_sql(statement)
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


def filling_triggers(kind: str) -> list[str]:
    """The statements that make the triggers which fill in, on a database of this kind."""
    even = "NEW.b - MOD(NEW.b, 2)"
    made = {
        "sqlite": [
            "CREATE TRIGGER {0}_fill_i AFTER INSERT ON {0} BEGIN UPDATE {0} SET version = 1,"
            " b = NEW.b - NEW.b % 2 WHERE id = NEW.id AND owner = NEW.owner; END",
            "CREATE TRIGGER {0}_fill_u AFTER UPDATE ON {0} WHEN NEW.version IS OLD.version BEGIN"
            " UPDATE {0} SET version = OLD.version + 1, b = NEW.b - NEW.b % 2"
            " WHERE id = NEW.id AND owner = NEW.owner; END",
        ],
        "postgresql": [
            "CREATE FUNCTION {0}_fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " NEW.version = CASE TG_OP WHEN 'INSERT' THEN 1 ELSE OLD.version + 1 END;"
            f" NEW.b = {even}; RETURN NEW; END $$",
            "CREATE TRIGGER {0}_fill BEFORE INSERT OR UPDATE ON {0} FOR EACH ROW"
            " EXECUTE FUNCTION {0}_fill()",
        ],
        "mariadb": [
            "CREATE TRIGGER {0}_fill_i BEFORE INSERT ON {0} FOR EACH ROW"
            f" SET NEW.version = 1, NEW.b = {even}",
            "CREATE TRIGGER {0}_fill_u BEFORE UPDATE ON {0} FOR EACH ROW"
            f" SET NEW.version = OLD.version + 1, NEW.b = {even}",
        ],
    }[kind]
    return [statement.format(model) for model in MODELS for statement in made]


@contextmanager
def _open_django(kind: str, fills: bool) -> Iterator[MakeStore]:
    import django_databases
    from django.apps import apps
    from django.db import connections, models

    from mobync.django import DjangoSynchronizer

    class DjangoStore(Rules, DjangoSynchronizer):
        pass

    def fields() -> dict[str, Any]:
        if not fills:
            return {field: models.IntegerField(null=True) for field in FIELDS}
        twice = models.F("a") * 2
        return {
            "a": models.IntegerField(null=True),
            "b": models.IntegerField(null=True),
            "c": models.IntegerField(null=True, db_default=5),
            "twice": models.GeneratedField(
                expression=twice, output_field=models.IntegerField(null=True), db_persist=True
            ),
            "version": models.IntegerField(null=True, editable=False),
        }

    def model_of(name: str) -> type[models.Model]:
        label = f"{'filled' if fills else 'simulated'}{name}"
        if label in apps.all_models["django_app"]:
            return apps.all_models["django_app"][label]
        members = {
            "id": models.CharField(max_length=40, primary_key=True),
            "owner": models.CharField(max_length=40),
            **fields(),
            "Meta": type("Meta", (), {"app_label": "django_app", "db_table": name}),
            "__module__": __name__,
        }
        return type(label, (models.Model,), members)

    sources = {name: model_of(name) for name in MODELS}
    own = [apps.get_model("mobync", name) for name in ("Diff", "Head", "Device")]
    with (
        tempfile.TemporaryDirectory() as directory,
        django_databases.django_database(kind, Path(directory), list(sources.values())) as alias,
    ):
        store = DjangoStore(sources, using=alias)
        with connections[alias].cursor() as cursor:
            for statement in filling_triggers(kind) if fills else ():
                cursor.execute(statement.replace("%", "%%"), [])

        @contextmanager
        def emptied() -> Iterator[Synchronizer]:
            for source in (*sources.values(), *own):
                source._base_manager.using(alias).all().delete()
            yield store

        yield emptied
