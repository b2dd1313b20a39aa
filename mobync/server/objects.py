"""The objects that an owner has now, page by page, for the inspector."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, func, select
from sqlalchemy.engine import Engine

from ._members import members_of

PAGE = 50
MODELS = 100
COUNTED = 1000  # of a model; more are not counted
FIELDS = 8
VALUE_CHARACTERS = 120


class Objects:
    """Reads the table of documents by its key, a bounded number of rows at a time.

    Args:
        engine: the database.
        documents: as ``mobync.sqlalchemy.documents_table`` declares it.
    """

    def __init__(self, engine: Engine, documents: Table) -> None:
        self._engine = engine
        self._table = documents

    def models(self, owner_id: str) -> list[dict[str, Any]]:
        """The models of which the owner has objects, and how many, up to a limit."""
        columns = self._table.c
        found: list[dict[str, Any]] = []
        with self._engine.connect() as connection:
            last = ""
            while len(found) < MODELS:
                next_ = select(columns.model).where(columns.owner == owner_id)
                next_ = next_.where(columns.model > last).order_by(columns.model).limit(1)
                last = connection.scalar(next_) or ""
                if not last:
                    break
                some = select(columns.id).where(columns.owner == owner_id, columns.model == last)
                few = some.limit(COUNTED + 1).subquery()
                count = connection.scalar(select(func.count()).select_from(few)) or 0
                found.append(
                    {"model": last, "objects": min(count, COUNTED), "more": count > COUNTED}
                )
        return found

    def page(self, owner_id: str, model: str, after: str | None) -> dict[str, Any]:
        """Objects of a model by their ids, and after which id the next page begins."""
        columns = self._table.c
        rows = select(columns.id, columns.document)
        rows = rows.where(columns.owner == owner_id, columns.model == model)
        if after is not None:
            rows = rows.where(columns.id > after)
        with self._engine.connect() as connection:
            found = connection.execute(rows.order_by(columns.id).limit(PAGE + 1)).all()
        shown = found[:PAGE]
        return {
            "objects": [_view(id_, document) for id_, document in shown],
            "next": shown[-1][0] if len(found) > PAGE else None,
        }


def _view(object_id: str, document: str) -> dict[str, Any]:
    _, fields = members_of(document)
    shown = list(fields.items())[:FIELDS]
    return {
        "object": object_id,
        "fields": [[_cut(name), _cut(text)] for name, text in shown],
        "more_fields": len(fields) - len(shown),
    }


def _cut(text: str) -> str:
    if len(text) <= VALUE_CHARACTERS:
        return text
    return f"{text[:VALUE_CHARACTERS]}… ({len(text)} characters)"
