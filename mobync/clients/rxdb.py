"""RxDB's replication, by the handlers of ``replicateRxCollection``.

A pull returns whole documents in the order of their last changes. Its checkpoint is the place where
it ended: the clock of the last change, and the id. So it is exact, whatever happens between two
pages.

A push has, for each document, the state that the client assumed on the server, and its new state.
The fields that differ are the edit. If the server has a field as the client assumed, nobody else
has edited it. Otherwise the later edit wins. The winning fields become a diff of a device that is
up to date, and go through the merge. So an edit that another device makes at the same moment is
merged like any other.

RxDB takes a document that it pushed as the server's state, and a pull at the same time may have
moved past the edits of others. So the answer has each document that now differs from what was
pushed, completely.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from ..errors import InvalidDiffError, LogicalClockError, PageError
from ..sync import Mobync
from ..types import MAX_LOGICAL_CLOCK, Diff, DiffDict, Refusal
from ._client import ReplicatingClient, Replication
from ._devices import End, Visit
from ._documents import Document, Field, OwnerDocuments
from ._texts import (
    Room,
    elements,
    is_readable,
    is_readable_object,
    joined,
    members_around,
    members_of,
    same,
    string_of,
    text_of,
    unread_members,
    whole_of,
)

MAX_LIMIT = 10_000  # documents in a page
DELETED = "_deleted"
_NOT_SYNCED = frozenset(("_attachments", "_meta", "_rev"))  # RxDB's own

State = dict[str, str] | None
"""A document as a client has it: each member but ``id`` as its text.  None: it is deleted."""


@dataclass(frozen=True)
class Row:
    """A document that was pushed.

    Attributes:
        assumed: the state that the client assumes on the server; None if it assumes none.
        assumed_deleted: whether it assumes that the server has deleted it.
        new: the client's new state.
        diff_id: the id of the edit; a retry has the same. None if the client sends none.
        time_ms: when it was edited; None if the client does not say.
        unanswered: earlier pushes of the document without an answer: their ids and states.
        unreadable: why the core refuses the new state; None if it accepts it.
    """

    id: str
    assumed: State
    assumed_deleted: bool
    new: State
    diff_id: str | None
    time_ms: int | None
    unanswered: list[tuple[str, State]] = field(default_factory=list)
    unreadable: str | None = None


class RxDB(ReplicatingClient):
    """Answers the pulls and pushes of RxDB clients.

    A document that a rule refuses never ends a push. It is answered as a conflict, so that the
    client takes it back.
    """

    name = "rxdb"

    def replicate(self, mobync: Mobync) -> Replication:
        return _Replication(mobync)


class _Replication(Replication):
    client = RxDB.name

    def pull(self, body: bytes, owner_id: str, device: str | None = None) -> bytes:
        """Answer a pull: documents that changed after a checkpoint.

        Args:
            body: JSON: ``collection``, ``checkpoint`` (null at first) and ``limit``; or, instead
                of the last two, ``have``, the ids of documents.
            owner_id: the authenticated owner.
            device: the name of the device.

        Returns:
            JSON: ``documents``, and the ``checkpoint`` after them. Fewer documents than ``limit``
            are the last ones. If the request has ``have``: ``gone``, the ids that no live document
            has.

        Raises:
            InvalidDiffError, PageError: the request is malformed.
            RequestTooLargeError: ``have`` has more than ``max_diffs`` ids.
            LogicalClockError: the checkpoint is ahead, because the server has lost diffs; or the
                server cannot know what the client lacks, so the client must start over.
            DeviceRevokedError, TooManyDevicesError: the device may not sync.
            BusyError: another request of this owner took too long.
        """
        request = members_of(body, "a pull")
        model = text_of(request, "collection")
        if "have" in request:
            if not request.keys().isdisjoint(("limit", "checkpoint")):
                raise InvalidDiffError("a pull has limit and checkpoint, or have, not both")
            return self._gone(request["have"], model, owner_id, device)
        limit = _whole(request.get("limit"), "limit", 1, MAX_LIMIT)
        checkpoint = _checkpoint(request.get("checkpoint", "null"))
        at_least = 0 if checkpoint is None else max(checkpoint.clock, checkpoint.began)
        end = _end_of(checkpoint)
        visit = self._visit(owner_id, device, model, end, begins=end is None)
        with self._documents.of(owner_id, at_least, visit) as documents:
            clock = documents.clock
            after, id_, began, dead, _ = checkpoint or _Checkpoint(0, "", clock, False)
            if began == 0:  # who pushed before may have objects that were dead at the first page
                began, dead = clock, True
            _check_not_ahead(after, clock)
            changed = documents.collection(model).changed_after(after, id_)
            # No other client that pulled from the start can have objects that were dead before the
            # first page.
            told = (each for each in changed if each.alive or dead or each.clock >= began)
            page = [(each.clock, each.id, _document(each)) for each in islice(told, limit)]
        after, id_ = page[-1][:2] if len(page) == limit else (clock, "")
        is_same = checkpoint is not None and (after, id_) == (checkpoint.clock, checkpoint.id)
        mark = None
        if visit is not None and visit.counts:
            end = visit.end(after, is_same=is_same)
            visit.note_pull(end, is_whole=len(page) < limit, tells_of_dead=dead)
            mark = end.mark
        at = _Checkpoint(after, id_, began, dead, mark).to_text()
        texts = ",".join(text for _, _, text in page)
        return f'{{"documents":[{texts}],"checkpoint":{at}}}'.encode()

    def _gone(self, have: str, model: str, owner_id: str, device: str | None) -> bytes:
        """The ids of a client's documents that are not alive here."""
        room = Room(self._mobync.max_diffs)
        ids = [string_of(each, "an id in have") for each in elements(have, "have", room)]
        visit = self._visit(owner_id, device, model, begins=True)
        with self._documents.of(owner_id, 0, visit) as documents:
            there = documents.collection(model).documents
            gone = [each for each in ids if each not in there or not there[each].alive]
        return json.dumps({"gone": gone}).encode()

    def push(self, body: bytes, owner_id: str, device: str | None = None) -> bytes:
        """Answer a push: merge edits, and return the documents that now differ from what was
        pushed.

        Args:
            body: JSON: ``collection``, perhaps the ``checkpoint`` of the last pull, and ``rows``.
                A row has ``newDocumentState`` and perhaps ``assumedMasterState``. If the client
                stores them, it also has the ``id`` of the edit, its ``time`` in milliseconds since
                1970, and ``unanswered``: earlier pushes, each with its ``id`` and
                ``newDocumentState``.
            owner_id: the authenticated owner.
            device: the name of the device.

        Returns:
            JSON: ``conflicts``, whole documents, and ``refused``: for each refused document its
            ``id``, a ``code`` and a ``message``.

        Raises:
            InvalidDiffError: the request is malformed.
            RequestTooLargeError: it has more than ``max_diffs`` rows and ``unanswered``.
            LogicalClockError: the device must start over, by a pull, before it pushes.
            DeviceRevokedError, TooManyDevicesError: the device may not sync.
            BusyError: another request of this owner took too long.
            Exception: what the Synchronizer raises.
        """
        request = members_around(body, "a push", ("rows",))
        model = text_of(request, "collection")
        rows = list(_rows(request.get("rows", "null"), Room(self._mobync.max_diffs)))
        end = _end_of(_checkpoint(request.get("checkpoint", "null")))
        now_ms = self._mobync._now_ms()
        latest_ms = now_ms + self._mobync.max_clock_skew_ms
        visit = self._visit(owner_id, device, model, end)
        with self._documents.of(owner_id, 0, visit) as documents:
            clock = documents.clock
            if visit is not None and end is not None:
                _check_not_ahead(end.clock, clock)
            of_server = frozenset(self._mobync.synchronizer._fields_of_server(model))
            scene = _Scene(documents, owner_id, model, visit, of_server)
            edits = [_Edit(row, scene, _time(row, now_ms, latest_ms)).diff() for row in rows]
        diffs = [each for each in edits if each is not None]
        refused: list[Refusal] = []
        if diffs:
            reply = self._merge(clock, diffs, owner_id, visit)
            clock, refused = reply["logical_clock"], reply["refused"]
        with self._documents.of(owner_id, clock, visit) as documents:
            now = documents.collection(model).documents
            conflicts = [_conflict(row, now.get(row.id)) for row in rows]
        texts = ",".join(each for each in conflicts if each is not None)
        named = json.dumps(list(_named(refused, rows, edits)))
        return f'{{"conflicts":[{texts}],"refused":{named}}}'.encode()


