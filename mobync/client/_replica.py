"""Applies edits and answers: a whole client without the network.

Each method is one local transaction. docs/writing-a-client.md has the reason for each rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal, TypeAlias

from .._core import check_diff
from ..types import DiffDict
from ._database import Database, ForeignKeys, State, new_name
from ._outbox import OWNER, Edit, Outbox
from ._rows import Name, Row, Rows, row_of

Kind: TypeAlias = Literal["create", "update", "delete"]

MAX_DIFFS = 5_000  # of a request, or of a part
MAX_BYTES = 4 * 1024 * 1024  # of its json_data, if it has more than one diff
MOST_PARTS = 1_000


@dataclass(frozen=True)
class Request:
    """A request, which is sent again and again until it is answered.

    Attributes:
        state: the state of the device when the request was made.
        logical_clock: the clock of the last reply that was applied; 0 to start over.
        diffs: the edits.
        limit: how many diffs of the log a page may have.
        cursor: the cursor of the page; None for the first page.
        sizes: how many diffs each part has; a single part is the whole request.
        is_new: whether no part can have been sent before.
        asked: the part that was sent last.
    """

    state: State
    logical_clock: int
    diffs: list[DiffDict]
    limit: int
    cursor: str | None = None
    sizes: tuple[int, ...] = (0,)
    is_new: bool = False
    asked: int = 1

    def at(self, cursor: str) -> Request:
        """The same request for the page with this cursor."""
        return replace(self, cursor=cursor)

    def of_part(self, number: int) -> slice:
        """The range of diffs of a part."""
        begins = [0, *accumulate(self.sizes)]
        return slice(begins[number - 1], begins[number])

    def body_of_part(self, number: int) -> dict[str, Any]:
        """The JSON of a part, without the token."""
        told = {"part": number, "upload": self.upload, "more_diffs": number < len(self.sizes)}
        return {**self.body(), "diffs": self.diffs[self.of_part(number)], **told}

    @property
    def upload(self) -> str:
        """The name of all parts together. It depends on where the edits are cut: a device that was
        killed may cut them in another way, and the server must not mix the two.
        """
        cut = hashlib.blake2b(repr(self.sizes).encode(), digest_size=8).hexdigest()
        return f"{self.state.upload}.{cut}"

    def body(self) -> dict[str, Any]:
        """The JSON of the whole request, without the token."""
        state = self.state
        body = {
            "logical_clock": self.logical_clock,
            "diffs": self.diffs,
            "limit": self.limit,
            "device": state.device,
            "request": state.request,
        }
        optional = {"mark": state.mark, "cursor": self.cursor}
        return {**body, **{name: value for name, value in optional.items() if value is not None}}


@dataclass(frozen=True)
class RefusedEdit:
    """An edit that the server refused. The row is now the server's.

    Attributes:
        id: the id of the diff.
        code: the server's code (docs/protocol.md), ``depends_on_refused`` for a later edit of an
            object whose create was refused, or ``too_large``.
        message: the reason, for people.
        type: ``create``, ``update`` or ``delete``.
        model: the model of the object.
        row: the object's id, and the fields that were set.
    """

    id: str
    code: str
    message: str
    type: str
    model: str
    row: dict[str, Any]


class Draft:
    """The future rows of the objects that a reply changes.

    They are written when everything is decided. So each row is written once, and no row is deleted
    that exists in the end.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._before: dict[Name, Row | None] = {}
        self._now: dict[Name, Row | None] = {}

    def get(self, name: Name) -> Row | None:
        if name not in self._now:
            self._before[name] = self._now[name] = self._rows.get(name)
        return self._now[name]

    def set(self, name: Name, row: Row | None) -> None:
        self.get(name)
        self._now[name] = row

    def change(self, kind: str, name: Name, fields: Row) -> None:
        """Apply an edit. An update or delete of a missing row does nothing."""
        row = self.get(name)
        if kind == "delete":
            self.set(name, None)
        elif kind == "create" or row is not None:
            self.set(name, {**(row or {}), **fields})

    def write(self) -> None:
        for name, row in self._now.items():
            if row != self._before[name]:
                self._rows.set(name, row)


