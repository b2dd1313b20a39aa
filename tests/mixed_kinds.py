"""The kinds of clients that mixed_clients.py mixes, and the network between them and a server.

PythonClient is mobync.client; the others do what the published clients do, as far as it matters to
what a server is sent and what becomes of its answer.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

from simulation.devices import FlutterDevice

from mobync.client import Device, Events, HttpTransport, OfflineError
from mobync.client._transport import Answer

MODEL = "tasks"
FIELDS = ("a", "b", "c")
LOST = 0.3
EDITED_MEANWHILE = 0.4

Row = dict[str, Any]
Rows = dict[str, Row]


class Network:
    """The way to the server, which loses requests and answers while it is `bad`.

    Attributes:
        meanwhile: what the user does while a request is under way, now and then.
    """

    def __init__(self, url: str, token: str, rng: random.Random) -> None:
        self.url = url
        self.token = token
        self.rng = rng
        self.bad = True
        self.meanwhile: Callable[[], object] = lambda: None
        self._ways: dict[str, HttpTransport] = {}

    def ask(self, route: str, body: bytes) -> Answer:
        way = self._ways.setdefault(route, HttpTransport(self.url + route))
        lost = self.rng.choice(("request", "answer")) if self._happens(LOST) else ""
        if lost == "request":
            self._edit()
            raise OfflineError("the request is lost")
        answer = way.post(body, self.token)
        self._edit()
        if lost:
            raise OfflineError("the answer is lost")
        return answer

    def _edit(self) -> None:
        if self._happens(EDITED_MEANWHILE):
            self.meanwhile()

    def _happens(self, chance: float) -> bool:
        return self.bad and self.rng.random() < chance

    def reply(self, route: str, **body: Any) -> dict[str, Any]:
        answer = self.ask(route, json.dumps(body).encode())
        assert answer.status == 200, answer
        return answer.json()

    def post(self, body: bytes, token: str | None) -> Answer:
        return self.ask("", body)

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        raise AssertionError("nobody listens")


class Client:
    """What all kinds do.

    Attributes:
        edits_meanwhile: whether its user may edit while it syncs.
    """

    edits_meanwhile = True

    def __init__(self, name: str, network: Network, now_ms: Callable[[], int]) -> None:
        self.name = name
        self.network = network
        self.now_ms = now_ms
        self.ids = itertools.count()

    def new_id(self) -> str:
        return f"{self.name}.{next(self.ids)}"

    def rows(self) -> Rows:
        """What its user sees."""
        raise NotImplementedError

    def can_create(self, row_id: str) -> bool:
        return row_id not in self.rows()

    def edit(self, kind: str, row_id: str, fields: Row) -> None:
        raise NotImplementedError

    def sync(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class PythonClient(Client):
    """mobync.client."""

    def __init__(self, name: str, network: Network, now_ms: Callable[[], int]) -> None:
        super().__init__(name, network, now_ms)
        self.device = Device(
            ":memory:",
            network,
            page_size=network.rng.choice((1, 2, 1000)),
            patience_s=0,
            now_ms=now_ms,
        )

    def rows(self) -> Rows:
        return {row.pop("id"): row for row in self.device.rows(MODEL)}

    def edit(self, kind: str, row_id: str, fields: Row) -> None:
        self.device._edit(kind, MODEL, {"id": row_id, **fields})  # type: ignore[arg-type]

    def sync(self) -> None:
        self.device.sync()

    def close(self) -> None:
        self.device.close()


class FlutterClient(Client):
    """The published one; it does not edit during a sync, since it would lose that."""

    edits_meanwhile = False

    def __init__(self, name: str, network: Network, now_ms: Callable[[], int]) -> None:
        super().__init__(name, network, now_ms)
        self.device = FlutterDevice(name)

    def rows(self) -> Rows:
        return {row_id: dict(row) for (_, row_id), row in self.device.rows.items()}

    def edit(self, kind: str, row_id: str, fields: Row) -> None:
        diff = {
            "id": self.new_id(),
            "utc_timestamp": self.now_ms(),
            "type": kind,
            "model": MODEL,
            "json_data": json.dumps({"id": row_id, **fields}),
        }
        assert self.device.edit(kind, MODEL, row_id, fields, diff)

    def sync(self) -> None:
        request = self.device.send(self.network.rng)
        self.device.in_flight = None
        reply = self.network.reply("", logical_clock=request.logical_clock, diffs=request.diffs)
        self.device.receive(request, reply, self.network.rng)


# ---- RxDB ----------------------------------------------------------------------------------------

State = dict[str, Any] | None  # of a document, without its id; None: deleted


class RxDBClient(Client):
    """RxDB's replication with the npm package.

    Attributes:
        fork: the client's documents.
        master: what it takes for the server's.
        unanswered: of a document, the pushes without an answer, each with its id and its state, and
            what was taken for the server's state then.
    """

    def __init__(self, name: str, network: Network, now_ms: Callable[[], int]) -> None:
        super().__init__(name, network, now_ms)
        self.limit = network.rng.choice((1, 2, 100))
        self.fork: dict[str, State] = {}
        self.master: dict[str, State] = {}
        self.unanswered: dict[str, tuple[State, list[Row]]] = {}
        self.times: dict[str, int] = {}
        self.checkpoint: Any = None
        self.has_pushed = False

    def rows(self) -> Rows:
        return {row_id: dict(row) for row_id, row in self.fork.items() if row is not None}

    def edit(self, kind: str, row_id: str, fields: Row) -> None:
        self.times[row_id] = self.now_ms()
        self.fork[row_id] = (
            None if kind == "delete" else {**(self.fork.get(row_id) or {}), **fields}
        )

    def is_dirty(self, row_id: str) -> bool:
        missing = object()
        return self.fork.get(row_id, missing) != self.master.get(row_id, missing)

    def sync(self) -> None:
        steps = [self.pull, self.push]
        self.network.rng.shuffle(steps)
        for step in [*steps, self.pull]:
            step()

    def push(self) -> None:
        """Push what differs, until nothing does, or once where others keep editing."""
        for _ in range(10):
            dirty = [row_id for row_id in self.fork if self.is_dirty(row_id)]
            if not dirty:
                return
            self.push_some(dirty[: self.limit])

    def push_some(self, row_ids: list[str]) -> None:
        pushed = {row_id: self.fork[row_id] for row_id in row_ids}
        rows = [self.row_of(row_id) for row_id in row_ids]
        self.has_pushed = True
        answer = self.network.reply("/rxdb/push", collection=MODEL, rows=rows)
        conflicts = {document["id"]: document for document in answer["conflicts"]}
        for row_id, state in pushed.items():
            if row_id not in conflicts:
                self.settle(row_id, state)
            elif self.fork[row_id] is state:  # else it was edited meanwhile, and is pushed again
                self.take(conflicts[row_id])

    def row_of(self, row_id: str) -> Row:
        """A document as it is pushed."""
        sent = self.state(row_id, self.fork[row_id])
        row: Row = {"newDocumentState": sent, "time": self.times[row_id]}
        if row_id in self.master:
            row["assumedMasterState"] = self.state(row_id, self.master[row_id])
        base = row.get("assumedMasterState")
        before, unanswered = self.unanswered.get(row_id, (None, []))
        if before != base:  # what was sent over another base has been answered
            unanswered = []
        if not unanswered or unanswered[-1]["newDocumentState"] != sent:
            unanswered = [*unanswered, {"id": self.new_id(), "newDocumentState": sent}]
        self.unanswered[row_id] = base, unanswered
        return {**row, "id": unanswered[-1]["id"], "unanswered": unanswered[:-1]}

    def settle(self, row_id: str, state: State) -> None:
        """Store what is the server's state."""
        self.master[row_id] = state
        self.unanswered.pop(row_id, None)

    def pull(self) -> None:
        documents: list[Row] = [{}] * self.limit
        while len(documents) == self.limit:
            at = self.checkpoint
            if at is None and self.has_pushed:  # then it has what may be dead by now
                at = {"clock": 0, "id": "", "began": 0}
            answer = self.network.reply(
                "/rxdb/pull", collection=MODEL, checkpoint=at, limit=self.limit
            )
            documents = answer["documents"]
            for document in documents:
                if not self.is_dirty(document["id"]):  # else the push is answered with it
                    self.take(document)
            if documents:  # RxDB stores no checkpoint of an empty page
                self.checkpoint = answer["checkpoint"]

    def take(self, document: Row) -> None:
        fields = dict(document)
        row_id, deleted = fields.pop("id"), fields.pop("_deleted", False)
        self.fork[row_id] = None if deleted else fields
        self.settle(row_id, self.fork[row_id])

    @staticmethod
    def state(row_id: str, row: State) -> Row:
        if row is None:
            return {"id": row_id, "_deleted": True}
        return {"id": row_id, **row, "_deleted": False}


