"""WatermelonDB's sync, by the two functions of its ``synchronize()``.

A pull asks for changes after ``lastPulledAt`` and gets the current records. ``lastPulledAt`` is the
owner's logical clock plus 1, because WatermelonDB does not accept 0.

A push has records. Each becomes a diff with the columns that the phone changed, made after the
phone had seen ``lastPulledAt``, and goes through the merge.

WatermelonDB stores ``lastPulledAt`` after the pull and before the push. If the answer of a push is
lost, the push comes again with a later ``lastPulledAt``. Then it looks as if the phone had seen the
edits of others before its own. The npm package prevents this: each of its ``edits`` has an id, and
the ``lastPulledAt`` of its first push. So the merge recognizes a retry, and compares as it would
have the first time.

If such an edit lost, every device has the winning value except this phone, which kept its own value
when it pulled. So the server writes the winning values to the log once more, and the phone gets
them with its next pull.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import LogicalClockError, RequestTooLargeError
from ..sync import Mobync
from ..types import MAX_LOGICAL_CLOCK, Diff, DiffDict, OperationType
from ._client import ReplicatingClient, Replication
from ._devices import End, Visit
from ._documents import Document, OwnerDocuments
from ._texts import Room, joined, json_of, same
from ._watermelon_requests import OWN, Edit, Members, PullRequest, PushRequest

MOST_BASES = 20  # different pulls that the edits of a push follow
MOST_BASES_OF_RECORD = 10
ALL = ""  # the key of a phone's pulls, which have all tables
CREATE, UPDATE, DELETE = (each.name for each in OperationType)


class Watermelon(ReplicatingClient):
    """Answers the pulls and pushes of WatermelonDB.

    A record that a rule refuses never ends a push: it is among the ``experimentalRejectedIds``.

    Args:
        tables: the names of the tables to sync; or names with their columns, for phones whose
            request does not name the columns; None for all tables. If the columns are known and a
            record is created again with an old id, columns that it lacks become null on the phone.
        times: for each table, the column with the time of a record's last edit, in milliseconds
            since 1970. Edits of other tables count as made when they arrive.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a name is empty, or ``times`` names an unknown table or column.
    """

    name = "watermelon"

    def __init__(
        self,
        tables: Mapping[str, Iterable[str]] | Iterable[str] | None = None,
        *,
        times: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.columns = None if tables is None else _columns(tables)
        self.times = _times({} if times is None else times, self.columns)

    def replicate(self, mobync: Mobync) -> Replication:
        return _Replication(mobync, self)

    def knows(self, table: str) -> bool:
        """Whether a table is synced."""
        return self.columns is None or table in self.columns


class _Made(NamedTuple):
    """The diff of an edit.

    Attributes:
        was_known: whether the log had the diff before this push.
    """

    edit: Edit
    diff: DiffDict
    was_known: bool


class _Replication(Replication):
    client = Watermelon.name

    def __init__(self, mobync: Mobync, settings: Watermelon) -> None:
        super().__init__(mobync)
        self._settings = settings

    # ---- pull --------------------------------------------------------------------------------

    def pull(self, body: bytes, owner_id: str, device: str | None = None) -> bytes:
        """Answer a pull: what changed after ``lastPulledAt``.

        Args:
            body: JSON: ``lastPulledAt`` and ``migration`` as ``pullChanges`` gets them, and
                perhaps the ``columns`` of each table.
            owner_id: the authenticated owner.
            device: the name of the phone.

        Returns:
            JSON: ``changes`` and ``timestamp``. Records are whole, and all are ``updated``, so the
            phone must use ``sendCreatedAsUpdated``.

        Raises:
            InvalidDiffError: the request is malformed.
            LogicalClockError: ``lastPulledAt`` is ahead, because the server has lost diffs; or the
                server cannot know what the phone lacks, so the phone must start over.
            DeviceRevokedError, TooManyDevicesError: the device may not sync.
            Exception: what the Synchronizer raises.
        """
        asked = PullRequest.of(body, Room(self._mobync.max_diffs))
        at = None if asked.is_first else End(None, asked.clock)
        visit = self._visit(owner_id, device, ALL, at, begins=asked.is_first)
        clock, tables = asked.clock, []
        if asked.migrated or self._may_have_news(asked, owner_id, visit):
            with self._documents.of(owner_id, clock, visit) as documents:
                _check_not_ahead(clock, documents)
                clock = documents.clock
                tables = list(self._tables(asked, documents))
            if visit is not None:
                visit.note_pull(End(None, clock), is_whole=True)
        return f'{{"changes":{{{",".join(tables)}}},"timestamp":{clock + 1}}}'.encode()

    def _may_have_news(self, asked: PullRequest, owner_id: str, visit: Visit | None) -> bool:
        """Whether there may be news, or something to store; found out without a lock, and without
        reading the news.
        """
        if visit is not None:
            return not visit.polls()
        reply = self._mobync.apply(asked.clock, [], owner_id, limit=1)  # not if it is ahead
        return reply["logical_clock"] > asked.clock or reply["more"]

    def _tables(self, asked: PullRequest, documents: OwnerDocuments) -> Iterator[str]:
        """The changes of each table."""
        columns = {**(self._settings.columns or {}), **asked.columns}
        for table in filter(self._settings.knows, documents.models):
            collection = documents.collection(table)
            is_whole = table in asked.migrated
            changed = list(collection.changed_after(asked.clock, ""))
            alive = collection.documents.values() if is_whole else changed
            updated = [_record(each, columns.get(table, ())) for each in alive if each.alive]
            dead = [json_of(each.id) for each in changed if not each.alive and not asked.is_first]
            if updated or dead:
                yield (
                    f'{json_of(table)}:{{"created":[],"updated":[{",".join(updated)}],'
                    f'"deleted":[{",".join(dead)}]}}'
                )

    # ---- push --------------------------------------------------------------------------------

    def push(self, body: bytes, owner_id: str, device: str | None = None) -> bytes:
        """Answer a push: merge the edits of a phone.

        Args:
            body: JSON: ``changes`` and ``lastPulledAt`` as ``pushChanges`` gets them; or instead
                of ``changes`` the ``edits`` of the npm package (see ``Edit``).
            owner_id: the authenticated owner.
            device: the name of the phone.

        Returns:
            JSON: ``experimentalRejectedIds``.

        Raises:
            InvalidDiffError: the request is malformed.
            RequestTooLargeError: it has more than ``max_diffs`` edits, or they follow too many
                different pulls.
            LogicalClockError: ``lastPulledAt`` is ahead, because the server has lost diffs; or the
                phone must start over, by a pull, before it pushes.
            DeviceRevokedError, TooManyDevicesError: the device may not sync.
            BusyError: another request of this owner took too long.
            Exception: what the Synchronizer raises.
        """
        room = Room(self._mobync.max_diffs)
        asked = PushRequest.of(body, owner_id, self._settings.knows, room)
        at = End(None, asked.clock) if asked.has_pulled else None
        visit = self._visit(owner_id, device, ALL, at)
        with self._documents.of(owner_id, asked.clock, visit) as documents:
            _check_not_ahead(asked.clock, documents)
            read, unread = _without_unreadable(asked.edits)
            read = [self._of_phone(each) for each in _from_few_pulls(read)]
            edits = self._with_changes(read, documents, owner_id, asked.clock)
            made = self._made(edits, documents, visit)
        refused = self._apply(made, owner_id, visit)
        landed = [each for each in edits if each.diff_id not in refused]
        self._restore(landed, asked, owner_id, visit)
        rejected: dict[str, dict[str, None]] = {}
        for each in (*(each for each in edits if each.diff_id in refused), *unread):
            rejected.setdefault(each.table, {})[each.id] = None
        ids = {table: list(names) for table, names in rejected.items()}
        return json.dumps({"experimentalRejectedIds": ids}).encode()

    def _of_phone(self, edit: Edit) -> Edit:
        """An edit without columns that only the server writes, if the phone sends all columns."""
        names = set(self._mobync.synchronizer._fields_of_server(edit.table))
        if not names:
            return edit
        if edit.record is not None:
            edit = edit._replace(record=_without(edit.record, names))
        if edit.kind == CREATE and edit.members is not None:
            edit = edit._replace(members=_without(edit.members, names))
        return edit

    def _with_changes(
        self, edits: Sequence[Edit], documents: OwnerDocuments, owner_id: str, clock: int
    ) -> list[Edit]:
        """Edits with the changed columns, where the phone sent a record without naming them."""
        past: OwnerDocuments | None = None  # the documents of the phone's last pull, read once
        changed: list[Edit] = []
        for edit in edits:
            members = edit.members
            if members is None:
                before = _document(edit, documents)
                if before is not None and before.clock >= clock:
                    past = past or self._documents.as_of(owner_id, clock)
                    before = _document(edit, past)
                members = _differing(edit.record or {}, before)
            changed.append(edit._replace(members=members))
        return changed

    def _made(
        self, edits: Sequence[Edit], documents: OwnerDocuments, visit: Visit | None
    ) -> list[_Made]:
        """The diffs of those edits that change anything."""
        made: list[_Made] = []
        touched: set[tuple[str, str]] = set()
        for edit in edits:
            now = _document(edit, documents)
            is_known = documents.has_diff(edit.diff_id, now)
            if not is_known and visit is not None and visit.has_done(edit.diff_id):
                continue  # the log has dropped it since
            if is_known or edit.key in touched:
                # The merge recognizes a retry, and what came before it in this push.
                changed: tuple[str, Members] | None = (edit.kind, edit.members or {})
            else:
                changed = _changing(edit, now)
            if changed is not None:
                touched.add(edit.key)
                made.append(_Made(edit, self._diff(edit, *changed), is_known))
        return made

    def _diff(self, edit: Edit, kind: str, members: Members) -> DiffDict:
        return {
            Diff.ID: edit.diff_id,
            Diff.OWNER: "watermelon",  # the authenticated owner replaces it
            Diff.LOGICAL_CLOCK: 0,
            Diff.UTC_TIMESTAMP: self._time_ms(edit),
            Diff.TYPE: kind,
            Diff.MODEL: edit.table,
            Diff.JSON_DATA: joined(edit.id, members),
        }

    def _time_ms(self, edit: Edit) -> int:
        """When an edit was made: the time in its record, or else the time of its first arrival."""
        said = (edit.record or edit.members or {}).get(self._settings.times.get(edit.table, ""))
        try:
            return min(max(int(float(said or "")), 0), MAX_LOGICAL_CLOCK)
        except (ValueError, OverflowError):
            return max(self._mobync._now_ms() - edit.age_ms, 0)

    def _apply(self, made: Sequence[_Made], owner_id: str, visit: Visit | None) -> set[str]:
        """Merge diffs, each as made by a device that had seen its clock; return the ids of refused
        ones.
        """
        refused: set[str] = set()
        landed: list[_Made] = []
        bases = sorted({each.edit.base for each in made})
        for base in bases:
            out = {each.edit.key for each in made if each.edit.diff_id in refused}
            group = [each for each in made if each.edit.base == base]
            refused |= {each.edit.diff_id for each in group if each.edit.key in out}
            group = [each for each in group if each.edit.key not in out]
            # Earlier edits of the same records by this phone that arrive only now are not foreign.
            touched = {each.edit.key for each in group}
            before = [each for each in landed if each.edit.key in touched]
            diffs = [each.diff for each in (*before, *group)]
            reply = self._merge(base, diffs, owner_id, visit)
            refused |= {each["id"] for each in reply["refused"]}
            if base != bases[-1]:
                landed += self._landed(group, owner_id, visit)
        return refused

    def _landed(self, group: Sequence[_Made], owner_id: str, visit: Visit | None) -> list[_Made]:
        """The edits of which the log has something only now."""
        with self._documents.of(owner_id, 0, visit) as documents:
            return [
                each
                for each in group
                if not each.was_known
                and documents.has_diff(each.edit.diff_id, _document(each.edit, documents))
            ]

    def _restore(
        self, edits: Sequence[Edit], asked: PushRequest, owner_id: str, visit: Visit | None
    ) -> None:
        """Write the values that won over retries once more, so that this phone's next pull gets
        them.
        """
        retries = [each for each in edits if each.base < asked.clock]
        if not retries:
            return
        edited_since: dict[tuple[str, str], set[str]] = {}
        for each in edits:
            if each.base == asked.clock:
                edited_since.setdefault(each.key, set()).update(each.members or {})
        with self._documents.of(owner_id, 0, visit) as documents:
            clock = documents.clock
            diffs = [
                diff
                for each in _last_of_each_record(retries)
                if (diff := self._restoring(each, documents, edited_since, asked.clock)) is not None
            ]
        if not diffs:
            return
        # With their old times, so that an edit at this moment wins.
        reply = self._merge(clock, diffs, owner_id, visit, are_edits=False)
        refused = {each["id"] for each in reply["refused"]}  # an edit of a phone; these are not
        operations = [
            (diff[Diff.TYPE], diff[Diff.MODEL], diff[Diff.JSON_DATA])
            for diff in diffs
            if diff[Diff.ID] in refused
        ]
        if operations:
            self._mobync.push(owner_id, operations)

    def _restoring(
        self,
        edit: Edit,
        documents: OwnerDocuments,
        edited_since: Mapping[tuple[str, str], set[str]],
        clock: int,
    ) -> DiffDict | None:
        """The edit that corrects a phone's record; None if it is right, or the phone gets it
        anyway.
        """
        now = _document(edit, documents)
        members: Members = {}
        kind, time_ms = UPDATE, 0
        if now is None or not now.alive:
            if now is None or edit.kind == DELETE or now.clock >= clock:
                return None
            kind, time_ms = DELETE, now.ended_ms
        else:
            members = _lacking(edit, now)
            for name in members.keys() & edited_since.get(edit.key, set()):
                del members[name]
            if not members:
                return None
            times_ms = [now.fields[name].time_ms for name in members if name in now.fields]
            time_ms = min(times_ms, default=0)
        restoring = self._diff(edit, kind, members)
        restoring[Diff.ID], restoring[Diff.UTC_TIMESTAMP] = str(uuid.uuid4()), time_ms
        return restoring


def _check_not_ahead(clock: int, documents: OwnerDocuments) -> None:
    if clock > documents.clock:
        raise LogicalClockError(
            f"lastPulledAt {clock + 1} is ahead of the server, at {documents.clock + 1}: "
            "pull again",
            ahead=True,
        )


def _without(members: Members, names: Collection[str]) -> Members:
    return {name: text for name, text in members.items() if name not in names}


def _without_unreadable(edits: Sequence[Edit]) -> tuple[list[Edit], list[Edit]]:
    """The edits that can be merged; and those that cannot, with later edits of the same records."""
    read: list[Edit] = []
    unread: dict[tuple[str, str], Edit] = {}
    for each in edits:
        if each.is_unreadable or each.key in unread:
            unread[each.key] = each
        else:
            read.append(each)
    return read, list(unread.values())


def _from_few_pulls(edits: Sequence[Edit]) -> list[Edit]:
    """Edits that were first sent after few different pulls, because each pull needs a merge of its
    own, with a part of the log. Of a record with too many, the earlier edits count as sent after
    the pull of its first one: what the phone has seen since is compared with them by time.

    Raises:
        RequestTooLargeError: they are too many for all records. The package sends fewer records.
    """
    bases: dict[tuple[str, str], set[int]] = {}
    for each in edits:
        bases.setdefault(each.key, set()).add(each.base)
    few = {key: _few(found) for key, found in bases.items()}
    made = [each._replace(base=few[each.key].get(each.base, each.base)) for each in edits]
    if len({each.base for each in made}) > MOST_BASES:
        raise RequestTooLargeError(
            f"the edits of a push must not follow more than {MOST_BASES} different pulls"
        )
    return made


def _few(bases: set[int]) -> dict[int, int]:
    """What replaces the bases of a record that has too many."""
    if len(bases) <= MOST_BASES_OF_RECORD:
        return {}
    ordered = sorted(bases)
    return dict.fromkeys(ordered[: 1 - MOST_BASES_OF_RECORD], ordered[0])


def _changing(edit: Edit, now: Document | None) -> tuple[str, Members] | None:
    """The type and the members of an edit, compared with the current record; None if it changes
    nothing.
    """
    members = edit.members or {}
    if edit.kind == DELETE:
        return (DELETE, {}) if now is not None and now.alive else None
    if now is None:
        return CREATE, edit.record or members  # also for an update: the server has lost the record
    if not now.alive:
        return edit.kind, members
    # A record that the phone takes for new, or a phone that cannot say what is a retry.
    if edit.kind == CREATE or edit.record is not None:
        members = _differing(members, now)
    return (UPDATE, members) if members else None


def _record(document: Document, columns: Sequence[str]) -> str:
    """A record for a pull. One that reuses an old id has null for missing columns."""
    members = {name: field.text for name, field in document.fields.items() if name not in OWN}
    if document.reborn:  # or values of the earlier record would stay
        members = {**dict.fromkeys(columns, "null"), **members}
    return joined(document.id, members)


def _differing(members: Members, document: Document | None) -> Members:
    """The columns of a record that differ from a document."""
    there = {} if document is None or not document.alive else document.fields
    return {
        name: text
        for name, text in members.items()
        if name not in there or not same(text, there[name].text)
    }


def _lacking(edit: Edit, now: Document) -> Members:
    """The columns of a record that a phone lacks, if it takes its own edit as the record."""
    if edit.kind == DELETE:
        return {name: field.text for name, field in now.fields.items()}
    lacking = {}
    for name, text in (edit.members or {}).items():
        there = now.fields.get(name)
        if there is None or not same(text, there.text):
            lacking[name] = "null" if there is None else there.text
    return lacking


def _document(edit: Edit, documents: OwnerDocuments) -> Document | None:
    return documents.collection(edit.table).documents.get(edit.id)


def _last_of_each_record(edits: Sequence[Edit]) -> list[Edit]:
    """One edit for each record, with the members of all its edits."""
    last: dict[tuple[str, str], Edit] = {}
    for each in edits:
        before = last.get(each.key)
        members = {} if before is None or each.kind == DELETE else before.members or {}
        last[each.key] = each._replace(members={**members, **(each.members or {})})
    return list(last.values())


def _columns(tables: Mapping[str, Iterable[str]] | Iterable[str]) -> dict[str, tuple[str, ...]]:
    if isinstance(tables, str) or not isinstance(tables, Iterable):
        raise TypeError(f"tables must be names, or columns by name, not {tables!r:.100}")
    by_name = tables if isinstance(tables, Mapping) else dict.fromkeys(tables, ())
    return {_name("a table", table): _names(table, given) for table, given in by_name.items()}


def _names(table: str, columns: object) -> tuple[str, ...]:
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise TypeError(f"the columns of {table!r} must be names, not {columns!r:.100}")
    return tuple(_name(f"a column of {table!r}", each) for each in columns)


def _name(what: str, given: object) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{what} must be a str, not {given!r:.100}")
    if not given:
        raise ValueError(f"{what} must have a name")
    return given


def _times(times: Mapping[str, str], columns: Mapping[str, Sequence[str]] | None) -> dict[str, str]:
    if not isinstance(times, Mapping):
        raise TypeError(f"times must be a column by table, not {times!r:.100}")
    for table, column in times.items():
        _name("a table of times", table)
        _name(f"the column of times of {table!r}", column)
        if columns is None:
            continue
        if table not in columns:
            raise ValueError(f"times has {table!r}, which is not in tables")
        if columns[table] and column not in columns[table]:
            raise ValueError(f"times has {column!r} of {table!r}, which is not in its columns")
    return dict(times)
