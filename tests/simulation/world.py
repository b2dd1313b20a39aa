"""A server, its devices and the network between them: plays one history."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from mobync import FilterType, Mobync, MobyncError, ReadFilter, Synchronizer
from mobync.memory import MemorySynchronizer

from .claims import (
    MAX_CLOCK_SKEW_MS,
    OWNER,
    Diverged,
    Ledger,
    NotByTheRules,
    ObjectName,
    OwnDiffsCameBack,
    RetryCounted,
    Write,
    check_asked,
    check_by_the_rules,
    check_values,
    creates_without_trace,
    deletes_that_look_new,
    is_ahead,
    rows_by_replaying,
    without,
)
from .devices import (
    CarefulDevice,
    Device,
    DiffRow,
    FlutterDevice,
    HostileDevice,
    PagingDevice,
    Request,
    Row,
    Rows,
    object_of,
)
from .pieces import SIZES, in_pieces
from .rules import Value, take_asked, values_of

MODELS = ("tasks", "notes", "lists", "tags")
FIELDS = ("a", "b", "c")
FILLED = ("twice", "version")  # which no device writes
START_MS = 1_000_000_000


@dataclass(frozen=True)
class Event:
    """Something that happens, a millisecond after the event before or `at_once` with it.

    `what` says which of the other fields mean something.
    """

    what: str
    device: str = ""
    model: str = ""
    object_id: str = ""
    fields: tuple[tuple[str, int], ...] = ()
    number: int = 0
    refuse: bool = False
    malformed: bool = False
    at_once: bool = False

    def __repr__(self) -> str:
        values = ((f.name, getattr(self, f.name), f.default) for f in dataclass_fields(self))
        told = (f"{name}={value!r}" for name, value, default in values if value != default)
        return f"Event({', '.join(told)})"


class SimulatedServer(Mobync):
    """Mobync whose wall clock is the world's."""

    now_ms = START_MS

    def answer(self, request: Request, *, as_json: bool) -> Any:
        """The reply to a request that comes as dicts or as JSON."""
        pages = {"limit": request.limit, "cursor": request.cursor}
        if as_json:
            body = {"logical_clock": request.logical_clock, "diffs": request.diffs, **pages}
            return json.loads(self.apply_json(json.dumps(body), OWNER))
        diffs = json.loads(json.dumps(request.diffs))
        return self.apply(
            request.logical_clock, diffs, OWNER, limit=request.limit, cursor=request.cursor
        )

    def _now_ms(self) -> int:
        return self.now_ms


