"""Named devices in the tables of Django, on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import databases
import pytest
from django_databases import django_database
from kept_devices import check_devices_are_kept
from test_named_devices import STORIES, Apply, tell

from mobync import InvalidDiffError, UnknownDeviceError

# Django must know its settings first.
from django.db import models  # isort: skip
from mobync.django import DjangoSynchronizer  # isort: skip
from mobync.django.models import Device, Diff, Head, Part  # isort: skip

FIELDS = ("a", "b", "c", "fd0", "fd1", "fd2")


class Told(models.Model):
    """The model of the stories."""

    id = models.CharField(max_length=40, primary_key=True)
    owner = models.CharField(max_length=40)
    a, b, c, fd0, fd1, fd2 = (models.IntegerField(null=True) for _ in FIELDS)

    class Meta:  # noqa: D106
        app_label = "django_app"
        db_table = "told"


TABLES = (Told, Head, Diff, Device, Part)


@pytest.fixture(scope="module", params=databases.KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with django_database(request.param, tmp_path_factory.mktemp("db"), [Told]) as alias:
        yield request.param, alias


@pytest.fixture
def alias(made: tuple[str, str]) -> str:
    empty(made[1])
    return made[1]


def empty(alias: str) -> None:
    for table in TABLES:
        table.objects.using(alias).all().delete()


class Server(Apply):
    """A server on a database, of which a copy is what its tables hold."""

    def __init__(self, alias: str) -> None:
        super().__init__(DjangoSynchronizer({"m": Told}, using=alias))
        self._alias = alias

    def __deepcopy__(self, memo: Any) -> Any:
        """A backup; a copy of a backup is the server, with what the backup held."""
        return Backup(self, {table: list(table.objects.using(self._alias)) for table in TABLES})


class Backup:
    def __init__(self, server: Server, rows: Any) -> None:
        self._server, self._rows = server, rows

    def __deepcopy__(self, memo: Any) -> Server:
        empty(self._server._alias)
        for table, rows in self._rows.items():
            table.objects.using(self._server._alias).bulk_create(rows)
        return self._server


def test_a_story_goes_as_it_is_told(made: tuple[str, str]) -> None:
    """Each story on one of the databases: here an edit takes ten times as long as on a table."""
    kind, alias = made
    for story in STORIES[databases.KINDS.index(kind) :: len(databases.KINDS)]:
        empty(alias)
        tell(story, Server(alias))


def test_devices_of_an_owner_are_kept_by_their_names(alias: str) -> None:
    check_devices_are_kept(Server(alias).store)


def test_a_device_whose_name_the_database_cannot_keep_apart_is_refused(
    made: tuple[str, str], alias: str
) -> None:
    mobync = Server(alias).mobync
    said: dict[str, Any] = {"device": "phone ", "request": 1}
    if made[0] == "mariadb":
        with pytest.raises(InvalidDiffError, match="device ends in a space"):
            mobync.apply(0, [], "bob", **said)
    else:
        mark = mobync.apply(0, [], "bob", **said)["mark"]
        with pytest.raises(UnknownDeviceError):
            mobync.apply(0, [], "bob", device="phone", request=1, mark=mark)
