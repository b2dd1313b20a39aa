"""Diffs that a rule refused, left out of a sync instead of ending it (``on_refusal='skip'``)."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import _core
from .errors import InvalidDiffError, UnauthorizedError
from .types import DiffDict, Refusal

ObjectName = tuple[str, str]  # model and id


class RefusedDiff(NamedTuple):
    """A diff that was left out: as the device sent it, and what the reply says of it."""

    sent: dict[str, Any]
    refusal: Refusal


def refusal_of(diff_id: str, error: InvalidDiffError | UnauthorizedError | None) -> Refusal:
    """What a reply says of a refused diff; without an error, one that depends on another."""
    if error is None:
        message = "an earlier diff of its object was refused"
        return Refusal(id=diff_id, code="depends_on_refused", message=message)
    # A rule may give anything for a reason; the reply must be text that JSON can hold.
    message = str(error.reason).encode(errors="replace").decode()
    code = "unauthorized" if isinstance(error, UnauthorizedError) else "invalid"
    return Refusal(id=diff_id, code=code, message=message)


def object_of(exchange: _core.Exchange, index: int) -> ObjectName:
    """The object of a diff of a request."""
    _, _, model, object_id, _ = exchange.diff(index)
    return model, object_id


def history_of(refused: list[RefusedDiff]) -> _core.Exchange:
    """An exchange that touches the objects of refused diffs and nothing else.

    Its diffs have new ids: in the whole log, an old one may be known.
    """
    return _core.Exchange([{**diff.sent, "id": str(uuid.uuid4())} for diff in refused])


@dataclass
class _Object:
    """What the log and the request say of an object."""

    diffs: list[DiffDict] = field(default_factory=list)  # of its life now, in log order
    fields: set[str] = field(default_factory=set)  # that they set
    updates_suffice: bool = True


def restored_downstream(
    request: _core.Exchange, history: _core.Exchange, client_clock: int, owner_id: str, clock: int
) -> list[DiffDict]:
    """What goes downstream, with the objects of refused diffs brought to the server's state.

    Such an object gets updates, where the device has the row that is alive now and the server has
    every field that the request set; else the row is deleted, and made anew if it is alive.

    Args:
        request: all that the device sent, merged without what was refused.
        history: of the refused diffs, merged so that it sends down all that the log has of their
            objects.
        client_clock: the request's logical clock.
        owner_id: whose.
        clock: the owner's logical clock after this sync.

    Returns:
        The diffs in the order of ``logical_clock`` and ``utc_timestamp``.
    """
    objects = {object_of(history, i): _Object() for i in range(len(history))}
    downstream = history.downstream()
    read = _core.Exchange(downstream)
    for i, diff in enumerate(downstream):
        *_, fields = read.diff(i)
        if diff["type"] != "delete":
            objects[object_of(read, i)].diffs.append(diff)
            objects[object_of(read, i)].fields.update(fields)
    _judge_updates(objects, request, client_clock)

    kept = request.downstream()
    read = _core.Exchange(kept)
    diffs = [diff for i, diff in enumerate(kept) if object_of(read, i) not in objects]
    # A child is made after its parent, so the last comes first.
    for order, (name, found) in enumerate(reversed(objects.items())):
        if not found.diffs:
            diffs.append(_delete(name, owner_id, max(clock - 1, 0), order))
        elif found.updates_suffice:
            diffs += [{**diff, "type": "update"} for diff in found.diffs]
        else:
            first, *later = found.diffs
            # Before the create for a client that sorts by clock and timestamp.
            diffs.append(_delete(name, owner_id, first["logical_clock"], 0))
            diffs += [{**first, "utc_timestamp": max(first["utc_timestamp"], 1)}, *later]
    return sorted(diffs, key=lambda diff: (diff["logical_clock"], diff["utc_timestamp"]))


def _judge_updates(
    objects: dict[ObjectName, _Object], request: _core.Exchange, client_clock: int
) -> None:
    sent_ids = set()
    for i in range(len(request)):
        diff_id, kind, model, object_id, fields = request.diff(i)
        sent_ids.add(diff_id)
        found = objects.get((model, object_id))
        if found is None or not found.diffs:
            continue
        is_its_create = diff_id == found.diffs[0]["id"]
        sets_what_is_there = kind != "delete" and found.fields.issuperset(fields)
        if not sets_what_is_there or (kind == "create" and not is_its_create):
            found.updates_suffice = False
    for found in objects.values():
        if found.diffs:
            create = found.diffs[0]
            seen = create["logical_clock"] < client_clock or create["id"] in sent_ids
            found.updates_suffice = found.updates_suffice and seen


def _delete(name: ObjectName, owner_id: str, clock: int, at_ms: int) -> DiffDict:
    model, object_id = name
    return {
        "id": str(uuid.uuid4()),
        "owner": owner_id,
        "logical_clock": clock,
        "utc_timestamp": at_ms,
        "type": "delete",
        "model": model,
        "json_data": json.dumps({"id": object_id}, ensure_ascii=False),
    }