@dataclass
class News:
    """The diffs of a reply that this device had not seen.

    Attributes:
        times: when each field of an object was written, in milliseconds since 1970.
        born: objects that another device created.
    """

    times: dict[Name, dict[str, int]] = field(default_factory=dict)
    born: set[Name] = field(default_factory=set)

    def note(self, diff: DiffDict, name: Name, fields: Row) -> None:
        """Add a diff of another device."""
        if diff["type"] == "delete":
            self._forget(name)
            return
        if diff["type"] == "create":
            self.born.add(name)
        self.times.setdefault(name, {}).update(dict.fromkeys(fields, diff["utc_timestamp"]))

    def _forget(self, name: Name) -> None:
        """Take the news of an object for those of a row that is gone."""
        self.born.discard(name)
        self.times.pop(name, None)

    def left_of(self, edit: Edit, *, exists: bool) -> Edit | None:
        """The part of a waiting edit that this news leaves.

        The rules are those between two devices on the server: a delete wins, the later of two
        values of a field wins, and an edit of a deleted row does not count for a new row with its
        id.
        """
        if not exists:
            self._forget(edit.name)
            return edit if edit.type == "create" else None
        if edit.type == "create":
            self.born.discard(edit.name)  # both devices created it: the rows are merged
        elif edit.name in self.born:
            return None
        if edit.type == "delete":
            self._forget(edit.name)  # edits behind it are of a row that the news does not know
            return edit
        times = self.times.get(edit.name, {})
        row = {
            each: value
            for each, value in edit.row().items()
            if each == "id" or times.get(each, -1) <= edit.utc_timestamp
        }
        return edit.as_update(row) if len(row) > 1 else None


