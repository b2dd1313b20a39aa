"""Writes rows of models with Django's ``save`` and ``delete``, so signals and overrides work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import Error, models, transaction
from django.db.models import ProtectedError, RestrictedError

from .._relational.refused import Refusal, in_words
from .._relational.rows import first_of
from ..errors import InvalidDiffError
from ._edits import WRITTEN_BY_MOBYNC
from ._errors import refusal_of
from ._model import IDS_A_STATEMENT, WHERE, Model, Reference


class _Referring(NamedTuple):
    """A row that refers to another one, which must exist when everything is written."""

    reference: Reference
    value: Any
    field: str
    place: int


class Writer:
    """Writes the rows of one transaction.

    Args:
        using: the alias of the database.
        owner_of: gives the owner as the owner field of a model has it.
    """

    def __init__(self, using: str, owner_of: Callable[[Model], Any]) -> None:
        self._using = using
        self._owner_of = owner_of
        self._count = 0  # of rows that were written
        self._referring: list[_Referring] = []

    def create(self, model: Model, rows_json: Sequence[str]) -> None:
        """Insert rows.

        Raises:
            InvalidDiffError: a row does not fit; ``index`` is its position.
        """
        rows = self._read(model, rows_json)
        for place, row in enumerate(rows):
            with _refusing(model, "create", place):
                instance = model.new_instance(row, self._owner_of(model))
                model.validate(instance, row)
                self._save(instance, force_insert=True)
            self._note_references(model, row)

    def update(self, model: Model, rows_json: Sequence[str]) -> None:
        """Set the fields that each row has. Rows that do not exist are skipped."""
        rows = self._read(model, rows_json)
        found = self._find(model, [row["id"] for row in rows])
        for place, row in enumerate(rows):
            instance = found.get(model.encode("id", row["id"]))
            if instance is None:
                self._count += 1
                continue
            with _refusing(model, "update", place):
                for name, value in row.items():
                    if name != "id":
                        setattr(instance, model.fields[name].attname, value)
                model.validate(instance, row)
                self._save(instance, force_update=True)
            self._note_references(model, row)

    def delete(self, model: Model, rows_json: Sequence[str]) -> None:
        """Delete rows, and what Django deletes with them."""
        ids = _each(rows_json, model.read_id)
        found = self._find(model, ids)
        for place, id_ in enumerate(ids):
            instance = found.pop(model.encode("id", id_), None)
            if instance is not None:
                with _refusing(model, "delete", place), _marked(instance):
                    instance.delete(using=self._using)
            self._count += 1

    def check(self) -> None:
        """Check that what the rows refer to exists and is the owner's.

        Raises:
            InvalidDiffError: one does not exist or is another owner's; ``index`` is the position of
                the first row.
        """
        by_reference: dict[tuple[Any, str], list[_Referring]] = {}
        for each in self._referring:
            by_reference.setdefault(each.reference[:2], []).append(each)
        misfits: dict[int, InvalidDiffError] = {}
        for referring in by_reference.values():
            there = self._there(referring[0].reference, [each.value for each in referring])
            for each in referring:
                if each.value not in there:
                    reason = in_words(Refusal.REFERENCE, [each.field], None)
                    misfits.setdefault(each.place, InvalidDiffError(WHERE + reason, each.place))
        self._referring.clear()
        if misfits:
            raise first_of([misfits[place] for place in sorted(misfits)])

    def _there(self, reference: Reference, values: Sequence[Any]) -> set[Any]:
        """Which of these values refer to a row; if the rows have owners, to a row of this owner."""
        target, attname, model = reference
        rows = target._base_manager.using(self._using).order_by()
        if model is not None:
            rows = model.rows_of(self._owner_of(model))
        wanted = list(set(values))
        found: set[Any] = set()
        for begin in range(0, len(wanted), IDS_A_STATEMENT):
            some = rows.filter(**{f"{attname}__in": wanted[begin : begin + IDS_A_STATEMENT]})
            found.update(some.values_list(attname, flat=True))
        return found

    def _read(self, model: Model, rows_json: Sequence[str]) -> list[dict[str, Any]]:
        return _each(rows_json, model.read_row)

    def _find(self, model: Model, ids: Sequence[Any]) -> dict[str, models.Model]:
        """The owner's rows with these ids, locked until the transaction ends."""
        found: dict[str, models.Model] = {}
        rows = model.rows_of(self._owner_of(model)).select_for_update()
        for begin in range(0, len(ids), IDS_A_STATEMENT):
            for instance in rows.filter(pk__in=ids[begin : begin + IDS_A_STATEMENT]):
                found[model.id_of(instance)] = instance
        return found

    def _save(self, instance: models.Model, **how: Any) -> None:
        with _marked(instance):
            instance.save(using=self._using, **how)

    def _note_references(self, model: Model, row: dict[str, Any]) -> None:
        for name, reference in model.references.items():
            if row.get(name) is not None:
                self._referring.append(_Referring(reference, row[name], name, self._count))
        self._count += 1


@contextmanager
def _marked(instance: models.Model) -> Iterator[None]:
    """Mark an instance as written by mobync meanwhile; afterwards it is the app's."""
    try:
        setattr(instance, WRITTEN_BY_MOBYNC, True)
        yield
    finally:
        vars(instance).pop(WRITTEN_BY_MOBYNC, None)


def _each(rows_json: Sequence[str], read: Callable[[str], Any]) -> list[Any]:
    """Read each row; if some do not fit, the error names all of them."""
    found, misfits = [], []
    for place, row_json in enumerate(rows_json):
        try:
            found.append(read(row_json))
        except InvalidDiffError as misfit:
            misfit.index = place
            misfits.append(misfit)
    if misfits:
        raise first_of(misfits)
    return found


@contextmanager
def _refusing(model: Model, kind: str, place: int) -> Iterator[None]:
    """Give an error the position of its row."""
    try:
        yield
    except InvalidDiffError as misfit:
        misfit.index = place
        raise
    except (Error, ProtectedError, RestrictedError) as error:
        refusal = refusal_of(error, model, kind)
        if refusal is None:
            raise
        refusal.index = place
        raise refusal from error


def give_rows(model: Model, owner_id: str, new_owner_id: str) -> int:
    """Give all rows of an owner to another one, and return how many.

    The two never have rows of the same id, because the id alone is the primary key.

    Raises:
        InvalidDiffError: the database refuses it, such as for a unique key.
    """
    rows = model.rows_of(model.owner_value(owner_id))
    try:
        with transaction.atomic(using=model.using):
            return rows.update(**{model.owner.attname: model.owner_value(new_owner_id)})
    except Error as error:
        refusal = refusal_of(error, model, "update")
        if refusal is None:
            raise
        said = refusal.reason.removeprefix(WHERE)
        raise InvalidDiffError(
            f"a row of {model.name!r} cannot be the new owner's: {said}"
        ) from error
