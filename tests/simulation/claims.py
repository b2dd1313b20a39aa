"""What must hold of each answer of the server and in the end, judged without the package's code.

Each way to break docs/reliability.md's claims is an exception of its own, so that a failing history
is shrunk to the failure that it showed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import merge_model

from .devices import DiffRow, Reply, Request, Row, Rows, object_of
from .rules import Value, values_of

OWNER = "owner"
MAX_CLOCK_SKEW_MS = 300_000

ObjectName = tuple[str, str]


class Broken(AssertionError):
    """What must hold for every history does not hold for this one."""


class Diverged(Broken):
    """Rows differ when all is sent and received."""


class NotByTheRules(Broken):
    """A sync did something else than the slow model of the merge."""


class RetryCounted(Broken):
    """The same request once more changed something."""


class NotAsked(Broken):
    """Something was written that no rule was asked of, or a rule was not asked by the rules."""


class OwnDiffsCameBack(Broken):
    """A device was sent its own diffs."""


class EditLost(Broken):
    """An acknowledged edit is gone, and no rule took it."""


# ---- one sync ------------------------------------------------------------------------------------


def check_by_the_rules(
    log: list[DiffRow],
    request: Request,
    now_ms: int,
    reply: Reply,
    written: list[DiffRow],
    fills: bool,
) -> list[DiffRow]:
    """Compare what a sync wrote and answered with what the model makes of the same log.

    Args:
        log: the owner's log before the sync.
        written: what the sync added to it.
        fills: whether the database fills in what no diff said.

    Returns:
        The server's part of what was written.
    """
    refused = refused_in(request, reply)
    window = window_of(log, request, reply)
    sent = [] if reply.get("more") else limit_skew(request.diffs, now_ms)
    first = merge_model.first_of_each_id(sent)
    accepted = [diff for diff in first if diff["id"] not in refused]
    known_too = {i for i, refusal in refused.items() if refusal["code"] != "invalid"}
    up, down = merge_each_object(window, accepted, known_too)

    next_clock = next_clock_of(log)
    stamped = [
        {**diff, "owner": OWNER, "logical_clock": next_clock + i} for i, diff in enumerate(up)
    ]
    filled = written[len(up) :] if fills else []
    merged = written[: len(written) - len(filled)]
    expect_same("wrote", with_new_ids(merged, stamped, log, request), stamped)
    check_servers_part(filled, stamped)
    reply_clock = next_clock + len(up) + len(filled)
    reply_clock = request.logical_clock if reply.get("more") else reply_clock
    if reply["logical_clock"] != reply_clock:
        raise NotByTheRules(f"the reply's clock is not {reply_clock}: {reply}")

    names: dict[ObjectName, bool] = {}  # of what was refused, and whether it could be read
    for diff in first:
        if diff["id"] in refused:
            readable = refused[diff["id"]]["code"] != "invalid"
            names[object_of(diff)] = names.get(object_of(diff), True) and readable
    others = [diff for diff in down if object_of(diff) not in names]
    restored = merge_model.restore(
        log + written, sent, names, request.logical_clock, reply["logical_clock"]
    )
    expected = [*merge_model.in_log_order([*others, *restored]), *filled]
    expect_same("answered", without_made_up_ids(reply["diffs"], log + written), expected)
    return filled


def check_servers_part(filled: list[DiffRow], stamped: list[DiffRow]) -> None:
    """What the database filled in is of objects that were written, with the time of that."""
    times: dict[ObjectName, int] = {}
    for diff in stamped:
        times[object_of(diff)] = max(times.get(object_of(diff), 0), diff["utc_timestamp"])
    next_clock = stamped[-1]["logical_clock"] + 1 if stamped else 0
    for clock, diff in enumerate(filled, next_clock):
        if (times.get(object_of(diff)), clock) != (diff["utc_timestamp"], diff["logical_clock"]):
            raise NotByTheRules(f"{diff} does not follow from what was written: {stamped}")
    if len({object_of(diff) for diff in filled}) < len(filled):
        raise NotByTheRules(f"an object has two parts of the server in {filled}")


def refused_in(request: Request, reply: Reply) -> dict[str, dict[str, Any]]:
    """What the reply says of each refused diff, by its id."""
    return {
        refusal["id"] if "id" in refusal else request.diffs[refusal["index"]]["id"]: refusal
        for refusal in reply.get("refused", ())
    }


def with_new_ids(
    written: list[DiffRow], expected: list[DiffRow], log: list[DiffRow], request: Request
) -> list[DiffRow]:
    """What was written, with the id that a device gave it where the log had that id before the
    window, and the server therefore made one."""
    taken = {diff["id"] for diff in log}
    before = {d["id"] for d in log if d["logical_clock"] < request.logical_clock}
    return [
        {**diff, "id": meant["id"]} if meant["id"] in before and diff["id"] not in taken else diff
        for diff, meant in zip(written, expected, strict=False)
    ] + written[len(expected) :]


def without_made_up_ids(diffs: list[DiffRow], log: list[DiffRow]) -> list[DiffRow]:
    """A reply's diffs; the deletes that restore an object have an id that no log knows."""
    logged = {diff["id"] for diff in log}
    made_up = [diff for diff in diffs if diff["id"] not in logged]
    if len({diff["id"] for diff in made_up}) < len(made_up):
        raise NotByTheRules(f"an id stands twice in {made_up}")
    return [
        {name: value for name, value in diff.items() if name not in ("id", "owner")}
        if diff in made_up and diff["type"] == "delete" and diff["owner"] == OWNER
        else diff
        for diff in diffs
    ]


