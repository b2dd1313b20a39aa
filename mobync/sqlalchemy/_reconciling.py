"""Reconciliation of a whole database: every owner in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import Column, Select, Text, cast, select
from sqlalchemy import types as sql
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect

from ..errors import BusyError
from ..sync import Mobync
from ..types import ReconcileResult
from ._model import plain_type
from ._synchronizer import SQLAlchemySynchronizer
from ._values import is_mysql


def reconcile_all(
    mobync: Mobync,
    model: str | None = None,
    *,
    dry_run: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> Iterator[tuple[str, ReconcileResult | None]]:
    """Reconcile every owner in turn. Only the syncs of that owner wait meanwhile.

    This includes everyone who has a log or rows, because an owner who was given a row may never
    have synced. The work is done while you iterate, and you can stop at any time.

    Args:
        mobync: a Mobync whose synchronizer is a SQLAlchemySynchronizer.
        model: the model; None for all that belong to an owner.
        dry_run: only compare, and write nothing.
        progress: called like that of :meth:`Mobync.reconcile`, with the owner first.

    Yields:
        An owner and the result of :meth:`Mobync.reconcile`; None if another sync of that owner
        took too long.

    Raises:
        TypeError: the synchronizer is of another kind.
    """
    store = mobync.synchronizer
    if not isinstance(store, SQLAlchemySynchronizer):
        raise TypeError(
            "reconcile_all needs a SQLAlchemySynchronizer, which can list owners, "
            f"not a {type(store).__name__}"
        )
    return _reconcile_each(mobync, all_owners(store), model, dry_run, progress)


def _reconcile_each(
    mobync: Mobync,
    owners: Iterable[str],
    model: str | None,
    dry_run: bool,
    progress: Callable[[str, int, int], object] | None,
) -> Iterator[tuple[str, ReconcileResult | None]]:
    for owner_id in owners:

        def of_owner(done: int, total: int, owner_id: str = owner_id) -> None:
            if progress is not None:
                progress(owner_id, done, total)

        try:
            yield owner_id, mobync.reconcile(owner_id, model, dry_run=dry_run, progress=of_owner)
        except BusyError:
            yield owner_id, None


def all_owners(store: SQLAlchemySynchronizer) -> Iterator[str]:
    """Everyone who has a log, then who else has rows, each once."""
    with_rows = _owners_of_rows(store)
    for owner_id in store.owners():
        with_rows.discard(owner_id)
        yield owner_id
    yield from sorted(with_rows)


def _owners_of_rows(store: SQLAlchemySynchronizer) -> set[str]:
    found: set[str] = set()
    for model in store._kept_models():
        if model.owner is None:
            continue
        with store._reading() as connection:
            dialect = connection.dialect
            encode = model.codec(model.owner, dialect).encode
            owners = connection.scalars(_distinct(model.owner, dialect)).all()
        found.update(str(encode(owner)) for owner in owners if owner is not None)
    return {owner for owner in found if owner and _can_sync(store, owner, dialect)}


def _distinct(owner: Column[Any], dialect: Dialect) -> Select[Any]:
    """Each owner once, letter for letter: a collation may take some of them for the same."""
    type_ = plain_type(owner.type)
    if not isinstance(type_, sql.String):
        return select(owner).distinct()
    if is_mysql(dialect):
        text: Any = cast(owner, mysql.CHAR(charset="utf8mb4")).collate("utf8mb4_bin")
    else:
        text = cast(owner, Text).collate("C" if dialect.name == "postgresql" else "BINARY")
    return select(text).distinct()


def _can_sync(store: SQLAlchemySynchronizer, owner_id: str, dialect: Dialect) -> bool:
    try:
        store._check_owner(owner_id, dialect)
    except ValueError:
        return False
    return True
