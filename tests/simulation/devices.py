"""The kinds of devices.

FlutterDevice does what the published client does, its weak points included.  CarefulDevice is
mobync.client, and PagingDevice the same where it pulls in pages.  All hold rows, make diffs, build
requests and take replies; none knows the server's merge.  HostileDevice sends what it likes.
"""

from __future__ import annotations

import copy
import json
import random
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mobync.client._database import Database
from mobync.client._replica import Draft, Replica, name_of
from mobync.client._rows import row_of

Row = dict[str, Any]
DiffRow = dict[str, Any]
Rows = dict[tuple[str, str], Row]
Reply = dict[str, Any]

DIFF_FIELDS = ("id", "owner", "logical_clock", "utc_timestamp", "type", "model", "json_data")


@dataclass
class Request:
    """What a device sent, and what it must remember until the reply comes."""

    logical_clock: int
    diffs: list[DiffRow]
    limit: int | None = None
    cursor: str | None = None
    reply: Reply | None = None
    delivered: bool = False
    asked: Any = None  # mobync.client's own request


class LocalError(Exception):
    """The device's database refused a statement that a correct reply cannot contain."""


@dataclass
class Device:
    """What both kinds share: rows, a clock, one sync at a time, backups."""

    name: str
    rows: Rows = field(default_factory=dict)
    logical_clock: int = 0
    skew_ms: int = 0
    in_flight: Request | None = None
    sent: list[Request] = field(default_factory=list)
    backup: Any = None
    required_fields: frozenset[str] = frozenset()

    STATE = ("rows", "logical_clock")

    def edit(self, kind: str, model: str, object_id: str, fields: Row, diff: DiffRow) -> bool:
        """Do what the user wants, if the rows allow it: no user updates what is not there."""
        exists = (model, object_id) in self.rows
        if exists == (kind == "create"):
            return False
        self.change(kind, model, object_id, fields)
        self.log(diff)
        return True

    def change(self, kind: str, model: str, object_id: str, fields: Row) -> None:
        if kind == "delete":
            del self.rows[model, object_id]
        elif kind == "create":
            if not self.required_fields <= fields.keys():
                raise LocalError(f"{self.name}: NOT NULL: {model}/{object_id} made of {fields}")
            self.rows[model, object_id] = dict(fields)
        else:
            self.rows[model, object_id].update(fields)

    def log(self, diff: DiffRow) -> None:
        raise NotImplementedError

    def outbox(self, rng: random.Random) -> list[DiffRow]:
        raise NotImplementedError

    def receive(self, request: Request, reply: Reply, rng: random.Random) -> None:
        raise NotImplementedError

    def can_edit(self) -> bool:
        raise NotImplementedError

    def can_turn_clock_back(self) -> bool:
        raise NotImplementedError

    def send(self, rng: random.Random) -> Request:
        self.in_flight = Request(self.logical_clock, [dict(diff) for diff in self.outbox(rng)])
        self.sent.append(self.in_flight)
        return self.in_flight

    def save(self) -> None:
        self.backup = copy.deepcopy({name: getattr(self, name) for name in self.STATE})

    def close(self) -> None:
        """Its history has ended."""

    def restore(self) -> None:
        if self.backup is not None:
            self.in_flight = None
            for name, value in copy.deepcopy(self.backup).items():
                setattr(self, name, value)


def by_clock(diff: DiffRow) -> tuple[int, int]:
    return diff["logical_clock"], diff["utc_timestamp"]


@dataclass
class FlutterDevice(Device):
    """The published Flutter client, to the letter.

    The outbox is every local diff with at least the device's clock, sorted by clock and timestamp
    with a sort that is not stable.  A reply is ignored unless its clock is higher.  A create of a
    row that is there fails, an update or delete of one that is not is ignored; only what had an
    effect is kept as a diff.  An edit made while a sync is in flight keeps the old clock and is
    never sent: nothing that a server does can mend that, so this device does not edit meanwhile.
    Neither does its clock jump back while edits wait: sorted by timestamp they would change their
    order, and a create and a delete that change places mean something else.  So a backup, which
    may bring waiting edits back, brings back the clock that they were made with.
    """

    local_diffs: dict[str, DiffRow] = field(default_factory=dict)

    STATE = ("rows", "logical_clock", "local_diffs", "skew_ms")

    def can_edit(self) -> bool:
        return self.in_flight is None

    def can_turn_clock_back(self) -> bool:
        return not self.pending_diffs()

    def pending_diffs(self) -> list[DiffRow]:
        return [d for d in self.local_diffs.values() if d["logical_clock"] >= self.logical_clock]

    def log(self, diff: DiffRow) -> None:
        self.local_diffs[diff["id"]] = {
            **diff,
            "owner": "the owner field is a constant",
            "logical_clock": self.logical_clock,
        }

    def outbox(self, rng: random.Random) -> list[DiffRow]:
        return sort_unstably(self.pending_diffs(), rng)

    def receive(self, request: Request, reply: Reply, rng: random.Random) -> None:
        if reply["logical_clock"] <= self.logical_clock:
            return
        diffs = list(reply["diffs"])
        rng.shuffle(diffs)
        for diff in sorted(diffs, key=by_clock):
            fields = json.loads(diff["json_data"])
            key = diff["model"], fields.pop("id")
            exists = key in self.rows
            if diff["type"] == "create" and exists:
                raise LocalError(f"{self.name}: create of {key}, which is there: {diff}")
            if diff["type"] == "create" or exists:
                self.change(diff["type"], *key, fields)
                self.local_diffs.setdefault(diff["id"], dict(diff))
        self.logical_clock = reply["logical_clock"]


