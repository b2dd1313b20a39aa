"""Two kinds of devices.

FlutterDevice does what the published client does, its weak points included; CarefulDevice is how a
client should be written.  Both hold rows, make diffs, build requests and take replies; neither
knows the merge.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Row = dict[str, Any]
DiffRow = dict[str, Any]
Rows = dict[tuple[str, str], Row]
Reply = dict[str, Any]


@dataclass
class Request:
    """What a device sent, and what it must remember until the reply comes."""

    logical_clock: int
    diffs: list[DiffRow]
    limit: int | None = None
    cursor: str | None = None
    reply: Reply | None = None
    delivered: bool = False


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
    backup: dict[str, Any] | None = None
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

    def restore(self) -> None:
        if self.backup is not None:
            self.in_flight = None
            for name, value in copy.deepcopy(self.backup).items():
                setattr(self, name, value)


def copy_of(rows: Rows) -> Rows:
    return {name: dict(row) for name, row in rows.items()}


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
    make anew what was deleted since the last sync: swapped, its update would be one of a deleted
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
    """A client that may edit at any time.

    The outbox goes by diff id, not by clock.  A reply applies to the rows as they were when the
    request was sent; what the user did since is done once more on top of it.
    """

    confirmed: Rows = field(default_factory=dict)
    pending: list[DiffRow] = field(default_factory=list)

    STATE = ("rows", "logical_clock", "confirmed", "pending")

    def can_edit(self) -> bool:
        return True

    def can_turn_clock_back(self) -> bool:
        return True

    def log(self, diff: DiffRow) -> None:
        self.pending.append({**diff, "owner": self.name, "logical_clock": self.logical_clock})

    def outbox(self, rng: random.Random) -> list[DiffRow]:
        return self.pending

    def receive(self, request: Request, reply: Reply, rng: random.Random) -> None:
        self.rows = copy_of(self.confirmed)
        for diff in request.diffs:
            self.replay(diff)
        self.take(reply)
        self.confirmed = copy_of(self.rows)
        self.logical_clock = reply["logical_clock"]

        sent = {diff["id"] for diff in request.diffs}
        since = [diff for diff in self.pending if diff["id"] not in sent]
        self.pending = [diff for diff in map(self.replay, since) if diff is not None]

    def take(self, reply: Reply) -> None:
        for diff in reply["diffs"]:
            fields = json.loads(diff["json_data"])
            key = diff["model"], fields.pop("id")
            exists = key in self.rows
            if diff["type"] == "create" and exists:
                raise LocalError(f"{self.name}: create of {key}, which is there: {diff}")
            if diff["type"] == "create" or exists:
                self.change(diff["type"], *key, fields)

    def replay(self, diff: DiffRow) -> DiffRow | None:
        """Do an own edit again, and return it as it is now: a create of a row that has come
        meanwhile is an update, and an edit of a row that has gone is nothing."""
        fields = json.loads(diff["json_data"])
        key = diff["model"], fields.pop("id")
        exists = key in self.rows
        if exists and diff["type"] == "create":
            diff = {**diff, "type": "update"}
        if not exists and diff["type"] != "create":
            return None
        self.change(diff["type"], *key, fields)
        return diff


@dataclass
class PagingDevice(CarefulDevice):
    """A careful client that pulls in pages.

    From the first page to the last it sends the same clock and the same diffs; what the user does
    meanwhile waits for the next sync.  It is not backed up in between (docs/protocol.md, "Known
    limits").
    """

    cursor: str | None = None
    sent_with_cursor: int = 0

    STATE = (*CarefulDevice.STATE, "cursor", "sent_with_cursor")

    def save(self) -> None:
        if self.cursor is None:
            super().save()

    def outbox(self, rng: random.Random) -> list[DiffRow]:
        return self.pending if self.cursor is None else self.pending[: self.sent_with_cursor]

    def send(self, rng: random.Random) -> Request:
        request = super().send(rng)
        request.limit, request.cursor = rng.randint(1, 4), self.cursor
        return request

    def receive(self, request: Request, reply: Reply, rng: random.Random) -> None:
        if not reply["more"]:
            super().receive(request, reply, rng)
            self.cursor = None
            return
        self.rows = copy_of(self.confirmed)
        self.take(reply)
        self.confirmed = copy_of(self.rows)
        for diff in request.diffs:
            self.replay(diff)
        since = self.pending[len(request.diffs) :]
        replayed = [diff for diff in map(self.replay, since) if diff is not None]
        self.pending = [*request.diffs, *replayed]
        self.cursor, self.sent_with_cursor = reply["cursor"], len(request.diffs)
