"""What the benchmarks sync: a task app, and records of four fields.  Same seed, same diffs."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

Diff = dict[str, Any]

OWNER = "anna"
START_MS = 1_700_000_000_000
WORDS = [
    "buy",
    "call",
    "fix",
    "pay",
    "plan",
    "read",
    "send",
    "visit",
    "water",
    "write",
    "milk",
    "bread",
    "rent",
    "tax",
    "book",
    "plant",
]


def new_id(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def diff(
    rng: random.Random, kind: str, model: str, at_ms: int, row: dict[str, Any], owner: str = OWNER
) -> Diff:
    """A diff as a device sends it."""
    return {
        "id": new_id(rng),
        "owner": owner,
        "logical_clock": 0,
        "utc_timestamp": at_ms,
        "type": kind,
        "model": model,
        "json_data": json.dumps(row),
    }


# ---- a task app ---------------------------------------------------------------------------------


def task_fields(rng: random.Random) -> dict[str, Any]:
    """The six fields of a task."""
    return {
        "name": " ".join(rng.choices(WORDS, k=3)),
        "notes": " ".join(rng.choices(WORDS, k=8)),
        "done": False,
        "priority": rng.randrange(4),
        "due": f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
        "list_name": rng.choice(WORDS),
    }


def task_edit(rng: random.Random) -> dict[str, Any]:
    """One field of a task, set again; the ticks and the name more often than the rest."""
    name = rng.choices(("done", "name", "notes", "priority", "due"), (3, 3, 2, 1, 1))[0]
    value = rng.random() < 0.5 if name == "done" else task_fields(rng)[name]
    return {name: value}


def task_creates(rng: random.Random, count: int, owner: str = OWNER) -> list[Diff]:
    return [
        diff(rng, "create", "tasks", START_MS + i, {"id": new_id(rng), **task_fields(rng)}, owner)
        for i in range(count)
    ]


def task_updates(
    rng: random.Random, ids: list[str], count: int, owner: str = OWNER, begin_ms: int = START_MS
) -> list[Diff]:
    """Updates of one field each, of objects drawn at random."""
    return [
        diff(rng, "update", "tasks", begin_ms + i, {"id": rng.choice(ids), **task_edit(rng)}, owner)
        for i in range(count)
    ]


def task_life(rng: random.Random, tasks: int) -> Iterator[Diff]:
    """A year of a task app, in the order of time.

    Objects are edited often while they are new and seldom afterwards, as those of the paper's
    measurement: each task gets four to twelve edits of one field, three fifths of them of its tick
    or its name; a fifth of the tasks are deleted in the end.
    """
    moments: list[tuple[int, str, dict[str, Any]]] = []
    for i in range(tasks):
        task_id = new_id(rng)
        at_ms = START_MS + i * 3_600_000
        moments.append((at_ms, "create", {"id": task_id, **task_fields(rng)}))
        for _ in range(rng.randint(4, 12)):
            at_ms += int(rng.expovariate(1 / 1_200_000)) + 1
            moments.append((at_ms, "update", {"id": task_id, **task_edit(rng)}))
        if rng.random() < 0.2:
            moments.append((at_ms + 60_000, "delete", {"id": task_id}))
    for at_ms, kind, row in sorted(moments, key=lambda moment: moment[0]):
        yield diff(rng, kind, "tasks", at_ms, row)


# ---- records of four fields, devices that were offline -------------------------------------------

Edit = tuple[str, str, str, int]  # record, field, value, milliseconds since 1970


def record_ids(count: int) -> list[str]:
    return [f"r{i:04}" for i in range(count)]


def field_names() -> list[str]:
    return ["f0", "f1", "f2", "f3"]


def offline_edits(rng: random.Random, devices: int, edits: int, records: int) -> list[list[Edit]]:
    """For each device its random field edits, all made while nobody heard of anybody."""
    ids, names = record_ids(records), field_names()
    played = []
    for _ in range(devices):
        moments = sorted(rng.randrange(3_600_000) for _ in range(edits))
        played.append(
            [
                (rng.choice(ids), rng.choice(names), f"v{rng.randrange(10**7):07}", START_MS + at)
                for at in moments
            ]
        )
    return played


def one_key_edits(devices: int) -> list[list[Edit]]:
    """Each device sets the same field of the same record once: crdt-benchmarks' B3.1."""
    return [[("r0000", "v", f"{i}", START_MS + i)] for i in range(devices)]


def edits_as_diffs(rng: random.Random, edits: list[Edit]) -> list[Diff]:
    return [
        diff(rng, "update", "records", at_ms, {"id": record, field: value})
        for record, field, value, at_ms in edits
    ]
