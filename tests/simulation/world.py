"""A server, its devices and the network between them: plays one history."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from mobync import Mobync, Synchronizer, SyncReport

from .devices import (
    CarefulDevice,
    Device,
    FlutterDevice,
    LocalError,
    PagingDevice,
    Request,
    Row,
    Rows,
    object_of,
)

OWNER = "owner"
MODELS = ("tasks", "notes")
FIELDS = ("a", "b", "c")
START_MS = 1_000_000_000
MAX_CLOCK_SKEW_MS = 300_000


class Diverged(AssertionError):
    """What must hold for every history does not hold for this one."""


@dataclass(frozen=True)
class Event:
    """Something that happens.  `what` says which of the other fields mean something."""

    what: str
    device: str = ""
    model: str = ""
    object_id: str = ""
    fields: tuple[tuple[str, int], ...] = ()
    number: int = 0


@dataclass
class Write:
    """An edit of a field, named by its value where every value of a history is another one."""

    diff_id: str
    replaced: int | None


class SimulatedServer(Mobync):
    """Mobync whose wall clock is the world's."""

    now_ms = START_MS

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
        refuses: a rule refuses some diffs, and the sync goes on without them.
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
    ) -> None:
        self.refuses = refuses
        self.last_report: SyncReport | None = None
        self.rng = random.Random(seed)
        self.store = store
        self.server = self.start_server()
        self.counts: Counter[str] = Counter()
        self.story: list[str] = []
        self.diffs_made = 0
        self.delivered: set[str] = set()
        self.writes: dict[int, Write] = {}
        kind_of = {"flutter": FlutterDevice, "careful": CarefulDevice, "paging": PagingDevice}
        self.devices: dict[str, Device] = {
            f"{kind}{i}": kind_of[kind](
                f"{kind}{i}", required_fields=frozenset(FIELDS if whole_rows else ())
            )
            for i, kind in enumerate(kinds)
        }
        self.distinct_values = distinct_values

    def start_server(self) -> SimulatedServer:
        server = SimulatedServer(
            self.store,
            max_clock_skew_ms=MAX_CLOCK_SKEW_MS,
            on_refusal="skip" if self.refuses else "raise",
        )
        server.listen(self.note)
        return server

    def note(self, report: SyncReport) -> None:
        self.last_report = report

    # ---- events ----------------------------------------------------------------------------

    def play(self, events: list[Event]) -> None:
        for event in events:
            self.server.now_ms += 1
            getattr(self, f"on_{event.what}")(event)
        self.settle()

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
        if self.refuses and self.rng.random() < 0.2:
            diff["refuse"] = True
        seen = dict(device.rows.get((event.model, event.object_id), {}))
        if device.edit(kind, event.model, event.object_id, fields, diff):
            for name, value in fields.items():
                self.writes[value] = Write(str(diff["id"]), seen.get(name))
            self.diffs_made += 1
            self.counts["edits"] += 1
            shown = ", ".join(f"{name}={value}" for name, value in fields.items())
            self.tell(
                f"{event.device}: {kind} {event.model}/{event.object_id} {shown}".rstrip()
                + f"  [{diff['id']} at {now_ms - START_MS}]"
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
        if request is not None and not request.delivered:
            request.reply = self.deliver(event.device, request)
            request.delivered = True

    def on_receive(self, event: Event) -> None:
        device = self.devices[event.device]
        request = device.in_flight
        if request is not None and request.reply is not None:
            device.in_flight = None
            self.tell(f"{event.device} receives the reply")
            self.take_reply(device, request)

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
        if sent:
            self.counts["late"] += 1
            self.tell(f"a copy of request {event.number % len(sent)} of {event.device} arrives")
            self.deliver(event.device, sent[event.number % len(sent)])

    def on_backup(self, event: Event) -> None:
        self.devices[event.device].save()
        self.tell(f"{event.device} is backed up")

    def on_restore(self, event: Event) -> None:
        device = self.devices[event.device]
        if device.backup is not None:
            self.counts["restored"] += 1
            device.restore()
            self.tell(f"{event.device} is restored from its backup")

    def on_restart(self, event: Event) -> None:
        now_ms = self.server.now_ms
        self.server = self.start_server()
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
        self.server.push(OWNER, operations)
        self.counts["pushes"] += 1
        self.tell(f"the backend pushes {operations}")

    def on_compact(self, event: Event) -> None:
        result = self.server.compact(OWNER)
        self.counts["compactions"] += 1
        self.tell(f"the log is compacted from {result.rows_before} to {result.rows_after} rows")

    # ---- syncing ---------------------------------------------------------------------------

    def deliver(self, name: str, request: Request) -> Any:
        ids = {diff["id"] for diff in request.diffs}
        reply = self.apply(request)
        self.counts["syncs"] += 1
        pushed, sent_back = map(objects_of, (request.diffs, reply["diffs"]))
        self.counts["conflicts"] += len(pushed & sent_back)
        shown = "; ".join(
            f"{d['type']} {d['json_data']} as {d['logical_clock']}" for d in reply["diffs"]
        )
        self.tell(f"the server answers {name}: clock {reply['logical_clock']} [{shown}]")
        self.counts["pages"] += reply.get("more", False)
        refused = {refusal["id"] for refusal in reply.get("refused", ())}
        self.counts["refused"] += len(refused)
        if not deletes_and_creates_anew(request):
            self.check_retry(request, all_new=not (ids & self.delivered or refused))
        self.delivered = (self.delivered | ids) - refused
        return json.loads(json.dumps(reply))

    def check_retry(self, request: Request, *, all_new: bool) -> None:
        """The same request once more changes nothing; if all of it was new, nothing comes back.

        What restores an object of which something was refused may be the device's own.
        """
        again = self.apply(request)
        self.counts["retries"] += 1
        if self.last_report is None or self.last_report.accepted:
            raise Diverged(f"a retry was accepted: {again}")
        own = {diff["id"] for diff in request.diffs} & {d["id"] for d in again["diffs"]}
        if all_new and own:
            raise Diverged(f"a retry is answered with the device's own diffs {own}")

    def apply(self, request: Request) -> Any:
        diffs = json.loads(json.dumps(request.diffs))
        return self.server.apply(
            request.logical_clock, diffs, OWNER, limit=request.limit, cursor=request.cursor
        )

    def take_reply(self, device: Device, request: Request) -> None:
        try:
            device.receive(request, request.reply, self.rng)
        except LocalError as error:
            raise Diverged(str(error)) from None

    def sync(self, device: Device) -> None:
        more = True
        while more:
            device.in_flight = None
            request = device.send(self.rng)
            request.reply = self.deliver(device.name, request)
            device.in_flight = None
            self.take_reply(device, request)
            more = request.reply.get("more", False)

    def settle(self) -> None:
        self.tell("---- everything is sent and received")
        for _ in range(3):  # a device in the middle of its pages sends what is new after them
            for device in self.devices.values():
                self.sync(device)
        server_rows = self.server_rows()
        for device in self.devices.values():
            if device.rows != server_rows:
                raise Diverged(f"{device.name} has {device.rows}, the server has {server_rows}")
        # What these bring back, all devices get alike (docs/protocol.md, "Known limits").
        brings_back = ("compactions", "late", "restored")
        if self.distinct_values and not any(self.counts[what] for what in brings_back):
            self.check_no_edit_came_back(server_rows)

    def check_no_edit_came_back(self, rows: Rows) -> None:
        """What an edit replaced, having seen it, is not what is there in the end."""
        replaced_by: dict[int, list[int]] = {}
        for value, write in self.writes.items():
            if write.replaced is not None and write.diff_id in self.delivered:
                replaced_by.setdefault(write.replaced, []).append(value)
        for key, row in rows.items():
            for name, value in row.items():
                if value in replaced_by:
                    newer = [self.writes[v].diff_id for v in replaced_by[value]]
                    raise Diverged(f"{key} has {name}={value}, which {newer} had replaced")

    def server_rows(self) -> Rows:
        rows: Rows = {}
        with self.store.transaction(OWNER) as inside:
            for model in MODELS:
                for row in rows_of(inside, model):
                    fields = {n: v for n, v in row.items() if n in FIELDS and v is not None}
                    rows[model, row["id"]] = fields
        return rows


def objects_of(diffs: list[Row]) -> set[tuple[str, str]]:
    return {object_of(diff) for diff in diffs}


def deletes_and_creates_anew(request: Request) -> bool:
    """Whether a retry of it may be taken for news (docs/protocol.md, "Known limits")."""
    deleted: set[tuple[str, str]] = set()
    for diff in request.diffs:
        if diff["type"] == "delete":
            deleted.add(object_of(diff))
        elif diff["type"] == "create" and object_of(diff) in deleted:
            return True
    return False


def rows_of(store: Synchronizer, model: str) -> list[Row]:
    rows = store.read(model, [])
    return json.loads(rows) if isinstance(rows, (str, bytes)) else [dict(row) for row in rows]


MakeStore = Callable[[], AbstractContextManager[Synchronizer]]
