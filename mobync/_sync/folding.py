"""Finds an owner's horizon, and folds the log below it in pieces: csrc/core/horizon.c.

The horizon moves with each piece, in the transaction that writes the folded piece. So the log is
always folded exactly up to the horizon, even after an interruption, and a second compaction at the
same time is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .. import _core
from ..errors import InvalidDiffError
from ..types import FIELD_TIMES, Diff, FilterType, ReadFilter
from .attempts import OwnerLog, plain_answer
from .backend_edits import json_text
from .devices import Device, keeps_devices, read_states
from .owner_state import OWNER, OwnerState, first_state, ms
from .parts import drop_stale_parts

NAMELESS = "devices without a name"
MOST_HOLDERS = 10  # that are named


@dataclass
class Horizon:
    """How far an owner's log is to be folded.

    Attributes:
        highest: the highest clock of the log, -1 if it is empty; None: the store does not know it.
        horizon: the clock below which it is to be folded.
        held_by: what stops the horizon from being higher.
        keeps_times: whether the log stores the times of single fields.
        keeps_clock: whether the owner's clock outlives the last row of the log.
        reached: the clock below which it is folded so far.
        folds: how many times it was folded.
    """

    highest: int | None
    horizon: int = 0
    held_by: tuple[str, ...] = ()
    keeps_times: bool = False
    keeps_clock: bool = False
    reached: int = 0
    folds: int = 0


class Folded(NamedTuple):
    """The result of folding a piece of the log.

    Attributes:
        dropped: how many rows were deleted.
        rows: how many rows there were.
        bytes: by how much the log has grown.
        unfolded: objects that were not folded, because the log cannot store the times of their
            fields.
    """

    dropped: int
    rows: int
    bytes: int
    unfolded: int


def plan_horizon(server: _core.Mobync, log: OwnerLog) -> Horizon:
    """Find out how far a log may be folded, in a transaction of the owner."""
    plan = Horizon(log.highest_clock())
    kept = read_states(log.store, log.owner_id) if keeps_devices(log.store) else None
    if kept is None:
        return plan
    kept = drop_stale_parts(server, log, kept)
    now_ms = server._now_ms()
    if OWNER in kept:
        owner = OwnerState.of_text(kept[OWNER])
    else:
        owner = first_state(now_ms, log_is_empty=is_empty(log, plan.highest))
        states = {OWNER: owner.to_text()}
        plain_answer("write_devices", log.store.write_devices(log.owner_id, states))
    plan.reached, plan.folds = owner.horizon, owner.folds
    plan.horizon = owner.horizon
    plan.keeps_times = plain_answer("keeps_field_times", log.store.keeps_field_times())
    plan.keeps_clock = plain_answer("keeps_clock", log.store.keeps_clock())
    if server.anonymous_devices and _nameless_hold(server, owner, now_ms):
        plan.held_by = (NAMELESS,)
        return plan
    holds = _holds(server, kept, now_ms)
    end = owner.horizon if plan.highest is None else plan.highest + 1
    plan.horizon = max(owner.horizon, min(holds.values(), default=end))
    holders = sorted(name for name, hold in holds.items() if hold <= plan.horizon < end)
    plan.held_by = tuple(holders[:MOST_HOLDERS])
    return plan


def is_empty(log: OwnerLog, highest: int | None) -> bool:
    """Whether a log has no diffs, whose highest clock the store says, or says not."""
    return (_core.check_log(log.read(0), log.owner_id) if highest is None else highest) < 0


def _nameless_hold(server: _core.Mobync, owner: OwnerState, now_ms: int) -> bool:
    seen_ms = owner.nameless_ms
    return seen_ms is not None and now_ms - seen_ms <= ms(server.device_retention_s)


def _holds(server: _core.Mobync, kept: Mapping[str, str], now_ms: int) -> dict[str, int]:
    """The clock at which each device holds the horizon, for the devices that do."""
    devices = {name: Device.of_text(text) for name, text in kept.items() if name != OWNER}
    return {
        name: device.hold
        for name, device in devices.items()
        if device.hold is not None and device.holds(server, now_ms)
    }


def fold_piece(
    compaction: _core.Compaction, plan: Horizon, first_clock: int, end_clock: int, log: OwnerLog
) -> Folded | None:
    """Fold a piece of the log, in a transaction of the owner; the horizon moves to its end.

    Args:
        compaction: the compaction, which has seen the whole log.
        plan: how far to fold the log; this function updates how far it is folded.
        first_clock, end_clock: the first clock of the piece, and the first one after it.
        log: the owner's log.

    Returns:
        None: another compaction has folded the log meanwhile, and nothing was done.
    """
    kept = read_states(log.store, log.owner_id, OWNER)
    if kept is None or OWNER not in kept:
        return None
    owner = OwnerState.of_text(kept[OWNER])
    if (owner.horizon, owner.folds) != (plan.reached, plan.folds):
        return None
    rows = log.read(first_clock, ReadFilter(Diff.LOGICAL_CLOCK, FilterType.minor, end_clock))
    try:
        creates, dropped, *counts = compaction.fold(rows, log.owner_id, first_clock, end_clock)
    except InvalidDiffError as damage:
        raise log.damaged(damage) from damage
    owner.horizon = max(owner.horizon, end_clock)
    owner.folds += bool(creates or dropped)
    # In this order, because a store need not have transactions. If it stops in between, devices
    # below the horizon start over, and a create may have values that the log still has as updates.
    states = {OWNER: owner.to_text()}
    plain_answer("write_devices", log.store.write_devices(log.owner_id, states))
    _write(log, creates, dropped, plan.keeps_times)
    plan.reached, plan.folds = owner.horizon, owner.folds
    return Folded(len(dropped), *counts)


def _write(
    log: OwnerLog,
    creates: list[tuple[str, int, str, str | None]],
    dropped: list[str],
    keeps_times: bool,
) -> None:
    rows = []
    for diff_id, utc_timestamp, json_data, field_times in creates:
        row = {Diff.ID: diff_id, Diff.OWNER: log.owner_id}
        said = {Diff.UTC_TIMESTAMP: utc_timestamp, Diff.JSON_DATA: json_data}
        times = {FIELD_TIMES: field_times} if keeps_times else {}
        rows.append(json_text({**row, **said, **times}))
    if rows:
        plain_answer("update_many", log.store.update_many(log.model, rows))
    if dropped:
        gone = [json_text({Diff.ID: diff_id, Diff.OWNER: log.owner_id}) for diff_id in dropped]
        plain_answer("delete_many", log.store.delete_many(log.model, gone))
