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
from ._plain import check_plain, refuse_awaitable
from ._waiting import IN_A_THREAD, Waiting
from .errors import InvalidDiffError
from .types import FIELD_TIMES, LOG_FIELDS, Diff, LogRow, ReadFilter

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .types import FIELD_TIMES, DiffDict

Rows = str | bytes | Iterable[Mapping[str, Any]]


class WriteCarefully(Exception):
    """A store had written all at once, and the database refused it without saying which row."""


class Synchronizer(_core.Synchronizer, metaclass=abc.ABCMeta):
    """What an app subclasses: seven methods between mobync and the app's database.

    Rows travel as JSON text.  ``where`` is a model name that a device sent, or the name of the
    diffs model; check it before it becomes part of a statement.  An exception from any method
    reaches the caller of ``apply`` unchanged, but for the place of the diff in an InvalidDiffError
    or an UnauthorizedError.

    Attributes:
        diffs_model_name: the name of the log, where the synchronizer knows it; ``Mobync`` then
            refuses another one.  None, the default: whatever ``Mobync`` calls it.
        capture: the notes of rows that something else than mobync has written, where the
            synchronizer keeps them; None, the default: it does not.
    """

    diffs_model_name: str | None = None
    capture: Any = None
    _waiting: Waiting = IN_A_THREAD

    @abc.abstractmethod
    def read(self, where: str, filters: list[ReadFilter]) -> Rows:
        """Return the rows of a model that pass all filters.

        mobync reads only the diffs model, filtered by ``owner`` (equal) and ``logical_clock``
        (majorOrEqual); by ``logical_clock`` (minor) as well if ``highest_logical_clock`` is
        offered, and then perhaps by ``type`` (equal), where more rows do no harm.  The order
        does not matter, and a row may have more than the seven fields.

        Returns:
            JSON text (an array of objects), or the rows as dicts.
        """

    @abc.abstractmethod
    def create(self, where: str, data_json: str) -> Any:
        """Insert the row that ``data_json``, a JSON object with an ``id``, describes."""

    @abc.abstractmethod
    def update(self, where: str, data_json: str) -> Any:
        """Set the fields that ``data_json`` carries in the row of its ``id``.

        A row that is not there was deleted: ignore the update.
        """

    @abc.abstractmethod
    def delete(self, where: str, data_json: str) -> Any:
        """Remove the row of the ``id`` in ``data_json``.  One that is not there is no error."""

    @abc.abstractmethod
    def validate_create(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Whether this owner may make this create.

        Args:
            owner_id: who was authenticated.
            **diff: the diff as the device sent it: id, owner, logical_clock, utc_timestamp,
                type, model, json_data and whatever else it put in.  An override may name those
                that it wants: ``*, model: str, json_data: str, **rest: Any``.

        Returns:
            True to allow the diff.  False, or anything else that is falsy, refuses it, and with
            it the whole request unless ``on_refusal='skip'``.  Anything else is a TypeError.

        Raises:
            UnauthorizedError, InvalidDiffError: likewise, with a reason for the developer of the
                client.  mobync adds which diff it is.
        """

    @abc.abstractmethod
    def validate_update(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Whether this owner may make this update; as :meth:`validate_create`."""

    @abc.abstractmethod
    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Whether this owner may make this delete; as :meth:`validate_create`."""

    def transaction(self, owner_id: str) -> AbstractContextManager[Synchronizer]:
        """Hold one sync of this owner together; override it where the database can.

        Yields the Synchronizer to use inside.  Leaving normally commits, an exception rolls back;
        until it is left, no other process may sync the same owner.  An override promises that,
        and in return gets writes in runs (see :meth:`create_many`).

        The default yields ``self`` and holds nothing together.
        """
        return nullcontext(self)

    def _attempt(
        self, owner_id: str, carefully: bool, device: str | None = None
    ) -> AbstractContextManager[Synchronizer]:
        """Hold one attempt at a sync together, by :meth:`transaction`.

        Args:
            owner_id: whose.
            carefully: whether a row that is refused must be told by the method that writes it.
                Else a store may keep what is to be written until it commits, or reads.
            device: which is sure to be read in it; None: none is.

        Raises:
            WriteCarefully: not if ``carefully``: it shall be begun again, carefully.
        """
        return self.transaction(owner_id)

    def is_transient(self, error: Exception) -> bool:
        """Whether a transaction that failed with ``error`` may succeed when begun again.

        A deadlock, say.  mobync then starts over, a few times.  Default: no error is.
        """
        return False

    def may_begin_again(self) -> bool:
        """Whether the transaction that just failed held nothing but what mobync did.

        If it did not, the app's own work went with it, and mobync does not begin it again.
        """
        return True

    def write_order(self, operations: Sequence[tuple[str, str, str]]) -> Sequence[int]:
        """In which order to write the rows of a sync: foreign keys may need another one.

        The log stays in the order of the operations.  Asked only where ``transaction`` is
        overridden and there are several, just before the first write.

        Args:
            operations: type, model and ``data_json`` of each, in the order of the request.

        Returns:
            Each place in ``operations`` once.  Default: as they came.
        """
        return range(len(operations))

    def highest_logical_clock(self, owner_id: str) -> int | None:
        """The highest ``logical_clock`` in the owner's log, -1 if it is empty.

        Who offers it promises that :meth:`read` knows the filter ``minor`` too, with which a page
        of the log, or a piece to compact, can be read alone.  None, the default: not offered,
        mobync reads the log instead.
        """
        return None

    def reading(self, owner_id: str) -> AbstractContextManager[Synchronizer] | None:
        """Read an owner's log as it is at one moment, without a lock and without waiting.

        For a request without diffs.  Who offers it offers ``highest_logical_clock`` too, which is
        asked first, outside of this: a device that has everything costs that one answer.  Only
        where there is news is this entered, and the log read.

        Returns:
            A context that gives the Synchronizer to read with: what its ``highest_logical_clock``
            and ``read`` say belongs together.  It may be behind, as a replica is: a device that
            has seen more gets its answer in a :meth:`transaction`.  None, the default: not
            offered, and every request is answered in a transaction.
        """
        return None

    def read_devices(self, owner_id: str, names: Sequence[str] | None) -> Mapping[str, str] | None:
        """What :meth:`write_devices` kept last of some devices of an owner.

        Asked inside of the owner's transaction.  A Synchronizer that overrides both keeps named
        devices (docs/protocol.md, "Named devices").  The default: not offered, and the names of
        devices are not looked at.

        Args:
            owner_id: whose.
            names: of the devices, a text of 1 to 255 characters each; the name ``""`` is that of
                the owner itself, of whom something is kept too.  None: all that there are.

        Returns:
            The text of each that something is kept of.  None: this database keeps no devices
            (its table was not made yet, say), and it is as if this were not overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} does not store devices")

    def write_devices(self, owner_id: str, states: Mapping[str, str | None]) -> Any:
        """Keep a text for each of some devices of an owner, in place of the one before.

        In the same transaction as the diffs of a request: all is there afterwards, or nothing.

        Args:
            owner_id: whose.
            states: by the name of the device, or by ``""`` for the owner itself: JSON, some
                hundred bytes, or more where diffs were refused.  None: nothing is kept any more.
        """
        raise NotImplementedError(f"{type(self).__name__} does not store devices")

    def keeps_parts(self) -> bool:
        """Whether the parts of a device's request can be kept until the last has come.

        Who overrides this overrides the three methods that follow, and keeps devices.  Asked
        inside of a transaction (docs/protocol.md, "A request in parts").  Default: no, and a
        device that has more diffs than fit a request sends several.
        """
        return False

    def write_part(self, owner_id: str, device: str, part: int, pieces: Sequence[str]) -> Any:
        """Keep a part of a device's request; none of its number is kept yet.

        Args:
            owner_id: whose device.
            device: its name.
            part: the number of the part.
            pieces: its text, of 200,000 characters each at most.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no parts")

    def read_parts(self, owner_id: str, device: str) -> Iterable[tuple[int, str]]:
        """The pieces of all parts of a device's request, each with the number of its part.

        In the order of the parts, and of the pieces of each.  Read inside of the transaction.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no parts")

    def drop_parts(self, owner_id: str, device: str | None) -> Any:
        """Keep no parts of a device any more; None: of none of the owner's devices."""
        raise NotImplementedError(f"{type(self).__name__} keeps no parts")

    def _poll(self, owner_id: str, device: str) -> tuple[int, Mapping[str, str] | None] | None:
        """What a poll of a device needs to know, outside of a transaction; where it is offered,
        ``reading`` is too.

        Returns:
            The highest clock of the owner's log, and what is kept of the owner and of the device,
            as of one moment; in place of that None, if the database keeps no devices.  None, the
            default: not known here; a transaction finds out.
        """
        return None

    def keeps_clock(self) -> bool:
        """Whether the owner's clock outlives the last rows of the log.

        Who says yes promises that :meth:`highest_logical_clock` goes on to say the highest clock
        that there was, when compaction has dropped that row.  Default: no, and it is not dropped.
        """
        return False

    def keeps_field_times(self) -> bool:
        """Whether a row of the log keeps ``field_times`` beside its seven fields.

        A text, or null.  Compaction sets it by :meth:`update_many`, and :meth:`read` gives it with
        the row.  Asked inside of a transaction.  Default: no, and an object whose fields have
        different times is not folded below the horizon.
        """
        return False

    def erase_owned(self, owner_id: str) -> Mapping[str, int] | None:
        """Delete all that is an owner's, for :meth:`Mobync.erase`: rows, log and clock.

        Asked inside of a transaction of the owner.  What :meth:`write_devices` keeps stays.

        Returns:
            By model, and by the name of the log, how many rows went.  None, the default: not
            offered; then the objects that the log knows of are deleted, and the log.
        """
        return None

    def moving(
        self, old_owner_id: str, new_owner_id: str
    ) -> AbstractContextManager[tuple[Synchronizer, Synchronizer]] | None:
        """Hold two owners in one transaction, for :meth:`Mobync.move_owner`.

        It is what :meth:`transaction` is, of both: nobody else may sync one of them meanwhile.
        Whoever offers it locks them in the order of their ids, so that two moves in opposite
        directions do not wait for each other, and offers ``raise_clock``.

        Returns:
            A context that gives the Synchronizer to use for each.  None, the default: not offered.
        """
        return None

    def move_owned(
        self, new_owner_id: str, same: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int] | None:
        """Give all rows of an owner, of whatever model, to another one.

        Asked inside of :meth:`moving`, of the Synchronizer of the owner whose they are.

        Args:
            new_owner_id: to whom.
            same: by model, ids of objects that both owners have, and that are the same: where both
                have a row, the new owner's stays, and the other one is deleted.

        Returns:
            By model, how many rows.  None, the default: rows do not say whose they are, and
            nothing was to be done.
        """
        return None

    def raise_clock(self, clock: int) -> Any:
        """Have ``highest_logical_clock`` say this from now on, if it would say less.

        Asked inside of :meth:`moving`; no diff of the log need have it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not offer raise_clock")

    def owned_rows(
        self, owner_id: str, where: str, after: str | None = None
    ) -> Iterable[Mapping[str, Any] | str]:
        """The rows of a model that are this owner's, for ``Mobync.adopt`` and ``reconcile``.

        Asked for inside of a transaction of the owner, and read only as far as one piece goes.

        Args:
            owner_id: whose rows.
            where: the model.
            after: an id; the rows are ordered, by their ids in some way, and only those that come
                after it are wanted.  None: from the first.

        Default: not offered; then the rows are given to ``adopt``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not offer owned_rows: pass the rows to adopt()"
        )

    def find_owned_rows(
        self, owner_id: str, where: str, ids: Sequence[str]
    ) -> Iterable[Mapping[str, Any] | str]:
        """Those of :meth:`owned_rows` that have one of these ids, for :meth:`Mobync.reconcile`.

        Default: not offered, and no deleted row is found.
        """
        raise NotImplementedError(f"{type(self).__name__} does not offer find_owned_rows")

    def owned_models(self, owner_id: str) -> Iterable[str]:
        """The models of which ``reconcile`` compares the rows if it is told none.

        Those whose rows belong to an owner; a model comes after those that its rows refer to.
        Default: not offered; then ``reconcile`` is told a model.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not offer owned_models: pass a model to reconcile()"
        )

    def edits_between(
        self, where: str, logged: str, row: Mapping[str, Any] | str
    ) -> Sequence[tuple[str, Mapping[str, Any] | str]]:
        """What brings an object from what the log says of it to what its row says.

        A value that the log has in another form than the row is the same value if a row that is
        written so is read so: a time in milliseconds, a decimal as text.

        Args:
            where: the model.
            logged: the object as JSON text, as a device has it.
            row: as :meth:`owned_rows` gave it.

        Returns:
            A type and data each, as in an operation of :meth:`Mobync.push`; nothing if they say
            the same.  Default: an update with the fields whose JSON value is another one.
        """
        return json_edits(logged, row)

    def create_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Insert several rows of one model, in this order.  Default: :meth:`create` for each.

        Raises:
            InvalidDiffError: some do not fit; ``index`` is the place of the first in the list,
                and ``others`` has the rest, if that is known before anything is written.  Without
                an index mobync begins again and gives the rows one by one, to ``create``.  So it
                does after several refusals where it skips, and goes on after each: the
                transaction should bear that.
        """
        _write_each(f"{type(self).__name__}.create", self.create, where, rows_json)

    def update_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Update several rows of one model, in this order; as :meth:`create_many`."""
        _write_each(f"{type(self).__name__}.update", self.update, where, rows_json)

    def delete_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Delete several rows of one model, in this order; as :meth:`create_many`."""
        _write_each(f"{type(self).__name__}.delete", self.delete, where, rows_json)

    def check_written(self, count: int) -> Any:
        """Check what the database would look at only when it commits, where it names no row.

        Asked only where ``transaction`` is overridden, when all rows of the models are written and
        nothing of the log.  Default: nothing is checked.

        Args:
            count: of the rows that were written.

        Raises:
            InvalidDiffError: some cannot stay; ``index`` is the place of the first in the order in
                which the rows were written, and ``others`` has the rest.
        """

    def read_log(self, where: str, filters: list[ReadFilter]) -> Iterable[Sequence[Any]]:
        """Read diffs of the log as :meth:`read` does, each as the values of its seven fields.

        For a store that would otherwise make a dict of each.  Asked inside of the owner's
        transaction; the rows may come one by one, as of an iterator: each is read before the next
        is asked for, and none is asked for after the method that needed them is over.  Default:
        :meth:`read`.

        Args:
            where: the name of the log.
            filters: conditions, all of which must hold: an equal ``owner``, a lowest
                ``logical_clock``, perhaps one that is too high, and a ``type``.

        Returns:
            Of each diff id, owner, logical_clock, utc_timestamp, type, model, json_data; where the
            log keeps them, field_times behind these, a text or None.
        """
        rows: Any = self.read(where, filters)
        found = json.loads(rows) if isinstance(rows, (str, bytes)) else rows
        return [(*(row[field] for field in LOG_FIELDS), row.get(FIELD_TIMES)) for row in found]

    def append_log(self, where: str, rows: Sequence[LogRow]) -> Any:
        """Insert diffs into the log, in this order, each as the values of its seven fields.

        For a store that writes values and would otherwise have to read them from JSON.  Default:
        :meth:`create_many` with each row as JSON.

        Args:
            where: the name of the log.
            rows: of each diff id, owner, logical_clock, utc_timestamp, type, model, json_data.

        Raises:
            InvalidDiffError: as :meth:`create_many`.
            IdTakenError: the log has the id already; the diff comes again under another one.
        """
        objects = [dict(zip(LOG_FIELDS, row, strict=True)) for row in rows]
        texts = [json.dumps(each, ensure_ascii=False) for each in objects]
        refuse_awaitable(f"{type(self).__name__}.create_many", self.create_many(where, texts))


def json_edits(
    logged: str, row: Mapping[str, Any] | str
) -> list[tuple[str, Mapping[str, Any] | str]]:
    """The update that makes one JSON object of another; a field that is missing counts as null."""
    said = json.loads(logged)
    found = json.loads(row) if isinstance(row, str) else row
    names = dict.fromkeys([*found, *said])
    changed = {f: found.get(f) for f in names if not same_json(said.get(f), found.get(f))}
    return [("update", {Diff.ID: said[Diff.ID], **changed})] if changed else []


def same_json(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same; 1 and 1.0 are, 1 and true are not."""
    unequal: list[tuple[Any, Any]] = [(one, other)]  # not by recursion: JSON can be deep
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
    """A float as the decimal that it is written as: one of JSON may have been read as either."""
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


_MAY_YIELD = ("read", "owned_rows", "find_owned_rows", "owned_models", "read_parts")


def check_synchronizer(given: object, diffs_model_name: str) -> None:
    """Check what a ``Mobync`` is made of.

    Raises:
        TypeError: it is no Synchronizer, or one of its methods is an ``async def``.
        ValueError: it keeps its log under another name.
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
