"""The app's side of mobync: its database and its rules."""

from __future__ import annotations

import abc
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from . import _core
from ._plain import check_plain, check_takes, refuse_awaitable
from ._waiting import IN_A_THREAD, Waiting
from .errors import InvalidDiffError
from .types import FIELD_TIMES, LOG_FIELDS, Diff, FilledModel, LogRow, ReadFilter

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .types import FIELD_TIMES, DiffDict

Rows = str | bytes | Iterable[Mapping[str, Any]]


class WriteCarefully(Exception):
    """A store wrote several rows at once, and the database refused one without saying which."""


class Synchronizer(_core.Synchronizer, metaclass=abc.ABCMeta):
    """The base class for an app's store: seven methods between mobync and the database.

    Rows are passed as JSON text. ``where`` is a model name that a device sent, or the name of the
    log; check it before it becomes part of a statement. An exception from any method reaches the
    caller of ``apply`` unchanged. Only an InvalidDiffError or UnauthorizedError gets the position
    of its diff.

    Attributes:
        diffs_model_name: the name of the log, if the synchronizer knows it; then ``Mobync`` refuses
            another name. None, the default: the name that ``Mobync`` uses.
        capture: notes about rows that something other than mobync has written, if the synchronizer
            has them. None, the default: it does not.
        filled_models: the models whose rows the database fills in, by name. A store with such
            models must override ``transaction`` and ``find_owned_rows``, so that mobync can read
            these rows back for the log and the devices (docs/protocol.md, "The server's part").
            None, the default: there are none, or devices do not get the values.
    """

    diffs_model_name: str | None = None
    capture: Any = None
    filled_models: Mapping[str, FilledModel] | None = None
    _writes_as_server: bool = False  # of one in a transaction: what is written is the backend's
    _passes_over_unreadable: bool = (
        False  # whether a sync skips rows that find_owned_rows cannot read
    )
    _waiting: Waiting = IN_A_THREAD

    @abc.abstractmethod
    def read(self, where: str, filters: list[ReadFilter]) -> Rows:
        """Return the rows of a model that pass all filters.

        mobync reads only the log, filtered by ``owner`` (equal) and ``logical_clock``
        (majorOrEqual). If the store has ``highest_logical_clock``, mobync also filters by
        ``logical_clock`` (minor), and perhaps by ``type`` (equal), where additional rows do no
        harm. The rows may come in any order, and may have more than the seven fields.

        Returns:
            JSON text (an array of objects), or the rows as dicts.
        """

    @abc.abstractmethod
    def create(self, where: str, data_json: str) -> Any:
        """Insert the row that ``data_json``, a JSON object with an ``id``, describes."""

    @abc.abstractmethod
    def update(self, where: str, data_json: str) -> Any:
        """Set the fields of ``data_json`` in the row with its ``id``.

        If the row does not exist, it was deleted: ignore the update.
        """

    @abc.abstractmethod
    def delete(self, where: str, data_json: str) -> Any:
        """Remove the row with the ``id`` in ``data_json``. A missing row is not an error."""

    @abc.abstractmethod
    def validate_create(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Whether this owner may make this create.

        Args:
            owner_id: the authenticated owner.
            **diff: the diff as the device sent it: id, owner, logical_clock, utc_timestamp, type,
                model, json_data, and any other keys. An override may name only the ones that it
                wants: ``*, model: str, json_data: str, **rest: Any``.

        Returns:
            True to allow the diff. False, or another false value, refuses it, and with it the whole
            request unless ``on_refusal='skip'``. Anything else is a TypeError.

        Raises:
            UnauthorizedError, InvalidDiffError: to refuse it with a reason for the developer of the
                client. mobync adds the position of the diff.
        """

    @abc.abstractmethod
    def validate_update(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Whether this owner may make this update; like :meth:`validate_create`."""

    @abc.abstractmethod
    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Whether this owner may make this delete; like :meth:`validate_create`."""

    def transaction(self, owner_id: str) -> AbstractContextManager[Synchronizer]:
        """Run one sync in a transaction; override it if the database has transactions.

        Yields the Synchronizer to use inside. A normal exit commits, and an exception rolls back.
        Until the exit, no other process may sync the same owner. An override must ensure this. In
        return, rows are written in runs (see :meth:`create_many`).

        The default yields ``self`` and makes no transaction.
        """
        return nullcontext(self)

    def _attempt(
        self, owner_id: str, carefully: bool, device: str | None = None
    ) -> AbstractContextManager[Synchronizer]:
        """Run one attempt at a sync in a transaction, with :meth:`transaction`.

        Args:
            owner_id: the owner.
            carefully: whether the method that writes a row must raise if the row is refused. If
                not, a store may keep rows until it commits or reads.
            device: a device whose state is read in the same transaction; None: no device.

        Raises:
            WriteCarefully: only without ``carefully``: start the sync again, carefully.
        """
        return self.transaction(owner_id)

    def is_transient(self, error: Exception) -> bool:
        """Whether a transaction that failed with ``error`` may succeed if it is started again.

        For example a deadlock. mobync then starts again, a few times. Default: False.
        """
        return False

    def may_begin_again(self) -> bool:
        """Whether the transaction that just failed contained only mobync's work.

        If not, the app's own work in it is lost, and mobync does not start it again.
        """
        return True

    def write_order(self, operations: Sequence[tuple[str, str, str]]) -> Sequence[int]:
        """The order in which to write the rows of a sync, for example because of foreign keys.

        The log keeps the order of the operations. This is called only if ``transaction`` is
        overridden and there are several operations, just before the first write.

        Args:
            operations: type, model and ``data_json`` of each, in the order of the request.

        Returns:
            Each position in ``operations`` once. Default: the same order.
        """
        return range(len(operations))

    def highest_logical_clock(self, owner_id: str) -> int | None:
        """The highest ``logical_clock`` in the owner's log, -1 if it is empty.

        A store with this method must also support the filter ``minor`` in :meth:`read`, so that a
        page of the log, or a piece to compact, can be read alone. If a device has seen this clock,
        mobync does not read the log. None, the default: not available, and mobync reads the log
        instead.
        """
        return None

    def reading(self, owner_id: str) -> AbstractContextManager[Synchronizer] | None:
        """Read an owner's log as of one moment, without a lock and without waiting.

        This is for requests without diffs. A store with this method must also have
        ``highest_logical_clock``. That is called first, outside of this context, and alone answers
        a device that has everything. The context is entered and the log read only if there is
        something new.

        Returns:
            A context manager that gives the Synchronizer to read with. Its
            ``highest_logical_clock`` and ``read`` must see the same moment. It may be behind, like
            a replica: a device that has seen more gets its answer in a :meth:`transaction`. None,
            the default: not available, and every request is answered in a transaction.
        """
        return None

    def _reading_window(
        self,
        reading: AbstractContextManager[Synchronizer],
        owner_id: str,
        first_clock: int,
        highest: int,
        limit: int = 0,
        device: str = "",
    ) -> AbstractContextManager[Synchronizer]:
        """The context to read a window in, and what is stored for the owner and for a device.

        Args:
            reading: what :meth:`reading` returned; it was not entered.
            owner_id: the owner.
            first_clock: from which clock on the log is read.
            highest: the owner's highest clock a moment ago, or less.
            limit: about how many diffs are wanted; 0: all. More may be left for later pages.
            device: the device, if any.

        Returns:
            ``reading``, the default; or another context with a Synchronizer that has the same.
        """
        return reading

    def read_devices(self, owner_id: str, names: Sequence[str] | None) -> Mapping[str, str] | None:
        """Return what :meth:`write_devices` last stored for some devices of an owner.

        This is called inside the owner's transaction. A Synchronizer that overrides both methods
        supports named devices (docs/protocol.md, "Named devices"). By default it does not, and
        names of devices are ignored.

        Args:
            owner_id: the owner.
            names: the names of the devices, each a text of 1 to 255 characters. The name ``""``
                stands for the owner, for whom something is stored too. None: all devices.

        Returns:
            The text of each device for which something is stored. None: this database does not
            store devices (for example because its table does not exist yet). Then the names of
            devices are ignored.
        """
        raise NotImplementedError(f"{type(self).__name__} does not store devices")

    def write_devices(self, owner_id: str, states: Mapping[str, str | None]) -> Any:
        """Store a text for each of some devices of an owner, replacing the one before.

        This happens in the transaction of the request's diffs: everything is stored or nothing.

        Args:
            owner_id: the owner.
            states: JSON texts by the name of the device, or by ``""`` for the owner. A text has
                some hundred bytes, or more if diffs were refused. None: delete what is stored.
        """
        raise NotImplementedError(f"{type(self).__name__} does not store devices")

    def keeps_parts(self) -> bool:
        """Whether the parts of a device's request can be stored until the last one arrives.

        A store that overrides this must also override the next three methods, and store devices. It
        is called inside a transaction (docs/protocol.md, "A request in parts"). Default: False, and
        a device with too many diffs for one request sends several requests.
        """
        return False

    def write_part(self, owner_id: str, device: str, part: int, pieces: Sequence[str]) -> Any:
        """Store a part of a device's request. No part with its number is stored yet.

        Args:
            owner_id: the owner of the device.
            device: the name of the device.
            part: the number of the part.
            pieces: its text, in pieces of at most 200,000 characters.
        """
        raise NotImplementedError(f"{type(self).__name__} does not store parts")

    def read_parts(self, owner_id: str, device: str) -> Iterable[tuple[int, str]]:
        """The pieces of all parts of a device's request, each with the number of its part.

        They come in the order of the parts, and of the pieces of each part. This is called inside
        the transaction.
        """
        raise NotImplementedError(f"{type(self).__name__} does not store parts")

    def drop_parts(self, owner_id: str, device: str | None) -> Any:
        """Delete the parts of a device; None: of all devices of the owner."""
        raise NotImplementedError(f"{type(self).__name__} does not store parts")

    def _has_notes(self, owner_id: str) -> bool:
        """Whether ``capture`` has notes about an owner's rows; read outside of a transaction."""
        return False

    def _reads_alone(self) -> bool:
        """Whether the app has put nothing of its own around a transaction, so that a read outside
        of one sees the same."""
        return False

    def _poll(self, owner_id: str, device: str) -> tuple[int, Mapping[str, str] | None] | None:
        """What a poll of a device needs to know, read outside of a transaction.

        A store with this method must have ``reading`` too.

        Returns:
            The highest clock of the owner's log, and what is stored for the owner and for the
            device, as of one moment. The second is None if the database does not store devices.
            None, the default: not available; a transaction finds out.
        """
        return None

    def keeps_clock(self) -> bool:
        """Whether the owner's clock stays known when the last rows of the log are dropped.

        True promises that :meth:`highest_logical_clock` still returns the highest clock after
        compaction has dropped that row. Default: False, and the row is not dropped.
        """
        return False

    def keeps_field_times(self) -> bool:
        """Whether a row of the log can have ``field_times`` besides its seven fields.

        ``field_times`` is a text or null. Compaction sets it with :meth:`update_many`, and
        :meth:`read` returns it with the row. This is called inside a transaction. Default: False,
        and an object whose fields have different times is not folded below the horizon.
        """
        return False

    def erase_owned(self, owner_id: str) -> Mapping[str, int] | None:
        """Delete all data of an owner for :meth:`Mobync.erase`: rows, log and clock.

        This is called inside a transaction of the owner. What :meth:`write_devices` stored stays.

        Returns:
            How many rows were deleted, by model and by the name of the log. None, the default: not
            available; then mobync deletes the objects that are in the log, and the log.
        """
        return None

    def moving(
        self, old_owner_id: str, new_owner_id: str
    ) -> AbstractContextManager[tuple[Synchronizer, Synchronizer]] | None:
        """Lock two owners in one transaction, for :meth:`Mobync.move_owner`.

        It is like :meth:`transaction`, for both owners: nobody else may sync one of them meanwhile.
        A store with this method locks the owners in the order of their ids, so that two moves in
        opposite directions do not wait for each other. It must also have ``raise_clock``.

        Returns:
            A context that gives the Synchronizer for each owner. None, the default: not available.
        """
        return None

    def move_owned(
        self, new_owner_id: str, same: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int] | None:
        """Give all rows of an owner, in all models, to another owner.

        This is called inside :meth:`moving`, on the Synchronizer of the owner who has the rows.

        Args:
            new_owner_id: the owner who gets the rows.
            same: for each model, ids of objects that are the same for both owners. If both have a
                row, the new owner's row stays, and the other one is deleted.

        Returns:
            How many rows of each model were given. None, the default: rows do not name their owner,
            so there is nothing to do.
        """
        return None

    def raise_clock(self, clock: int) -> Any:
        """Make ``highest_logical_clock`` return at least this from now on.

        This is called inside :meth:`moving`. The log need not have a diff with this clock.
        """
        raise NotImplementedError(f"{type(self).__name__} does not offer raise_clock")

    def _generated_fields(self, where: str) -> Iterable[str]:
        """The fields of a model that only the database writes."""
        return ()

    def _fields_of_server(self, where: str) -> Iterable[str]:
        """The fields of a model that no device may write. The model may be unknown."""
        return ()

    def owned_rows(
        self, owner_id: str, where: str, after: str | None = None
    ) -> Iterable[Mapping[str, Any] | str]:
        """The rows of a model that are this owner's, for ``Mobync.adopt`` and ``reconcile``.

        This is called inside a transaction of the owner, and read only as far as a piece needs.

        Args:
            owner_id: the owner of the rows.
            where: the model.
            after: an id. The rows are ordered by id in some way, and only those after this id are
                wanted. None: from the first.

        Default: not available; then the caller passes the rows to ``adopt``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not offer owned_rows: pass the rows to adopt()"
        )

    def find_owned_rows(
        self, owner_id: str, where: str, ids: Sequence[str]
    ) -> Iterable[Mapping[str, Any] | str]:
        """Those of :meth:`owned_rows` that have one of these ids, for :meth:`Mobync.reconcile`.

        Default: not available, and ``reconcile`` finds no deleted row.
        """
        raise NotImplementedError(f"{type(self).__name__} does not offer find_owned_rows")

    def owned_models(self, owner_id: str) -> Iterable[str]:
        """The models whose rows ``reconcile`` compares if the caller names no model.

        These are models whose rows belong to an owner. A model comes after those that its rows
        refer to. Default: not available; then the caller of ``reconcile`` names a model.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not offer owned_models: pass a model to reconcile()"
        )

    def edits_between(
        self, where: str, logged: str, row: Mapping[str, Any] | str
    ) -> Sequence[tuple[str, Mapping[str, Any] | str]]:
        """The edits that change an object from its state in the log to its state in the row.

        The log may have a value in another form than the row, such as a time in milliseconds or a
        decimal as text. The two are the same value if writing the log's value to a row, and then
        reading the row, gives the row's value.

        Args:
            where: the model.
            logged: the object as JSON text, as a device has it.
            row: as :meth:`owned_rows` gave it.

        Returns:
            A type and data for each edit, as in an operation of :meth:`Mobync.push`; nothing if
            both are equal. Default: an update with the fields whose JSON value differs.
        """
        return json_edits(logged, row)

    def create_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Insert several rows of one model, in this order.  Default: :meth:`create` for each.

        Raises:
            InvalidDiffError: some rows do not fit. ``index`` is the position of the first in the
                list, and ``others`` has the rest, if that is known before anything is written.
                Without an index, mobync starts again and passes the rows one by one to ``create``.
                With 'skip' it also does this after several refusals. Then the transaction must be
                able to continue after a refused row.
        """
        _write_each(f"{type(self).__name__}.create", self.create, where, rows_json)

    def update_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Update several rows of one model, in this order; like :meth:`create_many`."""
        _write_each(f"{type(self).__name__}.update", self.update, where, rows_json)

    def delete_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Delete several rows of one model, in this order; like :meth:`create_many`."""
        _write_each(f"{type(self).__name__}.delete", self.delete, where, rows_json)

    def check_written(self, count: int) -> Any:
        """Check what the database would check only at the commit, where it names no row.

        This is called only if ``transaction`` is overridden, when all rows of the models are
        written and nothing of the log. Default: nothing is checked.

        Args:
            count: how many rows were written.

        Raises:
            InvalidDiffError: some rows cannot stay. ``index`` is the position of the first, in the
                order in which the rows were written, and ``others`` has the rest.
        """

    def read_log(self, where: str, filters: list[ReadFilter]) -> Iterable[Sequence[Any]]:
        """Read diffs of the log like :meth:`read`, each as the values of its seven fields.

        This is for stores that would otherwise make a dict for each diff. It is called inside the
        owner's transaction. It may return an iterator: each row is processed before the next one is
        requested, and no row is requested after the method that needed them has returned. Default:
        :meth:`read`.

        Args:
            where: the name of the log.
            filters: conditions that must all hold: an equal ``owner``, a lowest ``logical_clock``,
                perhaps an upper limit of it, and a ``type``.

        Returns:
            For each diff: id, owner, logical_clock, utc_timestamp, type, model, json_data. If the
            log has field_times, they follow as a text or None.
        """
        rows: Any = self.read(where, filters)
        found = json.loads(rows) if isinstance(rows, (str, bytes)) else rows
        return [(*(row[field] for field in LOG_FIELDS), row.get(FIELD_TIMES)) for row in found]

    def append_log(self, where: str, rows: Sequence[LogRow]) -> Any:
        """Insert diffs into the log, in this order, each as the values of its seven fields.

        This is for stores that write values and would otherwise have to read them from JSON.
        Default: :meth:`create_many` with each row as JSON.

        Args:
            where: the name of the log.
            rows: for each diff id, owner, logical_clock, utc_timestamp, type, model, json_data.

        Raises:
            InvalidDiffError: as in :meth:`create_many`.
            IdTakenError: the log already has the id; the diff comes again with another one.
        """
        objects = [dict(zip(LOG_FIELDS, row, strict=True)) for row in rows]
        texts = [json.dumps(each, ensure_ascii=False) for each in objects]
        refuse_awaitable(f"{type(self).__name__}.create_many", self.create_many(where, texts))


def json_edits(
    logged: str, row: Mapping[str, Any] | str
) -> list[tuple[str, Mapping[str, Any] | str]]:
    """The update that turns one JSON object into another; a missing field counts as null."""
    said = json.loads(logged)
    found = json.loads(row) if isinstance(row, str) else row
    names = dict.fromkeys([*found, *said])
    changed = {f: found.get(f) for f in names if not same_json(said.get(f), found.get(f))}
    return [("update", {Diff.ID: said[Diff.ID], **changed})] if changed else []


def same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    unequal: list[tuple[Any, Any]] = [(one, other)]  # not recursive: JSON can be deep
    while unequal:
        one, other = unequal.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            unequal += [(member, other[name]) for name, member in one.items()]
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            unequal += zip(one, other, strict=True)
        elif isinstance(one, bool) != isinstance(other, bool) or _number(one) != _number(other):
            return False
    return True


def _number(value: Any) -> Any:
    """A float as the decimal that it prints as: a JSON number may have been read as either."""
    return Decimal(repr(value)) if isinstance(value, float) else value


def _write_each(
    name: str, write: Callable[[str, str], Any], where: str, rows_json: Sequence[str]
) -> None:
    for place, data_json in enumerate(rows_json):
        try:
            refuse_awaitable(name, write(where, data_json))
        except InvalidDiffError as misfit:
            misfit.index = place
            raise


_DIFF = dict.fromkeys(LOG_FIELDS)
_MAY_YIELD = ("read", "owned_rows", "find_owned_rows", "owned_models", "read_parts")


def check_synchronizer(given: object, diffs_model_name: str) -> None:
    """Check the synchronizer and the name of the log for a ``Mobync``.

    Raises:
        TypeError: it is not a Synchronizer, one of its methods is an ``async def``, or a rule does
            not take the fields of a diff.
        ValueError: it has another name for its log.
    """
    if not isinstance(given, Synchronizer):
        raise TypeError(
            f"synchronizer must be a Synchronizer, not {type(given).__name__}{_advice(given)}"
        )
    for name, method in vars(Synchronizer).items():
        is_awaited = given._waiting.can_await and name.startswith("validate_")
        if inspect.isfunction(method) and not is_awaited:
            check_plain(
                f"{type(given).__name__}.{name}",
                getattr(given, name),
                may_yield=name in _MAY_YIELD,
            )
        if name.startswith("validate_"):
            rule = getattr(given, name)
            check_takes(f"{type(given).__name__}.{name}", rule, "owner_id", **_DIFF)
    kept = given.diffs_model_name
    if kept is not None and kept != diffs_model_name:
        raise ValueError(
            f"diffs_model_name is {diffs_model_name!r}, but the synchronizer keeps its log as "
            f"{kept!r}: Mobync(store, diffs_model_name={kept!r})"
        )


def _advice(given: object) -> str:
    if isinstance(given, type) and issubclass(given, Synchronizer):
        return f": make one, {given.__name__}(...)"
    if type(given).__module__.partition(".")[0] == "sqlalchemy":
        return ": give it to a mobync.sqlalchemy.SQLAlchemySynchronizer"
    return ""
