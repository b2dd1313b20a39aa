"""Transactions of an owner: one at a time in this process, and again after an error that passes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from ._locks import KeyedLocks
from ._log import OwnerLog
from .synchronizer import Synchronizer

RETRY_PAUSES_S = (0.02, 0.1, 0.5)  # about; after an error that the Synchronizer calls transient

T = TypeVar("T")

_owner_locks = KeyedLocks()


class OwnerTransactions:
    """The transactions in which an owner's data is read and written.

    Args:
        synchronizer: begins them.
        log_model: the name under which it keeps the log.
        owner_id: whose data.
        lock_timeout_s: seconds to wait for another one of the same owner.
    """

    def __init__(
        self, synchronizer: Synchronizer, log_model: str, owner_id: str, lock_timeout_s: float
    ) -> None:
        self.synchronizer = synchronizer
        self.log_model = log_model
        self.owner_id = owner_id
        self._lock_timeout_s = lock_timeout_s

    def run(
        self,
        work: Callable[[OwnerLog], T],
        *,
        tries_again: bool = True,
        before_each: Callable[[], object] = lambda: None,
    ) -> T:
        """Do ``work`` alone with the owner's data, all or nothing.

        Args:
            work: may be called several times, each in a transaction of its own.
            tries_again: whether an error that the Synchronizer calls transient begins it again.
            before_each: called before each of these transactions begins.

        Returns:
            What ``work`` returned in the transaction that was committed.

        Raises:
            BusyError: another transaction of this owner took too long.
        """
        pauses_s = RETRY_PAUSES_S if tries_again else ()
        with _owner_locks.hold((id(self.synchronizer), self.owner_id), self._lock_timeout_s):
            for pause_s in (*pauses_s, None):
                before_each()
                try:
                    return self._try(work)
                except Exception as error:
                    if pause_s is None or not self.synchronizer.is_transient(error):
                        raise
                time.sleep(pause_s * random.uniform(0.5, 1.5))
        raise AssertionError("the last try returns or raises")

    def _try(self, work: Callable[[OwnerLog], T]) -> T:
        results = []
        with self.synchronizer.transaction(self.owner_id) as store:
            if not isinstance(store, Synchronizer):
                raise TypeError(
                    f"transaction() must yield a Synchronizer, not {type(store).__name__}"
                )
            results.append(work(OwnerLog(store, self.log_model, self.owner_id)))
        if not results:
            raise RuntimeError("transaction() swallowed an exception")
        return results[0]