class Replica:
    """The device's rows and its outbox.

    Args:
        database: the database of both.
        page_size: how many diffs of the log a page may have.

    Attributes:
        part_diffs: how many edits a body may have, by what the server has refused so far.
        request_diffs: the same for a request with all its parts; None: there is no limit yet.
        sends_parts: whether the server accepts requests in parts.
    """

    def __init__(self, database: Database, page_size: int) -> None:
        self.part_diffs = MAX_DIFFS
        self.request_diffs: int | None = None
        self.sends_parts = True
        self.database = database
        self.page_size = page_size
        self.rows = Rows(database)
        self.outbox = Outbox(database)

    # ---- the user's edits --------------------------------------------------------------------

    def edit(
        self, kind: Kind, model: str, fields: dict[str, Any], diff_id: str, now_ms: int
    ) -> None:
        """Change a row, and put the edit into the outbox.

        Raises:
            InvalidDiffError: the server would not accept it.
            KeyError: the row to update or delete does not exist, or the row to create does.
            sqlite3.IntegrityError: a rule of the app's table forbids it.
            TypeError, ValueError: a value is not JSON.
        """
        json_data = json.dumps(fields, allow_nan=False)
        diff = as_diff(Edit(0, diff_id, now_ms, kind, Name(model, ""), json_data, sent=False), 0)
        check_diff(diff)
        name = Name(model, fields["id"])
        with self.database.transaction():
            row = self.rows.get(name)
            if (row is None) != (kind == "create"):
                there = "exists already" if kind == "create" else "does not exist"
                raise KeyError(f"{model} {name.id!r} {there}")
            self.rows.keep_base(name)
            draft = Draft(self.rows)
            draft.change(kind, name, row_of(json_data))
            draft.write()
            self.outbox.add(diff_id, now_ms, kind, name, json_data)

    # ---- requests ----------------------------------------------------------------------------

    def next_request(self) -> Request:
        """The open request; if there is none, a new one from the waiting edits, which is then open.

        The sent edits are marked before they are sent. A request with a cursor has the same edits
        as the request for its first page, even if it had none.
        """
        with self.database.transaction():
            sent = self._to_send(self.outbox.edits())
            sizes = tuple(map(len, parts_of(sent, self.part_diffs))) or (0,)
            state = self.database.state()
            is_new = len(sizes) > 1 and state.upload is None
            if is_new:
                state = state._replace(upload=new_name())
                self.database.set_state(state)
            clock = state.logical_clock
            diffs = [as_diff(edit, clock) for edit in sent]
            return Request(state, clock, diffs, self.page_size, state.cursor, sizes, is_new)

    def _to_send(self, edits: Sequence[Edit]) -> list[Edit]:
        """The edits of the open request, or of a new one if there is none.

        The request becomes smaller if the server has answered that it is too large.
        """
        sent = [edit for edit in edits if edit.sent]
        if not sent and self.database.state().cursor is not None:
            return []
        some = (sent or edits)[: self.request_diffs]
        most = MOST_PARTS if self.sends_parts else 1
        parts = list(parts_of(some, self.part_diffs))[:most]
        fitting = [edit for part in parts for edit in part]
        if len(fitting) != len(sent):
            self.outbox.mark_sent(fitting)
            if sent:
                self._change_request()
        return fitting

    def is_open(self, request: Request) -> bool:
        """Whether the answer to a request still counts; another process may have handled one."""
        return self.database.state().turn == request.state.turn

    # ---- replies -----------------------------------------------------------------------------

    def take_reply(self, request: Request, reply: dict[str, Any]) -> bool:
        """Apply a reply; return whether it counted.

        With a page before the last, the server has not handled the edits yet, so they stay.

        Raises:
            sqlite3.IntegrityError: a row names another one that is not there.
        """
        last = not reply.get("more", False)
        if request.cursor is None and last:
            check = ForeignKeys.AT_THE_END
        else:
            check = ForeignKeys.ALL_AT_THE_END if last else ForeignKeys.NOT_YET
        with self.database.transaction(check):
            if not self.is_open(request):
                return False
            edits = self.outbox.edits()
            answered = [edit for edit in edits if edit.sent and last]
            waiting = [edit for edit in edits if not (edit.sent and last)]
            self._note_refused(answered, reply.get("refused", []))
            for edit in answered:
                self.outbox.remove(edit)
            self._lay_out(reply["diffs"], answered, waiting, seen_clock=request.logical_clock)
            state = self.database.state()
            if last:
                state = told(state, request, reply)._replace(
                    logical_clock=reply["logical_clock"], upload=None
                )
            cursor = None if last else reply["cursor"]
            self.database.set_state(state._replace(turn=state.turn + 1, cursor=cursor))
            return True

    def take_reset(self, request: Request, reply: dict[str, Any]) -> bool:
        """Note that the server has the edits and that the device must start over; return whether it
        counted.
        """
        with self.database.transaction():
            if not self.is_open(request):
                return False
            sent = [edit for edit in self.outbox.edits() if edit.sent]
            self._note_refused(sent, reply.get("refused", []))
            self.outbox.mark_answered(sent)
            state = told(self.database.state(), request, reply)
            seen_clock = reply.get(
                "seen_clock", state.logical_clock
            )  # if given, the data is in another owner's log now
            self.database.set_state(state._replace(logical_clock=seen_clock))
            self._change_request(gives_up_rows=True)
            return True

    def _lay_out(
        self,
        diffs: Sequence[DiffDict],
        answered: Sequence[Edit],
        waiting: Sequence[Edit],
        *,
        seen_clock: int,
    ) -> None:
        """Make the rows from the server's diffs and the waiting edits.

        First, go back to the objects as the server had them. Then apply the edits that the server
        has merged, because its reply has only the differences from these. Then apply the reply, in
        its order: this is the new base. Finally apply the waiting edits on top, as far as the reply
        leaves anything of them.
        """
        touched = {edit.name for edit in answered} | {name_of(diff) for diff in diffs}
        draft = Draft(self.rows)
        for name in touched:
            draft.set(name, self.rows.base(name))
        for edit in answered:
            draft.change(edit.type, edit.name, edit.row())
        news = apply(draft, diffs, seen_clock, own={edit.id for edit in answered})
        self._lay_on_top(draft, touched, waiting, news)
        draft.write()

    def _lay_on_top(
        self, draft: Draft, touched: Iterable[Name], waiting: Sequence[Edit], news: News
    ) -> list[Edit]:
        """Apply the waiting edits to the new bases; return the edits of which nothing is left."""
        again = [edit for edit in waiting if edit.name in set(touched)]
        for name in touched:
            self.rows.drop_base(name)
        for name in {edit.name for edit in again}:
            self.rows.set_base(name, draft.get(name))
        gone = []
        for edit in again:
            # Sent edits do not change; no page has diffs of their objects.
            left = (
                edit if edit.sent else news.left_of(edit, exists=draft.get(edit.name) is not None)
            )
            if left is None:
                self.outbox.remove(edit)
                gone.append(edit)
                continue
            if left is not edit:
                self.outbox.change(left)
            draft.change(left.type, left.name, left.row())
        return gone

    def _note_refused(self, sent: Sequence[Edit], refusals: Iterable[dict[str, Any]]) -> None:
        by_id = {edit.id: edit for edit in sent}
        for refusal in refusals:
            edit = by_id.get(refusal["id"]) if "id" in refusal else sent[refusal["index"]]
            if edit is not None:
                self._keep_refused(edit, refusal["code"], refusal["message"])

    def _keep_refused(self, edit: Edit, code: str, message: str) -> None:
        self.database.execute(
            "INSERT INTO mobync_refused (id, code, message, type, model, json_data)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (edit.id, code, message, edit.type, edit.name.model, edit.json_data),
        )

    # ---- what else the server may say --------------------------------------------------------

    def take_refusal(self, request: Request, index: int, code: str, message: str) -> bool:
        """Remove an edit for which the whole request was refused; return whether the answer
        counted.

        Its row becomes the server's again, with the other waiting edits on top.
        """
        with self.database.transaction(ForeignKeys.AT_THE_END):
            if not self.is_open(request):
                return False
            edits = self.outbox.edits()
            refused = [edit for edit in edits if edit.sent][index]
            self.outbox.remove(refused)
            self._keep_refused(refused, code, message)
            # This is now another request, so its other edits may change.
            waiting = [replace(edit, sent=False) for edit in edits if edit != refused]
            draft = Draft(self.rows)
            draft.set(refused.name, self.rows.base(refused.name))
            for gone in self._lay_on_top(draft, [refused.name], waiting, News()):
                self._keep_refused(gone, "depends_on_refused", f"{refused.id} was refused")
            draft.write()
            self._change_request()
            return True

    def send_fewer(self, request: Request) -> bool:
        """Halve the edits of a body; return False if it has one edit, which can only be refused.

        Then a request has more parts, or fewer edits if the server does not accept parts.
        """
        with self.database.transaction():
            longest = max(request.sizes)
            if self.is_open(request) and longest > 1:
                self.part_diffs = longest // 2
                self._change_request()
            return longest > 1

    def send_fewer_in_all(self, request: Request) -> None:
        """Halve the edits of a request with all its parts."""
        self.request_diffs = max(1, len(request.diffs) // 2)

    def narrowed(self, request: Request, number: int) -> Request:
        """The request for a server without parts, which took one part for the whole request."""
        self.sends_parts = False
        with self.database.transaction():
            if not self.is_open(request):
                return request
            taken = request.of_part(number)
            self.outbox.mark_sent([edit for edit in self.outbox.edits() if edit.sent][taken])
            self.database.set_state(self.database.state()._replace(upload=None))
            diffs = request.diffs[taken]
            return replace(request, diffs=diffs, sizes=(len(diffs),), asked=1)

    def _change_request(self, gives_up_rows: bool = False) -> None:
        """Go to the next turn, because the open request has changed.

        A cursor is valid only with the edits of the request for its first page. Rows with applied
        pages cannot be the start of another pull, because it would not mention objects that were
        created and deleted since. So everything is pulled again.
        """
        state = self.database.state()
        self.database.set_state(
            state._replace(
                turn=state.turn + 1,
                cursor=None,
                starts_over=gives_up_rows or state.starts_over or state.cursor is not None,
                upload=None,
            )
        )

    def give_up_rows(self, request: Request) -> None:
        """Pull everything again, because the rows differ from the server's."""
        with self.database.transaction():
            if self.is_open(request):
                self._change_request(gives_up_rows=True)

    def first_pull(self) -> Request:
        """The request to start over, without edits, which would count as old with clock 0."""
        state = self.database.state()
        return Request(state, 0, [], self.page_size)

    def start_over(
        self, request: Request, pulled: Sequence[DiffDict], reply: dict[str, Any]
    ) -> bool:
        """Replace the rows with the pull from 0, and keep the outbox; return whether it counted.

        Args:
            request: the request of :meth:`first_pull`.
            pulled: the diffs of all pages.
            reply: the last page.
        """
        with self.database.transaction(ForeignKeys.ALL_AT_THE_END):
            if not self.is_open(request):
                return False
            arrived = {diff["id"] for diff in pulled}
            edits = self.outbox.edits()
            for edit in edits:
                if edit.id in arrived:  # they had arrived, and only the reply was lost
                    self.outbox.remove(edit)
            self.outbox.mark_sent([])
            waiting = [replace(edit, sent=False) for edit in edits if edit.id not in arrived]
            self.rows.clear()
            self.rows.drop_bases()
            state, draft = self.database.state(), Draft(self.rows)
            own = {edit.id for edit in edits} | self.outbox.take_answered()
            news = apply(draft, pulled, state.logical_clock, own=own)
            self._lay_on_top(draft, {edit.name for edit in waiting}, waiting, news)
            draft.write()
            self.database.set_state(
                told(state, request, reply)._replace(
                    logical_clock=reply["logical_clock"],
                    turn=state.turn + 1,
                    cursor=None,
                    starts_over=False,
                    upload=None,
                )
            )
            return True

    def take_new_name(self, request: Request, new_diff_id: Callable[[], str]) -> bool:
        """Take a new name, because the server does not recognize the device.

        The waiting edits get new ids, as if they had never been sent.
        """
        with self.database.transaction():
            if not self.is_open(request):
                return False
            for edit in self.outbox.edits():
                self.outbox.rename(edit, new_diff_id())
            self.database.set_state(self.database.state().renamed())
            self._change_request()
            return True

    def drop_all(self, request: Request) -> bool:
        """Drop the rows and the waiting edits, because a person has revoked this device."""
        with self.database.transaction(ForeignKeys.AT_THE_END):
            if not self.is_open(request):
                return False
            self.rows.clear()
            self.rows.drop_bases()
            self.outbox.clear()
            self.database.execute("DELETE FROM mobync_refused")
            state = self.database.state()
            fresh = state._replace(logical_clock=0, request=1, mark=None, upload=None)
            self.database.set_state(
                fresh._replace(turn=state.turn + 1, cursor=None, starts_over=False)
            )
            return True

    # ---- refused edits -----------------------------------------------------------------------

    def refused(self) -> list[tuple[int, RefusedEdit]]:
        """The refused edits that were not dismissed, each with its place."""
        found = self.database.execute(
            "SELECT place, id, code, message, type, model, json_data FROM mobync_refused"
            " ORDER BY place"
        )
        return [
            (place, RefusedEdit(diff_id, code, message, kind, model, json.loads(data)))
            for place, diff_id, code, message, kind, model, data in found
        ]

    def dismiss(self, diff_ids: Iterable[str]) -> None:
        """Forget refused edits."""
        with self.database.transaction():
            for diff_id in diff_ids:
                self.database.execute("DELETE FROM mobync_refused WHERE id = ?", (diff_id,))


def told(state: State, request: Request, reply: dict[str, Any]) -> State:
    """The state of a device after a reply to a whole request: its request number and its mark.

    A server that gives no mark does not store devices, so the number stays.
    """
    mark = reply.get("mark")
    if not isinstance(mark, str):
        return state._replace(request=1, mark=None)
    return state._replace(request=state.request + bool(request.diffs), mark=mark)


def as_diff(edit: Edit, logical_clock: int) -> DiffDict:
    """An edit as a diff of the request."""
    return {
        "id": edit.id,
        "owner": OWNER,
        "logical_clock": logical_clock,
        "utc_timestamp": edit.utc_timestamp,
        "type": edit.type,
        "model": edit.name.model,
        "json_data": edit.json_data,
    }


def name_of(diff: DiffDict) -> Name:
    """The object of a diff."""
    return Name(diff["model"], json.loads(row_of(diff["json_data"])["id"]))


def apply(draft: Draft, diffs: Sequence[DiffDict], seen_clock: int, own: set[str]) -> News:
    """Apply the server's diffs, in their order.

    Args:
        seen_clock: the device has seen the log below this clock.
        own: the ids of its own diffs.

    Returns:
        The diffs that the device had not seen.
    """
    news = News()
    for diff in diffs:
        name, fields = name_of(diff), row_of(diff["json_data"])
        draft.change(diff["type"], name, fields)
        if diff["logical_clock"] >= seen_clock and diff["id"] not in own:
            news.note(diff, name, fields)
    return news


def parts_of(edits: Iterable[Edit], most: int) -> Iterator[list[Edit]]:
    """The edits in groups that fit a body, each with at most so many edits."""
    part: list[Edit] = []
    size = 0
    for edit in edits:
        size += len(edit.json_data)
        if part and (len(part) == most or size > MAX_BYTES):
            yield part
            part, size = [], len(edit.json_data)
        part.append(edit)
    if part:
        yield part