def next_clock_of(log: list[DiffRow]) -> int:
    return log[-1]["logical_clock"] + 1 if log else 0


def window_of(log: list[DiffRow], request: Request, reply: Reply) -> list[DiffRow]:
    """What of the log the request is merged with: all that the device has not seen, or a page."""
    first_clock = request.logical_clock if request.cursor is None else begin_of(request.cursor)
    end_clock = begin_of(reply["cursor"]) if reply.get("more") else None
    requested = {object_of(diff) for diff in request.diffs}
    window = []
    for diff in log:
        clock, name = diff["logical_clock"], object_of(diff)
        if name in requested:
            selected = end_clock is None and clock >= request.logical_clock
        else:
            selected = clock >= first_clock and (end_clock is None or clock < end_clock)
        if selected:
            window.append(diff)
    if request.logical_clock > 0:
        return window
    pull_clock = next_clock_of(log) if request.cursor is None else pull_clock_of(request.cursor)
    if reply.get("more") and pull_clock_of(reply["cursor"]) != pull_clock:
        raise NotByTheRules(f"the pull began at {pull_clock}: {reply}")
    return merge_model.without_dead(window, request.diffs, log, pull_clock)


def check_asked(
    log: list[DiffRow], request: Request, now_ms: int, reply: Reply, asked: list[DiffRow]
) -> None:
    """Check what the rules were asked of; where diffs may be refused it can be more."""
    if reply.get("more") or reply.get("refused"):
        return
    window = window_of(log, request, reply)
    expected = merge_model.to_validate(window, limit_skew(request.diffs, now_ms))
    found = list(dict.fromkeys(diff["id"] for diff in asked))  # once for each attempt
    if "refused" in reply:
        found = [diff_id for diff_id in found if diff_id in expected]
    if found != expected:
        raise NotAsked(f"the rules were asked of {found}, and by the rules of {expected}")


def check_values(allowed: set[Value], written: list[DiffRow]) -> None:
    """Check that a rule said yes to each value that was written, of just that object."""
    for diff in written:
        smuggled = values_of(diff["model"], diff["json_data"]) - allowed
        if smuggled:
            raise NotAsked(f"{diff} brought {smuggled}, which no rule was asked of")


def begin_of(cursor: str) -> int:
    return int(cursor.partition(".")[0])


def pull_clock_of(cursor: str) -> int:
    return int(cursor.split(".")[2])


def limit_skew(diffs: list[DiffRow], now_ms: int) -> list[DiffRow]:
    return [{**diff, "utc_timestamp": now_ms} if is_ahead(diff, now_ms) else diff for diff in diffs]


def is_ahead(diff: DiffRow, now_ms: int) -> bool:
    return bool(diff["utc_timestamp"] > now_ms + MAX_CLOCK_SKEW_MS)


def merge_each_object(
    window: list[DiffRow], sent: list[DiffRow], known_too: set[str]
) -> tuple[list[DiffRow], list[DiffRow]]:
    """merge_model.merge, which takes the square of an object's diffs, for one object at a time."""
    sides: dict[ObjectName, tuple[list[DiffRow], list[DiffRow]]] = defaultdict(lambda: ([], []))
    for side, diffs in enumerate((window, sent)):
        for diff in diffs:
            sides[object_of(diff)][side].append(diff)
    up: list[DiffRow] = []
    down: list[DiffRow] = []
    for theirs, ours in sides.values():
        object_up, object_down = merge_model.merge(theirs, ours, known_too)
        up += object_up
        down += object_down
    order = {diff["id"]: place for place, diff in enumerate(sent)}
    up.sort(key=lambda diff: order[diff["id"]])
    down.sort(key=lambda diff: diff["logical_clock"])
    return up, down


def expect_same(did: str, found: list[DiffRow], expected: list[DiffRow]) -> None:
    if [plain(diff) for diff in found] != [plain(diff) for diff in expected]:
        raise NotByTheRules(f"the server {did} {found}, and by the rules {expected}")


