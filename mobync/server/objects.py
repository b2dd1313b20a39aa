"""The objects that an owner has now, page by page, for the inspector."""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import Table, func, select
from sqlalchemy.engine import Connection, Engine

from ._log_pages import octets
from ._members import members_of

PAGE = 50
MODELS = 100
COUNTED = 1000  # of a model; more are not counted
FIELDS = 8
VALUE_CHARACTERS = 120
STEP_ROWS = 500  # looked through at a time
STEP_BYTES = 4 * 1024 * 1024  # of documents, unless a single document has more
STEPS = 40  # a page
SECONDS = 1.0  # after which a page takes no further step


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

    def page(
        self, owner_id: str, model: str, after: str | None, find: str | None = None
    ) -> dict[str, Any]:
        """Objects of a model by their ids, and after which id the next page begins.

        Args:
            owner_id: the owner of the objects.
            model: their model.
            after: the id to begin after; None begins at the first.
            find: only objects with this text in their id, or in the name or value of a field,
                ignoring case; None: all. A page that looked through many may have few, or none.
        """
        found: list[dict[str, Any]] = []
        needle = (find or "").casefold()
        stop_at = time.monotonic() + SECONDS
        with self._engine.connect() as connection:
            for _ in range(STEPS):
                rows = PAGE - len(found) if not needle else STEP_ROWS
                step, is_last = self._step(connection, owner_id, model, after, rows)
                for id_, document in step:
                    if len(found) == PAGE:
                        return {"objects": found, "next": after}
                    after = id_
                    if not needle or _has(needle, id_, document):
                        found.append(_view(id_, document))
                if is_last:
                    return {"objects": found, "next": None}
                if len(found) == PAGE or time.monotonic() >= stop_at:
                    break
        return {"objects": found, "next": after}

    def _step(
        self, connection: Connection, owner_id: str, model: str, after: str | None, rows: int
    ) -> tuple[list[tuple[str, str]], bool]:
        """The next objects that fit the page, and whether they are the last."""
        columns = self._table.c
        of_model = [columns.owner == owner_id, columns.model == model]
        if after is not None:
            of_model.append(columns.id > after)
        sizes = select(columns.id, octets(columns.document, connection)).where(*of_model)
        room, last, taken, is_last = STEP_BYTES, None, 0, True
        with connection.execute(sizes.order_by(columns.id).limit(rows + 1)) as measured:
            for id_, size in measured:
                if taken == rows or (size > room and last is not None):
                    is_last = False
                    break
                last, room, taken = id_, room - size, taken + 1
        if last is None:
            return [], True
        texts = select(columns.id, columns.document).where(*of_model, columns.id <= last)
        found = connection.execute(texts.order_by(columns.id)).all()
        return [(row.id, row.document) for row in found], is_last


def _has(needle: str, object_id: str, document: str) -> bool:
    """Whether an object's id, or the name or the value of a field, has a text."""
    if needle in object_id.casefold():
        return True
    if needle not in document.casefold() and "\\" not in document:
        return False
    _, fields = members_of(document)
    return any(needle in text.casefold() for item in fields.items() for text in _readable(*item))


def _readable(name: str, value: str) -> tuple[str, str]:
    """A field as a person would type it: a text without its quotes and escapes."""
    return name, json.loads(value) if value.startswith('"') else value


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
