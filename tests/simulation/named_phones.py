"""A device that names itself, and one that does not, as docs/protocol.md asks of them."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

OWNER = "o"
LIFE = "life"  # the field of a row that says which create made it
SAW = "saw"  # of a delete: the life that its device saw end, for the checks and not for the server

Request = dict[str, Any]
Reply = dict[str, Any]


def diff(diff_id: str, kind: str, row: dict[str, Any], time: int) -> dict[str, Any]:
    return {
        "id": diff_id,
        "owner": OWNER,
        "logical_clock": 0,
        "utc_timestamp": time,
        "type": kind,
        "model": "tasks",
        "json_data": json.dumps(row),
    }


def play(rows: dict[str, Any], diffs: list[Any]) -> dict[str, Any]:
    rows = dict(rows)
    for each in diffs:
        row = json.loads(each["json_data"])
        if each["type"] == "create":
            rows[row["id"]] = row
        elif each["type"] == "delete":
            rows.pop(row["id"], None)
        elif row["id"] in rows:
            rows[row["id"]] = rows[row["id"]] | row
    return rows


def made_again(rows: dict[str, Any], waiting: list[Any]) -> Iterator[Any]:
    """What waits, over the rows that came meanwhile: as it would have been made with these."""
    for each in waiting:
        row = json.loads(each["json_data"])
        there = rows.get(row["id"])
        if there is None and each["type"] != "create":
            continue
        again = dict(each)
        if there is not None and each["type"] == "create":
            again["type"] = "update"
            row.pop(LIFE, None)
            again["json_data"] = json.dumps(row)
        if each["type"] == "delete":
            again[SAW] = there.get(LIFE)
        yield again
        rows = play(rows, [again])


class Phone:
    """A device that names itself, as docs/protocol.md asks of it.

    Args:
        own_field: the only field that it writes; None: any.
        new_ids: whether it makes no id twice.
    """

    numbers = itertools.count()  # a copy of a phone makes no name and no id that another has

    def __init__(self, own_field: str | None = None, new_ids: bool = False) -> None:
        self.own_field = own_field
        self.new_ids = new_ids
        self.base: dict[str, Any] = {}  # as the last answer left it
        self.clock = 0
        self.mark: str | None = None
        self.number = 1
        self.cursor: str | None = None
        self.sending: list[Any] = []  # as long as it is not answered, it does not change
        self.waiting: list[Any] = []
        self.must_pull = False
        # A clock that jumps back can make an edit older than one of its own that it replaced; only
        # the order in the log tells, which nobody who starts over has.
        self.skew = None if own_field is None else random.Random(own_field).randrange(-500, 500)
        self.said: dict[str, Any] = {}  # by object: what it wrote last into its own field
        self.take_a_name()

    def take_a_name(self) -> None:
        self.name = f"phone {next(self.numbers)}"

    def new_id(self) -> str:
        return f"edit {next(self.numbers)}"

    @property
    def rows(self) -> dict[str, Any]:
        return play(self.base, self.sending + self.waiting)

    @property
    def has_nothing_left(self) -> bool:
        return not self.sending and not self.waiting and self.cursor is None

    def object_id(self, chance: random.Random) -> str:
        there = sorted(self.rows)
        if self.new_ids:
            return chance.choice(there) if there and chance.random() < 0.7 else self.new_id()
        return f"t{chance.randrange(3)}"

    def edit(self, chance: random.Random, now: int) -> None:
        """Do what a user may do, to some object."""
        self.edit_object(chance, now, self.object_id(chance))

    def edit_object(self, chance: random.Random, now: int, object_id: str) -> None:
        """Do what a user may do to an object: create, update or delete it."""
        fields = ["a", "b"] if self.own_field is None else [self.own_field]
        row = {"id": object_id} | {
            name: chance.randrange(100) for name in fields if chance.random() < 0.7
        }
        there = object_id in self.rows
        kind = "create" if not there else "update"
        if there and self.own_field is None and chance.random() < 0.35:
            kind, row = "delete", {"id": object_id}
        if kind != "update" or len(row) > 1:
            self.log(kind, row, now, chance.choice([0, 0, 500, -500]))

    def log(self, kind: str, row: dict[str, Any], now: int, jump: int = 0) -> None:
        """Log an edit.

        Args:
            jump: by how much the device's clock is off now, if it is not always off by the same.
        """
        time = now + (jump if self.skew is None else self.skew)
        made = diff(self.new_id(), kind, row, max(0, time))
        if self.own_field is not None and self.own_field in row:
            self.said[row["id"]] = row[self.own_field]
        if self.own_field is None and kind == "create":
            made["json_data"] = json.dumps({**row, LIFE: made["id"]})
        if kind == "delete":
            made[SAW] = self.rows[row["id"]].get(LIFE)
        self.waiting.append(made)

    def request(self, limit: int | None = None) -> Request:
        if not self.sending and not self.must_pull and self.cursor is None:
            self.sending, self.waiting = self.waiting, []
        said = {"device": self.name, "request": self.number, "mark": self.mark}
        diffs = [] if self.must_pull else list(self.sending)
        pages = {"limit": limit, "cursor": self.cursor}
        return {"logical_clock": self.clock, "diffs": diffs, **said, **pages}

    def receive(self, request: Request, reply: Reply) -> None:
        if reply.get("more"):
            self.base = play(self.base, reply["diffs"])
            self.cursor = reply["cursor"]
            return
        if request["diffs"]:
            self.number += 1
            self.base, self.sending = play(self.base, self.sending), []
        self.base = {} if reply.get("reset") else play(self.base, reply["diffs"])
        self.must_pull = bool(reply.get("reset"))
        self.clock, self.mark, self.cursor = reply["logical_clock"], reply["mark"], None
        if not self.must_pull:
            self.waiting = list(made_again(self.base, self.waiting))

    def begin_again(self) -> None:
        """What a device does that the server does not know."""
        self.take_a_name()
        self.number, self.mark, self.cursor = 1, None, None
        unsent = self.sending + self.waiting
        if self.clock == 0:  # it may have a part of what it had begun to pull
            self.base, unsent = {}, list(made_again({}, unsent))
        self.sending, self.waiting = [], self.under_new_ids(unsent)
        self.must_pull = False

    def under_new_ids(self, unsent: list[Any]) -> list[Any]:
        """The same edits as others: a copy of this device may have sent them under these ids."""
        return [{**each, "id": self.new_id()} for each in unsent]


class Nameless(Phone):
    """A device without a name, which does not page and waits for each answer before it edits."""

    def take_a_name(self) -> None:
        self.name = ""

    def request(self, limit: int | None = None) -> Request:
        self.sending += self.waiting
        self.waiting = []
        diffs = [] if self.must_pull else list(self.sending)
        return {"logical_clock": self.clock, "diffs": diffs}

    def receive(self, request: Request, reply: Reply) -> None:
        if self.must_pull:
            self.base = play({}, reply["diffs"])
            self.waiting = list(made_again(self.base, self.sending + self.waiting))
            self.sending = []
        else:
            self.base = play(play(self.base, self.sending), reply["diffs"])
            self.sending = []
        self.must_pull = False
        self.clock = reply["logical_clock"]

    def start_anew(self) -> None:
        """The server has no window from its clock on: pull from 0 without diffs, then send."""
        self.clock, self.must_pull = 0, True
