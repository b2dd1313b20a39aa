"""Adds edits that the app's own code makes by the ORM to the log, in the same transaction.

A flush writes the rows. Before that, mobync locks the heads of the rows' owners, in the order of
their ids. A sync also locks an owner before it writes, so the app's session and a sync cannot
deadlock. After the flush, mobync reads the rows, with the values that the database has filled in,
and adds creates, updates of the fields that were set, and deletes to the logs. All of this is in
the session's transaction, on its connection: a rollback, also to a savepoint, takes back the diffs
with the rows.

If the database changes the rows of a model by itself, these rows are read before the flush, too.
What differs after it goes into the log, whoever has changed it.

One flush locks its heads in order, but several flushes of a session do not. So two sessions that
flush rows of the same owners in different orders wait for each other, until the database ends one
of them. mobync cannot prevent this, because a lock is held from the flush on. An app that knows its
owners before the first flush can lock them with lock_owners().

If a sync runs in the same session (the Synchronizer has the session), edits that are flushed
meanwhile go into the log when that sync commits, because until then only the sync knows the log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import event, select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import InstanceState, Mapper, Session, object_mapper, scoped_session
from sqlalchemy.orm import sessionmaker as SessionMaker
from sqlalchemy.orm.exc import UnmappedColumnError

from ..sync import Mobync
from ..types import Diff
from ._connections import SYNCING
from ._documents import DocumentSynchronizer
from ._filled import changing_fields
from ._model import Model, Row
from ._statements import read_fields
from ._synchronizer import SQLAlchemySynchronizer

Key = tuple[str, str, str]
"""The model, the owner and the id of a row."""

_TRACKED = "mobync_tracked"
_EVENTS = (
    "before_flush",
    "after_flush",
    "before_commit",
    "after_commit",
    "after_soft_rollback",
    "after_transaction_end",
)


def track(session_factory: Any, mobync: Mobync) -> None:
    """Add edits that the app's own code makes by the ORM to the log, in the same transaction.

    When a session of the factory flushes rows of synced models, the owner's devices get these edits
    at their next sync. Listeners hear about them when the session commits. From its first flush to
    its end, such a transaction holds the locks of the owners whose rows it writes.

    A flush does not see ``session.execute(update(...))``, the ``bulk_*`` methods, cascades of the
    database, and SQL. ``capture=True`` or ``Mobync.reconcile`` finds these edits.

    Args:
        session_factory: a sessionmaker, a scoped_session, a subclass of Session, a Session, an
            async_sessionmaker, or Flask-SQLAlchemy's ``db``.
        mobync: a Mobync whose Synchronizer has the tables of the app's classes.

    Raises:
        TypeError: an argument is something else.
    """
    store = _store_of(mobync)
    target = _target_of(session_factory)
    tracker = _Tracker(mobync, store)
    for name in _EVENTS:
        event.listen(target, name, getattr(tracker, name))


def _target_of(factory: Any) -> Any:
    """The object through which SQLAlchemy can listen to the sessions."""
    if isinstance(factory, SessionMaker | scoped_session | Session):
        return factory
    if isinstance(factory, type) and issubclass(factory, Session):
        return factory
    if type(factory).__module__.startswith("sqlalchemy.ext.asyncio"):
        return _target_of_async(factory)
    session = getattr(factory, "session", None)  # Flask-SQLAlchemy's db
    if isinstance(session, scoped_session):
        return session
    raise TypeError(
        "session_factory must be a sessionmaker, a scoped_session, a Session or a subclass of it, "
        f"an async_sessionmaker or Flask-SQLAlchemy's db, not {factory!r:.100}"
    )


def _target_of_async(factory: Any) -> Any:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

    if isinstance(factory, async_scoped_session):
        factory = factory.session_factory
    if isinstance(factory, AsyncSession):
        return factory.sync_session
    if not isinstance(factory, async_sessionmaker):
        raise TypeError(f"session_factory must make sessions, not be a {type(factory).__name__}")
    made: Any = factory.class_
    kind = factory.kw.get("sync_session_class", made.sync_session_class)
    tracked = type("TrackedSession", (kind,), {})
    factory.configure(sync_session_class=tracked)
    return tracked


class Edit(NamedTuple):
    """What a flush did to a row.

    Attributes:
        kind: 'create', 'update', 'delete', or 'replace', which is a delete and a create.
        owner_id: whose row.
        model: of the row.
        id: of the row, as devices have it.
        names: for an update, the fields that it changes.
    """

    kind: str
    owner_id: str
    model: Model
    id: str
    names: frozenset[str] = frozenset()


@dataclass
class _Tracked:
    """What is known of a session.

    Attributes:
        before: the owner and id, before the running flush, of each row that the flush writes.
        changed: for the same rows, the fields that the app has set. After the flush, the instance
            does not know any more that a field was set to an SQL expression.
        rows: the rows before the flush, for models whose rows the database changes by itself.
        deferred: edits of a session in which a sync runs, each with its savepoint.
        reports: what to tell when the session commits, each with its savepoint.
    """

    before: dict[tuple[InstanceState[Any], str], tuple[str, str] | None] = field(
        default_factory=dict
    )
    changed: dict[tuple[InstanceState[Any], str], frozenset[str]] = field(default_factory=dict)
    rows: dict[Key, Row] = field(default_factory=dict)
    deferred: list[tuple[Any, Edit]] = field(default_factory=list)
    reports: list[tuple[Any, tuple[Any, ...]]] = field(default_factory=list)


class _Tracker:
    """Listens to sessions for a Mobync."""

    def __init__(self, mobync: Mobync, store: SQLAlchemySynchronizer) -> None:
        self._mobync = mobync
        self._store = store
        self._models = {m.table: m for m in store._models.values() if m.owner is not None}
        filled = store.filled_models or {}
        self._changed_by_database = {
            m.name: m
            for m in self._models.values()
            if m.name in filled and filled[m.name].on_each_write
        }

    # ---- events ----------------------------------------------------------------------------------

    def before_flush(self, session: Session, flush_context: Any, instances: Any) -> None:
        tracked = self._tracked(session)
        if tracked is None:
            return
        tracked.before.clear()
        tracked.changed.clear()
        tracked.rows.clear()
        owners: set[str] = set()
        connection: Connection | None = None
        dirty = [each for each in session.dirty if session.is_modified(each)]
        for instance in [*session.new, *dirty, *session.deleted]:
            for row in self._rows_of(instance):
                connection = connection or session.connection({"mapper": row.mapper})
                now = row.key(connection)
                before = row.key_before(connection) if row.state.key is not None else None
                tracked.before[row.state, row.model.name] = before
                tracked.changed[row.state, row.model.name] = row.changed()
                owners |= {key[0] for key in (now, before) if key is not None}
        if connection is not None and not session.info.get(SYNCING):
            self._lock(connection, owners)
        if connection is not None and self._changed_by_database:
            keys = {(name, *key) for (_, name), key in tracked.before.items() if key is not None}
            tracked.rows = self._read(connection, keys)

    def after_flush(self, session: Session, flush_context: Any) -> None:
        tracked = self._tracked(session)
        edits = [] if tracked is None else list(self._edits(session, flush_context, tracked))
        if tracked is None or not edits:
            return
        if self._changed_by_database:
            connection = session.connection({"clause": edits[0].model.table})
            edits = self._as_stored(connection, tracked, edits)
        if session.info.get(SYNCING):
            savepoint = session.get_nested_transaction()
            tracked.deferred += [(savepoint, edit) for edit in edits]
        elif edits:
            self._log(session, tracked, edits)

    def before_commit(self, session: Session) -> None:
        tracked = self._tracked(session)
        if tracked is None or not session.info.get(SYNCING) or session.in_nested_transaction():
            return
        session.flush()
        edits, tracked.deferred = [edit for _, edit in tracked.deferred], []
        if edits:
            self._log(session, tracked, edits)

    def after_commit(self, session: Session) -> None:
        tracked = self._tracked(session)
        if tracked is None or session.in_nested_transaction():
            return
        reports, tracked.reports = tracked.reports, []
        for _, report in reports:
            self._mobync._tell_when_free(report)

    def after_soft_rollback(self, session: Session, previous: Any) -> None:
        tracked = self._tracked(session)
        if tracked is None:
            return
        tracked.reports = [each for each in tracked.reports if not _is_within(each[0], previous)]
        tracked.deferred = [each for each in tracked.deferred if not _is_within(each[0], previous)]

    def after_transaction_end(self, session: Session, transaction: Any) -> None:
        tracked = self._tracked(session)
        if tracked is not None and transaction.parent is None:
            tracked.before, tracked.changed, tracked.rows = {}, {}, {}
            tracked.reports, tracked.deferred = [], []

    def _tracked(self, session: Session) -> _Tracked | None:
        """What is known of a session; None: another tracker of the same rows listens to it."""
        found: dict[Any, tuple[_Tracker, _Tracked]] = session.info.setdefault(_TRACKED, {})
        tracker, tracked = found.setdefault(id(self._store), (self, _Tracked()))
        return tracked if tracker is self else None

    # ---- what a flush does -----------------------------------------------------------------------

    def _rows_of(self, instance: object) -> Iterator[_Row]:
        """The synced rows of an instance: one, or several if its class has several tables."""
        mapper = object_mapper(instance)
        for table in mapper.tables:
            model = self._models.get(table)  # type: ignore[call-overload]
            if model is not None:
                state: InstanceState[Any] = instance._sa_instance_state  # type: ignore[attr-defined]
                yield _Row(state, mapper, model)

    def _edits(self, session: Session, flush_context: Any, tracked: _Tracked) -> Iterator[Edit]:
        gone: set[tuple[str, str, str]] = set()
        made: list[Edit] = []
        for state, (is_deleted, only_listed) in list(flush_context.states.items()):
            instance = state.obj()
            if instance is None or (only_listed and instance not in session.deleted):
                continue
            for row in self._rows_of(instance):
                connection = session.connection({"mapper": row.mapper})
                before = tracked.before.get((state, row.model.name)) or (
                    row.key_before(connection) if state.key is not None else None
                )
                if is_deleted or instance in session.deleted:
                    if before is not None:
                        gone.add((row.model.name, *before))
                    continue
                changed = tracked.changed.get((state, row.model.name), frozenset())
                now, names = row.key(connection), changed | row.changed()
                if before is not None and before != now:
                    gone.add((row.model.name, *before))
                if now is not None and before == now and names:
                    made.append(Edit("update", *_placed(now, row.model), names))
                elif now is not None and before != now:
                    made.append(Edit("create", *_placed(now, row.model)))
        yield from self._in_order(made, gone)

    def _in_order(self, made: list[Edit], gone: set[tuple[str, str, str]]) -> Iterator[Edit]:
        """The edits in an order in which a row that others refer to is made first, and deleted
        last."""
        models = {m.name: m for m in self._models.values()}
        order = {name: n for n, name in enumerate(self._store.owned_models(""))}
        for edit in sorted(made, key=lambda edit: order[edit.model.name]):
            key = edit.model.name, edit.owner_id, edit.id
            yield edit._replace(kind="replace") if key in gone else edit
        kept = {(edit.model.name, edit.owner_id, edit.id) for edit in made}
        for name, owner_id, id_ in sorted(gone - kept, key=lambda key: -order[key[0]]):
            yield Edit("delete", owner_id, models[name], id_)

    def _as_stored(
        self, connection: Connection, tracked: _Tracked, edits: list[Edit]
    ) -> list[Edit]:
        """The edits as the database has made them, if triggers may have changed the rows."""
        keys = {(e.model.name, e.owner_id, e.id) for e in edits}
        after, found = self._read(connection, keys), []
        for edit in edits:
            key = edit.model.name, edit.owner_id, edit.id
            before, now = tracked.rows.get(key), after.get(key)
            if edit.model.name not in self._changed_by_database or edit.kind == "replace":
                found.append(edit)
            elif now is None:
                found += [edit._replace(kind="delete")] if edit.kind != "create" else []
            elif edit.kind == "create" or before is None:
                found.append(edit)
            else:
                differ = frozenset(f for f in now if now[f] != before.get(f))
                names = differ | (edit.names if edit.kind == "update" else frozenset())
                found += [edit._replace(kind="update", names=names)] if names else []
        return found

    def _read(self, connection: Connection, keys: Collection[Key]) -> dict[Key, Row]:
        """The existing rows of models whose rows the database changes by itself."""
        wanted: dict[tuple[str, str], list[str]] = {}
        for name, owner_id, id_ in sorted(keys):
            if name in self._changed_by_database:
                wanted.setdefault((name, owner_id), []).append(id_)
        found = {}
        for (name, owner_id), ids in wanted.items():
            model = self._changed_by_database[name]
            owner = model.owner_value(owner_id, connection.dialect)
            for row in read_fields(connection, model, owner, ids, list(model.fields)):
                found[name, owner_id, row[Diff.ID]] = row
        return found

    # ---- the log ---------------------------------------------------------------------------------

    def _lock(
        self, connection: Connection, owners: Iterable[str]
    ) -> dict[str, SQLAlchemySynchronizer]:
        """The store of each owner, in the transaction of a session, and locked."""
        return _locked(self._store, connection, owners)

    def _log(self, session: Session, tracked: _Tracked, edits: list[Edit]) -> None:
        by_owner: dict[str, list[Edit]] = {}
        for edit in edits:
            by_owner.setdefault(edit.owner_id, []).append(edit)
        connection = session.connection({"clause": edits[0].model.table})
        for owner_id, store in self._lock(connection, by_owner).items():
            operations = list(_operations(store, owner_id, by_owner[owner_id]))
            if operations:
                report = self._mobync._log_edits(store, owner_id, operations)
                tracked.reports.append((session.get_nested_transaction(), report))


def lock_owners(session: Session, mobync: Mobync, owner_ids: Iterable[str]) -> None:
    """Lock owners until the session's transaction ends, before anything of them is flushed.

    Two sessions that flush rows of the same owners in different orders, each with several flushes,
    may wait for each other. They cannot if both first call this, which locks in one order.

    Args:
        session: a Session that is tracked, with nothing flushed yet in its transaction. With an
            AsyncSession, call ``await session.run_sync(lock_owners, mobync, owner_ids)``.
        mobync: the Mobync that tracks the session.
        owner_ids: whose rows will be written.

    Raises:
        TypeError: an argument is something else.
        BusyError: a sync of one of the owners took longer than ``lock_timeout_s``.
    """
    if not isinstance(session, Session | scoped_session):
        raise TypeError(f"session must be a Session, not {type(session).__name__}")
    if isinstance(owner_ids, str):
        raise TypeError("owner_ids must be several owners, not a str")
    store = _store_of(mobync)
    _locked(store, session.connection({"clause": store._log.table}), set(owner_ids))


def _locked(
    store: SQLAlchemySynchronizer, connection: Connection, owners: Iterable[str]
) -> dict[str, SQLAlchemySynchronizer]:
    """The store of each owner, in the transaction of a connection, and locked."""
    stores: dict[str, SQLAlchemySynchronizer] = {}
    try:
        for owner_id in sorted(owners):
            stores[owner_id] = store._joining(connection, owner_id)
    finally:
        # After all locks: at REPEATABLE READ the first read settles what the later ones see.
        for each in stores.values() if connection.in_transaction() else ():
            each._fill_head()
    return stores


def _store_of(mobync: Mobync) -> SQLAlchemySynchronizer:
    """The Synchronizer of a Mobync, which has the tables of the app's classes."""
    if not isinstance(mobync, Mobync):
        raise TypeError(f"mobync must be a Mobync, not {type(mobync).__name__}")
    store = mobync.synchronizer
    if not isinstance(store, SQLAlchemySynchronizer) or isinstance(store, DocumentSynchronizer):
        raise TypeError(
            "the Mobync's Synchronizer must be a SQLAlchemySynchronizer, which has the tables of "
            f"the app's classes, not a {type(store).__name__}"
        )
    return store


