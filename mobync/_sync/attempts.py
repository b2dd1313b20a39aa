"""The transactions of an owner: one at a time in a process, started again after transient errors.

A sync is C (csrc/python/attempt.c). The lock, the transaction and the decision to start again are
here, as a generator that yields a store for each attempt. The C code does its work with the store.
Then it resumes the generator, which commits, or throws the exception into it, which rolls back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .._plain import refuse_awaitable
from .._waiting import RETRY_PAUSES_S, about
from ..errors import BusyError, InvalidDiffError
from ..synchronizer import Rows, Synchronizer, WriteCarefully
from ..types import Diff, FilterType, ReadFilter

if TYPE_CHECKING:
    from .._core import Mobync

MOST_RESTARTS = 100  # after a row that does not fit, which the next attempt leaves out

T = TypeVar("T")


class BeginAgain(Exception):
    """An attempt found a row that does not fit, and another attempt can leave it out."""

    def __init__(self, misfit: InvalidDiffError) -> None:
        super().__init__(misfit)
        self.misfit = misfit


def attempts(
    server: Mobync,
    owner_id: str,
    retries: bool = True,
    device: str | None = None,
    *,
    waits: bool = True,
) -> Generator[Synchronizer, None, None]:
    """Yield a store for each attempt, inside of a transaction of the owner.

    Resuming after a yield commits; an exception that is thrown in rolls back. The generator ends
    when an attempt is committed.

    Args:
        server: the Mobync with the synchronizer, the locks and the timeout.
        owner_id: the owner of the data.
        retries: whether to start again after an error that the Synchronizer calls transient.
        device: a device whose state is read in the same transaction; None: no device.
        waits: whether to wait for the owner's lock.

    Raises:
        BusyError: another transaction of this owner took too long, or the last attempt too ended
            in an error that the Synchronizer calls transient.
        Exception: what an attempt or the commit raised.
    """
    synchronizer = server.synchronizer
    pauses_s = iter(RETRY_PAUSES_S if retries else ())
    restarts_left = MOST_RESTARTS
    carefully = not retries
    captures = synchronizer.capture is not None
    timeout_s = server.lock_timeout_s if waits else 0.0
    with server._locks.hold(owner_id, timeout_s, synchronizer._waiting):
        while True:
            try:
                with synchronizer._attempt(owner_id, carefully, device) as store:
                    noted = _log_noted(server, store, owner_id) if captures else None
                    yield store
                break
            except WriteCarefully:
                carefully = True
            except BeginAgain as again:
                if restarts_left == 0 or not _is_true(
                    synchronizer.may_begin_again(), "may_begin_again"
                ):
                    raise again.misfit from again.misfit.__cause__
                restarts_left -= 1
            except Exception as error:
                if not retries or not pause_before_again(server, error, pauses_s):
                    raise
    if noted is not None:
        server._tell(noted)  # type: ignore[attr-defined]  # of mobync.Mobync


def pause_before_again(server: Mobync, error: Exception, pauses_s: Iterator[float]) -> bool:
    """Wait a little after a failed attempt, if another one may succeed.

    Args:
        server: the Mobync with the synchronizer.
        error: the error that is being handled.
        pauses_s: the remaining pauses.

    Returns:
        Whether to start again: the Synchronizer calls the error transient.

    Raises:
        BusyError: the error is transient, but this was the last attempt.
    """
    synchronizer = server.synchronizer
    if not _is_true(synchronizer.is_transient(error), "is_transient"):
        return False
    pause_s = next(pauses_s, None)
    if pause_s is None:
        raise BusyError("other transactions were in the way at every try") from error
    synchronizer._waiting.sleep(about(pause_s))
    return True


def _log_noted(server: Mobync, store: Synchronizer, owner_id: str) -> Any:
    return server._log_noted(store, owner_id)  # type: ignore[attr-defined]  # of mobync.Mobync


def one_moment(
    synchronizer: Synchronizer,
    reading: AbstractContextManager[Synchronizer],
    owner_id: str,
    first_clock: int,
    highest: int,
    limit: int,
) -> Generator[Synchronizer, None, None]:
    """Yield a store to read a window with, like :func:`attempts`.

    The arguments are those of ``Synchronizer._reading_window``.
    """
    window = synchronizer._reading_window(reading, owner_id, first_clock, highest, limit)
    with window as store:
        yield store


def plain_answer(method: str, answer: T) -> T:
    """The answer of a method of the app; an awaitable is refused."""
    refuse_awaitable(method, answer)
    return answer


def _is_true(answer: object, method: str) -> bool:
    """The app's answer to a question. A coroutine would be true, so it is refused."""
    if not isinstance(answer, bool):
        refuse_awaitable(method, answer)
        raise TypeError(f"{method}() must return True or False, not {type(answer).__name__}")
    return answer


