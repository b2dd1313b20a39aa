"""The rules of docs/protocol.md, "Named devices", that the simulation can remove.

Most are taken out of mobync. Those of the merge are C, and are taken out of the model of it, which
answers as the C does (tests/test_named_devices.py). Those of a device are taken out of the phones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import merge_model
import named_model

from mobync._sync import compacting, devices, folding, owner_state, parts, uploads

from . import named_phones
from .named_parts import MOST_PARTS, InParts
from .named_phones import Nameless, Phone

Patch = tuple[Any, str, Any]  # of what, which name, and what it is then


@dataclass(frozen=True)
class Rule:
    """A rule that can be taken out.

    Attributes:
        patches: what takes it out.
        of_model: whether they are of the model; then histories have no pages and nobody nameless.
    """

    patches: tuple[Patch, ...]
    of_model: bool = False


def _patched(thing: Any, name: str, other: Any) -> Rule:
    return Rule(((thing, name, other),))


def _of_model(thing: Any, name: str, other: Callable[..., Any]) -> Rule:
    return Rule(((thing, name, other),), of_model=True)


def _without_reason(reason: Any) -> Rule:
    left = [each for each in devices.REASONS_TO_START_OVER if each is not reason]
    return _patched(devices, "REASONS_TO_START_OVER", left)


# ---- of the server ------------------------------------------------------------------------------

_write_folded = folding._write
_plan_horizon = folding.plan_horizon
_write_device = devices.Turn._write


def _any_mark(self: devices.Device, asked: devices.Asked, is_known: bool) -> bool:
    return asked.number == self.number + 1


def _any_number(self: devices.Device, asked: devices.Asked, is_known: bool) -> bool:
    return not is_known or (asked.mark, asked.clock) in self.marks


def _any_content(self: devices.Device, asked: devices.Asked, content: str) -> bool:
    return asked.diffs > 0 and asked.number == self.number


class _Guessed(devices.Turn):
    """A retry that is merged as a new request: the log says what of it is known."""

    def __init__(self, kind: int, *rest: Any) -> None:
        super().__init__(devices.NEXT if kind == devices.RETRY else kind, *rest)
        self.is_really = kind

    def keep(self, *said: Any) -> str:
        self.kind = self.is_really
        return super().keep(*said)


def _keep_the_last_mark(self: devices.Turn, highest: int) -> None:
    self._device.marks = self._device.marks[-1:]
    _write_device(self, highest)


def _forget_times(log: Any, creates: Any, dropped: Any, keeps_times: bool) -> None:
    _write_folded(log, [(*create[:3], None) for create in creates], dropped, keeps_times)


def _plan_back(server: Any, log: Any) -> folding.Horizon:
    """Move the horizon back to a hold that is lower."""
    plan = _plan_horizon(server, log)
    kept = devices.read_states(log.store, log.owner_id) or {}
    lowest = min(folding._holds(server, kept, server._now_ms()).values(), default=plan.horizon)
    if lowest < plan.horizon:
        owner = owner_state.OwnerState.of_text(kept[owner_state.OWNER])
        lower = replace(owner, horizon=lowest)
        log.store.write_devices(log.owner_id, {owner_state.OWNER: lower.to_text()})
        plan.horizon = plan.reached = lowest
    return plan


def _hold_what_is_answered(self: devices.Turn, reply_clock: int) -> None:
    starts_over = self.kind in (devices.STARTS_OVER, devices.STARTED_OVER)
    self._device.hold = None if starts_over else reply_clock


# ---- of parts -----------------------------------------------------------------------------------

_sizes = itertools.count()
_put_together = parts._whole
_parts_kept = parts._parts_of


def _of_same_request(self: uploads.Upload, other: uploads.Upload) -> bool:
    return (self.number, self.mark, self.clock) == (other.number, other.mark, other.clock)


def _of_same_cut(self: uploads.Upload, other: uploads.Upload) -> bool:
    return self.name == other.name


def _gaps_are_empty(pieces: Any) -> Iterator[tuple[int, str]]:
    """Take a part that has not come for one without diffs."""
    came = dict(_parts_kept(pieces))
    for part in range(1, MOST_PARTS + 1):
        yield part, came.get(part, "[]")


def _from_the_end(sent: parts.Part, arrays: Iterable[str]) -> bytes:
    return _put_together(sent, list(arrays)[::-1])


class _AnySize(int):
    """The size of any part."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class _Welcome(devices.Device):
    """A device whose parts are taken whatever they say."""

    def expects(self, asked: devices.Asked, is_known: bool) -> bool:
        return True


