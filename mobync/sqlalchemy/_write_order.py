"""In which order rows are written where tables have foreign keys.

The merge folds a device's later edits into its create: one that made a task, then a project, and
then filed the task under it sends the task first, which refers to the project already.  So a
create that something before it refers to is written before that.  All else stays as it came, and
rows of one kind and model stay together: before each run comes what its rows need, by models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import groupby

from sqlalchemy.exc import NoReferenceError

from .. import _core
from ._model import ID, Model

Operation = tuple[str, str, str]
"""Type, model and row as JSON text."""

_References = dict[str, list[tuple[str, str]]]
"""By model, the fields that refer to the id of a row, and the model of that row."""


def write_order(operations: Sequence[Operation], models: Mapping[str, Model]) -> Sequence[int]:
    """The places of the operations in the order in which to write them.

    A row that can only be written after itself, by way of others, stays where it was among them.
    Takes time in proportion to the operations.
    """
    references = _references(models)
    if references and not references.keys().isdisjoint(model for _, model, _ in operations):
        return list(_Order(operations, references).places())
    return range(len(operations))


def _references(models: Mapping[str, Model]) -> _References:
    names = {model.id: name for name, model in models.items()}
    references: _References = {}
    for name, model in models.items():
        for field, column in model.fields.items():
            for key in column.foreign_keys:
                with suppress(NoReferenceError):  # a table that this metadata does not have
                    if key.column in names:
                        references.setdefault(name, []).append((field, names[key.column]))
    return references


class _Order:
    def __init__(self, operations: Sequence[Operation], references: _References) -> None:
        self._operations = operations
        self._references = references
        self._written = [False] * len(operations)
        self._creates: dict[tuple[str, str | None], int] = {}
        self._deletes: dict[tuple[str, str | None], int] = {}
        targets = {target for fields in references.values() for _, target in fields}
        for place, (kind, model, row) in enumerate(operations):
            if model in targets and kind != "update":
                places = self._creates if kind == "create" else self._deletes
                places[model, _core.text_member(row, ID)] = place

    def places(self) -> Iterator[int]:
        for (kind, model), run in groupby(range(len(self._operations)), key=self._run_of):
            places: Iterable[int] = [place for place in run if not self._written[place]]
            if model in self._references and kind != "delete":
                needs = self._needs_of(places)
                places = self._sorted(needs) if any(needs.values()) else places
            for place in places:
                self._written[place] = True
                yield place

    def _run_of(self, place: int) -> tuple[str, str]:
        kind, model, _ = self._operations[place]
        return kind, model

    def _needs_of(self, run: Iterable[int]) -> dict[int, list[int]]:
        """For each of a run, and of what they need in turn, what must be written before it."""
        needs: dict[int, list[int]] = {}
        found = list(run)
        while found:
            place = found.pop()
            if place not in needs:
                needs[place] = list(self._needed_by(place))
                found += needs[place]
        return needs

    def _needed_by(self, place: int) -> Iterator[int]:
        _, model, row = self._operations[place]
        for field, target in self._references.get(model, ()):
            object_ = target, _core.text_member(row, field)
            create = self._creates.get(object_)
            if create is None or create == place or self._written[create]:
                continue
            delete = self._deletes.get(object_, create)
            if delete < create and not self._written[delete]:
                continue  # what is referred to is the row that still lives
            yield create

    def _sorted(self, needs: dict[int, list[int]]) -> Iterator[int]:
        """Each place after those that it needs, with as few runs as a look ahead of one gives."""
        waits_for = {place: len(needed) for place, needed in needs.items()}
        needed_by: dict[int, list[int]] = defaultdict(list)
        ready: dict[tuple[str, str], list[int]] = {}
        for place in sorted(needs):
            for needed in needs[place]:
                needed_by[needed].append(place)
            if not needs[place]:
                ready.setdefault(self._run_of(place), []).append(place)
        last = self._run_of(min(needs))
        while ready:
            run = next((run for run in ready if run != last), last)
            places = ready[run]
            while places:
                place = heappop(places)
                del waits_for[place]
                yield place
                for waiting in needed_by[place]:
                    waits_for[waiting] -= 1
                    if not waits_for[waiting]:
                        heappush(ready.setdefault(self._run_of(waiting), []), waiting)
            del ready[run]
        yield from sorted(waits_for)