class PlainRxDBClient(RxDBClient):
    """RxDB's replication with the handlers of docs/rxdb.md."""

    def row_of(self, row_id: str) -> Row:
        row = {"newDocumentState": self.state(row_id, self.fork[row_id])}
        if row_id in self.master:
            row["assumedMasterState"] = self.state(row_id, self.master[row_id])
        return row


# ---- WatermelonDB --------------------------------------------------------------------------------


class WatermelonClient(Client):
    """WatermelonDB's synchronize() with the npm package.

    Attributes:
        records: raws by id, with their ``_status`` and ``_changed``; deleted ones too.
        outbox: by record the edits that were pushed since it was clean last.
    """

    def __init__(self, name: str, network: Network, now_ms: Callable[[], int]) -> None:
        super().__init__(name, network, now_ms)
        self.records: Rows = {}
        self.last_pulled_at: int | None = None
        self.outbox: dict[str, list[Row]] = {}

    def rows(self) -> Rows:
        live = {i: raw for i, raw in self.records.items() if raw["_status"] != "deleted"}
        return {i: {name: raw[name] for name in FIELDS} for i, raw in live.items()}

    def can_create(self, row_id: str) -> bool:
        return row_id not in self.records  # a deleted one takes up the id until it is pushed

    def edit(self, kind: str, row_id: str, fields: Row) -> None:
        if kind == "create":
            empty = dict.fromkeys(FIELDS)
            self.records[row_id] = {**empty, **fields, "_status": "created", "_changed": ()}
            return
        raw = self.records[row_id]
        if kind == "delete":
            self.records[row_id] = {**raw, "_status": "deleted"}
            return
        changed = dict.fromkeys((*raw["_changed"], *fields))
        status = "created" if raw["_status"] == "created" else "updated"
        self.records[row_id] = {**raw, **fields, "_status": status, "_changed": tuple(changed)}

    def sync(self) -> None:
        self.forget_clean()
        try:
            self.pull()
            self.push()
        finally:
            self.forget_clean()

    # ---- WatermelonDB's own ----

    def pull(self) -> None:
        asked = {"lastPulledAt": self.last_pulled_at, "columns": {MODEL: FIELDS}}
        answer = self.network.reply("/watermelon/pull", **asked)
        changes = answer["changes"].get(MODEL, {"updated": [], "deleted": []})
        for row_id in self.deleted_of(changes["deleted"]):
            self.records.pop(row_id, None)
        for remote in changes["updated"]:
            local = self.records.get(remote["id"])
            if local is None:
                self.records[remote["id"]] = self.synced({**dict.fromkeys(FIELDS), **remote})
            elif local["_status"] == "synced":
                self.records[remote["id"]] = self.synced({**local, **remote})
            elif local["_status"] != "deleted":
                own = {name: local[name] for name in ("_status", "_changed", *local["_changed"])}
                self.records[remote["id"]] = {**local, **remote, **own}
        self.last_pulled_at = answer["timestamp"]  # and only then it pushes

    def push(self) -> None:
        fetched = {i: raw for i, raw in self.records.items() if raw["_status"] != "synced"}
        if not fetched:
            return
        self.send(fetched)
        for row_id, raw in fetched.items():
            if raw["_status"] == "deleted":
                del self.records[row_id]
            elif self.records[row_id] is raw:  # else it was edited meanwhile
                self.records[row_id] = self.synced(raw)

    @staticmethod
    def synced(raw: Row) -> Row:
        return {**raw, "_status": "synced", "_changed": ()}

    # ---- the npm package's ----

    def deleted_of(self, row_ids: list[str]) -> list[str]:
        """Of the deletes that were pulled those of records that are no new ones."""
        return [i for i in row_ids if not self.is_new(i) or self.has_pushed(i)]

    def is_new(self, row_id: str) -> bool:
        return row_id in self.records and self.records[row_id]["_status"] == "created"

    def has_pushed(self, row_id: str) -> bool:
        edits = self.outbox.get(row_id)
        return bool(edits) and edits[-1]["type"] != "delete"

    def forget_clean(self) -> None:
        dirty = {i for i, raw in self.records.items() if raw["_status"] != "synced"}
        self.outbox = {i: edits for i, edits in self.outbox.items() if i in dirty and edits}

    def send(self, fetched: Rows) -> None:
        sent: list[Row] = []
        for row_id, raw in fetched.items():
            edits = self.outbox.setdefault(row_id, [])
            made = self.edit_after(edits, raw)
            if made is not None:
                edits.append({**made, "id": self.new_id(), "table": MODEL, "record": row_id})
                edits[-1]["lastPulledAt"] = self.last_pulled_at
            sent += edits
        answer = self.network.reply(
            "/watermelon/push", lastPulledAt=self.last_pulled_at, edits=sent
        )
        assert answer == {"experimentalRejectedIds": {}}

    @staticmethod
    def edit_after(edits: list[Row], raw: Row) -> Row | None:
        """What a record's state adds to the edits that were sent of it."""
        last = edits[-1]["type"] if edits else ""
        if raw["_status"] == "deleted":
            return None if last == "delete" else {"type": "delete", "columns": {}}
        is_created = raw["_status"] == "created"
        columns = {name: raw[name] for name in (FIELDS if is_created else raw["_changed"])}
        if last in ("", "delete"):
            return {"type": "create" if is_created else "update", "columns": columns}
        sent = {name: value for edit in edits for name, value in edit["columns"].items()}
        changed = {n: v for n, v in columns.items() if n not in sent or sent[n] != v}
        return {"type": "update", "columns": changed} if changed else None


class PlainWatermelonClient(WatermelonClient):
    """WatermelonDB's synchronize() with the functions of docs/watermelondb.md."""

    def deleted_of(self, row_ids: list[str]) -> list[str]:
        return row_ids

    def send(self, fetched: Rows) -> None:
        changes: dict[str, list[Any]] = {"created": [], "updated": [], "deleted": []}
        for row_id, raw in fetched.items():
            whole = {"id": row_id, **raw, "_changed": ",".join(raw["_changed"])}
            changes[raw["_status"]].append(row_id if raw["_status"] == "deleted" else whole)
        pushed = {"lastPulledAt": self.last_pulled_at, "changes": {MODEL: changes}}
        answer = self.network.reply("/watermelon/push", **pushed)
        assert answer == {"experimentalRejectedIds": {}}


KINDS: tuple[type[Client], ...] = (
    PythonClient,
    FlutterClient,
    RxDBClient,
    PlainRxDBClient,
    WatermelonClient,
    PlainWatermelonClient,
)
