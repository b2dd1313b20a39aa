"""The Synchronizer: models, log and owner's lock in a database of a Django project."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, Error, connections, models, transaction
from django.db.models import OuterRef, Subquery

from .._relational.database_errors import OUTAGES, Kind
from .._relational.filled import Columns, check_columns, check_models, refuse_fields
from .._relational.rows import changed_fields, first_of
from .._relational.store import RelationalSynchronizer, check_arguments
from .._relational.write_order import References, write_order
from .._waiting import Waiting
from ..errors import BusyError, InvalidDiffError, MobyncError, UnavailableError
from ..types import Diff, FilterType, LogRow, ReadFilter
from ._edits import erase, settle_saves, syncing
from ._errors import kind_of, reason_at_commit
from ._filled import filled_models
from ._locking import (
    HeadOfOwner,
    is_busy_sqlite,
    lock_head,
    locking,
    one_moment,
    read_head,
    why_no_log,
)
from ._log import (
    LOG,
    LOOKUPS,
    OWNER_ITSELF,
    Log,
    drop_parts,
    has_parts,
    read_devices,
    read_parts,
    write_device,
    write_part,
)
from ._model import WHERE, Model, Row, connect_references, describe
from ._settings import check_settings_once
from ._writing import Writer, give_rows
from .models import Device, Head
from .models import Diff as LoggedDiff

if TYPE_CHECKING:
    from typing_extensions import Self


P = ParamSpec("P")
T = TypeVar("T")

PAGE_ROWS = 1000  # of owned_rows, in memory at once
VENDORS = ("sqlite", "postgresql", "mysql")
_AFTER_COMMIT = "_mobync_after_commit"  # of an error
_NONE: Columns = MappingProxyType({})


class _InDjangosThread(Waiting):
    """How a task waits: in the thread in which Django does the work of that task that blocks.

    It has the connections of the request, or of the test, and Django closes them in time.
    """

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await sync_to_async(function)(*args, **kwargs)


@dataclass
class _Tables:
    """Which tables are known to exist, of those that a later migration adds."""

    parts: bool = False


@dataclass
class _Transaction:
    """What is known while an owner's transaction is open."""

    owner_id: str
    clock: int  # the highest of the owner's log
    log: Log
    writer: Writer
    states: dict[str, str | None]  # of devices, as far as known
    is_written: bool = False  # only the commit is left
    is_committed: bool = False

    def committed(self) -> None:
        """Note the commit. This is the first function that Django calls then."""
        self.is_committed = True


