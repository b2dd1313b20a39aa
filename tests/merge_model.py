"""The merge once more, slow and obvious, to compare the C with.

It follows docs/protocol.md sentence by sentence: dicts, lists and repeated scans, no hash of its
own, no arena, no spans.  Values are compared as JSON text, printed the same way on both sides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

DiffRow = dict[str, Any]


@dataclass
class Write:
    text: str
    time: int
    diff: DiffRow


@dataclass
class Incarnation:
    """One life of an object on one side."""

    create: DiffRow | None = None
    diffs: list[DiffRow] = field(default_factory=list)
    fields: dict[str, Write] = field(default_factory=dict)
    time: int = 0


def fields_of(diff: DiffRow) -> dict[str, str]:
    loaded = json.loads(diff["json_data"])
    return {name: json.dumps(value) for name, value in loaded.items() if name != "id"}


def object_of(diff: DiffRow) -> tuple[str, str]:
    return diff["model"], json.loads(diff["json_data"])["id"]


def with_fields(diff: DiffRow, names: set[str]) -> str:
    loaded = json.loads(diff["json_data"])
    return json.dumps({n: v for n, v in loaded.items() if n == "id" or n in names})


class Client:
    """What the request did to one object."""

    def __init__(self, diffs: list[DiffRow], known: set[str]) -> None:
        self.known = known
        self.touched = bool(diffs)
        self.alive: Incarnation | None = Incarnation()
        self.pending_delete: DiffRow | None = None
        self.delete_time = 0
        self.time_of: dict[str, int] = {}
        time = 0
        for diff in diffs:
            time = max(time, diff["utc_timestamp"])
            self.time_of[diff["id"]] = time
            self.fold(diff, time)

        self.deleted = self.alive is None and self.pending_delete is not None
        if self.pending_delete is not None and self.pending_delete["id"] in known:
            self.pending_delete = None
        self.owns_row = self.alive is not None and self.alive.create is not None
        self.create = self.alive.create if self.alive is not None else None
        if self.create is not None and self.create["id"] in known:
            self.create = None

    def fold(self, diff: DiffRow, time: int) -> None:
        known = diff["id"] in self.known
        if diff["type"] == "delete":
            alive = self.alive
            unheard = alive is not None and not any(d["id"] in self.known for d in alive.diffs)
            if not (alive is not None and alive.create is not None and unheard):
                self.pending_delete, self.delete_time = diff, time
            self.alive = None
            return
        if diff["type"] == "create" and (self.alive is None or self.alive.create is None):
            if known:
                self.pending_delete = None
            before = self.alive or Incarnation()
            stays = {name: w for name, w in before.fields.items() if w.time >= time}
            made = {name: Write(text, time, diff) for name, text in fields_of(diff).items()}
            self.alive = Incarnation(diff, [*before.diffs, diff], {**made, **stays}, time)
            return
        if self.alive is None:
            return
        self.alive.diffs.append(diff)
        self.alive.time = time
        for name, text in fields_of(diff).items():
            self.alive.fields[name] = Write(text, time, diff)

    @property
    def fields(self) -> dict[str, Write]:
        return self.alive.fields if self.alive is not None else {}

    def pending_fields(self) -> dict[str, Write]:
        return {n: w for n, w in self.fields.items() if w.diff["id"] not in self.known}

    def merged_create(self) -> DiffRow:
        assert self.create is not None
        assert self.alive is not None
        row = {"id": object_of(self.create)[1]}
        row |= {name: json.loads(w.text) for name, w in self.alive.fields.items()}
        return {**self.create, "utc_timestamp": self.alive.time, "json_data": json.dumps(row)}


class Server:
    """What the window says of one object."""

    def __init__(self, diffs: list[DiffRow], known: set[str]) -> None:
        self.seen = bool(diffs)
        self.begins_with_create = bool(diffs) and diffs[0]["type"] == "create"
        self.dead_by: DiffRow | None = None
        self.last_delete: DiffRow | None = None
        self.life = Incarnation()
        for diff in diffs:
            self.fold(diff)
        self.born_elsewhere = self.life.create is not None and not any(
            diff["id"] in known for diff in self.life.diffs
        )

    def fold(self, diff: DiffRow) -> None:
        if diff["type"] == "delete":
            self.dead_by = self.last_delete = diff
            self.life = Incarnation()
            return
        if diff["type"] == "create":
            self.dead_by = None
            if not self.life.diffs:
                self.life.create = diff
        if self.dead_by is not None:
            return
        self.life.diffs.append(diff)
        for name, text in fields_of(diff).items():
            before = self.life.fields.get(name)
            time = max(diff["utc_timestamp"], before.time if before else 0)
            self.life.fields[name] = Write(text, time, diff)


def merge_object(
    server_diffs: list[DiffRow], client_diffs: list[DiffRow], known: set[str]
) -> tuple[list[DiffRow], list[DiffRow]]:
    client, server = Client(client_diffs, known), Server(server_diffs, known)
    may_hold_dead = not client.deleted and (not server.begins_with_create or client.touched)

    if server.dead_by is not None:
        delete = server.dead_by
        if client.create is not None:
            assert client.alive is not None
            unheard = not any(diff["id"] in known for diff in client.alive.diffs)
            later = client.alive.time > delete["utc_timestamp"]
            if delete["id"] in known or (unheard and later):
                return [client.merged_create()], []
        return [], [delete] if delete["id"] not in known and may_hold_dead else []

    if client.pending_delete is not None and not server.born_elsewhere:
        up = [{**client.pending_delete, "utc_timestamp": client.delete_time}]
        return [*up, client.merged_create()] if client.create is not None else up, []

    if client.create is not None and not server.seen:
        return [client.merged_create()], []
    return merge_fields(client, server, may_hold_dead)


def without_folded(pending: dict[str, Write], client: Client, server: Server) -> dict[str, Write]:
    """The pending fields, less those that an earlier try of the request folded into its create."""
    create = server.life.create
    own = client.alive.create if client.alive is not None else None
    if create is None or own is None or create["id"] != own["id"]:
        return pending
    assert client.alive is not None
    made: dict[str, str] = {}
    tried: list[int] = []
    at_its_time: list[int] = []
    limited: list[int] = []
    for diff in client.alive.diffs:
        time = client.time_of[diff["id"]]
        if time < client.time_of[own["id"]]:
            continue
        if diff is not own and diff["id"] in client.known:
            break
        made = {**fields_of(diff), **made} if diff is own else {**made, **fields_of(diff)}
        tried.append(id(diff))
        if made == fields_of(create) and time == create["utc_timestamp"]:
            at_its_time = list(tried)
        elif made == fields_of(create) and time > create["utc_timestamp"]:
            limited = list(tried)
    return {n: w for n, w in pending.items() if id(w.diff) not in (at_its_time or limited)}


def merge_fields(
    client: Client, server: Server, may_hold_dead: bool
) -> tuple[list[DiffRow], list[DiffRow]]:
    known, theirs = client.known, server.life.fields
    pending = client.pending_fields()
    if client.alive is None or (server.born_elsewhere and client.create is None):
        pending = {}

    first: list[DiffRow] = []
    replaced = False
    delete = server.last_delete
    if server.born_elsewhere and delete is not None and delete["id"] not in known:
        left_over = any(n not in theirs and n not in pending for n in client.fields)
        if may_hold_dead and (not client.owns_row or left_over):
            first, replaced, pending = [delete], True, {}

    pending = without_folded(pending, client, server)
    same = {n for n, w in pending.items() if n in theirs and theirs[n].text == w.text}
    lost = {n for n, w in pending.items() if n in theirs and theirs[n].time > w.time} - same
    won = set(pending) - same - lost

    up = []
    for diff in client.alive.diffs if client.alive is not None else []:
        names = {n for n in won if pending[n].diff is diff}
        if names:
            time = client.time_of[diff["id"]]
            changed = {"type": "update", "utc_timestamp": time}
            up.append({**diff, **changed, "json_data": with_fields(diff, names)})

    down = first
    for diff in server.life.diffs:
        foreign = diff["id"] not in known
        if diff is server.life.create and foreign and (replaced or not client.owns_row):
            down.append(diff)
            continue
        names = {n for n in fields_of(diff) if theirs[n].diff is diff} - won
        if foreign:
            names -= same
        else:
            mine = client.fields
            names -= {n for n in names if n in mine and mine[n].text == theirs[n].text}
        if names:
            down.append({**diff, "type": "update", "json_data": with_fields(diff, names)})
    return up, down


def merge(server: list[DiffRow], client: list[DiffRow]) -> tuple[list[DiffRow], list[DiffRow]]:
    """Upstream and downstream, as mobync.merge gives them."""
    server = sorted(server, key=lambda d: (d["logical_clock"], d["utc_timestamp"]))
    once: dict[str, DiffRow] = {}
    for diff in client:
        once.setdefault(diff["id"], diff)
    client = list(once.values())
    known = set(once) & {diff["id"] for diff in server}

    up, down = [], []
    for key in dict.fromkeys(object_of(diff) for diff in server + client):
        object_up, object_down = merge_object(
            [d for d in server if object_of(d) == key],
            [d for d in client if object_of(d) == key],
            known,
        )
        up += object_up
        down += object_down

    client_order = [diff["id"] for diff in client]
    server_order = [diff["id"] for diff in server]
    up.sort(key=lambda d: client_order.index(d["id"]))
    down.sort(key=lambda d: server_order.index(d["id"]))
    return up, down