class _Answered(devices.Device):
    """Of whom parts have come is known, as if it had been answered."""

    def __init__(self, answered: bool = True, **kept: Any) -> None:
        super().__init__(answered=True, **kept)


def _over_when_done(upload: str, done: int, now_ms: int) -> bool:
    return bool(upload) and uploads.Upload.of_text(upload).number <= done


def _never_over(upload: str, done: int, now_ms: int) -> bool:
    return bool(upload) and uploads.Upload.of_text(upload).is_stale(now_ms)


# ---- of the merge, in the model -----------------------------------------------------------------

_merge_behind = merge_model.merge_behind
_merge_retry = named_model.Server.merge


def _all_is_pulled(log: Any, client: Any, device_clock: int) -> Any:
    return _merge_behind(log, client, 2**53)


def _nothing_is_pulled(log: Any, client: Any, device_clock: int) -> Any:
    return _merge_behind(log, client, 0)


def _updates_make(log: Any, client: Any, device_clock: int) -> Any:
    """Let an update of what the log lacks make it."""
    logged = {merge_model.object_of(diff) for diff in log}
    up = _merge_behind(log, client, device_clock)
    made = {merge_model.object_of(diff) for diff in up}
    for diff in client:
        name = merge_model.object_of(diff)
        if diff["type"] == "update" and name not in logged | made:
            made.add(name)
            up.append({**diff, "type": "create"})
    return up


def _leave_deleted(self: Any, clock: int, diffs: Any, is_retry: bool) -> Any:
    """Do not give back what a retry deletes and is alive."""
    reply = _merge_retry(self, clock, diffs, is_retry)
    gone = {merge_model.object_of(d) for d in diffs if is_retry and d["type"] == "delete"}
    kept = [d for d in reply["diffs"] if merge_model.object_of(d) not in gone]
    return {**reply, "diffs": kept}


# ---- of the device ------------------------------------------------------------------------------

_ask = Phone.request
_begin_again = Phone.begin_again
_receive = Phone.receive


def _ask_with_all(self: Phone, limit: int | None = None) -> Any:
    """Send with a retry what was edited meanwhile."""
    if self.sending and not self.must_pull and self.cursor is None:
        self.sending, self.waiting = self.sending + self.waiting, []
    return _ask(self, limit)


def _begin_with_old_name(self: Phone) -> None:
    name = self.name
    _begin_again(self)
    self.name = name


def _keep_rows(self: Phone, request: Any, reply: Any) -> None:
    """Do not drop the rows to start over."""
    base = self.base
    _receive(self, request, reply)
    if reply.get("reset") and not isinstance(self, Nameless):
        self.base = base


def _pull_with_edits(self: Phone, request: Any, reply: Any) -> None:
    """Send what waits with the pull from 0."""
    _receive(self, request, reply)
    self.must_pull = False


