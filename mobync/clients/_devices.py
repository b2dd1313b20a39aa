"""Named devices of clients: their state between requests.

A client's protocol does not number requests and, except for RxDB's checkpoint, has no place for a
mark. A request says where the device's last pull ended. So the server stores this for a device, in
the same row as for a device of mobync's own protocol:

- For each collection, the ends of its pulls. If a request has another end, this server was restored
  from a backup, or the device was forgotten. From an end below the horizon, the server cannot
  continue either. Then the device starts over.
- The clock from which on the device needs the log (its hold), as for any named device.
- The ids of its last edits, as short hashes, so that a retry is recognized even if compaction has
  dropped the edit from the log.

The merge of a push and the stored state change in one transaction: the edits go through ``apply``
with the device's name, and ``Turn`` replaces the answer of ``devices.admit``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, NoReturn

from .._sync.attempts import OwnerLog, in_transaction, plain_answer
from .._sync.client_state import Pull
from .._sync.devices import (
    LETS_IN,
    NEXT,
    STARTS_OVER,
    Asked,
    Device,
    LetIn,
    check_may_be_nameless,
    make_room,
    moved_away,
    read_states,
    refusal,
)
from .._sync.known_devices import LONGEST_NAME, is_name
from .._sync.marks import check_owner, new_mark
from .._sync.owner_state import OWNER, OwnerState, first_state, is_stale, ms
from ..errors import InvalidDiffError, LogicalClockError, UnknownDeviceError
from ..sync import Mobync
from ..synchronizer import Synchronizer
from ..types import DiffDict, Reply

MOST_GIVEN = (
    32  # ends of pulls of one collection; RxDB asks for pages before it has stored earlier ones
)
MOST_PULLS = 200  # collections
MOST_DONE = 1000  # edits
DONE_BYTES = 6  # of the hash of an edit's id
DONE_CHARACTERS = 8


class End(NamedTuple):
    """Where a pull ended.

    Attributes:
        mark: a random text; None if the protocol has no place for it.
        clock: the clock up to which the device has everything.
    """

    mark: str | None
    clock: int


class Kept:
    """The stored state of an owner and of one device."""

    def __init__(self, states: Mapping[str, str], name: str, client: str) -> None:
        text = states.get(name)
        self.has_owner = OWNER in states
        self.owner = OwnerState.of_text(states[OWNER]) if self.has_owner else OwnerState()
        self.is_new = text is None
        self.device = Device(marks=[]) if text is None else Device.of_text(text)
        if self.device.revoked:
            raise refusal(name)
        if self.device.left:
            raise moved_away(name)
        said = self.device.client or {"name": client, "pulls": {}, "done": ""}
        if (not self.is_new and not self.device.client) or said["name"] != client:
            raise UnknownDeviceError(f"device {name!r:.100} is one of another protocol")
        self.client: str = said["name"]
        self.pulls = {key: Pull.of(pull) for key, pull in said["pulls"].items()}
        self.done: str = said["done"]

    def note(self, server: Mobync, key: str, now_ms: int) -> str:
        """Set the time when the device was seen; return the text to store."""
        device = self.device
        self.pulls[key].seen_ms = now_ms
        fresh_ms = now_ms - ms(server.device_retention_s)
        latest = sorted(self.pulls, key=lambda each: -self.pulls[each].seen_ms)[:MOST_PULLS]
        self.pulls = {k: self.pulls[k] for k in latest if self.pulls[k].seen_ms >= fresh_ms}
        device.seen_ms = now_ms
        device.first_ms = device.first_ms or now_ms
        device.hold = min(pull.hold for pull in self.pulls.values())
        device.has_pulled = all(pull.is_whole for pull in self.pulls.values())
        pulls = {name: asdict(pull) for name, pull in self.pulls.items()}
        device.client = {"name": self.client, "pulls": pulls, "done": self.done}
        return device.to_text()


class Visit:
    """A request of a named device.

    Args:
        server: the Mobync with the settings and the store; the store stores devices.
        owner_id: the authenticated owner.
        client: the protocol.
        name: the name of the device.
        key: the collection that it pulls or pushes; the empty text for all.
        at: where its last pull ended, by the request; None: the request does not say.
        begins: whether it pulls from the beginning.

    Attributes:
        name: the name of the device.
        counts: whether the database really stores devices. If not, the device counts as one
            without a name.
        may_be_dead: whether an object that the log lacks may have been deleted and folded since
            the device pulled it; then it counts as dead.

    Raises:
        InvalidDiffError: the name is not valid.
    """

    def __init__(
        self,
        server: Mobync,
        owner_id: str,
        client: str,
        name: str,
        key: str,
        at: End | None = None,
        *,
        begins: bool = False,
    ) -> None:
        if not is_name(name):
            raise InvalidDiffError(f"device must be a text of 1 to {LONGEST_NAME} characters")
        self.counts = True
        self.may_be_dead = False
        self._server = server
        self._owner_id = owner_id
        self.name = name
        self._client = client
        self._key = key if len(key) <= LONGEST_NAME else _short(key)
        self._at = at
        self._kept: Kept | None = None
        self._log_clock = 0
        self._done: frozenset[str] = frozenset()
        self._begins = begins

    # ---- being let in ------------------------------------------------------------------------

    def admit(self, store: Synchronizer, clock: int) -> bool:
        """Admit the device, once; return whether its name counts.

        Args:
            store: the store, which may be outside a transaction.
            clock: the owner's clock.

        Raises:
            DeviceRevokedError: the device was revoked.
            OwnerMovedError: the data belongs to another owner now.
            OtherOwnerError: the device has the rows of another owner.
            UnknownDeviceError: the name belongs to a device of another protocol.
            LogicalClockError: the device must start over.
        """
        if self.counts and self._kept is None:
            states = read_states(store, self._owner_id, OWNER, self.name)
            if states is None:
                check_may_be_nameless(self._server)
                self.counts = False
            else:
                self._let_in(states, clock)
        return self.counts

    def polls(self) -> bool:
        """Whether the device has everything, and nothing must be stored; reads one number.

        Raises:
            As :meth:`admit`.
        """
        known = self._server.synchronizer._poll(self._owner_id, self.name)
        if known is None or known[1] is None or self._at is None:
            return False
        clock = known[0] + 1
        self._let_in(known[1], clock)
        polled = self._at.clock == clock and not self._must_note(self._at)
        self._kept = None  # the log is read later, and may be folded meanwhile: admit it again then
        return polled

    def _let_in(self, states: Mapping[str, str], clock: int) -> None:
        kept = Kept(states, self.name, self._client)
        if self._at is not None:
            given = (mark for pull in kept.pulls.values() for mark, _ in pull.given)
            known = kept.owner.predecessors
            check_owner(self.name, self._at.mark, self._owner_id, known, given)
        if not self._begins and self._is_behind(kept, clock):
            self._start_over()
        self.may_be_dead = kept.owner.horizon > 0
        self._kept, self._log_clock = kept, clock
        done = kept.done
        pieces = range(0, len(done), DONE_CHARACTERS)
        self._done = frozenset(done[begin : begin + DONE_CHARACTERS] for begin in pieces)

    def _is_behind(self, kept: Kept, clock: int) -> bool:
        """Whether the device must start over."""
        pull, said = kept.pulls.get(self._key), self._at
        if said is None:
            return pull is not None and pull.is_behind(pull.hold, kept.owner)
        if said.clock > clock:
            return False  # the answer is that its clock is ahead
        return pull is None or said not in pull.given or pull.is_behind(said.clock, kept.owner)

    def _start_over(self) -> NoReturn:
        raise LogicalClockError(
            "this server cannot tell what the device has not seen: start over, by a pull from the "
            "beginning",
            ahead=True,
            behind=True,
        )

    # ---- pulls -------------------------------------------------------------------------------

    def end(self, clock: int, *, is_same: bool) -> End:
        """The end of the pull that this request is.

        Args:
            clock: the clock up to which it returns everything.
            is_same: whether it ends where the last pull ended.
        """
        if is_same and self._at is not None:
            return self._at
        assert self._kept is not None
        pull = self._kept.pulls.get(self._key)
        before = [End(*each) for each in pull.given if each[1] == clock] if pull else []
        return before[-1] if before else End(new_mark(self._owner_id), clock)

    def note_pull(self, end: End, *, is_whole: bool, tells_of_dead: bool = False) -> None:
        """Store where a pull ended, in a transaction; not if it returned nothing.

        Args:
            end: the end of the pull.
            is_whole: whether it is the end of the log.
            tells_of_dead: whether a pull from the beginning also returns deletes.

        Raises:
            DeviceRevokedError, LogicalClockError: as in :meth:`admit`, because of a change since.
            TooManyDevicesError: the device is new, and its owner may have no more.
        """
        if not self.counts or (end == self._at and not self._must_note(end)):
            return
        noted = partial(self._noted, end=end, is_whole=is_whole, tells_of_dead=tells_of_dead)
        in_transaction(self._server, self._owner_id, noted, device=self.name)

    def _must_note(self, end: End) -> bool:
        assert self._kept is not None
        pull = self._kept.pulls.get(self._key)
        retention_ms = ms(self._server.device_retention_s)
        is_noted = pull is not None and pull.is_whole and pull.hold >= end.clock
        return not is_noted or pull is None or is_stale(self._server, pull.seen_ms, retention_ms)

    def _noted(self, log: OwnerLog, *, end: End, is_whole: bool, tells_of_dead: bool) -> None:
        kept = self._read(log.store)
        before = kept.pulls.get(self._key)
        if self._at is not None:
            if before is None:  # forgotten meanwhile
                self._start_over()
            before.hold = self._at.clock
            before.is_whole = before.is_whole or is_whole
            before.given = _latest(before.given, self._at, end)
        else:
            hold = end.clock
            if (
                before is not None
                and tells_of_dead
                and not before.is_behind(before.hold, kept.owner)
            ):
                hold = min(hold, before.hold)
            assert self._kept is not None
            # A client that has stored nothing of a pull begins again; this answer may be late.
            given = before.given if before is not None else []
            above = [each for each in given if each[1] >= kept.owner.horizon]
            folds = self._kept.owner.folds
            kept.pulls[self._key] = Pull(hold, _latest(above, end), is_whole, folds)
        self._write(log.store, kept, log_is_empty=self._log_clock == 0)

    # ---- pushes ------------------------------------------------------------------------------

    def has_done(self, diff_id: str) -> bool:
        """Whether an edit of this device was done before, even if the log no longer has it."""
        return _hashed(diff_id) in self._done

    def merge(
        self,
        merging: Mobync,
        clock: int,
        diffs: Sequence[DiffDict],
        *,
        are_edits: bool = True,
    ) -> Reply:
        """Merge the edits of the device, and store that they were done.

        Args:
            merging: the Mobync that merges.
            clock: the clock up to which the device had seen the log.
            diffs: its edits.
            are_edits: whether they may come again, in a retry.
        """
        turn = Turn(self, [each["id"] for each in diffs] if are_edits else [])
        reset = LETS_IN.set(LetIn(merging, self._owner_id, self.name, turn.admit))
        try:
            return merging.apply(clock, diffs, self._owner_id, device=self.name, request=1)
        finally:
            LETS_IN.reset(reset)

    def _read(self, store: Synchronizer) -> Kept:
        """Read the stored state, in a transaction, and make room for a new device."""
        states = read_states(store, self._owner_id, OWNER, self.name)
        kept = Kept(states or {}, self.name, self._client)
        if kept.is_new:
            make_room(self._server, store, self._owner_id)
        return kept

    def _write(self, store: Synchronizer, kept: Kept, *, log_is_empty: bool) -> None:
        now_ms = self._server._now_ms()
        states: dict[str, str | None] = {self.name: kept.note(self._server, self._key, now_ms)}
        if not kept.has_owner:
            states[OWNER] = first_state(now_ms, log_is_empty=log_is_empty).to_text()
        plain_answer("write_devices", store.write_devices(self._owner_id, states))


class Turn:
    """The turn of a push: it replaces the answer of ``devices.admit`` for the edits of a client's
    device.

    Args:
        visit: the request.
        ids: the ids of the edits, in the order of the diffs; empty if the edits cannot come again.

    Attributes:
        kind: one of the numbers of ``devices``. Edits that were made below the horizon are merged
            like those of a device that starts over, but the device is not told to start over.
        seen_clock: the clock up to which the device had seen the log when it made them.
    """

    kind = NEXT

    def __init__(self, visit: Visit, ids: Sequence[str]) -> None:
        self._visit = visit
        self._ids = ids
        self.seen_clock = 0
        self._store: Synchronizer | None = None
        self._kept: Kept | None = None

    def admit(self, store: Synchronizer, asked: Asked) -> Turn:
        """Begin an attempt, in a transaction."""
        self._store, self.seen_clock = store, asked.clock
        self._kept = kept = self._visit._read(store)
        self.kind = STARTS_OVER if 0 < asked.clock < kept.owner.horizon else NEXT
        return self

    def keep(
        self, clock: int, excluded: list[int], refused: list[dict[str, Any]] | None, highest: int
    ) -> str:
        """Store what was done, as in ``devices.Turn``; the returned mark is ignored."""
        kept, key = self._kept, self._visit._key
        assert kept is not None
        assert self._store is not None
        left_out = set(excluded)
        done = [_hashed(each) for n, each in enumerate(self._ids) if n not in left_out]
        kept.done = (kept.done + "".join(done))[-MOST_DONE * DONE_CHARACTERS :]
        if key not in kept.pulls:
            kept.pulls[key] = Pull(self.seen_clock, folds=kept.owner.folds)
        self._visit._write(self._store, kept, log_is_empty=highest < 0)
        return self._visit.name


def _latest(given: Sequence[tuple[str | None, int]], *used: End) -> list[tuple[str | None, int]]:
    """The ends of pulls, the most recently used ones last. A client may come again from an older
    end that it has stored, even if it was told later ones.
    """
    others = [each for each in given if each not in used]
    return [*others, *used][-MOST_GIVEN:]


def _hashed(diff_id: str) -> str:
    digest = hashlib.blake2b(diff_id.encode("utf-8", "surrogatepass"), digest_size=DONE_BYTES)
    return base64.urlsafe_b64encode(digest.digest()).decode()


def _short(key: str) -> str:
    """What is stored instead of the long name of a collection."""
    return "\1" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