class DjangoSynchronizer(RelationalSynchronizer[_Transaction, Model]):
    """Stores models and log in a database of Django. You do not have to override anything.

    The three rules accept everything, because every statement touches only the owner's rows.
    Override ``validate_*`` for your own rules. Inside them ``self``, and every query of the app,
    is in the owner's transaction.

    What devices send is converted to the fields' types. A value that does not fit is refused, and
    the error names it (docs/django.md). A row is an instance: the fields' validators, the choices
    and ``clean`` of the model check what a device sent. Then ``save`` or ``delete`` is called, and
    signals are sent. :func:`track` brings the edits of the app's own code into the log.

    One object serves any number of threads; each transaction works on a copy of it.

    Args:
        models: models of the project, by the names that devices use, or their labels,
            'app.Model'. The primary key is a UUIDField, CharField or TextField.
        owner_column: the field of every model that says who owns a row. It is a text, an integer or
            a UUID that holds the ``owner_id`` of ``Mobync.apply``, or a ForeignKey to a model with
            such a key, such as the user.
        lock_timeout_s: seconds to wait for another sync of the same owner, and for any locked row.
            MySQL and MariaDB count whole seconds, at least one.
        shared: names of models that have no owner field, on purpose: any device may write any row
            of them, unless a rule refuses.
        using: the alias of the database that has the models and the log.
        server_columns: by model, names of fields that devices get but may not write, besides those
            that are not ``editable``. ``push`` may write them.
        hidden_columns: by model, names of fields that devices neither get nor may write.
        read_back: names of models whose rows are read back after every write, because a trigger or
            a signal may change any of their fields. This happens by itself for models with
            defaults, with fields that change by themselves or are not ``editable``, and with a
            ``save`` or ``clean`` of their own.

    Attributes:
        filled_models: what is filled in of which models, or None.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a model cannot be synced, with the reason.
        django.core.exceptions.ImproperlyConfigured: 'mobync.django' is not in INSTALLED_APPS, or
            the database is not SQLite, PostgreSQL, MySQL or MariaDB.
    """

    _waiting = _InDjangosThread()

    def __init__(
        self,
        models: Mapping[str, type[models.Model] | str],
        *,
        owner_column: str = "owner",
        lock_timeout_s: float = 10.0,
        shared: Collection[str] = (),
        using: str = DEFAULT_DB_ALIAS,
        server_columns: Columns = _NONE,
        hidden_columns: Columns = _NONE,
        read_back: Collection[str] = (),
    ) -> None:
        check_arguments(models, lock_timeout_s, shared, "models")
        check_columns("server_columns", server_columns, models)
        check_columns("hidden_columns", hidden_columns, models)
        check_models("read_back", read_back, models)
        _check_project(using)
        self._using = using
        self._lock_timeout_s = float(lock_timeout_s)
        self.diffs_model_name: str = LOG
        self._models = {
            name: describe(
                name,
                _model_of(source),
                using,
                owner_column,
                name in shared,
                hidden=hidden_columns.get(name, ()),
                server=server_columns.get(name, ()),
            )
            for name, source in models.items()
        }
        self.filled_models = filled_models(self._models, read_back)
        _check_apart(self._models)
        connect_references(self._models)
        self._references = _references(self._models)
        self._tables = _Tables()
        self._open: _Transaction | None = None

    # ---- transactions ----------------------------------------------------------------------------

    def transaction(self, owner_id: str) -> AbstractContextManager[Self]:
        """Put one sync of this owner into a transaction; nobody else can sync this owner meanwhile.

        Inside a transaction of the app it is a savepoint, and the owner stays locked until the app
        commits.

        Yields:
            A copy of this synchronizer that works in the transaction.

        Raises:
            BusyError: another sync of this owner, or another lock on a row that the sync writes,
                took longer than ``lock_timeout_s``; on SQLite, any other writer.
            UnavailableError: the database does not answer, is full, read-only, or too slow.
            InvalidDiffError: a deferred constraint refuses what was written.
            RuntimeError: a transaction is open already.
            ValueError: the database cannot tell ``owner_id`` from others, or its settings would
                change what devices send.
        """
        return self._held(owner_id)

    @contextmanager
    def _held(self, owner_id: str) -> Iterator[Self]:
        """A copy that works in a transaction, whose errors become mobync's."""
        if self._open is not None:
            raise RuntimeError("a transaction is open already")
        self._check_owner(owner_id)
        settle_saves(self._using)
        inside = copy.copy(self)
        opened: _Transaction | None = None
        is_nested = connections[self._using].in_atomic_block
        try:
            with locking(self._using, owner_id, self._lock_timeout_s) as head:
                inside._open = opened = self._opened(owner_id, head)
                if not is_nested:
                    transaction.on_commit(opened.committed, using=self._using)
                with syncing(self._using):
                    yield inside
                opened.is_written = True
        except Error as error:
            if opened is not None and opened.is_committed:
                vars(error)[_AFTER_COMMIT] = True
                raise  # of a function of the app that Django called after the commit
            meant = self._meaning(error, opened)
            if meant is None:
                raise
            raise meant from error
        finally:
            inside._open = None

    def _opened(self, owner_id: str, head: HeadOfOwner) -> _Transaction:
        writer = Writer(self._using, lambda model: model.owner_value(owner_id))
        states = {OWNER_ITSELF: head.state}
        return _Transaction(owner_id, head.clock, Log(self._using, owner_id), writer, states)

    def _joining(self, owner_id: str) -> Self:
        """A copy that works in a transaction of the app, in which the owner is locked."""
        check_settings_once(self._using)
        inside = copy.copy(self)
        inside._open = self._opened(owner_id, lock_head(self._using, owner_id))
        return inside

    def _meaning(self, error: Error, opened: _Transaction | None) -> MobyncError | None:
        """The error that the device gets for an error of the database; None if it gets none."""
        kind = kind_of(error)
        too_long = f"longer than {self._lock_timeout_s:g} s"
        if opened is None and (kind is Kind.LOCKED or is_busy_sqlite(error)):
            return BusyError(f"another sync of this owner took {too_long}")
        if kind is Kind.LOCKED:
            return BusyError(f"a row was locked by another transaction for {too_long}")
        if kind in OUTAGES:
            return UnavailableError("the database cannot do it now")
        if opened is not None and opened.is_written:
            reason = reason_at_commit(error)
            return None if reason is None else InvalidDiffError(reason)
        return None

    def _check_owner(self, owner_id: str) -> None:
        check_settings_once(self._using)
        reason = why_no_log(self._using, owner_id)
        if reason is not None:
            raise ValueError(reason)

    def is_transient(self, error: Exception) -> bool:
        # A deadlock ends the whole transaction, and only the app can do its own part of it again.
        if _AFTER_COMMIT in vars(error) or connections[self._using].in_atomic_block:
            return False
        return kind_of(error) is Kind.CONFLICT

    def may_begin_again(self) -> bool:
        return not connections[self._using].needs_rollback

    def write_order(self, operations: Sequence[tuple[str, str, str]]) -> Sequence[int]:
        return write_order(operations, self._references, self._read_fields)

    def _read_fields(self, where: str, ids: Sequence[str], fields: Sequence[str]) -> list[Row]:
        """Read some fields of the owner's rows with these ids, and the id."""
        model = self._models[where]
        owner = model.owner_value(self._transaction().owner_id)
        return _read_ids(model, owner, ids, [Diff.ID, *fields])

    def highest_logical_clock(self, owner_id: str) -> int:
        if self._open is not None and self._open.owner_id == owner_id:
            return self._open.clock
        with self._naming_outages():
            return read_head(self._using, owner_id).clock

    def reading(self, owner_id: str) -> AbstractContextManager[Self] | None:
        """Read without the lock, unless the app has an open transaction or overrides
        ``transaction``."""
        is_free = self._reads_alone() and self._open is None
        if not is_free or connections[self._using].in_atomic_block:
            return None
        self._check_owner(owner_id)
        return self._reading_at(owner_id)

    def _reads_alone(self) -> bool:
        return type(self).transaction is DjangoSynchronizer.transaction

    @contextmanager
    def _reading_at(self, owner_id: str) -> Iterator[Self]:
        inside = copy.copy(self)
        with self._naming_outages(), one_moment(self._using):
            inside._open = self._opened(owner_id, read_head(self._using, owner_id))
            try:
                yield inside
            finally:
                inside._open = None

    @contextmanager
    def _naming_outages(self) -> Iterator[None]:
        try:
            yield
        except Error as error:
            if kind_of(error) not in OUTAGES:
                raise
            raise UnavailableError("the database cannot do it now") from error

    def owners(self) -> Iterator[str]:
        """Yield each owner who has a log once, and perhaps some whose log is still empty."""
        after = ""
        while True:
            heads = Head.objects.using(self._using).filter(owner__gt=after).order_by("owner")
            page = list(heads.values_list("owner", flat=True)[:PAGE_ROWS])
            yield from page
            if len(page) < PAGE_ROWS:
                return
            after = page[-1]

    def owners_of_rows(self) -> set[str]:
        """Everyone who has rows of a model that belongs to owners."""
        found: set[str] = set()
        for model in self._models.values():
            if model.owner is not None:
                rows = model.source._base_manager.using(self._using).order_by()
                values = rows.values_list(model.owner.attname, flat=True).distinct()
                found.update(filter(None, map(model.owner_id, values)))
        return found

    # ---- devices ---------------------------------------------------------------------------------

    def keeps_clock(self) -> bool:
        return True  # the head does

    def keeps_field_times(self) -> bool:
        return True

    def read_devices(self, owner_id: str, names: Sequence[str] | None) -> dict[str, str]:
        """Read what is stored about devices.

        Raises:
            InvalidDiffError: on MySQL and MariaDB, a name ends in a space.
        """
        self._check_names(names or ())
        opened = self._open
        if opened is None or opened.owner_id != owner_id:
            opened = self._opened(owner_id, read_head(self._using, owner_id))
        states = opened.states
        unknown = None if names is None else [name for name in names if name not in states]
        if unknown is None or unknown:
            found = read_devices(self._using, owner_id, unknown)
            states |= {**dict.fromkeys(unknown or ()), **found}
        wanted = {**states} if names is None else {name: states[name] for name in names}
        return {name: text for name, text in wanted.items() if text is not None}

    def write_devices(self, owner_id: str, states: Mapping[str, str | None]) -> None:
        opened = self._transaction()
        if opened.owner_id != owner_id:
            raise ValueError(f"the transaction is not for owner {owner_id!r:.100}")
        self._check_names(states)
        for name, text in states.items():
            write_device(self._using, owner_id, name, text)
        opened.states |= states

    def keeps_parts(self) -> bool:
        """Whether the table of parts exists, which ``manage.py migrate`` makes."""
        self._tables.parts = self._tables.parts or has_parts(self._using)
        return self._tables.parts

    def write_part(self, owner_id: str, device: str, part: int, pieces: Sequence[str]) -> None:
        write_part(self._using, owner_id, device, part, pieces)

    def read_parts(self, owner_id: str, device: str) -> Iterator[tuple[int, str]]:
        return read_parts(self._using, owner_id, device)

    def drop_parts(self, owner_id: str, device: str | None) -> None:
        drop_parts(self._using, owner_id, device)

    def erase_owned(self, owner_id: str) -> dict[str, int]:
        """Delete the owner's rows of all models, except shared ones, the log and the head.

        Raises:
            django.db.models.ProtectedError: a row that is not the owner's refers to one that is.
        """
        opened = self._transaction()
        if opened.owner_id != owner_id:
            raise ValueError(f"the transaction is not for owner {owner_id!r:.100}")
        erase(self._using, owner_id)
        counts: dict[str, int] = {}
        for name in reversed(self.owned_models(owner_id)):
            model = self._models[name]
            _, deleted = model.rows_of(model.owner_value(owner_id)).delete()
            counts[name] = deleted.get(model.source._meta.label, 0)
        for source in (LoggedDiff, Head):
            gone, _ = source.objects.using(self._using).filter(owner=owner_id).delete()
            if source is LoggedDiff:
                counts[LOG] = gone
        opened.clock = -1
        return counts

    # ---- two owners ------------------------------------------------------------------------------

    def moving(
        self, old_owner_id: str, new_owner_id: str
    ) -> AbstractContextManager[tuple[Self, Self]] | None:
        """Lock both owners, unless a subclass has its own ``transaction``, which locks only one."""
        if type(self).transaction is not DjangoSynchronizer.transaction:
            return None
        return self._moving(old_owner_id, new_owner_id)

    @contextmanager
    def _moving(self, old_owner_id: str, new_owner_id: str) -> Iterator[tuple[Self, Self]]:
        first, second = sorted((old_owner_id, new_owner_id))
        self._check_owner(second)
        with (
            self._held(first) as one,
            locking(self._using, second, self._lock_timeout_s) as head,
        ):
            other = copy.copy(one)
            other._open = self._opened(second, head)
            try:
                yield (one, other) if first == old_owner_id else (other, one)
            finally:
                other._open = None

    def move_owned(self, new_owner_id: str, same: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Give the owner's rows of all models, except shared ones, to another owner.

        One ``update`` for each model does this, so no signals are sent and no ``save`` is called.

        Raises:
            InvalidDiffError: the database refuses it.
            ValueError: the field cannot keep ``new_owner_id``.
        """
        owner_id = self._transaction().owner_id
        return {
            name: give_rows(self._models[name], owner_id, new_owner_id)
            for name in self.owned_models(owner_id)
        }

    def raise_clock(self, clock: int) -> None:
        opened = self._transaction()
        if clock > opened.clock:
            self._move_head(opened, clock)

    def _poll(self, owner_id: str, device: str) -> tuple[int, dict[str, str] | None] | None:
        if connections[self._using].in_atomic_block:
            return None
        self._check_names([device])
        own = Device.objects.filter(owner=OuterRef("owner"), device=device).values("state")[:1]
        heads = Head.objects.using(self._using).filter(owner=owner_id)
        with self._naming_outages():
            row = heads.values_list("logical_clock", "state", Subquery(own)).first()
        if row is None:
            return None
        clock, *texts = row
        states = zip((OWNER_ITSELF, device), texts, strict=True)
        return clock, {name: text for name, text in states if text is not None}

    def _check_names(self, names: Collection[str]) -> None:
        is_mysql = connections[self._using].vendor == "mysql"
        if is_mysql and any(name.endswith(" ") for name in names):
            raise InvalidDiffError("device ends in a space, which MySQL and MariaDB do not compare")

    # ---- reading ---------------------------------------------------------------------------------

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[Row]:
        """Read rows as dicts of JSON values.

        Inside a transaction these are rows of its owner. Outside, one filter must be ``equal`` on
        the owner's field (for the log, on ``owner``), unless the model is shared.

        Raises:
            InvalidDiffError: there is no such model.
            ValueError: a filter names an unknown field, or its value does not fit the field, or
                no filter is on the owner.
        """
        if where == LOG:
            owner_id = self._owner_to_read(where, Diff.OWNER, filters)
            opened = self._open
            return (Log(self._using, owner_id) if opened is None else opened.log).read(filters)
        model = self._model(where)
        if model.owner is None:
            rows = model.rows_of(None)
        else:
            owner_id = self._owner_to_read(where, model.owner.name, filters)
            rows = model.rows_of(model.owner_value(owner_id))
            filters = [f for f in filters if f.field_name != model.owner.name]
        for f in filters:
            rows = rows.filter(**_lookup(model, f))
        return model.read(rows, list(model.fields))

    def _owner_to_read(self, where: str, name: str, filters: Sequence[ReadFilter]) -> str:
        if self._open is not None:
            return self._open.owner_id
        for f in filters:
            if f.field_name == name and f.filter_by is FilterType.equal and f.data is not None:
                return str(f.data)
        raise ValueError(f"reading {where!r} needs a filter equal on {name!r}")

    def owned_rows(self, owner_id: str, where: str, after: str | None = None) -> Iterator[Row]:
        """Yield an owner's rows of a model in the order of their ids, read a page at a time.

        Args:
            owner_id: whose rows.
            where: the model.
            after: the id after which to begin.

        Raises:
            InvalidDiffError: there is no such model.
            ValueError: the owner's field cannot keep ``owner_id``.
        """
        model = self._model(where)
        owned = model.rows_of(model.owner_value(owner_id)).order_by("pk")
        while True:
            rows = owned
            if after is not None:
                rows = rows.filter(**_lookup(model, ReadFilter(Diff.ID, FilterType.major, after)))
            page = model.read(rows[:PAGE_ROWS], list(model.fields))
            yield from page
            if len(page) < PAGE_ROWS:
                return
            after = page[-1][Diff.ID]

    def find_owned_rows(self, owner_id: str, where: str, ids: Sequence[str]) -> list[Row]:
        """Read those rows of :meth:`owned_rows` that have one of these ids."""
        model = self._model(where)
        return _read_ids(model, model.owner_value(owner_id), ids, list(model.fields))

    def owned_models(self, owner_id: str) -> list[str]:
        """The models that are not shared; one comes after those that its rows refer to."""
        ordered: list[str] = []

        def visit(name: str, above: tuple[str, ...]) -> None:
            for _, target in self._references.get(name, ()):
                if target not in above:
                    visit(target, (*above, target))
            if name not in ordered and self._models[name].owner is not None:
                ordered.append(name)

        for name in self._models:
            visit(name, (name,))
        return ordered

    def edits_between(
        self, where: str, logged: str, row: Mapping[str, Any] | str
    ) -> list[tuple[str, Mapping[str, Any] | str]]:
        """Return the edits that make the log agree with a row.

        A field agrees if the value of the log, once written to the row, would be read back as the
        value that the row has.
        """
        assert isinstance(row, Mapping)
        changed = changed_fields(logged, row, self._model(where).kept)
        return [("update", {Diff.ID: row[Diff.ID], **changed})] if changed else []

    # ---- writing ---------------------------------------------------------------------------------

    def create(self, where: str, data_json: str) -> None:
        with transaction.atomic(using=self._using):  # so that a refused row ends nothing else
            self.create_many(where, [data_json])

    def update(self, where: str, data_json: str) -> None:
        with transaction.atomic(using=self._using):
            self.update_many(where, [data_json])

    def delete(self, where: str, data_json: str) -> None:
        with transaction.atomic(using=self._using):
            self.delete_many(where, [data_json])

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened = self._transaction()
        if where != LOG:
            opened.writer.create(self._writable(where, rows_json), rows_json)
        elif rows_json:
            self._move_head(opened, opened.log.create(rows_json))

    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened = self._transaction()
        if where == LOG:
            opened.log.update(rows_json)
        else:
            opened.writer.update(self._writable(where, rows_json), rows_json)

    def delete_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened = self._transaction()
        if where == LOG:
            opened.log.delete(rows_json)
        else:
            opened.writer.delete(self._written(where, rows_json), rows_json)

    def check_written(self, count: int) -> None:
        self._transaction().writer.check()

    def append_log(self, where: str, rows: Sequence[LogRow]) -> None:
        opened = self._transaction()
        if rows:
            opened.log.append(rows)
            self._move_head(opened, max(row[2] for row in rows))

    def _move_head(self, opened: _Transaction, clock: int) -> None:
        opened.clock = max(opened.clock, clock)
        heads = Head.objects.using(self._using).filter(owner=opened.owner_id)
        heads.update(logical_clock=opened.clock)

    def _writable(self, where: str, rows_json: Sequence[str]) -> Model:
        """The model of rows that are created or updated, unless only the server may write them."""
        model = self._written(where, rows_json)
        if model.server_fields and not self._writes_as_server:
            refuse_fields(rows_json, model.server_fields, WHERE)
        return model

    def _written(self, where: str, rows_json: Sequence[str]) -> Model:
        try:
            return self._model(where)
        except InvalidDiffError as unknown:  # so no row fits
            misfits = [InvalidDiffError(unknown.reason, place) for place in range(len(rows_json))]
            raise first_of(misfits or [unknown]) from None

    def _model(self, where: str) -> Model:
        model = self._models.get(where)
        if model is None:
            raise InvalidDiffError(f"model {where!r:.100} is unknown")
        return model


def _lookup(model: Model, f: ReadFilter) -> dict[str, Any]:
    known = model.fields.get(f.field_name)
    codec = model.codecs.get(f.field_name)
    if known is None or codec is None:
        raise ValueError(f"model {model.name!r} has no field {f.field_name!r:.100}")
    if f.data is None:
        return {f"{known.attname}__isnull": True}
    return {f"{known.attname}__{LOOKUPS[f.filter_by]}": codec.decode(f.data)}


def _read_ids(model: Model, owner: Any, ids: Sequence[str], names: Sequence[str]) -> list[Row]:
    found: list[Row] = []
    codec = model.codecs[Diff.ID]
    assert codec is not None
    keys: list[Any] = []
    for id_ in ids:
        try:
            keys.append(codec.decode(id_))
        except ValueError:  # an id that the key cannot have: there is no such row
            continue
    wanted = set(ids)
    for begin in range(0, len(keys), PAGE_ROWS // 2):
        rows = model.rows_of(owner).filter(pk__in=keys[begin : begin + PAGE_ROWS // 2])
        found += [row for row in model.read(rows, names) if row[Diff.ID] in wanted]
    return found


def _references(described: Mapping[str, Model]) -> References:
    names = {model.source: name for name, model in described.items()}
    found: References = {}
    for name, model in described.items():
        for field_name, (target, attname, _) in model.references.items():
            if target in names and attname == target._meta.pk.attname:
                found.setdefault(name, []).append((field_name, names[target]))
    return found


def _check_project(using: str) -> None:
    if not apps.is_installed("mobync.django"):
        raise ImproperlyConfigured("settings.INSTALLED_APPS must have 'mobync.django'")
    if using not in connections:
        raise ImproperlyConfigured(f"settings.DATABASES has no {using!r}")
    vendor = connections[using].vendor
    if vendor not in VENDORS:
        raise ImproperlyConfigured(
            f"the database {using!r} is {vendor}: mobync supports SQLite, PostgreSQL, MySQL "
            "and MariaDB"
        )


def _model_of(source: Any) -> Any:
    if not isinstance(source, str):
        return source
    try:
        return apps.get_model(source)
    except LookupError as error:
        raise ValueError(f"model {source!r}: {error}") from None


def _check_apart(described: Mapping[str, Model]) -> None:
    seen: dict[type[models.Model], str] = {}
    for name, model in described.items():
        if name == LOG or model.source._meta.app_label == "mobync":
            raise ValueError(f"model {name!r}: devices must not write {LOG!r}")
        other = seen.setdefault(model.source, name)
        if other != name:
            raise ValueError(f"{model.source._meta.label} is named twice: {other!r} and {name!r}")