class OwnerLog(NamedTuple):
    """An owner's log in a store, inside a transaction."""

    store: Synchronizer  # to use inside
    model: str  # the name under which it keeps the log
    owner_id: str

    def read(self, first_clock: int, *more: ReadFilter) -> Rows:
        """The owner's diffs from ``first_clock`` on that pass ``more`` filters."""
        filters = [
            ReadFilter(Diff.OWNER, FilterType.equal, self.owner_id),
            ReadFilter(Diff.LOGICAL_CLOCK, FilterType.majorOrEqual, first_clock),
            *more,
        ]
        return plain_answer("read", self.store.read(self.model, filters))

    def rows(self, first_clock: int, *more: ReadFilter) -> list[Mapping[str, Any]]:
        """The rows of :meth:`read`, parsed from its JSON."""
        read = self.read(first_clock, *more)
        rows: list[Mapping[str, Any]] = (
            json.loads(read) if isinstance(read, str | bytes) else list(read)
        )
        return rows

    def highest_clock(self) -> int | None:
        """The highest clock of the log, -1 if it is empty; None if the store does not say."""
        highest = self.store.highest_logical_clock(self.owner_id)
        return plain_answer("highest_logical_clock", highest)

    def damaged(self, damage: InvalidDiffError) -> ValueError:
        """The error for rows that are not a log: no device can have caused it."""
        return ValueError(f"read({self.model!r}) gave an {damage}")


def without_lock(server: Mobync, owner_id: str) -> AbstractContextManager[OwnerLog] | None:
    """Open an owner's log to read only: nothing is written or locked, not even for an owner whom
    nobody knows.  It shows one moment if the Synchronizer can.

    Returns:
        A context manager; None: only a transaction of the app's own can read.
    """
    store = server.synchronizer
    reading = plain_answer("reading", store.reading(owner_id))
    if reading is None and not store._reads_alone():
        return None
    return _opened(server, owner_id, nullcontext(store) if reading is None else reading)


@contextmanager
def _opened(
    server: Mobync, owner_id: str, reading: AbstractContextManager[Synchronizer]
) -> Iterator[OwnerLog]:
    with reading as store:
        yield OwnerLog(store, server.diffs_model_name, owner_id)


def in_transaction(
    server: Mobync,
    owner_id: str,
    work: Callable[[OwnerLog], T],
    *,
    retries: bool = True,
    device: str | None = None,
    waits: bool = True,
) -> T:
    """Do ``work`` alone with the owner's data, all or nothing; it can be called several times.

    It has the arguments and exceptions of :func:`attempts`.

    Returns:
        The result of ``work`` in the committed attempt.
    """
    tries = attempts(server, owner_id, retries, device, waits=waits)
    store = next(tries)
    while True:
        try:
            result = work(OwnerLog(store, server.diffs_model_name, owner_id))
        except BaseException as error:
            store = tries.throw(error)
            continue
        try:
            store = next(tries)
        except StopIteration:
            return result
