"""What an error of Django's databases means for a sync, and why one refuses a row."""

from __future__ import annotations

from typing import Any

from django.db import DataError, Error, IntegrityError, InterfaceError, OperationalError
from django.db.backends.utils import names_digest, split_identifier
from django.db.models import ProtectedError, RestrictedError

from .._relational.database_errors import Kind, code_of_original, kind_of_code, sqlite_code_of
from .._relational.refused import TAKEN, Refusal, Said, in_words, refusal_of_original, said_of
from ..errors import IdTakenError, InvalidDiffError
from ._model import WHERE, Model


def kind_of(error: BaseException) -> Kind:
    """What an error of the database means; BUG for any other error."""
    if not isinstance(error, Error):
        return Kind.BUG
    original = _original(error)
    kind = kind_of_code(original)
    if kind is not None:
        return kind
    if isinstance(error, DataError):
        return Kind.MISFIT
    if isinstance(error, IntegrityError):
        return Kind.VIOLATION
    has_code = code_of_original(original) is not None or sqlite_code_of(original) is not None
    lost = isinstance(error, OperationalError | InterfaceError) and not has_code
    return Kind.UNAVAILABLE if lost else Kind.BUG


def _original(error: BaseException) -> Any:
    """The driver's error; or Django's own, if there is none: on MySQL, Django makes some itself."""
    return error.__cause__ or error


def refusal_of(error: Exception, model: Model, kind: str) -> InvalidDiffError | None:
    """Why the database, or Django, refused a row; None for an error that is no refusal.

    Args:
        error: what was raised.
        model: of the row.
        kind: 'create', 'update' or 'delete'.
    """
    if isinstance(error, ProtectedError | RestrictedError):
        return InvalidDiffError(f"{WHERE}{in_words(Refusal.REFERRED, [], None)}")
    original = _original(error)
    refusal = refusal_of_original(original, kind_of(error))
    if refusal is None:
        return None
    if refusal is Refusal.REFERENCE and kind == "delete":
        refusal = Refusal.REFERRED
    said = said_of(original)
    if refusal is Refusal.UNIQUE and _is_key(model, said):
        return IdTakenError(f"{WHERE}{TAKEN}")
    columns = said.columns or _declared_columns(model, said.constraint)
    return InvalidDiffError(f"{WHERE}{in_words(refusal, _fields(model, columns), said.constraint)}")


def reason_at_commit(error: Exception) -> str | None:
    """Why the database refused to commit: a constraint that it checks only then."""
    original = _original(error)
    refusal = refusal_of_original(original, kind_of(error))
    if refusal is None:
        return None
    return f"when all was written: {in_words(refusal, [], said_of(original).constraint)}"


def _is_key(model: Model, said: Said) -> bool:
    """Whether another row has the same primary key."""
    meta = model.source._meta
    assert meta.pk is not None
    names = (f"{meta.db_table}_pkey", "PRIMARY")
    return said.constraint in names or set(said.columns) == {meta.pk.column}


def _declared_columns(model: Model, constraint: str | None) -> list[str]:
    """The columns of a unique constraint of the model, found by its name."""
    meta = model.source._meta
    columns = {each.name: str(each.column) for each in meta.concrete_fields}
    if constraint is None:
        return []
    for each in meta.total_unique_constraints:
        if each.name == constraint:
            return [columns[name] for name in each.fields]
    _, table = split_identifier(meta.db_table)
    for names in meta.unique_together:  # which Django names by the table, the columns and a hash
        together = [columns[name] for name in names]
        if constraint.endswith(f"_{names_digest(table, *together, length=8)}_uniq"):
            return together
    # MySQL calls the one of a unique field so.
    return [constraint] if constraint in columns.values() else []


def _fields(model: Model, columns: Any) -> list[str]:
    """The fields of columns, without the owner's; none at all if devices do not know one."""
    by_column = {each.column: name for name, each in model.fields.items()}
    owner = None if model.owner is None else model.owner.column
    others = [name for name in columns if name != owner]
    known = all(name in by_column for name in others)
    return [by_column[name] for name in others] if known else []
