"""DocumentSynchronizer: what a sync writes grows with its request, whatever shape that has.

A table needs no such test: the merge keeps one update of a field, so that a row is written at most
once for each of its columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from databases import Database, open_database
from sqlalchemy import event
from task_list import diff

from mobync import Mobync
from mobync.sqlalchemy import DocumentSynchronizer

LARGE = 200_000  # characters of a large row
MOST_STATEMENTS = 30
SMALL = 600  # that a diff may cost: what it says, in the table and in the log

Edits = list[dict[str, Any]]


class Work:
    """What reached the database: statements, and the characters of their values."""

    def __init__(self) -> None:
        self.statements = 0
        self.characters = 0

    def note(self, _c: Any, _cursor: Any, sql: str, values: Any, _context: Any, many: bool) -> None:
        self.statements += 1
        for row in values if many else [values]:
            each = row.values() if isinstance(row, dict) else row
            self.characters += sum(len(value) for value in each if isinstance(value, str))


@contextmanager
def counted(database: Database) -> Iterator[Work]:
    work = Work()
    event.listen(database.engine, "before_cursor_execute", work.note)
    try:
        yield work
    finally:
        event.remove(database.engine, "before_cursor_execute", work.note)


def documents(database: Database) -> Mobync:
    store = DocumentSynchronizer(database.engine)
    store.metadata.create_all(database.engine)
    return Mobync(store)


def large(model: str, id_: str) -> dict[str, Any]:
    return diff("create", model, id=id_, text="x" * LARGE)


def field(n: int) -> dict[str, Any]:
    """A field of its own: of several updates of one field the merge keeps the last."""
    return {f"f{n}": n}


def one_object(count: int) -> Edits:
    return [diff("update", "a", id="large", **field(n)) for n in range(count)]


def two_models_in_turns(count: int) -> Edits:
    return [diff("update", "ab"[n % 2], id="large", **field(n)) for n in range(count)]


def creates_in_between(count: int) -> Edits:
    edits = one_object(count)
    return [e for n, u in enumerate(edits) for e in (u, diff("create", "b", id=str(n)))]


def creates_of_its_model_in_between(count: int) -> Edits:
    edits = one_object(count)
    return [e for n, u in enumerate(edits) for e in (u, diff("create", "a", id=str(n)))]


def deletes_in_between(count: int) -> Edits:
    edits = one_object(count)
    return [e for n, u in enumerate(edits) for e in (u, diff("delete", "b", id=str(n)))]


def two_objects_in_turns(count: int) -> Edits:
    return [diff("update", "a", id=("large", "other")[n % 2], **field(n)) for n in range(count)]


def many_objects_made_anew(count: int) -> Edits:
    old = [diff("create", "b", id=str(n), **field(n)) for n in range(count)]
    new = [diff("update", "b", id=str(n), **field(n + 1)) for n in range(count)]
    return [e for pair in zip(old, one_object(count), new, strict=True) for e in pair]


SHAPES = [
    one_object,
    two_models_in_turns,
    two_objects_in_turns,
    creates_in_between,
    creates_of_its_model_in_between,
    deletes_in_between,
    many_objects_made_anew,
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_large_document_is_written_once_a_sync_and_read_once(tmp_path, shape):
    for count in (40, 80, 160):
        (tmp_path / str(count)).mkdir()
        with open_database("sqlite", tmp_path / str(count)) as database:
            mobync = documents(database)
            seed = [large("a", "large"), large("a", "other"), large("b", "large")]
            clock = mobync.apply(0, seed, "bob")["logical_clock"]
            sent = shape(count)
            with counted(database) as work:
                mobync.apply(clock, sent, "bob")
            assert work.characters <= 3 * LARGE + SMALL * len(sent)
            assert work.statements <= MOST_STATEMENTS
            kept = mobync.synchronizer.documents("bob")
            assert {(d.model, d.id): json.loads(d.text) for d in kept} == left_by(seed + sent)


def left_by(edits: Edits) -> dict[tuple[str, str], Any]:
    """What the edits leave, each done in its turn."""
    rows: dict[tuple[str, str], Any] = {}
    for edit in edits:
        row = json.loads(edit["json_data"])
        key = edit["model"], row["id"]
        if edit["type"] == "delete":
            rows.pop(key, None)
        elif edit["type"] == "create" or key in rows:
            rows[key] = {**rows.get(key, {}), **row}
    return rows


def test_documents_of_two_models_in_turns_take_as_many_statements_as_of_one(tmp_path):
    counts = []
    for count in (10, 20, 40):
        (tmp_path / str(count)).mkdir()
        with open_database("sqlite", tmp_path / str(count)) as database:
            mobync = documents(database)
            mobync.apply(0, [diff("create", m, id="large") for m in "ab"], "bob")
            sent = two_models_in_turns(count) + creates_in_between(count)
            with counted(database) as work:
                mobync.apply(2, sent, "bob")
            counts.append(work.statements)
    assert counts[0] == counts[1] == counts[2]
