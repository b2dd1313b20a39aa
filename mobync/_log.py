"""The log of an owner, as the transaction sees it that holds it."""

from __future__ import annotations

from . import _core
from .errors import InvalidDiffError
from .synchronizer import Rows, Synchronizer
from .types import Diff, FilterType, ReadFilter


class OwnerLog:
    """An owner's log in a store.

    Attributes:
        store: the Synchronizer to use inside of the transaction.
        model: the name under which it keeps the log.
        owner_id: whose.
    """

    def __init__(self, store: Synchronizer, model: str, owner_id: str) -> None:
        self.store = store
        self.model = model
        self.owner_id = owner_id

    def read(self, first_clock: int, *more: ReadFilter) -> Rows:
        """The owner's diffs from ``first_clock`` on that pass ``more`` filters."""
        return self.store.read(
            self.model,
            [
                ReadFilter(Diff.OWNER, FilterType.equal, self.owner_id),
                ReadFilter(Diff.LOGICAL_CLOCK, FilterType.majorOrEqual, first_clock),
                *more,
            ],
        )

    def meet(self, exchange: _core.Exchange, first_clock: int, *more: ReadFilter) -> int | None:
        """Show an exchange what :meth:`read` gives; return the highest clock in it, None if empty.

        Raises:
            ValueError: the rows are no log of this owner.
        """
        rows = self.read(first_clock, *more)
        try:
            return exchange.meet(rows, self.owner_id, first_clock)
        except InvalidDiffError as damage:
            raise self.damaged(damage) from damage

    def highest_clock(self, first_clock: int) -> int:
        """The owner's highest clock, -1 if there is none.

        Args:
            first_clock: from which on the log is read where the store does not offer the clock.
        """
        highest = self.store.highest_logical_clock(self.owner_id)
        if highest is None:
            highest = self.meet(_core.Exchange([]), first_clock)
        return -1 if highest is None else highest

    def damaged(self, damage: InvalidDiffError) -> ValueError:
        """What to raise for rows that are no log: no device can have caused it."""
        return ValueError(f"read({self.model!r}) gave an {damage}")
