"""An owner's transaction, from the lock to the commit.

Held makes a copy of the synchronizer that works in it, and says what its errors mean.  Talking is
the transaction of a small sync, which talks to the driver (:mod:`._direct`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from ._capture import OwnWrites
from ._connections import EngineSource, drop_if_spoiled, is_after_commit
from ._deferred import Written
from ._devices import OWNER_ITSELF
from ._direct import Direct, Statement
from ._locking import Head, prepare
from ._model import Model
from ._prepared import Prepared
from ._settings import is_checked
from ._talks import talk_to

if TYPE_CHECKING:
    from ._synchronizer import SQLAlchemySynchronizer

T = TypeVar("T")
S = TypeVar("S", bound="SQLAlchemySynchronizer")


@dataclass
class Transaction:
    """What is known while an owner's transaction is open."""

    connection: Connection
    owner_id: str
    clock: int  # the highest of the owner's log
    is_written: bool = False  # what is left is to commit
    is_watched: bool = False
    written: Written | None = None  # rows of models, where some are looked at when it commits
    direct: Direct | None = None  # where statements go to the driver
    owners: dict[str, Any] = field(default_factory=dict)  # by model, as its column keeps the owner
    states: dict[str, str | None] = field(default_factory=dict)  # of devices, as far as known
    own: OwnWrites | None = None  # what mobync writes, where triggers note writes

    def owner_in(self, model: Model) -> Any:
        """The owner as the owner column of a model keeps it."""
        if model.name not in self.owners:
            dialect = self.connection.dialect
            self.owners[model.name] = model.owner_value(self.owner_id, dialect)
        return self.owners[model.name]

    def note(self, rows: Sequence[T], statement_of: Callable[[T], Statement]) -> bool:
        """Keep writes for the end, if possible; otherwise they must be written now."""
        if self.direct is None:
            return False
        if self.direct.note(rows, statement_of):
            return True
        self.direct.settle()
        return False

    def select(self, statement: Prepared, values: Mapping[str, Any]) -> Sequence[Any]:
        """The rows of a select."""
        if self.direct is not None:
            return self.direct.select(statement, values)
        return statement.execute(self.connection, values).all()

    def settle(self) -> Connection:
        """The connection, for any statements."""
        if self.direct is not None:
            self.direct.settle()
        return self.connection


def opened_by(
    connection: Connection, owner_id: str, head: Head, direct: Direct | None = None
) -> Transaction:
    states = {OWNER_ITSELF: head.state}
    return Transaction(connection, owner_id, head.clock, direct=direct, states=states)


def copy_of(store: S) -> S:
    """The same as copy.copy(), in a third of the time, if only a dict is to be copied."""
    kind = type(store)
    if not kind._has_plain_copies:
        return copy.copy(store)
    copied = kind.__new__(kind)
    copied.__dict__.update(store.__dict__)
    return copied


def has_plain_copies(kind: type, base: type) -> bool:
    """Whether objects of a subclass are copied as those of its base are, by their dict."""
    hooks = ("__copy__", "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")
    return kind.__basicsize__ == base.__basicsize__ and all(
        getattr(kind, hook, None) is getattr(object, hook, None) for hook in hooks
    )


# Classes, as a generator for each layer would take as long as the statements of a small sync.


class Held(AbstractContextManager[S]):
    """A copy of a synchronizer that works in a transaction, whose errors become mobync's.

    Args:
        store: what to copy.
        transaction: the transaction.
    """

    def __init__(self, store: S, transaction: AbstractContextManager[Transaction]) -> None:
        self._store = store
        self._transaction = transaction
        self._opened: Transaction | None = None

    def __enter__(self) -> S:
        if self._store._open is not None:
            raise RuntimeError("a transaction is open already")
        self._inside = inside = copy_of(self._store)
        try:
            self._opened = inside._open = self._transaction.__enter__()
        except (DBAPIError, NoConnectionError) as error:
            self._say(error)
            raise
        return inside

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._transaction.__exit__(kind, error, traceback)
        except (DBAPIError, NoConnectionError) as failure:
            self._say(failure)
            raise
        finally:
            self._inside._open = None
        if isinstance(error, DBAPIError | NoConnectionError):
            self._say(error)

    def _say(self, error: DBAPIError | NoConnectionError) -> None:
        """Raise what an error means, if it means something to the device."""
        if is_after_commit(error):
            return
        meant = self._store._meaning(error, self._opened)
        if meant is not None:
            raise meant from error


class Talking(AbstractContextManager[Transaction]):
    """A transaction that takes as few round trips as it can, and reads a device.

    Args:
        store: whose transaction it is.
        owner_id: whom to lock.
        source: of the connection, on an engine whose events nobody listens to.
        device: whose state to read; None: of none.
    """

    def __init__(
        self,
        store: SQLAlchemySynchronizer,
        owner_id: str,
        source: EngineSource,
        device: str | None,
    ) -> None:
        self._store = store
        self._owner_id = owner_id
        self._source = source
        self._device = device

    def __enter__(self) -> Transaction:
        self._connection = self._source.connect_unheard()
        try:
            self._opened = opened = self._begin(self._connection)
        except BaseException as error:
            self._leave(error)
            raise
        return opened

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._opened.is_written = True
        try:
            self._transaction.__exit__(kind, error, traceback)
        except BaseException as failure:
            self._leave(failure)
            raise
        self._leave(error)

    def _begin(self, connection: Connection) -> Transaction:
        store, owner_id = self._store, self._owner_id
        prepare(connection)
        known = is_checked(connection, store._own_tables)
        talk = talk_to(connection, store._lock_timeout_s) if known else None
        if talk is None:
            begun = store._begun(owner_id, self._source, connection)
            self._transaction: AbstractContextManager[Any] = begun
            return begun.__enter__()
        owner = store._check_owner(owner_id, connection.dialect)
        self._transaction = direct = Direct(talk)
        try:
            opened = self._lock(direct)
            opened.owners[store._log.name] = owner
            return opened
        except BaseException as error:
            direct.__exit__(type(error), error, error.__traceback__)
            raise

    def _lock(self, direct: Direct) -> Transaction:
        devices, owner_id, device = self._store._devices, self._owner_id, self._device
        select = None
        if device is not None and devices.are_kept:
            select = devices.select(owner_id, device)
        head, rows = direct.lock(devices.heads, self._store._log.table, owner_id, select)
        opened = opened_by(self._connection, owner_id, head, direct)
        if device is not None and select is not None and rows is not None:
            opened.states |= {device: None, **dict(map(tuple, rows))}
        return opened

    def _leave(self, error: BaseException | None) -> None:
        if error is not None:
            drop_if_spoiled(self._connection, error)
        self._connection.close()
