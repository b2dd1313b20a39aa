"""Devices that name themselves, a server, and all that can happen between them.

python -m simulation.named --runs 10000 [--seed 1] [--without RULE]

Requests and answers are lost, come late and twice; phones are copied and restored from backups, and
so is the server; phones are silent for very long, pull in pages, and edit while a request is under
way; the log is compacted and folded at any moment; a device without a name syncs beside them.  In
the end everybody has the same rows.  Of a history one of these is true, and more holds:

    anything     phones and the server go back to backups, phones are copied, ids are used again
    own fields   each phone writes a field of its own: no edit is lost that a phone ever made
    new ids      no id is used again: nothing that was deleted comes back

``--without`` plays on a server that lacks a rule, which must be found out (RULES).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

from mobync import LogicalClockError, Mobync, UnknownDeviceError
from mobync._sync import devices, folding
from mobync.memory import MemorySynchronizer

OWNER = "o"
ANY_SKEW_MS = 2**52
KINDS = ("anything", "own fields", "new ids")
STEPS = 40

Request = dict[str, Any]
Reply = dict[str, Any]


class WentWrong(AssertionError):
    """What was promised does not hold."""


class Server:
    """mobync on a store in memory, which can be copied with all that it keeps."""

    def __init__(self) -> None:
        self.store = MemorySynchronizer()
        self.mobync = Mobync(self.store, max_clock_skew_ms=ANY_SKEW_MS)

    def __deepcopy__(self, memo: Any) -> Server:
        copied = type(self)()
        copied.store._database.tables = copy.deepcopy(self.store._database.tables)
        return copied

    def sync(self, request: Request) -> Reply:
        reply: Reply = json.loads(self.mobync.apply_json(json.dumps(request), OWNER))
        return reply

    def compact(self) -> None:
        self.mobync.compact(OWNER)

    def forget(self, name: str) -> None:
        """Have a device, or those without a name, have been silent for very long."""
        seen = "seen_ms" if name else "nameless_ms"
        for known, text in self.store.read_devices(OWNER, [name]).items():
            state = json.loads(text)
            if state[seen] is not None:
                self.store.write_devices(OWNER, {known: json.dumps({**state, seen: 0})})
        if not name:
            self.mobync._noted.clear()

    def rows(self) -> dict[str, Any]:
        return {row["id"]: row for row in self.store.read("tasks")}


# ---- devices ------------------------------------------------------------------------------------


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
        there = json.loads(each["json_data"])["id"] in rows
        kind = "update" if there and each["type"] == "create" else each["type"]
        if there or kind == "create":
            yield {**each, "type": kind}
            rows = play(rows, [{**each, "type": kind}])


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
        object_id = self.object_id(chance)
        fields = ["a", "b"] if self.own_field is None else [self.own_field]
        row = {"id": object_id} | {
            name: chance.randrange(100) for name in fields if chance.random() < 0.7
        }
        there = object_id in self.rows
        kind = "create" if not there else "update"
        if there and self.own_field is None and chance.random() < 0.35:
            kind, row = "delete", {"id": object_id}
        if kind == "update" and len(row) == 1:
            return
        if self.own_field is not None and self.own_field in row:
            self.said[object_id] = row[self.own_field]
        time = max(0, now + (chance.choice([0, 0, 500, -500]) if self.skew is None else self.skew))
        self.waiting.append(diff(self.new_id(), kind, row, time))

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
        self.sending, self.waiting = [], [{**d, "id": self.new_id()} for d in unsent]
        self.must_pull = False


class Nameless(Phone):
    """A device of protocol 1, which does not page and waits for each answer before it edits."""

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


# ---- a history ----------------------------------------------------------------------------------


class World:
    """Plays a history.

    Args:
        seed: what decides.
        kind: one of KINDS.
        server: asked; None: mobync.
        richly: whether there are pages, and a device without a name.
    """

    def __init__(self, seed: int, kind: str, server: Any = None, richly: bool = True) -> None:
        Phone.numbers = itertools.count()
        self.chance = random.Random(seed)
        self.kind = kind
        self.server = Server() if server is None else server
        self.backup = copy.deepcopy(self.server)
        self.phones: list[Phone] = [
            Phone(f"of {n}" if kind == "own fields" else None, kind == "new ids") for n in range(3)
        ]
        self.pages = richly and self.chance.random() < 0.5
        if richly and self.chance.random() < 0.3:
            last = self.phones[-1]
            self.phones[-1] = Nameless(last.own_field, last.new_ids)
        self.phone_backups = copy.deepcopy(self.phones)
        self.earlier: list[Request] = []
        self.deleted: set[str] = set()
        self.counts: Counter[str] = Counter()

    def play(self) -> None:
        for now in range(STEPS):
            self.step(1000 + 20 * now)
        self.settle()
        self.server.compact()
        self.check()

    def step(self, now: int) -> None:
        what = self.chance.random()
        number = self.chance.randrange(len(self.phones))
        phone = self.phones[number]
        if what < 0.45:
            phone.edit(self.chance, now)
        elif what < 0.75:
            self.sync(phone)
        elif what < 0.85:
            self.sync(phone, lost=True)
        elif what < 0.88 and self.earlier:
            self.deliver_late()
        elif what < 0.91:
            self.compact()
        elif what < 0.92:
            self.server.forget(phone.name)
        elif self.kind == "anything":
            self.go_wrong(number, what)
        elif what < 0.94:
            self.server.forget(phone.name)
            self.compact()

    def compact(self) -> None:
        self.server.compact()
        self.counts["compactions"] += 1

    def go_wrong(self, number: int, what: float) -> None:
        is_named = not isinstance(self.phones[number], Nameless)
        if what < 0.93:
            self.phone_backups[number] = copy.deepcopy(self.phones[number])
        elif what < 0.945 and is_named:
            self.phones[number] = copy.deepcopy(self.phone_backups[number])
        elif what < 0.955 and len(self.phones) < 5 and is_named:
            self.phones.append(copy.deepcopy(self.phones[number]))
            self.phone_backups.append(copy.deepcopy(self.phones[number]))
        elif what < 0.98:
            self.backup = copy.deepcopy(self.server)
        elif what < 0.99 and all(not isinstance(phone, Nameless) for phone in self.phones):
            self.server = self.gone_back()
            self.counts["servers restored"] += 1

    def gone_back(self) -> Any:
        return copy.deepcopy(self.backup)

    def sync(self, phone: Phone, lost: bool = False, limit: int | None = None) -> None:
        if self.pages and self.chance.random() < 0.5:
            limit = self.chance.randint(1, 3)
        request = phone.request(limit)
        if phone.name:
            self.earlier.append(request)
        self.counts["requests"] += 1
        try:
            reply = self.server.sync(request)
        except UnknownDeviceError:
            self.counts["unknown"] += 1
            if not lost:
                phone.begin_again()
            return
        except LogicalClockError:
            self.counts["nameless told to pull again"] += 1
            if isinstance(phone, Nameless):
                phone.start_anew()
            return
        self.counts["pages"] += bool(reply.get("more"))
        self.counts["started over"] += bool(reply.get("reset"))
        if not lost:
            self.note_deletes(request, reply)
            phone.receive(request, reply)

    def note_deletes(self, request: Request, reply: Reply) -> None:
        """Of ids that are not used again, what the server was told and has answered is gone."""
        if not reply.get("more"):
            dead = [d for d in request["diffs"] if d["type"] == "delete"]
            self.deleted |= {json.loads(d["json_data"])["id"] for d in dead}

    def deliver_late(self) -> None:
        with suppress(UnknownDeviceError, LogicalClockError):
            self.server.sync(self.chance.choice(self.earlier))

    def settle(self) -> None:
        """Have all sync until nothing is left, which takes a few rounds where there are pages."""
        self.pages = False
        for _ in range(8):
            for phone in self.phones:
                self.sync(phone)

    def check(self) -> None:
        rows = self.server.rows()
        for phone in self.phones:
            if phone.rows != rows:
                raise WentWrong(f"diverged: {phone.name} has {phone.rows}, the server {rows}")
            if not phone.has_nothing_left:
                raise WentWrong(f"left over: {phone.name} has {phone.sending + phone.waiting}")
            for object_id, value in phone.said.items():
                if phone.name and rows.get(object_id, {}).get(str(phone.own_field)) != value:
                    raise WentWrong(f"lost: {phone.name} wrote {object_id} {value}, not {rows}")
        all_named = all(phone.name for phone in self.phones)  # else it is a known limit
        back = self.deleted & rows.keys()
        if back and all_named and self.kind == "new ids":
            raise WentWrong(f"came back: {sorted(back)}")


def failure(seed: int, counts: Counter[str]) -> str | None:
    """What is wrong at the end of a history; None: nothing."""
    world = World(seed, KINDS[seed % len(KINDS)])
    try:
        world.play()
    except WentWrong as wrong:
        return f"{world.kind}: {wrong}"
    except Exception as error:
        return f"{world.kind}: raised: {error!r}"
    finally:
        counts.update(world.counts)
    return None


# ---- rules taken out ----------------------------------------------------------------------------

Patches = list[tuple[Any, str, Any]]  # of what, which name, and what it is then


def without_reason(reason: Any) -> Patches:
    left = [each for each in devices.REASONS_TO_START_OVER if each is not reason]
    return [(devices, "REASONS_TO_START_OVER", left)]


def forget_times(log: Any, creates: Any, dropped: Any, keeps_times: bool) -> None:
    write_folded(log, [(*create[:3], None) for create in creates], dropped, keeps_times)


write_folded = folding._write

RULES: dict[str, Patches] = {
    "the mark is one that was given": [
        (devices.Device, "expects", lambda self, asked, is_known: asked.number == self.number + 1)
    ],
    "the number is the next": [
        (
            devices.Device,
            "expects",
            lambda self, asked, is_known: not is_known or (asked.mark, asked.clock) in self.marks,
        )
    ],
    "a retry says just the same": [
        (
            devices.Device,
            "has_done",
            lambda self, asked, content: asked.diffs > 0 and asked.number == self.number,
        )
    ],
    "a retry is known as a whole": [(devices, "RETRY", devices.NEXT)],
    "without a mark it starts over": without_reason(devices.has_no_mark),
    "below the horizon it starts over": without_reason(devices.is_below_horizon),
    "a retry from 0 starts over": without_reason(devices.repeats_what_was_folded),
    "a page that a backup was not asked for": without_reason(devices.was_not_led_here),
    "a page with folds behind it": without_reason(devices.has_folds_behind),
    "the times of fields are kept": [(folding, "_write", forget_times)],
    "a nameless device below the horizon is refused": [
        (devices.OwnerState, "refuses", lambda *_: False)
    ],
    "the horizon waits for holds": [(folding, "_holds", lambda *_: {})],
}


@contextmanager
def lacking(rule: str | None) -> Iterator[None]:
    """Have the server lack a rule."""
    with ExitStack() as stack:
        for thing, name, other in RULES[rule] if rule is not None else ():
            stack.enter_context(mock.patch.object(thing, name, other))
        yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation.named", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="how many histories")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed")
    parser.add_argument("--without", choices=RULES, help="a rule that the server lacks")
    options = parser.parse_args(arguments)
    with lacking(options.without):
        return simulate(range(options.seed, options.seed + options.runs))


def simulate(seeds: range) -> int:
    """Play a history for each seed, and print what came of it; 1 if any went wrong."""
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for seed in seeds:
        what = failure(seed, counts)
        if what is not None:
            kind = ":".join(what.split(":")[:2])
            if not wrong[kind]:
                print(f"seed {seed}: {what}"[:600])
            wrong[kind] += 1
    print(f"histories {len(seeds)}, seeds from {seeds.start}")
    for name, count in sorted(counts.items()):
        print(f"{name:<30} {count}")
    for name, count in sorted(wrong.items()):
        print(f"WRONG {name:<24} {count}")
    return min(1, len(wrong))


if __name__ == "__main__":
    sys.exit(main())
