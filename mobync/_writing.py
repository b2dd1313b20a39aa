"""Writing an exchange, in runs of rows, and which diff is meant where a row does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar, cast

from . import _core
from ._log import OwnerLog
from ._transactions import OwnerTransactions
from .errors import InvalidDiffError
from .synchronizer import Synchronizer

T = TypeVar("T")


class Writing:
    """How an exchange is written, and how far that has come.

    Args:
        transactions: of the owner.
        exchange: to be written.
    """

    def __init__(self, transactions: OwnerTransactions, exchange: _core.Exchange) -> None:
        self._transactions = transactions
        self._synchronizer = transactions.synchronizer
        self._exchange = exchange
        self._singly = False  # rows one by one, where a run would not say which it is
        self._places: Sequence[int] | None = None  # of the operations that are being written

    def run(self, work: Callable[[OwnerLog], T]) -> T:
        """Do ``work``, which calls :meth:`write`, as :meth:`OwnerTransactions.run` does.

        Where a run of rows was at fault and the Synchronizer does not say which row it was, all
        is done once more row by row to find the one.

        Raises:
            InvalidDiffError: ``index`` says which diff of the exchange does not fit.
            BusyError: another transaction of this owner took too long.
        """

        for singly in (False, True):
            self._singly = singly
            try:
                return self._transactions.run(work, before_each=self._forget_places)
            except InvalidDiffError as misfit:
                if self._places is None:  # no row was being written
                    raise
                if misfit.index is None and len(self._places) == 1:
                    misfit.index = 0
                if misfit.index is not None:
                    self._name_diffs(misfit, self._places)
                    raise
                if singly or not self._synchronizer.may_begin_again():
                    raise
        raise AssertionError("the second try returns or raises")

    def _forget_places(self) -> None:
        """Before a transaction begins, and once all is written: what it refuses is no row."""
        self._places = None

    def write(self, log: OwnerLog, next_clock: int) -> int:
        """Write what the merge sends upstream: the rows of the models, and the log.

        Args:
            log: in the transaction.
            next_clock: of the first diff.

        Returns:
            How many diffs that were.
        """
        types, models, rows, log_rows = self._exchange.operations(log.owner_id, next_clock)
        store, places = log.store, range(len(types))
        if type(self._synchronizer).transaction is Synchronizer.transaction:
            # Diff by diff, so that a crash leaves at most one that is in a table but not logged.
            for place in places:
                self._places = (place,)
                getattr(store, types[place])(models[place], rows[place])
                store.create(log.model, log_rows[place])
            self._forget_places()
            return len(places)
        order = places if _keeps_order(store) else _order(store, types, models, rows)
        for run in self._runs(order, types, models):
            write_many = getattr(store, f"{types[run[0]]}_many")
            write_many(models[run[0]], _at(rows, run))
        log_models = [log.model] * len(places)
        for run in self._runs(places, log_models, log_models):
            store.create_many(log.model, _at(log_rows, run))
        self._forget_places()
        return len(places)

    def _runs(
        self, order: Sequence[int], types: Sequence[str], models: Sequence[str]
    ) -> Iterator[Sequence[int]]:
        """The places to write at once, those of one type and model; keeps book of them."""
        if self._singly:
            runs: Iterable[Sequence[int]] = ((place,) for place in order)
        elif _all_alike(types) and _all_alike(models):  # as in most requests
            runs = (order,) if types else ()
        else:
            groups = groupby(order, key=lambda place: (types[place], models[place]))
            runs = (list(run) for _, run in groups)
        for run in runs:
            self._places = run
            yield run

    def _name_diffs(self, misfit: InvalidDiffError, places: Sequence[int]) -> None:
        """Have an error that says which row of a run it means say which diff of the request."""
        for each in (misfit, *misfit.others):
            each.index = self._exchange.upstream_index(places[cast(int, each.index)])
            each.diff_id = self._exchange.diff(each.index)[0]


def _all_alike(items: Sequence[str]) -> bool:
    return not items or items.count(items[0]) == len(items)


def _at(rows: list[str], places: Sequence[int]) -> list[str]:
    if places == range(len(rows)):
        return rows
    return [rows[place] for place in places]


def _keeps_order(store: Synchronizer) -> bool:
    return getattr(store.write_order, "__func__", None) is Synchronizer.write_order


def _order(
    store: Synchronizer, types: Sequence[str], models: Sequence[str], rows: Sequence[str]
) -> Sequence[int]:
    order = store.write_order(list(zip(types, models, rows, strict=True)))
    places = range(len(types))
    if order != places and sorted(order) != list(places):
        raise ValueError("write_order() must give each place once")
    return order