def _check_not_ahead(checkpoint: int, clock: int) -> None:
    if checkpoint > clock:
        raise LogicalClockError(
            f"the checkpoint {checkpoint} is ahead of the server, at {clock}: pull again",
            ahead=True,
        )


class _Scene(NamedTuple):
    """What the rows of a push are compared to.

    Attributes:
        documents: the owner's current documents.
        owner_id: the owner.
        model: the model of the rows.
        visit: the visit of a named device; None: it has no name.
        of_server: fields that no device may write. A document contains them, but they are not
            an edit.
    """

    documents: OwnerDocuments
    owner_id: str
    model: str
    visit: Visit | None
    of_server: frozenset[str]


class _Edit:
    """The edit of a row."""

    def __init__(self, row: Row, scene: _Scene, time_ms: int) -> None:
        self._row = row
        self._documents, self._owner_id, self._model, self._visit, self._of_server = scene
        self._time_ms = time_ms
        self._now = self._documents.collection(self._model).documents.get(row.id)

    def diff(self) -> DiffDict | None:
        """The diff of a device that is up to date; None if nothing is to be written."""
        row, now = self._row, self._now
        if row.unreadable is not None:
            return None
        made_id = row.diff_id or self._id_by_content()
        if self._is_known(made_id):
            return None  # a retry: its answer was lost
        assumed, knows_of_delete = row.assumed, row.assumed_deleted
        for diff_id, state in reversed(row.unanswered):
            if self._is_known(diff_id):
                assumed, knows_of_delete = state, state is None
                break
        if now is None or not now.alive:
            may = row.new is not None and self._may_create(assumed, knows_of_delete)
            members = self._writable(row.new or {})
            return self._made(made_id, "create", members) if may else None
        if assumed is not None and _is_of_another_life(assumed, now):
            return None
        if row.new is None:
            return self._made(made_id, "delete", {}) if assumed is not None else None
        won = self._won(assumed or {}, row.new, now)
        return self._made(made_id, "update", won) if won else None

    def _is_known(self, diff_id: str) -> bool:
        was_done = self._visit is not None and self._visit.has_done(diff_id)
        return was_done or self._documents.has_diff(diff_id, self._now)

    def _id_by_content(self) -> str:
        """The id of an edit that came without one.

        A retry gets the same id. A later equal edit follows an edit that undid this one, so it
        counts as the next of the equal ones.
        """
        row = self._row
        states = [None if each is None else sorted(each.items()) for each in (row.assumed, row.new)]

        def made(count: int) -> str:
            parts = [self._owner_id, self._model, row.id, states, row.assumed_deleted, count]
            return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

        if not (self._is_known(made(0)) and self._is_put_back()):
            return made(0)
        known, unknown = 0, 1  # a field that is switched on and off has thousands of equal edits
        while self._is_known(made(unknown)):
            known, unknown = unknown, 2 * unknown
        while unknown - known > 1:
            middle = (known + unknown) // 2
            is_known = self._is_known(made(middle))
            known, unknown = (middle, unknown) if is_known else (known, middle)
        return made(unknown)

    def _is_put_back(self) -> bool:
        """Whether the edited fields are again as they were before the edit."""
        row, now = self._row, self._now
        is_alive = now is not None and now.alive
        if row.assumed_deleted:
            return not is_alive
        if row.assumed is None or now is None or not is_alive:
            return False  # a client that creates a document again knows that it was deleted
        for name in {**row.assumed, **(row.new or {})}:
            before, there = row.assumed.get(name), now.fields.get(name)
            is_edited = row.new is None or not _is_equal(before, row.new.get(name))
            if is_edited and not _is_equal(before, None if there is None else there.text):
                return False
        return True

    def _may_create(self, assumed: State, knows_of_delete: bool) -> bool:
        """Whether this push may create a document that does not exist."""
        now = self._now
        if now is None:
            # As the client has it, even if it assumed one: then this server has lost it, unless the
            # deleted object was folded.
            may_be_dead = self._visit is not None and self._visit.may_be_dead
            return assumed is None or not may_be_dead
        if assumed is not None:
            return False  # edited here and deleted elsewhere: the delete wins
        return knows_of_delete or self._time_ms > now.ended_ms

    def _won(self, assumed: dict[str, str], new: dict[str, str], now: Document) -> dict[str, str]:
        """The edited fields that nobody else has edited later."""
        edited = {name: text for name, text in new.items() if not same(text, assumed.get(name))}
        # A diff cannot remove a field.
        edited.update({name: "null" for name in assumed if name not in new})
        edited = self._writable(edited)
        return {name: text for name, text in edited.items() if self._wins(name, text, assumed, now)}

    def _writable(self, members: dict[str, str]) -> dict[str, str]:
        return {name: text for name, text in members.items() if name not in self._of_server}

    def _wins(self, name: str, text: str, assumed: dict[str, str], now: Document) -> bool:
        there: Field | None = now.fields.get(name)
        if there is None:
            return True
        if same(text, there.text):
            return False  # it already has this value
        untouched = name in assumed and same(assumed[name], there.text)
        return untouched or self._time_ms >= there.time_ms

    def _made(self, made_id: str, kind: str, members: Mapping[str, str]) -> DiffDict:
        return {
            Diff.ID: made_id,
            Diff.OWNER: "rxdb",  # the authenticated owner replaces it
            Diff.LOGICAL_CLOCK: 0,
            Diff.UTC_TIMESTAMP: self._time_ms,
            Diff.TYPE: kind,
            Diff.MODEL: self._model,
            Diff.JSON_DATA: joined(self._row.id, members),
        }