def plain(diff: DiffRow) -> dict[str, Any]:
    names = ("id", "owner", "logical_clock", "utc_timestamp", "type", "model")
    return {
        **{name: diff.get(name) for name in names},
        "fields": json.loads(diff["json_data"]),
    }


# ---- retries -------------------------------------------------------------------------------------


def deletes_that_look_new(request: Request, log: list[DiffRow]) -> set[ObjectName]:
    """Objects of which a retry may be taken for news (docs/protocol.md, "Known limits").

    Deleted and created again, and the log has neither: nothing of the create was left to log.
    """
    logged = {diff["id"] for diff in log}
    deleted: set[ObjectName] = set()
    looks_new: set[ObjectName] = set()
    for diff in request.diffs:
        if diff["id"] in logged:
            continue
        if diff["type"] == "create" and object_of(diff) in deleted:
            looks_new.add(object_of(diff))
        elif diff["type"] == "delete":
            deleted.add(object_of(diff))
    return looks_new


def creates_without_trace(request: Request, log: list[DiffRow]) -> set[ObjectName]:
    """Objects that a request may bring back when it comes after their delete ("Known limits")."""
    logged = {diff["id"] for diff in log}
    return {
        object_of(diff)
        for diff in request.diffs
        if diff["type"] == "create" and diff["id"] not in logged
    }


def without(names: set[ObjectName], rows: Rows) -> Rows:
    return {name: row for name, row in rows.items() if name not in names}


# ---- acknowledged edits --------------------------------------------------------------------------


@dataclass
class Write:
    """An edit of a field.

    Attributes:
        number: how many diffs the devices had made before.
        replaced: the value that the device saw there.
        seen_clock: what has a lower logical clock, the device had seen.
    """

    device: str
    number: int
    diff_id: str
    name: ObjectName
    field: str
    replaced: int | None
    seen_clock: int


@dataclass
class Ledger:
    """Who wrote what, and what the log said of it, in a history of which every value is another.

    Attributes:
        writes: the devices' edits, by their values.
        own_deletes: of each object, the device and number of each delete.
        first_clock, last_clock: of each value, when it came into the log.
        delete_clocks: of each object.
    """

    writes: dict[int, Write] = field(default_factory=dict)
    own_deletes: dict[ObjectName, list[tuple[str, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    first_clock: dict[int, int] = field(default_factory=dict)
    last_clock: dict[int, int] = field(default_factory=dict)
    delete_clocks: dict[ObjectName, list[int]] = field(default_factory=lambda: defaultdict(list))

    def note_logged(self, written: Iterable[DiffRow]) -> None:
        for diff in written:
            clock = diff["logical_clock"]
            if diff["type"] == "delete":
                self.delete_clocks[object_of(diff)].append(clock)
            for name, value in json.loads(diff["json_data"]).items():
                if name != "id":
                    self.first_clock.setdefault(value, clock)
                    self.last_clock[value] = clock

    def check_nothing_is_lost(
        self, rows: Rows, delivered: set[str], *, may_come_back: set[ObjectName] | None
    ) -> None:
        """Each edit that the server took is there, or gave way to what its device had not seen.

        Args:
            rows: what is there in the end.
            delivered: ids of the diffs that the server took.
            may_come_back: objects of which an old value may have come once more, and then stands
                for a new one; None: all.
        """
        for value, write in self.writes.items():
            if write.diff_id not in delivered:
                continue
            now = rows.get(write.name, {}).get(write.field)
            if now == value or (now is None and self._was_deleted_since(write)):
                continue
            came_back = may_come_back is None or write.name in may_come_back
            clocks = self.last_clock if came_back else self.first_clock
            seen_before = now is not None and clocks.get(now, -1) < write.seen_clock
            if now is None or seen_before or (now == write.replaced and not came_back):
                raise EditLost(
                    f"{write.diff_id} wrote {write.name} {write.field}={value}, having seen "
                    f"{write.replaced} and the log before {write.seen_clock}; now it is {now}"
                )

    def _was_deleted_since(self, write: Write) -> bool:
        return any(clock >= write.seen_clock for clock in self.delete_clocks[write.name]) or any(
            device == write.device and number > write.number
            for device, number in self.own_deletes[write.name]
        )


def rows_by_replaying(log: Iterable[DiffRow]) -> Rows:
    """The rows that a log leads to."""
    rows: Rows = {}
    for diff in log:
        fields: Row = json.loads(diff["json_data"])
        name = diff["model"], fields.pop("id")
        if diff["type"] == "delete":
            rows.pop(name, None)
        elif diff["type"] == "create" or name in rows:
            rows.setdefault(name, {}).update(fields)
    return rows
