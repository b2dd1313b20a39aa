"""The app's rules, asked of the diffs of a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import _core
from ._refusals import ObjectName, RefusedDiff, object_of, refusal_of
from .errors import InvalidDiffError, UnauthorizedError
from .synchronizer import Synchronizer

RuleError = InvalidDiffError | UnauthorizedError


class Rules:
    """The rules of a store, for one request.

    Args:
        store: whose rules.
        exchange: the request.
        owner_id: who made it.
    """

    def __init__(self, store: Synchronizer, exchange: _core.Exchange, owner_id: str) -> None:
        self._rules = store.validate_create, store.validate_update, store.validate_delete
        self._exchange = exchange
        self._owner_id = owner_id

    def check(self) -> None:
        """Ask of all that is new.

        Raises:
            InvalidDiffError, UnauthorizedError: the first refusal; it says of which diff.
        """
        refusal = self._first_refusal(iter(self._exchange.news()))
        if refusal is not None:
            raise refusal[1]

    def leave_out_refused(self, misfits: Mapping[int, InvalidDiffError]) -> list[RefusedDiff]:
        """Ask of all that is new; leave out of the request what is refused.

        What is left out can change what else of its object is written, so an object is asked of
        as a whole.

        Args:
            misfits: what the app's tables refused in an earlier try, by the place in the request.

        Returns:
            What was left out.
        """
        exchange = self._exchange
        refused: list[RefusedDiff] = []
        without_ground: set[ObjectName] = set()
        unasked = iter(exchange.news(True))

        def next_refusal() -> tuple[int, RuleError | None] | None:
            if not misfits and not without_ground:
                return self._first_refusal(unasked)
            for index in unasked:
                if object_of(exchange, index) in without_ground:
                    return index, None
                if index in misfits:
                    return index, misfits[index]
                refusal = self._first_refusal(iter((index,)))
                if refusal is not None:
                    return refusal
            return None

        while (refusal := next_refusal()) is not None:
            index, error = refusal
            diff_id, kind, *_ = exchange.diff(index)
            refused.append(RefusedDiff(exchange.sent(index), refusal_of(diff_id, error)))
            exchange.leave_out(index)
            if kind != "update":
                without_ground.add(object_of(exchange, index))
        return refused

    def _first_refusal(self, unasked: Iterator[int]) -> tuple[int, RuleError] | None:
        """Ask until a diff is refused; the error says which."""
        exchange = self._exchange
        try:
            index = exchange.ask(self._rules, self._owner_id, unasked)
        except (InvalidDiffError, UnauthorizedError) as error:
            index = exchange.asking
            if error.index is None:
                error.index, error.diff_id = index, exchange.diff(index)[0]
            return index, error
        if index is None:
            return None
        diff_id, kind, *_ = exchange.diff(index)
        return index, UnauthorizedError(f"validate_{kind} refused it", index, diff_id)