class World:
    """Plays events, then lets every device sync until nothing is left, and compares all rows.

    Args:
        store: a fresh Synchronizer that has MODELS with FIELDS.
        kinds: the kind of each device: "flutter", "careful" or "paging".
        seed: for what the published client leaves to chance: the order of ties in a sort.
        whole_rows: every create has all fields, so on the devices they are NOT NULL.
        distinct_values: every edit writes values of its own, so each tells who wrote it.
        refuses: a sync goes on without the diffs that a rule refuses, those of events that say so.
        fills: the database fills in what no diff says, FILLED among it.
    """

    def __init__(
        self,
        store: Synchronizer,
        kinds: tuple[str, ...],
        seed: int,
        *,
        whole_rows: bool,
        distinct_values: bool,
        refuses: bool,
        fills: bool = False,
    ) -> None:
        self.refuses = refuses
        self.fills = fills
        self.rng = random.Random(seed)
        self.store = store
        self.server = self.start_server(self.store)
        # The devices here have no names.  Of an owner who has none yet the log would be folded.
        self.server.apply(0, [], OWNER)
        self.counts: Counter[str] = Counter()
        self.story: list[str] = []
        self.diffs_made = 0
        self.log: list[DiffRow] = []
        self.delivered: set[str] = set()
        self.unanswered: dict[str, Request] = {}
        self.looked_new: set[ObjectName] = set()
        self.copied_to: set[ObjectName] = set()  # hostile devices send values of others again
        self.ledger = Ledger()
        self.allowed: set[Value] = set()
        take_asked()
        kind_of: dict[str, type[Device]] = {
            "flutter": FlutterDevice,
            "careful": CarefulDevice,
            "paging": PagingDevice,
            "hostile": HostileDevice,
        }
        self.devices: dict[str, Device] = {
            f"{kind}{i}": kind_of[kind](
                f"{kind}{i}", required_fields=frozenset(FIELDS if whole_rows else ())
            )
            for i, kind in enumerate(kinds)
        }
        self.distinct_values = distinct_values

    def server_class(self) -> type[SimulatedServer]:
        return SimulatedServer  # as it is now: tests put another one there

    def start_server(self, store: Synchronizer) -> SimulatedServer:
        return self.server_class()(
            store,
            max_clock_skew_ms=MAX_CLOCK_SKEW_MS,
            on_refusal="skip" if self.refuses else "raise",
        )

    # ---- events ----------------------------------------------------------------------------

    def play(self, events: list[Event]) -> None:
        for event in events:
            self.server.now_ms += not event.at_once
            getattr(self, f"on_{event.what}")(event)
        self.settle()

    def close(self) -> None:
        for device in self.devices.values():
            device.close()

    def tell(self, line: str) -> None:
        self.story.append(line)

    def on_wait(self, event: Event) -> None:
        self.server.now_ms += event.number

    def on_skew(self, event: Event) -> None:
        device = self.devices[event.device]
        if event.number < device.skew_ms and not device.can_turn_clock_back():
            return
        device.skew_ms = event.number
        self.tell(f"the clock of {event.device} is now {event.number:+} ms off")

    def on_create(self, event: Event) -> None:
        self.edit("create", event)

    def on_update(self, event: Event) -> None:
        self.edit("update", event)

    def on_delete(self, event: Event) -> None:
        self.edit("delete", event)

    def edit(self, kind: str, event: Event) -> None:
        device = self.devices[event.device]
        if not device.can_edit():
            return
        fields = dict(event.fields) if kind != "delete" else {}
        now_ms = max(0, self.server.now_ms + device.skew_ms)
        diff = {
            "id": f"{event.device}.{self.diffs_made}",
            "owner": "",
            "logical_clock": 0,
            "utc_timestamp": now_ms,
            "type": kind,
            "model": event.model,
            "json_data": json.dumps({"id": event.object_id, **fields}),
        }
        if event.refuse:
            diff["refuse"] = True
        if event.malformed:
            self.spoil(diff)
        seen = dict(device.rows.get((event.model, event.object_id), {}))
        if device.edit(kind, event.model, event.object_id, fields, diff):
            self.note_edit(device, diff, fields, seen)
            self.diffs_made += 1
            self.counts["edits"] += 1
            shown = ", ".join(f"{name}={value}" for name, value in fields.items())
            self.tell(
                f"{event.device}: {kind} {event.model}/{event.object_id} {shown}".rstrip()
                + f"  [{diff['id']} at {now_ms - START_MS}]"
            )

    def spoil(self, diff: DiffRow) -> None:
        """Make a diff malformed; of which object it is can still be read."""
        diff["malformed"] = True
        spoiled: Row = self.rng.choice(
            (
                {"utc_timestamp": -1},
                {"type": "upsert"},
                {"self": 1},
                {"json_data": diff["json_data"][:-1] + ', "z": NaN}'},
                {"json_data": diff["json_data"][:-1] + ', "z": "\\ud83d"}'},
            )
        )
        diff.update(spoiled)

    def note_edit(self, device: Device, diff: DiffRow, fields: Row, seen: Row) -> None:
        name, number = object_of(diff), self.diffs_made
        if diff["type"] == "delete":
            self.ledger.own_deletes[name].append((device.name, number))
        for field, value in fields.items():
            self.ledger.writes[value] = Write(
                device.name, number, diff["id"], name, field, seen.get(field), device.logical_clock
            )

    def on_send(self, event: Event) -> None:
        device = self.devices[event.device]
        if device.in_flight is None:
            request = device.send(self.rng)
            ids = " ".join(diff["id"] for diff in request.diffs)
            page = f", a page from {request.cursor}" if request.cursor else ""
            self.tell(f"{event.device} sends clock {request.logical_clock} [{ids}]{page}")

    def on_deliver(self, event: Event) -> None:
        request = self.devices[event.device].in_flight
        if request is not None and isinstance(self.devices[event.device], HostileDevice):
            request.reply = self.deliver_hostile(event.device, request)
            return
        if request is not None and not request.delivered:
            request.reply = self.deliver(event.device, request)
            request.delivered = True
            self.unanswered[event.device] = request

    def on_receive(self, event: Event) -> None:
        device = self.devices[event.device]
        request = device.in_flight
        if request is not None and request.reply is not None:
            device.in_flight = None
            self.unanswered.pop(event.device, None)
            self.tell(f"{event.device} receives the reply")
            device.receive(request, request.reply, self.rng)

    def on_lose(self, event: Event) -> None:
        """The request or its reply is lost; the device gives up and will try again."""
        device = self.devices[event.device]
        if device.in_flight is not None:
            lost = "reply" if device.in_flight.delivered else "request"
            self.counts[f"lost {lost}"] += 1
            self.tell(f"the {lost} of {event.device} is lost")
            device.in_flight = None

    def on_arrive_again(self, event: Event) -> None:
        """A copy of an earlier request arrives, late; nobody waits for the answer."""
        sent = self.devices[event.device].sent
        if sent and isinstance(self.devices[event.device], HostileDevice):
            self.deliver_hostile(event.device, sent[event.number % len(sent)])
        elif sent:
            self.counts["late"] += 1
            self.tell(f"a copy of request {event.number % len(sent)} of {event.device} arrives")
            self.deliver(event.device, sent[event.number % len(sent)])

    def on_retry(self, event: Event) -> None:
        """A request of which the device has no reply yet arrives once more, whatever others did."""
        request = self.unanswered.get(event.device)
        if request is None:
            return
        self.tell(f"the last request of {event.device} arrives once more")
        self.counts["late retries"] += 1
        no_trace = deletes_that_look_new(request, self.log)
        no_trace |= creates_without_trace(request, self.log)
        written = self.apply(request)[1]
        self.looked_new |= objects_of(written) & no_trace
        if not self.may_be_news(request) and not objects_of(written) <= no_trace:
            raise RetryCounted(f"a late retry wrote {written}")

    def may_be_news(self, request: Request) -> bool:
        """Whether any edit of a request may count as news when others have synced in between.

        Of two edits that write the same the second is not logged, a compacted log has lost ids, and
        a time that is limited for skew is limited to a later one.
        """
        ahead = any(is_ahead(diff, self.server.now_ms) for diff in request.diffs)
        return not self.distinct_values or self.counts["compactions"] > 0 or ahead

    def on_backup(self, event: Event) -> None:
        self.devices[event.device].save()
        self.tell(f"{event.device} is backed up")

    def on_restore(self, event: Event) -> None:
        device = self.devices[event.device]
        if device.backup is not None:
            self.counts["restored"] += 1
            device.restore()
            self.unanswered.pop(event.device, None)
            self.tell(f"{event.device} is restored from its backup")

    def on_restart(self, event: Event) -> None:
        now_ms = self.server.now_ms
        self.server = self.start_server(self.store)
        self.server.now_ms = now_ms
        self.tell("the server restarts")

    def on_push(self, event: Event) -> None:
        """The backend edits some objects itself."""
        operations: list[tuple[str, str, Row]] = []
        rows = self.server_rows()
        for i in range(event.number):
            key = event.model, f"u{i}"
            kind = "update" if key in rows else "create"
            fields = {name: value + i + 1 for name, value in event.fields}
            operations.append((kind, event.model, {"id": key[1], **fields}))
        for _, model, row in operations:
            self.allowed |= values_of(model, json.dumps(row))
        self.server.push(OWNER, operations)
        self.follow_log()
        self.counts["pushes"] += 1
        self.tell(f"the backend pushes {operations}")

    def on_compact(self, event: Event) -> None:
        self.check_tables_follow_log()
        if self.fills:  # a log that is folded need not have its last clock any more
            self.server.apply(0, [], OWNER)
        whole = self.compacted_as_a_whole()
        with in_pieces(SIZES[len(self.log) % len(SIZES)]):
            result = self.server.compact(OWNER)
        self.log = self.logged_since(0)
        if whole not in (None, self.log):
            raise NotByTheRules(f"compacted in pieces to {self.log}, not to {whole}")
        self.counts["compactions"] += 1
        self.tell(f"the log is compacted from {result.rows_before} to {result.rows_after} rows")

    def compacted_as_a_whole(self) -> list[DiffRow] | None:
        """What a copy of a store in memory has logged after a compaction in one piece."""
        if not isinstance(self.store, MemorySynchronizer):
            return None
        copied = type(self.store)()
        copied._database.tables = copy.deepcopy(self.store._database.tables)
        server = self.start_server(copied)
        server.now_ms = self.server.now_ms
        server.compact(OWNER)
        return logged(copied)

    # ---- syncing ---------------------------------------------------------------------------

    def deliver(self, name: str, request: Request) -> Any:
        ids = {diff["id"] for diff in request.diffs}
        reply, _ = self.apply(request)
        self.counts["syncs"] += 1
        pushed, sent_back = map(objects_of, (request.diffs, reply["diffs"]))
        self.counts["conflicts"] += len(pushed & sent_back)
        shown = "; ".join(
            f"{d['type']} {d['json_data']} as {d['logical_clock']}" for d in reply["diffs"]
        )
        self.tell(f"the server answers {name}: clock {reply['logical_clock']} [{shown}]")
        refused = {refusal["id"] for refusal in reply.get("refused", ())}
        self.counts["refused"] += len(refused)
        self.counts["malformed"] += sum("malformed" in diff for diff in request.diffs)
        self.check_retry(request, reply, all_new=not (ids & self.delivered or refused))
        if reply.get("more"):
            self.counts["pages"] += 1
        else:
            # Of a retry that writes nothing of it, a refused edit is not listed once more.
            refused |= {d["id"] for d in request.diffs if "refuse" in d or "malformed" in d}
            self.delivered = (self.delivered | ids) - refused
        return json.loads(json.dumps(reply))

    def deliver_hostile(self, name: str, request: Request) -> Any:
        """What a hostile device is answered, if it is: nobody else has a part in a refusal."""
        self.tell(f"{name} sends {request.diffs}")
        try:
            reply, written = self.apply(request)
        except MobyncError as refusal:
            take_asked()
            self.counts["hostile refused"] += 1
            self.tell(f"{name} is refused: {refusal}")
            written = self.follow_log()
            if written:
                raise NotByTheRules(f"a refused request wrote {written}") from refusal
            return None
        self.counts["hostile"] += 1
        self.counts["hostile wrote"] += len(written)
        self.copied_to |= {object_of(diff) for diff in written}
        self.tell(f"the server answers {name} {reply}")
        return json.loads(json.dumps(reply))

    def check_retry(self, request: Request, reply: Any, *, all_new: bool) -> None:
        """The same request once more changes nothing; if all of it was new, nothing comes back.

        What restores an object of which something was refused may be the device's own.
        """
        looks_new = deletes_that_look_new(request, self.log)
        rows = self.server_rows()
        again, written = self.apply(request)
        self.counts["retries"] += 1
        self.looked_new |= objects_of(written) & looks_new
        if not objects_of(written) <= looks_new:
            raise RetryCounted(f"a retry wrote {written}")
        if without(looks_new, self.server_rows()) != without(looks_new, rows):
            raise RetryCounted(f"a retry made {self.server_rows()} of {rows}")
        # What was one page may be two when the request's own diffs are in the log.
        turned_page = again.get("more", False) and not reply["more"]
        clock = request.logical_clock if turned_page else reply["logical_clock"] + len(written)
        if again["logical_clock"] != clock:
            raise RetryCounted(f"a retry is answered {again} after {reply}")
        own = {diff["id"] for diff in request.diffs} & {d["id"] for d in again["diffs"]}
        if all_new and own:
            raise OwnDiffsCameBack(f"a retry is answered with the device's own diffs {own}")

    def apply(self, request: Request) -> tuple[Any, list[DiffRow]]:
        """The reply, and what the log got."""
        before = list(self.log)
        reply = self.server.answer(request, as_json=self.rng.random() < 0.5)
        noted, written = self.take_noted(self.follow_log())
        before += noted
        asked = take_asked()
        for diff in asked:
            if "refuse" not in diff:
                self.allowed |= values_of(diff["model"], diff["json_data"])
        now_ms = self.server.now_ms
        filled = check_by_the_rules(before, request, now_ms, reply, written, self.fills) or []
        self.counts["filled"] += len(filled)
        check_values(self.allowed, written[: len(written) - len(filled)])
        check_asked(before, request, now_ms, reply, asked)
        return reply, written

    def take_noted(self, written: list[DiffRow]) -> tuple[list[DiffRow], list[DiffRow]]:
        """Of what a sync added to the log, what it found edited by somebody else, and the rest."""
        return [], written

    def known(self, fields: Row) -> Row:
        """The fields that a row has, as the server and the devices tell them."""
        return {n: v for n, v in fields.items() if v is not None} if self.fills else fields

    def follow_log(self) -> list[DiffRow]:
        """Read what was added to the log."""
        written = self.logged_since(self.log[-1]["logical_clock"] + 1 if self.log else 0)
        self.log += written
        self.ledger.note_logged(written)
        return written

    def logged_since(self, clock: int) -> list[DiffRow]:
        return logged(self.store, clock)

    def sync(self, device: Device) -> None:
        more = True
        while more:
            device.in_flight = None
            request = device.send(self.rng)
            request.reply = self.deliver(device.name, request)
            device.in_flight = None
            device.receive(request, request.reply, self.rng)
            more = request.reply.get("more", False)

    def settle(self) -> None:
        self.tell("---- everything is sent and received")
        honest = [d for d in self.devices.values() if not isinstance(d, HostileDevice)]
        for _ in range(3):  # a device in the middle of its pages sends what is new after them
            for device in honest:
                self.sync(device)
        rows = self.server_rows()
        for device in honest:
            if {name: self.known(row) for name, row in device.rows.items()} != rows:
                raise Diverged(f"{device.name} has {device.rows}, the server has {rows}")
        self.check_tables_follow_log()
        if self.distinct_values:
            # These bring old values back, and all devices get them alike (docs/protocol.md,
            # "Known limits").
            anything = any(self.counts[what] for what in ("compactions", "late", "restored"))
            again = self.looked_new | self.copied_to
            self.ledger.check_nothing_is_lost(
                rows, self.delivered, may_come_back=None if anything else again
            )

    def check_tables_follow_log(self) -> None:
        rows, replayed = self.server_rows(), rows_by_replaying(self.logged_since(0))
        replayed = {name: self.known(row) for name, row in replayed.items()}
        if replayed != rows:
            raise Diverged(f"the log leads to {replayed}, the server has {rows}")

    def server_rows(self) -> Rows:
        rows: Rows = {}
        with self.store.transaction(OWNER) as inside:
            for model in MODELS:
                for row in rows_of(inside, model):
                    known = (*FIELDS, *FILLED)
                    fields = {n: v for n, v in row.items() if n in known and v is not None}
                    rows[model, row["id"]] = fields
        return rows


def objects_of(diffs: list[Row]) -> set[tuple[str, str]]:
    return {object_of(diff) for diff in diffs}


def rows_of(store: Synchronizer, where: str, filters: Sequence[ReadFilter] = ()) -> list[Row]:
    rows = store.read(where, filters)
    return json.loads(rows) if isinstance(rows, (str, bytes)) else [dict(row) for row in rows]


def logged(store: Synchronizer, since: int = 0) -> list[DiffRow]:
    filters = [
        ReadFilter("owner", FilterType.equal, OWNER),
        ReadFilter("logical_clock", FilterType.majorOrEqual, since),
    ]
    with store.transaction(OWNER) as inside:
        rows = rows_of(inside, "diffs", filters)
    return sorted(rows, key=lambda diff: int(diff["logical_clock"]))


MakeStore = Callable[[], AbstractContextManager[Synchronizer]]