RULES: dict[str, Rule] = {
    "the mark must be one that the server gave": _patched(devices.Device, "expects", _any_mark),
    "the request number must be the next one": _patched(devices.Device, "expects", _any_number),
    "the marks of all replies are stored": _patched(devices.Turn, "_write", _keep_the_last_mark),
    "a retry must have the same content": _patched(devices.Device, "has_done", _any_content),
    "a retry is recognized as a whole": _patched(devices, "Turn", _Guessed),
    "a retry restores a deleted object that lives again": _of_model(
        named_model.Server, "merge", _leave_deleted
    ),
    "a device without a mark starts over": _without_reason(devices.has_no_mark),
    "a device below the horizon starts over": _without_reason(devices.is_below_horizon),
    "a retry from clock 0 starts over": _without_reason(devices.repeats_what_was_folded),
    "a page without a cursor of this server starts over": _without_reason(devices.was_not_led_here),
    "a page after which the log was folded starts over": _without_reason(devices.has_folds_behind),
    "edits of pulled objects count": _of_model(merge_model, "merge_behind", _nothing_is_pulled),
    "edits of objects born elsewhere do not count": _of_model(
        merge_model, "merge_behind", _all_is_pulled
    ),
    "only a create brings back what the log lacks": _of_model(
        merge_model, "merge_behind", _updates_make
    ),
    "the times of fields are stored": _patched(folding, "_write", _forget_times),
    "the horizon waits for holds": _patched(folding, "_holds", lambda *_: {}),
    "a device that is silent too long holds nothing": _patched(
        devices.Device, "holds", lambda self, *_: self.hold is not None
    ),
    "diffs that all devices have seen are folded": _patched(
        folding, "_holds", lambda *_: {"nobody": 0}
    ),
    "a device holds the clock that it sent": _patched(
        devices.Turn, "_hold", _hold_what_is_answered
    ),
    "the horizon does not move back": _patched(compacting, "plan_horizon", _plan_back),
    "the horizon waits for devices without a name": _patched(
        folding, "_nameless_hold", lambda *_: False
    ),
    "a device without a name below the horizon is refused": _patched(
        devices.OwnerState, "refuses", lambda *_: False
    ),
    "parts of two cuts are not mixed": _patched(uploads.Upload, "is_of", _of_same_request),
    "parts of two requests are not mixed": _patched(uploads.Upload, "is_of", _of_same_cut),
    "a part with other content removes the other parts": _patched(
        parts, "size_of", lambda text: (_AnySize(len(text)), 0)
    ),
    "a part that arrives twice counts once": _patched(
        parts, "size_of", lambda text: (len(text), next(_sizes))
    ),
    "a request is not done while parts are missing": Rule(
        (
            (uploads.Upload, "missing_before", lambda *_: []),
            (parts, "_parts_of", _gaps_are_empty),
        )
    ),
    "parts are joined in order": _patched(parts, "_whole", _from_the_end),
    "parts of a retry are accepted": _patched(devices.Device, "may_repeat", lambda *_: False),
    "parts of a request that would be refused are refused": _patched(parts, "Device", _Welcome),
    "a device that sent only parts is new": _patched(parts, "Device", _Answered),
    "parts are stored until the next request": _patched(devices, "is_over", _over_when_done),
    "parts are dropped with the next request": _patched(devices, "is_over", _never_over),
    "parts are dropped after a day": _patched(uploads.Upload, "is_stale", lambda *_: False),
    "the parts of a request have a limit": _patched(parts, "check_size", lambda *_: None),
    "the parts of an owner have a limit": _patched(parts, "_make_room", lambda *_: {}),
    "a device repeats a request until it is answered": _patched(Phone, "request", _ask_with_all),
    "an unknown device takes a new name": _patched(Phone, "begin_again", _begin_with_old_name),
    "an unknown device gives its unsent edits new ids": _patched(
        Phone, "under_new_ids", lambda self, unsent: list(unsent)
    ),
    "a device that starts over drops its rows": _patched(Phone, "receive", _keep_rows),
    "a device that starts over pulls without diffs": _patched(Phone, "receive", _pull_with_edits),
    "a device that cuts a request again takes a new upload": _patched(
        InParts, "name_of_cut", lambda self: "cut"
    ),
    "waiting edits are applied on top of the reply": _patched(
        named_phones, "made_again", lambda rows, waiting: waiting
    ),
}


@contextmanager
def lacking(rule: str | None) -> Iterator[None]:
    """Have mobync, or the model of it, or the phones lack a rule."""
    with ExitStack() as stack:
        for thing, name, other in RULES[rule].patches if rule is not None else ():
            stack.enter_context(mock.patch.object(thing, name, other))
        yield