# ---- documents ---------------------------------------------------------------------------------


def _is_of_another_life(assumed: Mapping[str, str], now: Document) -> bool:
    """Whether a client's document was deleted, and created again by somebody else.

    A client that has seen this life has the values that only its create wrote.
    """
    return now.reborn and any(
        there.original and not same(there.text, assumed.get(name))
        for name, there in now.fields.items()
    )


def _is_equal(text: str | None, other: str | None) -> bool:
    """Whether two values are equal; null and missing count as equal."""
    return same("null" if text is None else text, "null" if other is None else other)


def _document(document: Document) -> str:
    if not document.alive:
        return joined(document.id, {DELETED: "true"})
    texts = {name: there.text for name, there in document.fields.items()}
    return joined(document.id, {**texts, DELETED: "false"})


def _conflict(row: Row, now: Document | None) -> str | None:
    """The current document, if it differs from what was pushed."""
    if now is None or not now.alive:
        # The whole document, as the client's schema requires. For a dead object, the log has only
        # the id.
        return None if row.new is None else joined(row.id, {**row.new, DELETED: "true"})
    pushed, there = row.new or {}, now.fields
    is_same = row.new is not None and row.unreadable is None and pushed.keys() == there.keys()
    if is_same and all(same(text, there[name].text) for name, text in pushed.items()):
        return None
    return _document(now)


