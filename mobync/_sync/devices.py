"""Finds out what kind of request of a named device it is: docs/protocol.md, "Named devices".

The store has a text for each device of an owner. It says which request of the device was the last
with diffs, and which marks the next request may have, each with the clock of its reply. So the
server can recognize a retry, a late request, a copy of the device, and that it was itself restored
from a backup. The log alone cannot tell these apart. The text also has the clock from which on the
device needs the log unchanged (its hold). The lowest hold is the horizon, below which compaction
folds the log.

The state of the owner is in owner_state.py.
"""

from __future__ import annotations

import base64
import json
import secrets
import zlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..errors import (
    DeviceRevokedError,
    LogicalClockError,
    OwnerMovedError,
    UnknownDeviceError,
)
from ..synchronizer import Synchronizer
from .attempts import plain_answer
from .client_state import is_sound_client
from .device_limit import names_to_forget
from .marks import check_owner, new_mark
from .owner_state import OWNER, OwnerState, first_state, is_stale, known_members, ms
from .uploads import is_over

if TYPE_CHECKING:
    from .._core import Mobync

# The kinds of requests, with the numbers of csrc/python/binding.h.
NEXT, RETRY, STARTS_OVER, STARTED_OVER, POLL = range(5)

STAMP_BITS = 50  # for a value among clocks that is not a clock
HEAD_UNREAD = -2  # in place of a clock; also in csrc/python/pull.c
MOST_MARKS = 32  # replies to one request whose marks are stored; the oldest goes first
MOST_OF_REFUSALS = 100_000  # characters
MOST_NOTED = 10_000  # owners that a process remembers
REMEMBERED_MS = 60_000  # not longer: another process may erase an owner, or import one

Mark = tuple[str | None, int]  # with the clock that was given with it


class Asked(NamedTuple):
    """The members of a request of a named device.

    Attributes:
        number: the request's number.
        mark: its mark.
        clock: its clock.
        content: a fingerprint of its diffs.
        diffs: the number of its diffs.
        highest: the owner's highest clock, -1 for none, if the request may be a poll; else -2.
        first_clock: where its page begins.
        stamp: the stamp of its page; 0: it is the first page.
    """

    number: int
    mark: str | None
    clock: int
    content: int
    diffs: int
    highest: int
    first_clock: int
    stamp: int