def _placed(key: tuple[str, str], model: Model) -> tuple[str, Model, str]:
    return key[0], model, key[1]


def _is_within(transaction: Any, rolled_back: Any) -> bool:
    while transaction is not None:
        if transaction is rolled_back:
            return True
        transaction = transaction.parent
    return False


def _operations(
    store: SQLAlchemySynchronizer, owner_id: str, edits: list[Edit]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What goes into the log, with the values that the rows have now."""
    ids: dict[str, list[str]] = {}
    for edit in edits:
        ids.setdefault(edit.model.name, []).append(edit.id)
    rows = {
        (model, row[Diff.ID]): row
        for model, wanted in ids.items()
        for row in store.find_owned_rows(owner_id, model, wanted)
    }
    for edit in edits:
        name, key = edit.model.name, {Diff.ID: edit.id}
        row = rows.get((name, edit.id))
        if edit.kind in ("delete", "replace"):
            yield "delete", name, key
        if row is None or edit.kind == "delete":
            continue
        if edit.kind == "update":
            changed = {f: row[f] for f in edit.model.fields if f in edit.names and f in row}
            yield "update", name, {**key, **changed}
        else:
            yield "create", name, row


class _Row(NamedTuple):
    """The row of a model that an instance stands for."""

    state: InstanceState[Any]
    mapper: Mapper[Any]
    model: Model

    def key(self, connection: Connection) -> tuple[str, str] | None:
        """The owner and the id, as devices have them; None as long as there is none."""
        found = [self.state.attrs[name].value for name in self._names()]
        return self._as_devices_have(found, connection)

    def key_before(self, connection: Connection) -> tuple[str, str] | None:
        """The same before the flush; asks the database if the instance does not know it."""
        found = []
        for name, column in zip(self._names(), self._columns(), strict=True):
            history = self.state.attrs[name].history
            if history.deleted:
                found.append(history.deleted[0])
            elif history.added:
                found.append(self._read(column, connection))
            else:
                found.append(self.state.attrs[name].value)
        return self._as_devices_have(found, connection)

    def _read(self, column: Any, connection: Connection) -> Any:
        identity = zip(self.mapper.primary_key, self.state.key[1], strict=True)  # type: ignore[index]
        return connection.scalar(select(column).where(*(key == value for key, value in identity)))

    def changed(self) -> frozenset[str]:
        """The fields that the flush sets, and those that change with any column that it sets."""
        written: list[Any] = [c for c in self.model.table.columns if self._is_set(c)]
        if not written:
            return frozenset()
        if self.mapper.version_id_col is not None:
            written.append(self.mapper.version_id_col)
        found = {name for name, column in self.model.fields.items() if column in written}
        return (frozenset(found) | changing_fields(self.model)) - {Diff.ID}

    def _is_set(self, column: Any) -> bool:
        attribute = _attribute(self.mapper, column)
        return attribute is not None and self.state.attrs[attribute].history.has_changes()

    def _columns(self) -> list[Any]:
        return [self.model.owner, self.model.id]

    def _names(self) -> list[str]:
        names = []
        for column in self._columns():
            name = _attribute(self.mapper, column)
            if name is None:
                raise ValueError(
                    f"{self.mapper.class_.__name__} cannot be tracked: it does not map {column}"
                )
            names.append(name)
        return names

    def _as_devices_have(self, values: list[Any], connection: Connection) -> tuple[str, str] | None:
        if None in values:
            return None
        owner, id_ = (
            str(self.model.codec(column, connection.dialect).encode(value))
            for column, value in zip(self._columns(), values, strict=True)
        )
        return (owner, id_) if owner and id_ else None


def _attribute(mapper: Mapper[Any], column: Any) -> str | None:
    """The attribute of a class that a column is mapped to."""
    try:
        return str(mapper.get_property_by_column(column).key)
    except UnmappedColumnError:
        return None
