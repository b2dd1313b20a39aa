"""The merge once more, slow and obvious, to compare the C with.

It follows docs/protocol.md sentence by sentence: dicts, lists and repeated scans, no hash of its
own, no arena, no spans.  Values are compared as JSON text, printed the same way on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

DiffRow = dict[str, Any]


class NamesTwoThings(Exception):
    """An id of the request is that of another object's diff in the window."""


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
    """What the window says of one object.

    Args:
        pulled_below: the clock of a device that starts over: what was born below it, it had pulled.
    """

    def __init__(self, diffs: list[DiffRow], known: set[str], pulled_below: int = 0) -> None:
        self.seen = bool(diffs)
        self.begins_with_create = bool(diffs) and diffs[0]["type"] == "create"
        self.dead_by: DiffRow | None = None
        self.last_delete: DiffRow | None = None
        self.life = Incarnation()
        for diff in diffs:
            self.fold(diff)
        create = self.life.create
        self.born_elsewhere = create is not None and not any(
            diff["id"] in known for diff in self.life.diffs
        )
        if create is not None and create["logical_clock"] < pulled_below:
            self.born_elsewhere, self.last_delete = False, None

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
        times = times_of(diff)
        for name, text in fields_of(diff).items():
            before = self.life.fields.get(name)
            time = max(times[name], before.time if before else 0)
            self.life.fields[name] = Write(text, time, diff)


def merge_object(
    server_diffs: list[DiffRow],
    client_diffs: list[DiffRow],
    known: set[str],
    pulled_below: int = 0,
) -> tuple[list[DiffRow], list[DiffRow]]:
    client, server = Client(client_diffs, known), Server(server_diffs, known, pulled_below)
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
    create, delete = server.life.create, server.last_delete
    reborn = create is not None and create["id"] not in known and delete is not None
    if reborn and delete is not None and delete["id"] not in known:
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


def first_of_each_id(diffs: list[DiffRow]) -> list[DiffRow]:
    once: dict[str, DiffRow] = {}
    for diff in diffs:
        once.setdefault(diff["id"], diff)
    return list(once.values())


def in_log_order(diffs: list[DiffRow]) -> list[DiffRow]:
    return sorted(diffs, key=lambda d: (d["logical_clock"], d["utc_timestamp"]))


def ids_known(server: list[DiffRow], client: list[DiffRow]) -> set[str]:
    logged = {diff["id"]: diff for diff in server}
    known = [diff for diff in client if diff["id"] in logged]
    if any(object_of(diff) != object_of(logged[diff["id"]]) for diff in known):
        raise NamesTwoThings
    return {diff["id"] for diff in known}


def merge(
    server: list[DiffRow], client: list[DiffRow], known_too: Collection[str] = ()
) -> tuple[list[DiffRow], list[DiffRow]]:
    """Upstream and downstream, as mobync.merge gives them.

    Args:
        known_too: ids that the request had, too, of diffs that were refused.
    """
    server, client = in_log_order(server), first_of_each_id(client)
    known = ids_known(server, client) | set(known_too)

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


def merge_behind(log: list[DiffRow], client: list[DiffRow], device_clock: int) -> list[DiffRow]:
    """Upstream of a device that starts over: what it sends meets the owner's whole log."""
    log, client = in_log_order(log), first_of_each_id(client)
    known = ids_known(log, client)
    up: list[DiffRow] = []
    for name in dict.fromkeys(object_of(diff) for diff in client):
        logged = [d for d in log if object_of(d) == name]
        sent = [d for d in client if object_of(d) == name]
        if logged:
            up += merge_object(logged, sent, known, device_clock)[0]
            continue
        folded = Client(sent, known)  # the log has nothing of it: it is dead
        up += [folded.merged_create()] if folded.create is not None else []
    order = [diff["id"] for diff in client]
    return sorted(up, key=lambda d: order.index(d["id"]))


def to_validate(server: list[DiffRow], client: list[DiffRow]) -> list[str]:
    """The ids of the diffs of a request that the rules are asked of, if none is refused."""
    server, client = in_log_order(server), first_of_each_id(client)
    known = ids_known(server, client)
    if not known:
        return [diff["id"] for diff in client]
    logged = {diff["id"]: fields_of(diff) for diff in server}
    written: set[str] = set()
    for diff in merge(server, client)[0]:
        if diff["type"] != "create":
            written.add(diff["id"])
            continue
        same = [d for d in client if object_of(d) == object_of(diff)]
        folded = Client(same, known)
        written.add(diff["id"])
        for name, write in folded.fields.items():
            if logged.get(write.diff["id"], {}).get(name) != write.text:
                written.add(write.diff["id"])
    return [diff["id"] for diff in client if diff["id"] in written]


def without_dead(
    window: list[DiffRow], client: list[DiffRow], log: list[DiffRow], pull_clock: int
) -> list[DiffRow]:
    """What of a window, or of a page, a device at clock 0 is told that began when the log's next
    clock was `pull_clock`."""
    requested = {object_of(diff) for diff in client}
    ends: dict[tuple[str, str], int] = {}
    for diff in log:
        clock = diff["logical_clock"]
        if diff["type"] == "delete" and clock < pull_clock:
            ends[object_of(diff)] = max(clock, ends.get(object_of(diff), -1))

    def is_dead(diff: DiffRow) -> bool:
        name = object_of(diff)
        return name not in requested and diff["logical_clock"] <= ends.get(name, -1)

    return [diff for diff in window if not is_dead(diff)]


