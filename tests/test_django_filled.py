"""What Django and its database fill in reaches the devices: the server's part of a sync."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import databases
import django
import pytest
from django_databases import django_database

from mobync import InvalidDiffError, Mobync

if django.VERSION < (5, 0):
    pytest.skip("GeneratedField and db_default came with Django 5.0", allow_module_level=True)

# Django must know its settings first.
from django.db import connections  # isort: skip
from django_app.models import Bill, Letter, Task  # isort: skip
from mobync.django import DjangoSynchronizer, track  # isort: skip
from mobync.django.models import Diff, Head  # isort: skip

NOW = 1_700_000_000_000

TRIGGERS = {
    "sqlite": [
        "CREATE TRIGGER numbers AFTER INSERT ON django_app_bill BEGIN UPDATE django_app_bill"
        " SET number = 17 WHERE id = NEW.id; END"
    ],
    "postgresql": [
        "CREATE FUNCTION numbers() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.number = 17; RETURN NEW; END'",
        "CREATE TRIGGER numbers BEFORE INSERT ON django_app_bill FOR EACH ROW"
        " EXECUTE FUNCTION numbers()",
    ],
    "mariadb": [
        "CREATE TRIGGER numbers BEFORE INSERT ON django_app_bill FOR EACH ROW SET NEW.number = 17"
    ],
}


@pytest.fixture(scope="module", params=databases.KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("db")
    with django_database(request.param, directory, [Bill, Letter]) as alias:
        with connections[alias].cursor() as cursor:
            for statement in TRIGGERS[request.param]:
                cursor.execute(statement)
        yield alias


@pytest.fixture
def alias(made: str) -> str:
    for source in (Bill, Letter, Diff, Head):
        source._base_manager.using(made).all().delete()
    return made


@pytest.fixture
def mobync(alias: str) -> Mobync:
    sources = {"bills": Bill, "letters": Letter}
    hidden = {"bills": ["hidden"]}
    mobync = Mobync(DjangoSynchronizer(sources, using=alias, hidden_columns=hidden))
    track(mobync)
    return mobync


def diff(kind: str, model: str = "bills", seconds: int = 0, **row: Any) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "owner": "anna",
        "logical_clock": 0,
        "utc_timestamp": NOW + seconds * 1000,
        "type": kind,
        "model": model,
        "json_data": json.dumps(row),
    }


def answer(mobync: Mobync, clock: int, *edits: Any) -> list[tuple[str, dict[str, Any]]]:
    sent = mobync.apply(clock, list(edits), "anna")["diffs"]
    return [(each["type"], json.loads(each["json_data"])) for each in sent]


def of_device(mobync: Mobync) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for kind, row in answer(mobync, 0):
        if kind == "delete":
            del rows[row["id"]]
        else:
            rows.setdefault(row["id"], {}).update(row)
    return rows


def of_database(mobync: Mobync, model: str = "bills") -> dict[str, Any]:
    rows = mobync.synchronizer.owned_rows("anna", model)
    return {row["id"]: {f: v for f, v in row.items() if v is not None} for row in rows}


def test_what_is_filled_in_comes_with_the_reply_and_by_the_log(mobync: Mobync) -> None:
    (part,) = answer(mobync, 0, diff("create", id="b", net=100))
    moments = {name: part[1].pop(name) for name in ("made", "changed")}
    filled = {"id": "b", "title": "", "priority": 3, "gross": 120, "number": 17}
    assert part == ("update", filled)
    assert of_device(mobync) == of_database(mobync) == {"b": {**filled, "net": 100, **moments}}

    (part,) = answer(mobync, 2, diff("update", id="b", net=5, seconds=1))
    assert part[1].pop("changed") > moments["changed"]
    assert part == ("update", {"id": "b", "gross": 25})
    assert of_device(mobync) == of_database(mobync)
    assert mobync.reconcile("anna", dry_run=True).ok


def test_what_the_apps_save_makes_of_it_comes_too(mobync: Mobync) -> None:
    edits = diff("create", "letters", id="l", text=" Dear "), diff("create", "letters", id="m")
    assert answer(mobync, 0, *edits) == [("update", {"id": "l", "text": "Dear"})]
    assert of_device(mobync)["l"] == of_database(mobync, "letters")["l"]


@pytest.mark.parametrize("name", ["number", "made", "gross"])
def test_a_device_may_not_write_what_is_the_servers(mobync: Mobync, name: str) -> None:
    with pytest.raises(InvalidDiffError, match=f"'{name}' is (set by the server|made by the)"):
        answer(mobync, 0, diff("create", id="b", **{name: None}))
    with pytest.raises(InvalidDiffError, match="no field 'hidden'"):
        answer(mobync, 0, diff("create", id="b", hidden="x"))


def test_the_backend_may(mobync: Mobync) -> None:
    answer(mobync, 0, diff("create", id="b"))
    clock = mobync.push("anna", [("update", "bills", {"id": "b", "number": 40})])
    assert clock == mobync.logical_clock("anna") == 4
    assert of_device(mobync) == of_database(mobync)
    assert of_device(mobync)["b"]["number"] == 40


def test_a_retry_gets_the_same(mobync: Mobync) -> None:
    edit = diff("create", id="b", net=100)
    first = mobync.apply(0, [dict(edit)], "anna")
    assert mobync.apply(0, [dict(edit)], "anna") == first
    assert first["logical_clock"] == 2


def test_what_is_adopted_and_what_the_admin_saves_goes_on(mobync: Mobync, alias: str) -> None:
    Bill._base_manager.using(alias).bulk_create([Bill(id="b", owner="anna", net=100)])
    assert mobync.adopt("anna", "bills") == 1
    assert of_device(mobync) == of_database(mobync)
    bill = Bill._base_manager.using(alias).get()
    bill.net = 7
    bill.save()
    assert of_device(mobync) == of_database(mobync)
    assert of_device(mobync)["b"]["gross"] == 27
    answer(mobync, mobync.logical_clock("anna"), diff("update", id="b", net=9, seconds=10**6))
    assert of_device(mobync) == of_database(mobync)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"server_columns": {"tasks": ["nothing"]}}, "'tasks' has no such field 'nothing'"),
        ({"server_columns": {"tasks": ["id"]}}, "'tasks' has no such field 'id'"),
        ({"hidden_columns": {"tasks": ["owner"]}}, "'tasks' has no such field 'owner'"),
        ({"hidden_columns": {"tasks": ["title"]}}, "title cannot be synced"),
        ({"read_back": ["others"]}, "read_back names no model: 'others'"),
    ],
)
def test_a_mistake_in_the_settings_is_an_error_at_once(options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DjangoSynchronizer({"tasks": Task}, **options)


def test_which_models_are_read_back() -> None:
    store = DjangoSynchronizer({"bills": Bill, "letters": Letter, "tasks": Task})
    assert store.filled_models is not None
    assert all(store.filled_models[name].on_each_write for name in ("bills", "letters", "tasks"))
    assert store.filled_models["tasks"].on_create == {
        *("state", "rank", "is_hidden", "changed", "secret")
    }
