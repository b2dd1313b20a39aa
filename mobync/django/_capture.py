"""Notes of rows that the app's own code has written, made by Django's signals.

Each ``save`` and ``delete`` of a model that is synced, in the admin or anywhere else, notes the
owner and the id of the row, in the transaction of the edit.  Nothing of the row's values is noted:
whoever turns the notes into diffs compares the row with the log (mobync/_sync/noted_edits.py), so a
note too many does no harm.  That is done when the edit is committed, or, if somebody else is in the
way, at the owner's next sync.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.models import Model as DjangoModel
from django.db.models import Q, signals

from .._relational.notes import Note as NoteOfRow
from .._relational.notes import searched_texts
from ..http.django import endpoint_of_settings
from ..types import LOG_FIELDS
from ._model import Model
from .models import KEY_LENGTH, Diff, Note

if TYPE_CHECKING:
    from ._synchronizer import DjangoSynchronizer

logger = logging.getLogger("mobync")

WRITTEN_BY_MOBYNC = "_mobync_writes"
LOG_COLUMNS = ("diff_id", *LOG_FIELDS[1:])  # a model of Django has no other `id` than its key


class Capture:
    """The notes of a synchronizer; it listens to the signals of its models.

    Args:
        using: the alias of their database.
        models: by name; those that are shared are not listened to.
    """

    def __init__(self, using: str, models: Mapping[str, Model]) -> None:
        self.using = using
        self._syncing = threading.local()
        self._models = {model.source: model for model in models.values() if model.owner is not None}
        for source in self._models:
            signals.pre_save.connect(self._before_save, sender=source)
            signals.post_save.connect(self._after_save, sender=source)
            signals.post_delete.connect(self._after_delete, sender=source)

    # ---- signals -------------------------------------------------------------------------------

    def _before_save(
        self, sender: type[DjangoModel], instance: DjangoModel, using: str, **_: Any
    ) -> None:
        """Note for whom the row was, where it is given to somebody else."""
        if using != self.using or instance._state.adding or _is_own(instance):
            return
        model = self._models[sender]
        rows = sender._base_manager.using(using).filter(pk=instance.pk)
        before = rows.values_list(model.owner.attname, flat=True).first()
        owner_id = model.owner_id(before)
        if owner_id is not None and owner_id != model.owner_of(instance):
            self._note(model, owner_id, instance)

    def _after_save(
        self, sender: type[DjangoModel], instance: DjangoModel, using: str, **_: Any
    ) -> None:
        self._after_delete(sender, instance, using)

    def _after_delete(
        self, sender: type[DjangoModel], instance: DjangoModel, using: str, **_: Any
    ) -> None:
        if using == self.using and not _is_own(instance):
            model = self._models[sender]
            owner_id = model.owner_of(instance)
            if owner_id is not None:
                self._note(model, owner_id, instance)

    def _note(self, model: Model, owner_id: str, instance: DjangoModel) -> None:
        if len(owner_id) > KEY_LENGTH:
            return  # who cannot sync
        Note.objects.using(self.using).create(
            owner=owner_id,
            model=model.name,
            object_id=model.id_of(instance),
            noted_at=time.time_ns() // 1_000_000,
        )
        callback = _LogNow(self, owner_id)
        waiting = connections[self.using].run_on_commit
        if not self.is_syncing and not any(func == callback for _, func, *_ in waiting):
            transaction.on_commit(callback, using=self.using, robust=True)

    @property
    def is_syncing(self) -> bool:
        """Whether this thread is in an owner's transaction: what it notes waits for the next."""
        return getattr(self._syncing, "depth", 0) > 0

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """Say that this thread is in an owner's transaction."""
        self._syncing.depth = getattr(self._syncing, "depth", 0) + 1
        try:
            yield
        finally:
            self._syncing.depth -= 1

    # ---- notes -----------------------------------------------------------------------------------

    def has_notes(self, owner_id: str) -> bool:
        """Whether there are notes of an owner."""
        return bool(self._of(owner_id).exists())

    def notes(self, store: DjangoSynchronizer, owner_id: str) -> list[NoteOfRow]:
        """The notes of an owner, in the order of their numbers."""
        names = {model.name for model in self._models.values()}
        rows = self._of(owner_id).filter(model__in=names).order_by("number")
        return [
            NoteOfRow(*row) for row in rows.values_list("number", "model", "object_id", "noted_at")
        ]

    def forget(self, store: DjangoSynchronizer, notes: Sequence[NoteOfRow]) -> None:
        """Drop notes that have been turned into diffs; those that came meanwhile stay."""
        for begin in range(0, len(notes), 500):
            numbers = [note.number for note in notes[begin : begin + 500]]
            Note.objects.using(self.using).filter(number__in=numbers).delete()

    def owners(self) -> list[str]:
        """Who has notes."""
        found = Note.objects.using(self.using).values_list("owner", flat=True)
        return sorted(found.distinct())

    def logged(
        self, store: DjangoSynchronizer, owner_id: str, model: str, ids: Sequence[str]
    ) -> list[dict[str, Any]] | None:
        """The diffs of the log that may be of some objects, among them all that are.

        Returns:
            None for so many objects that reading the whole log takes less.
        """
        searched = searched_texts(ids)
        if searched is None:
            return None
        says = Q(json_data__contains="\\u")  # an id may be spelled so
        for text in searched:
            says |= Q(json_data__contains=text)
        rows = Diff.objects.using(self.using).filter(says, owner=owner_id, model=model)
        return [dict(zip(LOG_FIELDS, row, strict=True)) for row in rows.values_list(*LOG_COLUMNS)]

    def _of(self, owner_id: str) -> Any:
        return Note.objects.using(self.using).filter(owner=owner_id)


@dataclass(frozen=True)
class _LogNow:
    """Turn the notes of an owner into diffs, and tell who listens."""

    capture: Capture
    owner_id: str

    def __call__(self) -> None:
        try:
            server = endpoint_of_settings().mobync
            if server.synchronizer.capture is self.capture:
                server.push(self.owner_id, [])
        except Exception:  # the edit is committed, and the note waits for the next sync
            logger.info("the edit goes into the log at the next sync", exc_info=True)


def _is_own(instance: DjangoModel) -> bool:
    return getattr(instance, WRITTEN_BY_MOBYNC, False)