@dataclass
class Device:
    """The state of a device that the server stores between its requests.

    Attributes:
        number: the number of its last request with diffs; 0: there was none.
        content: the fingerprint of that request's content.
        marks: the marks that its next request may have.
        pulled: the mark of its last request, if that had no diffs; else None.
        refusals: the refused diffs of that request, as _packed() writes them; empty: none.
        label: its label for people.
        first_ms, seen_ms: when it was first and last seen, in milliseconds since 1970; for polls
            this is not always stored.
        revoked: whether a person has revoked it.
        hold: the clock from which on it needs the log unchanged; None: it pulls everything again.
        has_pulled: whether it has finished its first pull.
        page_asked: the stamp of the page that it last asked for; 0: it was a first page.
        page_stamps: the stamps of the answers; its next page must have one of them.
        pull_folds: how many times the log had been folded when that pull began.
        moved: if the device came with another owner's data (moving.py), by how much its clocks
            are behind those of this log, until it pulls again; None: its clocks are of this log.
        left: whether it continues under another owner.
        upload: the state of a request in parts (uploads.py); empty: there is none.
        answered: whether a request of it was ever answered; if not, only parts have come.
        client: the state for the protocol of RxDB or WatermelonDB (mobync/clients); empty: it is
            another device.
    """

    number: int = 0
    content: str = ""
    marks: list[Mark] = field(default_factory=lambda: [(None, 0)])
    pulled: Mark | None = None
    refusals: str = ""
    label: str = ""
    first_ms: int = 0
    seen_ms: int = 0
    revoked: bool = False
    hold: int | None = None
    has_pulled: bool = False
    page_asked: int = 0
    page_stamps: list[int] = field(default_factory=list)
    pull_folds: int = 0
    moved: int | None = None
    left: bool = False
    upload: str = ""
    answered: bool = True
    client: dict[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """The text that a store keeps."""
        return json.dumps(vars(self), ensure_ascii=False)

    @classmethod
    def of_text(cls, text: str) -> Device:
        """The state from a stored text."""
        kept = known_members(cls, text)
        kept["marks"] = [(mark, clock) for mark, clock in kept.get("marks", ())]
        pulled = kept.get("pulled")
        kept["pulled"] = None if pulled is None else tuple(pulled)
        return cls(**kept)

    def expects(self, asked: Asked, is_known: bool) -> bool:
        """Whether a request is the next one."""
        marks = self.marks if is_known else [(None, asked.clock)]
        return asked.number == self.number + 1 and (asked.mark, asked.clock) in marks

    def has_done(self, asked: Asked, content: str) -> bool:
        """Whether a request is a retry of the last one with diffs."""
        return asked.diffs > 0 and asked.number == self.number and content == self.content

    def may_repeat(self, asked: Asked) -> bool:
        """Whether a part may be one of the last request with diffs."""
        if asked.number != self.number or not self.content:
            return False
        _, *carried = json.loads(self.content)
        return bool(carried == [asked.mark, asked.clock])

    def is_sound(self) -> bool:
        """Whether each member has a valid value; a text from elsewhere may contain anything."""
        whole = [self.number, self.first_ms, self.seen_ms, self.page_asked, self.pull_folds]
        clocks = [clock for _, clock in self.marks]
        names = [mark for mark, _ in self.marks]
        if self.pulled is not None:
            name, clock = self.pulled
            names, clocks = [*names, name], [*clocks, clock]
        clocks += [each for each in (self.hold, self.moved) if each is not None]
        return (
            all(type(n) is int for n in (*whole, *self.page_stamps, *clocks))
            and all(isinstance(name, str | None) for name in names)
            and all(
                isinstance(text, str)
                for text in (self.content, self.label, self.refusals, self.upload)
            )
            and all(
                type(known) is bool
                for known in (self.revoked, self.has_pulled, self.left, self.answered)
            )
            and (not self.client or is_sound_client(self.client))
        )

    def retention_ms(self, server: Mobync) -> int:
        """How long it may be silent and keep its hold."""
        return ms(server.device_retention_s if self.has_pulled else server.first_pull_retention_s)

    def must_be_noted(self, server: Mobync, clock: int) -> bool:
        """Whether a request from this clock changes the hold or the time, and must be stored."""
        is_higher = self.hold is None or self.hold < clock
        return is_higher or is_stale(server, self.seen_ms, self.retention_ms(server))

    def holds(self, server: Mobync, now_ms: int) -> bool:
        """Whether the log must stay unchanged from ``hold`` on."""
        return self.hold is not None and not self.is_silent(server, now_ms)

    def is_silent(self, server: Mobync, now_ms: int) -> bool:
        """Whether it was silent for longer than the retention."""
        return now_ms - self.seen_ms > self.retention_ms(server)


class LetIn(NamedTuple):
    """Admits a device during a merge, in place of :func:`admit`, for clients whose protocols do not
    number requests.

    Attributes:
        merging: the Mobync that merges. Syncs of another Mobync, owner or device, which a listener
            or a rule may start meanwhile, are not affected.
        owner_id: the owner of the device.
        name: the name of the device.
        admit: returns its turn.
    """

    merging: Mobync
    owner_id: str
    name: str
    admit: Callable[[Synchronizer, Asked], Any]


LETS_IN: ContextVar[LetIn | None] = ContextVar("mobync_lets_in", default=None)


@dataclass
class Turn:
    """A request that was admitted.

    Attributes:
        kind: one of the numbers above.
    """

    kind: int
    _server: Mobync
    _store: Synchronizer
    _owner_id: str
    _name: str
    _device: Device
    _owner: OwnerState | None  # None: the owner has no state yet
    _asked: Asked
    _content: str  # empty: it has no diffs

    @property
    def refused(self) -> tuple[list[int], list[dict[str, Any]]]:
        """For a retry: the places of the refused diffs, and the refusals of the first answer."""
        return _unpacked(self._device.refusals)

    @property
    def seen_clock(self) -> int:
        """How much of this owner's log the device has seen, even if its clock belongs to another
        log.

        An unknown device may be a copy of a device that came with another owner's log.
        """
        clock, owner = self._asked.clock, self._owner
        if clock == 0:
            return 0
        if self._device.moved is not None:
            return max(0, clock + self._device.moved)
        return clock if self._asked.mark is not None or owner is None else clock + owner.moved

    def keep(
        self, clock: int, excluded: list[int], refused: list[dict[str, Any]] | None, highest: int
    ) -> str:
        """Store what the next request of the device may be.

        Args:
            clock: the clock of the reply.
            excluded: the places of the diffs that were refused on their own.
            refused: what the reply says of them.
            highest: the owner's highest clock before the request, -1 for none.

        Returns:
            The mark of the reply.
        """
        device, new = self._device, (new_mark(self._owner_id), clock)
        carried = self._asked.mark, self._asked.clock
        self._hold(clock)
        if not self._content:
            if device.pulled != carried:
                device.marks = [carried]
            device.pulled = carried
        elif self.kind in (NEXT, STARTS_OVER):
            device.number, device.content = self._asked.number, self._content
            device.marks, device.pulled = [], None
            device.refusals = _packed(excluded, refused) if refused else ""
        device.marks = [*device.marks[:1], *device.marks[1:][-(MOST_MARKS - 2) :], new]
        device.has_pulled = self.kind in (NEXT, RETRY)
        if self.kind == NEXT:
            device.moved = None
        self._write(highest)
        return new[0]

    def _hold(self, reply_clock: int) -> None:
        """Set the device's hold. It is the clock of the request, because the answer may be lost and
        the request come again. A device that pulls from 0 has nothing, and gets everything.
        """
        device, clock = self._device, self._asked.clock
        if self.kind in (STARTS_OVER, STARTED_OVER):
            device.hold = None
        elif self.kind == RETRY and device.hold is not None:
            device.hold = min(device.hold, clock)
        elif clock == 0 and not self._content:
            device.hold = reply_clock
        else:
            device.hold = clock

    def keep_page(self, highest: int) -> int:
        """Store which page comes next, and from which clock on the device needs the log.

        Returns:
            The stamp of the next page, for the cursor.
        """
        device, asked = self._device, self._asked
        stamp = secrets.randbits(STAMP_BITS) + 1
        if asked.first_clock == asked.clock:
            device.page_asked, device.page_stamps = 0, []
            device.pull_folds = self._owner.folds if self._owner is not None else 0
        elif asked.stamp != device.page_asked:
            device.page_asked, device.page_stamps = asked.stamp, []
        device.page_stamps = [*device.page_stamps[-(MOST_MARKS - 1) :], stamp]
        device.hold = asked.clock
        self._write(highest)
        return stamp

    def poll(self) -> None:
        """Store that a device has everything, if that is new."""
        device, clock = self._device, self._asked.clock
        if device.must_be_noted(self._server, clock):
            device.hold = max(device.hold if device.hold is not None else 0, clock)
            self._write(-1)

    def _write(self, highest: int) -> None:
        self._device.seen_ms = self._server._now_ms()
        self._device.first_ms = self._device.first_ms or self._device.seen_ms
        self._device.answered = True
        if is_over(self._device.upload, self._device.number, self._device.seen_ms):
            self._device.upload = ""
            plain_answer("drop_parts", self._store.drop_parts(self._owner_id, self._name))
        states: dict[str, str | None] = {self._name: self._device.to_text()}
        if self._owner is None:
            self._owner = first_state(self._device.seen_ms, log_is_empty=highest < 0)
            states[OWNER] = self._owner.to_text()
        plain_answer("write_devices", self._store.write_devices(self._owner_id, states))


def poll(
    server: Mobync,
    store: Synchronizer,
    owner_id: str,
    name: str,
    number: int,
    mark: str | None,
    clock: int,
) -> int | None:
    """Answer a poll of a named device without a transaction, if it writes nothing.

    Args:
        server: whose settings.
        store: outside of a transaction.
        owner_id, name, number, mark, clock: as for :func:`admit`; a clock of -1 is that of a
            page after the first, which is no poll.

    Returns:
        The highest clock of the owner's log. None: a transaction must find out what the request is.
        -2: the database does not store devices, so the name is ignored.

    Raises:
        RuntimeError: devices without a name are refused, and the database keeps none.
    """
    known = store._poll(owner_id, name)
    if known is None:
        return None
    highest, states = known
    if states is None:
        check_may_be_nameless(server)
        return -2
    text = states.get(name)
    if text is None or clock != highest + 1:
        return None
    device = Device.of_text(text)
    is_here = not device.revoked and not device.left and device.moved is None
    is_known = device.answered and number == device.number + 1
    is_next = is_here and is_known and (mark, clock) in device.marks
    return highest if is_next and not device.must_be_noted(server, clock) else None


def _packed(excluded: list[int], refused: list[dict[str, Any]]) -> str:
    """The refusals as a short text that is fast to read.

    A request can have 200,000 refused diffs. If there are so many, only their places are stored.

    Args:
        excluded: the places of the diffs that were refused by themselves.
        refused: what the reply says of them.
    """
    for said in (refused, None):
        text = json.dumps([excluded, said]).encode()
        packed = base64.b64encode(zlib.compress(text)).decode()
        if len(packed) <= MOST_OF_REFUSALS:
            break
    return packed


def _unpacked(refusals: str) -> tuple[list[int], list[dict[str, Any]]]:
    if not refusals:
        return [], []
    excluded, refused = json.loads(zlib.decompress(base64.b64decode(refusals)))
    if refused is None:
        message = "was refused when this request came first"
        refused = [{"index": n, "code": "invalid", "message": message} for n in excluded]
    return excluded, refused


def check_may_be_nameless(server: Mobync) -> None:
    """Raise a RuntimeError if devices need a name and the database does not store names."""
    if not server.anonymous_devices:
        raise RuntimeError("anonymous_devices=False, but the database does not store devices")


def admit(server: Mobync, store: Synchronizer, owner_id: str, name: str, *said: Any) -> Any:
    """Find out what kind of request of a named device it is, inside the owner's transaction.

    Args:
        server: the Mobync with the settings.
        store: the store of the device.
        owner_id: the owner.
        name: the name of the device.
        said: an ``Asked``.

    Returns:
        A ``Turn``, or its replacement (``LETS_IN``). None: the database does not store devices, so
        the name is ignored.

    Raises:
        UnknownDeviceError: it is neither the next request of the device, nor a retry of the last.
        DeviceRevokedError: the device was revoked.
        OwnerMovedError: the owner's data belongs to another owner now, and so does the device.
        OtherOwnerError: the device has the rows of another owner.
        TooManyDevicesError: the device is new, and its owner may have no more.
        RuntimeError: devices without a name are refused, and the database keeps none.
    """
    asked = Asked(*said)
    let_in = LETS_IN.get()
    if let_in is not None and let_in[:3] == (server, owner_id, name):
        return let_in.admit(store, asked)
    kept = read_states(store, owner_id, OWNER, name)
    if kept is None:
        check_may_be_nameless(server)
        return None
    text = kept.get(name)
    owner = OwnerState.of_text(kept[OWNER]) if OWNER in kept else None
    device = Device(answered=False) if text is None else Device.of_text(text)
    check_is_here(name, device)
    content = json.dumps([asked.content, asked.mark, asked.clock]) if asked.diffs else ""
    is_retry = device.has_done(asked, content)
    knows = owner or OwnerState()
    if not is_retry and not device.expects(asked, is_known=device.answered):
        refuse(name, asked.mark, owner_id, device, knows)
    if text is None:
        make_room(server, store, owner_id)
    if any(reason(asked, is_retry, device, knows) for reason in REASONS_TO_START_OVER):
        kind = STARTED_OVER if is_retry else STARTS_OVER
    elif is_retry:
        kind = RETRY
    else:
        kind = POLL if device.answered and asked.clock == asked.highest + 1 else NEXT
    turn = Turn(kind, server, store, owner_id, name, device, owner, asked, content)
    if kind == POLL:
        turn.poll()
    return turn


def check_is_here(name: str, device: Device) -> None:
    """Check that a device may still sync as one of this owner.

    Raises:
        DeviceRevokedError, OwnerMovedError: as :func:`admit`.
    """
    if device.revoked:
        raise refusal(name)
    if device.left:
        raise moved_away(name)


def refuse(
    name: str, mark: str | None, owner_id: str, device: Device, owner: OwnerState
) -> NoReturn:
    """Refuse a device whose request does not match the stored state.

    Raises:
        OtherOwnerError: its mark is of another owner.
        UnknownDeviceError: it is not.
    """
    given = [each for each, _ in device.marks]
    check_owner(name, mark, owner_id, owner.predecessors, given)
    raise UnknownDeviceError(
        f"device {name!r:.100} does not match what the server has stored: take a new name, and "
        "send the unsent edits as request 1, without a mark"
    )


def without_upload(text: str) -> str:
    """The state of a device without its parts, which do not move to another owner."""
    device = Device.of_text(text)
    if not device.upload:
        return text
    device.upload = ""
    return device.to_text()


def refusal(name: str) -> DeviceRevokedError:
    """The error for a revoked device."""
    return DeviceRevokedError(f"device {name!r:.100} was revoked: drop the rows of its owner")


def moved_away(name: str) -> OwnerMovedError:
    """The error for a device whose owner's data belongs to another owner now."""
    return OwnerMovedError(
        f"the rows of device {name!r:.100} are another owner's now: keep them, sign in as that "
        "owner, and send the same again"
    )


# ---- whether the server cannot say what the device's rows are ------------------------------------


def has_no_mark(asked: Asked, is_retry: bool, device: Device, owner: OwnerState) -> bool:
    """The device has rows, and the server cannot know which."""
    return asked.mark is None and asked.clock > 0


def is_below_horizon(asked: Asked, is_retry: bool, device: Device, owner: OwnerState) -> bool:
    """The window of the device was folded."""
    return 0 < asked.clock < owner.horizon


def repeats_what_was_folded(
    asked: Asked, is_retry: bool, device: Device, owner: OwnerState
) -> bool:
    """A retry from clock 0 returns all live objects. If an object that the device created was
    deleted and folded, the device would not learn of the delete.
    """
    return is_retry and asked.clock == 0 < owner.horizon


def was_not_led_here(asked: Asked, is_retry: bool, device: Device, owner: OwnerState) -> bool:
    """This server gave no cursor for the page: it was restored from a backup."""
    is_later_page = asked.first_clock > asked.clock
    return is_later_page and asked.stamp not in (device.page_asked, *device.page_stamps)


def has_folds_behind(asked: Asked, is_retry: bool, device: Device, owner: OwnerState) -> bool:
    """The log after the page was folded, so its edits may be in rows of earlier pages."""
    return owner.has_folded_behind(asked.clock, asked.first_clock, device.pull_folds)


def came_with_another_log(asked: Asked, is_retry: bool, device: Device, owner: OwnerState) -> bool:
    """The clock of the device belongs to another owner's log, which was moved into this one."""
    return device.moved is not None and (is_retry or asked.clock > 0)


REASONS_TO_START_OVER = [
    has_no_mark,
    is_below_horizon,
    repeats_what_was_folded,
    was_not_led_here,
    has_folds_behind,
    came_with_another_log,
]


# ---- devices without a name ---------------------------------------------------------------------


def admit_nameless(
    server: Mobync,
    store: Synchronizer,
    owner_id: str,
    clock: int,
    first_clock: int,
    folds: int,
    highest: int,
    pages: bool,
) -> int:
    """Admit a device without a name, and store that there is one.

    Args:
        server: the Mobync with the settings.
        store: the store of the owner's state.
        owner_id: the owner.
        clock: the clock of the request.
        first_clock: where its page begins.
        folds: how many times the log had been folded when its pull began.
        highest: the owner's highest clock, -1 for none.
        pages: whether it pulls in pages.

    Returns:
        How many times the owner's log has been folded; 0 if that does not matter.

    Raises:
        LogicalClockError: the log that it has not seen was folded, so it must pull everything
            again.
    """
    noted = _is_remembered(server, owner_id)
    is_behind = 0 < clock <= highest
    if noted and not is_behind and not pages:
        return 0
    kept = read_states(store, owner_id, OWNER)
    if kept is None:
        _remember(server, owner_id)
        return 0
    owner = OwnerState.of_text(kept[OWNER]) if OWNER in kept else OwnerState()
    if owner.refuses(clock, first_clock, folds):
        raise LogicalClockError(
            f"logical_clock {max(clock, first_clock)} is below the horizon of the server's log: "
            "drop the rows, pull from 0 without diffs, then send the unsent edits",
            ahead=True,
            behind=True,
        )
    if owner.nameless_ms is not None and not is_stale(
        server, owner.nameless_ms, ms(server.device_retention_s)
    ):
        _remember(server, owner_id)
    elif not noted:
        owner.nameless_ms = server._now_ms()
        plain_answer("write_devices", store.write_devices(owner_id, {OWNER: owner.to_text()}))
    return owner.folds


def poll_nameless(server: Mobync, store: Synchronizer, owner_id: str) -> int | None:
    """Find out without a transaction whether the owner is known to have devices without a name.

    Args:
        server: the Mobync, which remembers this for a while.
        store: outside of a transaction.
        owner_id: the owner.

    Returns:
        The highest clock of the owner's log, if the same statement read it; -2: the clock was not
        read. None: it must be stored that the owner has such devices.
    """
    if _is_remembered(server, owner_id):
        return HEAD_UNREAD
    known = store._poll(owner_id, OWNER)
    if known is None:
        return HEAD_UNREAD if is_noted(server, owner_id, store) else None
    highest, states = known
    if not _notes_nameless(server, owner_id, states):
        return None
    return HEAD_UNREAD if states is None else highest


def is_noted(server: Mobync, owner_id: str, store: Synchronizer) -> bool:
    """Whether the owner is known to have devices without a name.

    Args:
        server: the Mobync, which remembers this for a while.
        owner_id: the owner.
        store: the store to ask if the server does not remember.
    """
    return _is_remembered(server, owner_id) or _notes_nameless(
        server, owner_id, read_states(store, owner_id, OWNER)
    )


def _is_remembered(server: Mobync, owner_id: str) -> bool:
    noted_ms = server._noted.get(owner_id)
    remembered_ms = min(REMEMBERED_MS, ms(server.device_retention_s))
    return noted_ms is not None and server._now_ms() - noted_ms < remembered_ms


def _notes_nameless(server: Mobync, owner_id: str, states: Mapping[str, str] | None) -> bool:
    """Whether the owner's state says so, or the database has no states; remembers the answer."""
    seen_ms = OwnerState.of_text(states[OWNER]).nameless_ms if states and OWNER in states else None
    retention_ms = ms(server.device_retention_s)
    if states is None or (seen_ms is not None and not is_stale(server, seen_ms, retention_ms)):
        _remember(server, owner_id)
        return True
    return False


def _remember(server: Mobync, owner_id: str) -> None:
    if len(server._noted) >= MOST_NOTED:
        server._noted.clear()
    server._noted[owner_id] = server._now_ms()


def begin_log(store: Synchronizer, owner_id: str) -> None:
    """Store that an owner's log begins now, so no device can know anything of it."""
    kept = read_states(store, owner_id, OWNER) if keeps_devices(store) else None
    if kept is not None and OWNER not in kept:
        state = {OWNER: OwnerState().to_text()}
        plain_answer("write_devices", store.write_devices(owner_id, state))


def make_room(server: Mobync, store: Synchronizer, owner_id: str) -> None:
    """Make sure that an owner may have one more device, inside the owner's transaction.

    Raises:
        TooManyDevicesError: there are ``max_devices``, and none can be forgotten.
    """
    kept = read_states(store, owner_id) or {}
    if len(kept) < server.max_devices:
        return
    devices = {name: Device.of_text(text) for name, text in kept.items() if name != OWNER}
    forgotten = dict.fromkeys(names_to_forget(server, devices))
    for name in forgotten:
        if devices[name].upload:
            plain_answer("drop_parts", store.drop_parts(owner_id, name))
    if forgotten:
        plain_answer("write_devices", store.write_devices(owner_id, forgotten))


def keeps_devices(store: Synchronizer) -> bool:
    """Whether a Synchronizer stores devices."""
    methods = ("read_devices", "write_devices")
    return all(getattr(type(store), name) is not getattr(Synchronizer, name) for name in methods)


def read_states(store: Synchronizer, owner_id: str, *names: str) -> Mapping[str, str] | None:
    """The stored texts of devices, of all of them if none is named; None if it stores none."""
    kept = store.read_devices(owner_id, list(names) if names else None)
    return plain_answer("read_devices", kept)