def restore(
    log: list[DiffRow],
    client: list[DiffRow],
    names: dict[tuple[str, str], bool],
    client_clock: int,
    reply_clock: int,
) -> list[DiffRow]:
    """What brings objects back to the server's state; a made-up delete has no id.

    Args:
        log: all of it, after the sync.
        client: the whole request, with what was refused.
        names: the objects of the refused diffs in their order, and whether all of these can be
            read.
    """
    deletes: list[DiffRow] = []
    rows: list[DiffRow] = []
    for time, name in enumerate(reversed(names)):
        model, object_id = name
        sent = [diff for diff in client if object_of(diff) == name]
        delete = {"type": "delete", "model": model, "json_data": json.dumps({"id": object_id})}
        life = [
            diff
            for diff in merge([d for d in log if object_of(d) == name], [])[1]
            if diff["type"] != "delete"
        ]
        if not life:
            clock = max(reply_clock - 1, 0)
            deletes.append({**delete, "logical_clock": clock, "utc_timestamp": time})
        elif names[name] and has_row(life, sent, client_clock):
            rows += [{**diff, "type": "update"} for diff in life]
        else:
            clock = life[0]["logical_clock"]
            deletes.append({**delete, "logical_clock": clock, "utc_timestamp": 0})
            rows += [{**d, "utc_timestamp": max(d["utc_timestamp"], 1)} for d in life]
    return in_log_order([*deletes, *in_log_order(rows)])


def has_row(life: list[DiffRow], client: list[DiffRow], client_clock: int) -> bool:
    """Whether the device has the row of this life, and no field that the row never had."""
    fields = {name for diff in life for name in fields_of(diff)}
    create = life[0]
    seen = create["logical_clock"] < client_clock or create["id"] in [d["id"] for d in client]
    return seen and all(
        diff["type"] != "delete"
        and fields_of(diff).keys() <= fields
        and (diff["type"] != "create" or diff["id"] == create["id"])
        for diff in client
    )


# ---- compaction ----------------------------------------------------------------------------------


def compacted(log: list[DiffRow], horizon: int = 0) -> list[DiffRow]:
    """What is left of a log: folded below the horizon, and without what no device can need."""
    log = in_log_order(log)
    left = [diff for place, diff in enumerate(log) if not follows_delete(diff, log[place + 1 :])]
    trimmed = [without_rewritten(diff, left[place + 1 :]) for place, diff in enumerate(left)]
    kept = [diff for diff in trimmed if diff is not None]
    below = [diff for diff in kept if diff["logical_clock"] < horizon]
    above = [diff for diff in kept if diff["logical_clock"] >= horizon]
    names = dict.fromkeys(object_of(diff) for diff in below)
    folded = [
        row for name in names for row in folded_object([d for d in below if object_of(d) == name])
    ]
    return in_log_order(folded) + above


def follows_delete(diff: DiffRow, later: list[DiffRow]) -> bool:
    """Whether a later delete of its object makes a diff unnecessary."""
    return any(d["type"] == "delete" and object_of(d) == object_of(diff) for d in later)


def without_rewritten(diff: DiffRow, later: list[DiffRow]) -> DiffRow | None:
    """An update without the fields that a later diff writes again; None: none is left."""
    if diff["type"] != "update":
        return diff
    same = [d for d in later if object_of(d) == object_of(diff)]
    rewritten = {name for d in same for name in fields_of(d)}
    names = fields_of(diff).keys() - rewritten
    if not names:
        return None
    if names == fields_of(diff).keys():
        return diff
    return {**diff, "json_data": with_fields(diff, names)}


def times_of(diff: DiffRow) -> dict[str, int]:
    """When each field of a row of the log was written."""
    other = diff.get("field_times") or {}
    return {name: other.get(name, diff["utc_timestamp"]) for name in fields_of(diff)}


def folded_object(diffs: list[DiffRow]) -> list[DiffRow]:
    """The one create that the diffs of an object become; nothing if it is dead."""
    create: DiffRow | None = None
    dead = False
    row: dict[str, Any] = {}
    times: dict[str, int] = {}
    for diff in diffs:
        if diff["type"] == "delete":
            create, dead, row, times = None, True, {}, {}
            continue
        if create is None and diff["type"] == "create":
            create, dead = diff, False
        row |= json.loads(diff["json_data"])
        times |= {n: max(t, times.get(n, 0)) for n, t in times_of(diff).items()}
    if create is None:
        return [] if dead else diffs
    latest = max(times.values(), default=create["utc_timestamp"])
    folded = {**create, "utc_timestamp": latest, "json_data": json.dumps(row)}
    folded.pop("field_times", None)
    other = {name: time for name, time in times.items() if time != latest}
    return [{**folded, "field_times": other} if other else folded]