def sort_unstably(diffs: list[DiffRow], rng: random.Random) -> list[DiffRow]:
    """Sort by clock and timestamp with ties in any order, but for deletes.

    The client's timestamps are milliseconds of what a person does: an update in the millisecond
    of its create happens (a form that saves twice), a delete in it does not.  Nor does that form
    make again what was deleted since the last sync: swapped, its update would be one of a deleted
    object, which the merge ignores.
    """
    lives: Counter[tuple[str, str]] = Counter()
    keyed = []
    for place, diff in enumerate(diffs, 1):
        ends = diff["type"] == "delete"
        lives[object_of(diff)] += ends
        tie = place if lives[object_of(diff)] else rng.random()
        keyed.append((by_clock(diff), lives[object_of(diff)], tie, diff))
        lives[object_of(diff)] += ends
    return [diff for *_, diff in sorted(keyed, key=lambda entry: entry[:3])]


def object_of(diff: DiffRow) -> tuple[str, str]:
    return diff["model"], object_id_in(diff["json_data"])


@lru_cache(maxsize=4096)
def object_id_in(json_data: str) -> str:
    return str(json.loads(json_data)["id"])


@dataclass
class CarefulDevice(Device):
    """mobync.client, without its network and its waiting: a device that may edit at any time.

    What it sends is what its outbox has; the events of a history say when that arrives, and whether
    an answer does.
    """

    def __post_init__(self) -> None:
        self.replica = Replica(Database(":memory:", ""), page_size=1)
        self.said_besides: dict[str, DiffRow] = {}

    def can_edit(self) -> bool:
        return True

    def can_turn_clock_back(self) -> bool:
        return True

    def edit(self, kind: str, model: str, object_id: str, fields: Row, diff: DiffRow) -> bool:
        row = {"id": object_id, **fields}
        at_ms = max(0, diff["utc_timestamp"])  # a malformed diff may have none
        try:
            self.replica.edit(kind, model, row, diff["id"], at_ms)  # type: ignore[arg-type]
        except KeyError:
            return False
        made = {"utc_timestamp": at_ms, "type": kind, "json_data": json.dumps(row)}
        plain = {**diff, **made}
        self.said_besides[diff["id"]] = {
            name: value
            for name, value in diff.items()
            if name not in DIFF_FIELDS or value != plain[name]
        }
        self.read()
        return True

    def send(self, rng: random.Random) -> Request:
        asked = self.replica.next_request()
        diffs = [{**diff, **self.said_besides[diff["id"]]} for diff in asked.diffs]
        self.in_flight = Request(asked.logical_clock, diffs, cursor=asked.cursor, asked=asked)
        self.sent.append(self.in_flight)
        return self.in_flight

    def receive(self, request: Request, reply: Reply, rng: random.Random) -> None:
        self.check(request, reply)
        assert self.replica.take_reply(request.asked, reply)
        self.read()

    def check(self, request: Request, reply: Reply) -> None:
        """A correct reply creates no row that is there, and none without its NOT NULL columns."""
        draft = Draft(self.replica.rows)
        sent = [] if reply.get("more") else [e for e in self.replica.outbox.edits() if e.sent]
        for name in {name_of(diff) for diff in reply["diffs"]} | {edit.name for edit in sent}:
            draft.set(name, self.replica.rows.base(name))
        for edit in sent:
            draft.change(edit.type, edit.name, edit.row())
        for diff in reply["diffs"]:
            name, fields = name_of(diff), row_of(diff["json_data"])
            if diff["type"] == "create" and draft.get(name) is not None:
                raise LocalError(f"{self.name}: create of {name}, which is there: {diff}")
            if diff["type"] == "create" and not self.required_fields <= fields.keys():
                raise LocalError(f"{self.name}: NOT NULL: {name} made of {fields}")
            draft.change(diff["type"], name, fields)

    def read(self) -> None:
        """Take the rows and the clock from the device's database."""
        self.logical_clock = self.replica.database.state().logical_clock
        self.rows = {
            (model, row.pop("id")): row
            for model in self.replica.rows.models()
            for row in self.replica.rows.of_model(model)
        }

    def save(self) -> None:
        self.backup = sqlite3.connect(":memory:")
        self.replica.database.connection.backup(self.backup)

    def restore(self) -> None:
        if self.backup is not None:
            self.in_flight = None
            self.backup.backup(self.replica.database.connection)
            self.read()

    def close(self) -> None:
        self.replica.database.close()
        if self.backup is not None:
            self.backup.close()


