"""The app's side of mobync: its database and its rules."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .types import ReadFilter

Rows = str | bytes | Iterable[Mapping[str, Any]]


class Synchronizer(abc.ABC):
    """What an app subclasses: seven methods between mobync and the app's database.

    Rows travel as JSON text.  ``where`` is a model name that a device sent, or the name of the
    diffs model; check it before it becomes part of a statement.  An exception from any method
    reaches the caller of ``apply`` unchanged, but for the place of the diff in an InvalidDiffError
    that has none.
    """

    @abc.abstractmethod
    def read(self, where: str, filters: list[ReadFilter]) -> Rows:
        """Return the rows of a model that pass all filters.

        mobync reads only the diffs model, filtered by ``owner`` (equal) and ``logical_clock``
        (majorOrEqual); by ``logical_clock`` (minor) as well if ``highest_logical_clock`` is
        offered.  The order does not matter, and a row may have more than the seven fields.

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
    def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
        """Whether this owner may make this create.

        Args:
            owner_id: who was authenticated.
            **kwargs: the diff as the device sent it: id, owner, logical_clock, utc_timestamp,
                type, model, json_data and whatever else it put in.

        Returns:
            Something falsy to refuse the diff, and with it the whole request unless
            ``on_refusal='skip'``.

        Raises:
            UnauthorizedError, InvalidDiffError: likewise, with a reason for the developer of the
                client.  mobync adds which diff it is.
        """

    @abc.abstractmethod
    def validate_update(self, owner_id: str, **kwargs: Any) -> bool:
        """Whether this owner may make this update; as :meth:`validate_create`."""

    @abc.abstractmethod
    def validate_delete(self, owner_id: str, **kwargs: Any) -> bool:
        """Whether this owner may make this delete; as :meth:`validate_create`."""

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[Synchronizer]:
        """Hold one sync of this owner together; override it where the database can.

        Yields the Synchronizer to use inside.  Leaving normally commits, an exception rolls back;
        until it is left, no other process may sync the same owner.  An override promises that,
        and in return gets writes in runs (see :meth:`create_many`).

        The default yields ``self`` and holds nothing together.
        """
        yield self

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
        overridden, just before the first write.

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

    def owned_rows(
        self, owner_id: str, where: str, after: str | None = None
    ) -> Iterable[Mapping[str, Any]]:
        """The rows of a model that are this owner's, for :meth:`Mobync.adopt` to bring in.

        Asked for inside of a transaction of the owner, and read only as far as one piece goes.

        Args:
            owner_id: whose rows.
            where: the model.
            after: an id; the rows are ordered, by their ids in some way, and only those that come
                after it are wanted.  None: from the first.

        Default: not offered; then the rows are given to ``adopt``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not offer owned_rows: give the rows to adopt()"
        )

    def create_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Insert several rows of one model, in this order.  Default: :meth:`create` for each.

        Raises:
            InvalidDiffError: some do not fit; ``index`` is the place of the first in the list,
                and ``others`` has the rest, if that is known before anything is written.  Without
                an index mobync begins again and gives the rows one by one.
        """
        for data_json in rows_json:
            self.create(where, data_json)

    def update_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Update several rows of one model, in this order; as :meth:`create_many`."""
        for data_json in rows_json:
            self.update(where, data_json)

    def delete_many(self, where: str, rows_json: Sequence[str]) -> Any:
        """Delete several rows of one model, in this order; as :meth:`create_many`."""
        for data_json in rows_json:
            self.delete(where, data_json)