def _named(
    refused: Sequence[Refusal], rows: Sequence[Row], edits: Sequence[DiffDict | None]
) -> Iterator[dict[str, str]]:
    """The refusals, by the ids of documents."""
    ids = {edit[Diff.ID]: row.id for row, edit in zip(rows, edits, strict=True) if edit is not None}
    for each in refused:
        yield {"id": ids[each["id"]], "code": each["code"], "message": each["message"]}
    for row in rows:
        if row.unreadable is not None:
            yield {"id": row.id, "code": "invalid", "message": row.unreadable}


# ---- requests ----------------------------------------------------------------------------------


def _whole(text: str | None, name: str, least: int, most: int) -> int:
    number = None if text is None else whole_of(text, least, most)
    if number is not None:
        return number
    shown = "missing" if text is None else f"{text:.100}"
    raise PageError(f"{name} must be an integer from {least} to {most}, not {shown}")


class _Checkpoint(NamedTuple):
    """Where a client's last page ended.

    Attributes:
        clock, id: the clock and the id of the last document.
        began: the log's clock at the first page.
        dead: whether the client gets deletes from before the first page.
        mark: the mark of the page, if the client has a name.
    """

    clock: int
    id: str
    began: int
    dead: bool
    mark: str | None = None

    def to_text(self) -> str:
        """JSON of it."""
        more: dict[str, object] = {"dead": True} if self.dead else {}
        if self.mark is not None:
            more["mark"] = self.mark
        said = {"clock": self.clock, "id": self.id, "began": self.began, **more}
        return json.dumps(said, ensure_ascii=False)


def _end_of(checkpoint: _Checkpoint | None) -> End | None:
    """Where a client's last pull ended; None: it has pulled nothing."""
    if checkpoint is None or (checkpoint.clock, checkpoint.began, checkpoint.mark) == (0, 0, None):
        return None
    return End(checkpoint.mark, checkpoint.clock)


