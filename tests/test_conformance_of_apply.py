"""The protocol's cases once more, through apply and a real store: log in, reply and log out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import databases
import pytest
from sqlalchemy import JSON, Column, MetaData, String, Table

from mobync import FilterType, Mobync, ReadFilter, Synchronizer
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import SQLAlchemySynchronizer

CASES = [
    json.loads(line) for line in (Path(__file__).parent / "merge.jsonl").read_text().splitlines()
]
ALL_DIFFS = [d for case in CASES for side in ("server", "client") for d in case[side]]
MODELS = sorted({d["model"] for d in ALL_DIFFS})
FIELDS = sorted({name.lower() for d in ALL_DIFFS for name in json.loads(d["json_data"])} - {"id"})


@contextmanager
def open_store(kind: str) -> Iterator[Synchronizer]:
    if kind == "memory":
        yield MemorySynchronizer()
        return
    if kind.startswith("django "):
        with (
            tempfile.TemporaryDirectory() as directory,
            open_django_store(kind.removeprefix("django "), Path(directory)) as store,
        ):
            yield store
        return
    with (
        tempfile.TemporaryDirectory() as directory,
        databases.open_database(kind, Path(directory)) as database,
    ):
        metadata = MetaData()
        models = {model: model_table(model, metadata) for model in MODELS}
        store = SQLAlchemySynchronizer(database.engine, models)
        metadata.create_all(database.engine)
        yield store


@contextmanager
def open_django_store(kind: str, directory: Path) -> Iterator[Synchronizer]:
    import django_databases
    from django.db import models

    from mobync.django import DjangoSynchronizer

    def model_of(name: str) -> type[models.Model]:
        fields: dict[str, Any] = {
            "id": models.CharField(max_length=40, primary_key=True),
            "owner": models.CharField(max_length=40),
            **{f: models.JSONField(null=True) for f in FIELDS if "__" not in f},
            "Meta": type("Meta", (), {"app_label": "django_app", "db_table": name}),
            "__module__": __name__,
        }
        return type(f"Case{kind}{name}", (models.Model,), fields)

    sources = {name: model_of(name) for name in MODELS}
    with django_databases.django_database(kind, directory, list(sources.values())) as alias:
        yield DjangoSynchronizer(sources, using=alias)


def model_table(model: str, metadata: MetaData) -> Table:
    return Table(
        model,
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), primary_key=True),
        *(Column(field, JSON(none_as_null=True)) for field in FIELDS),
    )


def normal(diffs: list[Any]) -> list[Any]:
    """Without what apply stamps, json_data by value; SQL knows no `Name` beside `name`."""
    return [
        {
            **{name: d[name] for name in ("id", "utc_timestamp", "type", "model")},
            "json_data": {n.lower(): v for n, v in json.loads(d["json_data"]).items()},
        }
        for d in diffs
    ]


def of_owner(diff: dict[str, Any], owner: str) -> dict[str, Any]:
    """The diff as this owner's, with object ids that no other case uses."""
    fields = {name.lower(): value for name, value in json.loads(diff["json_data"]).items()}
    fields["id"] = f"{owner}.{fields['id']}"
    return {**diff, "owner": owner, "json_data": json.dumps(fields)}


def fill(store: Synchronizer, window: list[dict[str, Any]], owner: str) -> None:
    """Write the window into the models and the log, as the syncs before did."""
    alive: dict[tuple[str, str], bool] = {}
    with store.transaction(owner) as inside:
        for d in sorted(window, key=lambda d: int(d["logical_clock"])):
            key = d["model"], json.loads(d["json_data"])["id"]
            updates_what_came_before = d["type"] == "update" and key not in alive
            kind = "create" if updates_what_came_before else d["type"]
            getattr(inside, kind)(d["model"], d["json_data"])
            alive[key] = kind != "delete"
            inside.create("diffs", json.dumps(d))


def logged(store: Synchronizer, owner: str, first_clock: int) -> list[Any]:
    filters = [
        ReadFilter("owner", FilterType.equal, owner),
        ReadFilter("logical_clock", FilterType.majorOrEqual, first_clock),
    ]
    with store.transaction(owner) as inside:
        rows: Any = inside.read("diffs", filters)
        return sorted(map(dict, rows), key=lambda d: int(d["logical_clock"]))


def check_case(store: Synchronizer, case: dict[str, Any], owner: str) -> None:
    window, request, upstream, downstream = (
        [of_owner(d, owner) for d in case[side]]
        for side in ("server", "client", "upstream", "downstream")
    )
    for d in window:  # a device at clock 0 would not be told of what is dead
        d["logical_clock"] += 1
    clocks = [d["logical_clock"] for d in window]
    next_clock = max(clocks, default=-1) + 1
    fill(store, window, owner)

    reply = Mobync(store).apply(min(clocks, default=0), request, owner)
    assert normal(reply["diffs"]) == normal(downstream)
    log = logged(store, owner, next_clock)
    assert normal(log) == normal(upstream)
    assert [d["logical_clock"] for d in log] == list(range(next_clock, reply["logical_clock"]))


# Two names of one field that differ in case only are two fields of the merge (test_merge.py), but
# cannot be two columns of a table.
SKIPPED_ON_SQL = "a field named like another in other case is another"


DJANGO = [f"django {kind}" for kind in databases.KINDS]


@pytest.mark.parametrize("kind", ["memory", *databases.KINDS, *DJANGO])
def test_apply_conforms_on_every_store(kind: str) -> None:
    cases = [case for case in CASES if case["name"] != SKIPPED_ON_SQL]
    distinct = [
        case
        for case in cases
        if len({d["logical_clock"] for d in case["server"]}) == len(case["server"])
    ]
    assert len(cases) - len(distinct) == 2
    if kind in DJANGO:
        distinct = distinct[::5]  # the core is the same; a row is a statement there
    with open_store(kind) as store:
        for number, case in enumerate(distinct):
            try:
                check_case(store, case, f"owner{number}")
            except Exception as error:
                raise AssertionError(f"case {case['name']!r} on {kind}") from error
