"""The order in which rows are written: as foreign keys need it, and with few runs.

The merge folds a device's later edits into its create. Suppose a device creates a task, then a
project, and then moves the task into the project. It sends the task first, which already refers to
the project. So a create is written before earlier rows that refer to it. Deletes work the other
way: rows that refer to a row are deleted or changed before it. All else keeps its order, and rows
of one kind and model stay together: before each run come the rows that it needs, model by model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import groupby
from typing import Any

from .. import _core
from ..types import Diff

Operation = tuple[str, str, str]
"""Type, model and row as JSON text."""

ReadFields = Callable[[str, Sequence[str], Sequence[str]], Iterable[Mapping[str, Any]]]
"""Reads of a model's rows, those of some ids, some fields."""

References = dict[str, list[tuple[str, str]]]
"""By model, the fields that refer to the id of a row, and the model of that row."""

_Object = tuple[str, "str | None"]
"""Model and id."""


def write_order(
    operations: Sequence[Operation], references: References, read_fields: ReadFields
) -> Sequence[int]:
    """The places of the operations in the order in which to write them.

    Rows that refer to each other in a circle keep their order. The time is proportional to the
    number of operations.

    Args:
        operations: type, model and row of each.
        references: the references of each model's rows.
        read_fields: reads the current references of rows that are to be changed.
    """
    if references and not references.keys().isdisjoint(model for _, model, _ in operations):
        return list(_Order(operations, references, read_fields).places())
    return range(len(operations))


def document_order(operations: Sequence[Operation]) -> Sequence[int]:
    """The order for objects without references: as few runs as each object's own order allows."""
    turns: dict[_Object, tuple[int, str]] = {}
    runs: dict[tuple[int, str, str], list[int]] = {}
    for place, (kind, model, row) in enumerate(operations):
        object_ = model, _core.text_member(row, Diff.ID)
        turn, before = turns.get(object_, (0, kind))
        turn += kind != before
        turns[object_] = turn, kind
        runs.setdefault((turn, kind, model), []).append(place)
    if len(runs) < 2:
        return range(len(operations))
    return [place for run in sorted(runs, key=lambda run: run[0]) for place in runs[run]]


class _Order:
    def __init__(
        self, operations: Sequence[Operation], references: References, read_fields: ReadFields
    ) -> None:
        self._operations = operations
        self._references = references
        self._written = [False] * len(operations)
        self._objects = [(model, _core.text_member(row, Diff.ID)) for _, model, row in operations]
        self._creates: dict[_Object, int] = {}
        self._deletes: dict[_Object, int] = {}
        for place, object_ in enumerate(self._objects):
            kind = operations[place][0]
            if kind != "update":
                (self._creates if kind == "create" else self._deletes)[object_] = place
        self._leaving = self._find_leaving(read_fields)

    def _find_leaving(self, read_fields: ReadFields) -> dict[_Object, list[int]]:
        """For each deleted object, the later changes and deletes of rows that refer to it."""
        first_delete: dict[str, int] = {}
        for (model, _), place in self._deletes.items():
            first_delete[model] = min(first_delete.get(model, place), place)
        leaving: dict[_Object, list[int]] = defaultdict(list)
        for model, fields in self._references.items():
            begins = [first_delete[target] for _, target in fields if target in first_delete]
            changed = self._changed_after(min(begins), model) if begins else {}
            if not changed:
                continue
            for row in read_fields(model, list(changed), [field for field, _ in fields]):
                for field, target in fields:
                    leaving[target, row[field]] += changed[row[Diff.ID]]
        return leaving

    def _changed_after(self, begin: int, model: str) -> dict[str, list[int]]:
        """The later updates and deletes of a model, by the id of their row."""
        changed: dict[str, list[int]] = defaultdict(list)
        for place in range(begin + 1, len(self._operations)):
            of_model, id_ = self._objects[place]
            if of_model == model and id_ is not None and self._operations[place][0] != "create":
                changed[id_].append(place)
        return changed

    def places(self) -> Iterator[int]:
        for _, run in groupby(range(len(self._operations)), key=self._run_of):
            places: Iterable[int] = [place for place in run if not self._written[place]]
            needs = self._needs_of(places)
            places = self._sorted(needs) if any(needs.values()) else places
            for place in places:
                self._written[place] = True
                yield place

    def _run_of(self, place: int) -> tuple[str, str]:
        kind, model, _ = self._operations[place]
        return kind, model

    def _needs_of(self, run: Iterable[int]) -> dict[int, list[int]]:
        """For each row of a run, and for each row that it needs, the rows that must be written
        before it.
        """
        needs: dict[int, list[int]] = {}
        found = list(run)
        while found:
            place = found.pop()
            if place not in needs:
                needs[place] = list(self._needed_by(place))
                found += needs[place]
        return needs

    def _needed_by(self, place: int) -> Iterator[int]:
        kind, model, row = self._operations[place]
        if kind == "delete":
            for left in self._leaving.get(self._objects[place], ()):
                if left != place and not self._written[left]:
                    yield left
            return
        for field, target in self._references.get(model, ()):
            object_ = target, _core.text_member(row, field)
            create = self._creates.get(object_)
            if create is None or create == place or self._written[create]:
                continue
            delete = self._deletes.get(object_, create)
            if delete < create and not self._written[delete]:
                continue  # the reference is to the row that still exists
            yield create

    def _sorted(self, needs: dict[int, list[int]]) -> Iterator[int]:
        """Each place after those that it needs, with few runs: the next row continues a run if it
        can.
        """
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