def _checkpoint(text: str) -> _Checkpoint | None:
    if text == "null":
        return None
    members = members_of(text, "checkpoint")
    clock = _whole(members.get("clock"), "clock of the checkpoint", 0, MAX_LOGICAL_CLOCK)
    began = _whole(members.get("began"), "began of the checkpoint", 0, MAX_LOGICAL_CLOCK)
    id_ = members.get("id", "null")
    if not id_.startswith('"'):
        raise PageError(f"id of the checkpoint must be a string, not {id_:.100}")
    dead = members.get("dead", "false")
    if dead not in ("true", "false"):
        raise PageError(f"dead of the checkpoint must be true or false, not {dead:.100}")
    mark = text_of(members, "mark") if "mark" in members else None
    return _Checkpoint(clock, json.loads(id_), began, dead == "true", mark)


def _rows(text: str, room: Room) -> Iterator[Row]:
    seen: set[str] = set()
    for index, each in enumerate(elements(text, "rows", room)):
        try:
            row = _row(each, room)
            if row.id in seen:
                raise InvalidDiffError(f"the document {row.id!r:.100} is also in an earlier row")
        except InvalidDiffError as error:
            raise InvalidDiffError(f"rows: {error.reason}", index, error.diff_id) from error
        seen.add(row.id)
        yield row


def _row(text: str, room: Room) -> Row:
    members = members_around(text, "a row", ("newDocumentState", "unanswered"))
    new = _new(members.get("newDocumentState", "null"))
    assumed: _State | None = None
    if members.get("assumedMasterState", "null") != "null":
        assumed = _state(members["assumedMasterState"], "assumedMasterState")
        if assumed.id != new.id:
            raise InvalidDiffError(
                f"assumedMasterState has the id {assumed.id!r:.100}, not {new.id!r:.100}"
            )
    time_ms = members.get("time", "null")
    return Row(
        id=new.id,
        assumed=None if assumed is None else assumed.state,
        assumed_deleted=assumed is not None and assumed.state is None,
        new=new.state,
        diff_id=text_of(members, "id") if "id" in members else None,
        time_ms=None if time_ms == "null" else _whole(time_ms, "time", 0, MAX_LOGICAL_CLOCK),
        unanswered=list(_unanswered(members.get("unanswered", "[]"), new.id, room)),
        unreadable=new.unreadable,
    )


def _unanswered(text: str, id_: str, room: Room) -> Iterator[tuple[str, State]]:
    for each in elements(text, "unanswered", room):
        members = members_around(each, "an unanswered push", ("newDocumentState",))
        pushed = _new(members.get("newDocumentState", "null"), "unanswered")
        if pushed.id != id_:
            raise InvalidDiffError(f"unanswered has the id {pushed.id!r:.100}, not {id_!r:.100}")
        yield text_of(members, "id"), pushed.state


class _State(NamedTuple):
    """A document from a request."""

    id: str
    state: State
    unreadable: str | None = None


def _new(text: str, name: str = "newDocumentState") -> _State:
    """A document that the core may refuse."""
    try:
        return _state(text, name)
    except InvalidDiffError as error:
        if is_readable_object(text):
            raise
        found = _state_of(unread_members(text, name), name)
        # For a deleted document, only the id is written.
        is_deleted = found.state is None and is_readable(found.id)
        return found if is_deleted else found._replace(unreadable=error.reason)


def _state(text: str, name: str) -> _State:
    return _state_of(members_of(text, name), name)


def _state_of(members: dict[str, str], name: str) -> _State:
    """A document from its members."""
    id_ = text_of(members, Diff.ID)
    deleted = members.pop(DELETED, "false")
    if deleted not in ("true", "false"):
        raise InvalidDiffError(f"{name}: {DELETED} must be true or false, not {deleted:.100}")
    if members.get("_attachments", "{}") != "{}":
        raise InvalidDiffError(f"{name}: attachments are not synced")
    fields = {n: t for n, t in members.items() if n != Diff.ID and n not in _NOT_SYNCED}
    return _State(id_, None if deleted == "true" else fields)


def _time(row: Row, now_ms: int, latest_ms: int) -> int:
    """When a row was edited; now, if the row does not say, or if a clock is wrong."""
    return now_ms if row.time_ms is None or row.time_ms > latest_ms else row.time_ms