@dataclass
class PagingDevice(CarefulDevice):
    """One that pulls in pages.

    It is not backed up between two of them (docs/protocol.md, "Known limits").
    """

    def save(self) -> None:
        if self.replica.database.state().cursor is None:
            super().save()

    def send(self, rng: random.Random) -> Request:
        request = super().send(rng)
        request.limit = rng.randint(1, 4)
        return request


@dataclass
class HostileDevice(Device):
    """Somebody with the owner's token who tries to get values past the rules.

    Sends ids that the log has, of its own and of others, with other fields, types, times and
    objects, and in any number.  It leaves alone what spoils the rows of others on any server: it
    does not update a row that it must know to be gone (docs/protocol.md, "Known limits").
    """

    seen: list[DiffRow] = field(default_factory=list)
    made: int = 0

    def edit(self, kind: str, model: str, object_id: str, fields: Row, diff: DiffRow) -> bool:
        return False

    def can_edit(self) -> bool:
        return False

    def can_turn_clock_back(self) -> bool:
        return True

    def send(self, rng: random.Random) -> Request:
        from_the_start = rng.random() < 0.8
        if not from_the_start or not self.seen:
            diffs = [self.make(rng) for _ in range(rng.randint(1, 3))]
        elif rng.random() < 0.5:
            diffs = self.smuggle(rng)
        else:
            diffs = [self.reuse(rng) for _ in range(rng.randint(1, 5))]
        self.in_flight = Request(0 if from_the_start else self.logical_clock, diffs)
        self.sent.append(self.in_flight)
        return self.in_flight

    def number(self) -> int:
        self.made += 1
        return self.made

    def new_id(self) -> str:
        return f"{self.name}.{self.number()}"

    def smuggled(self, rng: random.Random) -> Row:
        names = rng.sample(("a", "b", "c"), rng.randint(0, 3))
        names = list(self.required_fields) or names
        return {name: -self.number() for name in names}

    def reuse(self, rng: random.Random) -> DiffRow:
        """A diff of an object that the log has, mostly under an id that it has, too."""
        like, of = rng.choice(self.seen), rng.choice(self.seen)
        if rng.random() < 0.8:
            of = like
        fields = json.loads(like["json_data"]) if rng.random() < 0.5 else {}
        if like["type"] == "delete" or rng.random() < 0.8:
            fields |= self.smuggled(rng)
        fields["id"] = object_of(of)[1]
        later = rng.choice((0, 0, 1, 1000))
        return self.diff(
            rng,
            like["id"] if rng.random() < 0.6 else self.new_id(),
            rng.choice(("create", "update", "update", "delete")),
            of["model"],
            fields,
            max(like["utc_timestamp"], of["utc_timestamp"]) + later,
        )

    def smuggle(self, rng: random.Random) -> list[DiffRow]:
        """A create of a row, new or made again, and on top of it a diff that the log has."""
        like = rng.choice(self.seen)
        model, object_id = object_of(like)
        at_ms = like["utc_timestamp"] + rng.choice((1, 1000))
        diffs = []
        if rng.random() < 0.3:
            object_id = self.new_id()
        else:
            ends = [d["id"] for d in self.seen if d["type"] == "delete"]
            end = rng.choice(ends) if ends and rng.random() < 0.4 else self.new_id()
            diffs.append(self.diff(rng, end, "delete", model, {"id": object_id}, at_ms))
        for diff_id, kind in ((self.new_id(), "create"), (like["id"], "update")):
            fields = {**self.smuggled(rng), "id": object_id}
            diffs.append(self.diff(rng, diff_id, kind, model, fields, at_ms))
        return diffs

    def make(self, rng: random.Random) -> DiffRow:
        """A new object, perhaps under an id that the log has somewhere."""
        reuses = self.seen and rng.random() < 0.7
        diff_id = rng.choice(self.seen)["id"] if reuses else self.new_id()
        fields = {**self.smuggled(rng), "id": self.new_id()}
        return self.diff(rng, diff_id, "create", "tasks", fields, rng.randint(0, 10**9))

    def diff(
        self, rng: random.Random, diff_id: str, kind: str, model: str, fields: Row, at_ms: int
    ) -> DiffRow:
        if kind == "create":
            fields = {**{name: -self.number() for name in self.required_fields}, **fields}
        made: DiffRow = {
            "id": diff_id,
            "owner": self.name,
            "logical_clock": 0,
            "utc_timestamp": at_ms,
            "type": kind,
            "model": model,
            "json_data": json.dumps(fields),
        }
        if rng.random() < 0.3:
            made["refuse"] = True
        return made

    def receive(self, request: Request, reply: Reply, rng: random.Random) -> None:
        self.logical_clock = reply["logical_clock"]
        self.seen += reply["diffs"]
