"""Databases of Django for tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import databases
import pymysql
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from http_app import configure_django

configure_django()

# Django asks for mysqlclient; PyMySQL is the same to it.
pymysql.version_info = (2, 2, 1, "final", 0)
pymysql.install_as_MySQLdb()

_numbers = itertools.count()


@contextmanager
def django_database(kind: str, directory: Path, sources: Sequence[Any]) -> Iterator[str]:
    """An empty database with mobync's tables and those of models; gives its alias."""
    with (
        databases.open_database(kind, directory) as database,
        django_on(database, sources) as alias,
    ):
        yield alias


@contextmanager
def django_on(database: databases.Database, sources: Sequence[Any]) -> Iterator[str]:
    """The same on a database that is there."""
    alias = f"{database.kind}_{next(_numbers)}"
    url = database.url
    engine = {"mariadb": "mysql"}.get(database.kind, database.kind).replace("sqlite", "sqlite3")
    options: dict[str, Any] = {}
    if database.kind == "postgresql":
        options = {"options": url.query["options"]}
    settings.DATABASES[alias] = {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or "",
        "PORT": str(url.port or ""),
        "OPTIONS": options,
    }
    connections.settings = connections.configure_settings(settings.DATABASES)
    try:
        call_command("migrate", "mobync", database=alias, verbosity=0)
        with connections[alias].schema_editor() as editor:
            for source in sources:
                editor.create_model(source)
        yield alias
    finally:
        connections[alias].close()
        del settings.DATABASES[alias]
