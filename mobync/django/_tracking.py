"""Which edits of the app's own code are noticed: saves, and the signals of deletes.

Django sends the signals of a delete inside of a transaction.  Around a save there is none, unless
the app has begun one: the row is committed by the time that ``post_save`` is sent.  So the saves of
a tracked model get a transaction, and what they do to the row is found around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

from django.db import connections, models, router, transaction
from django.db.models import signals

from ..sync import Mobync
from ..types import Diff
from ._edits import (
    TRACKED,
    WRITTEN_BY_MOBYNC,
    Mark,
    Place,
    Seen,
    Source,
    Tracked,
    is_erased,
    look,
    saving,
    settle,
    settle_saves,
)
from ._model import Model
from ._synchronizer import DjangoSynchronizer

_DELETING = "_mobync_deleting"  # of an instance or a QuerySet on which `delete` was called
_SEND_SIGNALS = (models.CASCADE, models.PROTECT, models.RESTRICT)  # or refuse the delete

_saves_are_tracked: set[Source] = set()
_referring: dict[tuple[str, Source], dict[tuple[Source, str], str]] = {}
"""By alias and class: the class and the field of rows that change when a row of it is deleted, and
the field of it that they refer to."""


def track(mobync: Mobync) -> None:
    """Bring what the app's own code saves and deletes into the log, in the same transaction.

    Rows that the admin, a form or other code saves or deletes, of models that ``mobync`` syncs,
    reach the owner's devices at their next sync.  Listeners are told when the transaction commits.
    From its first such edit to its end, the transaction holds the locks of the owners whose rows it
    writes. A ``save`` outside of a transaction gets a transaction, which includes its signals.

    Edits that send no signals are not tracked: ``QuerySet.update``, the ``bulk_`` methods, and SQL.
    Rows that ``loaddata`` loads are not tracked either. ``Mobync.reconcile`` finds all of these.

    Call it where the Mobync is made, in the module that ``settings.MOBYNC`` names: every process
    of the project imports that module when it starts.

    Args:
        mobync: a Mobync whose Synchronizer is a :class:`DjangoSynchronizer`. If two of them have
            the same models, the later one counts.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(mobync, Mobync):
        raise TypeError(f"mobync must be a Mobync, not {type(mobync).__name__}")
    store = mobync.synchronizer
    if not isinstance(store, DjangoSynchronizer):
        raise TypeError(
            "the Mobync's Synchronizer must be a DjangoSynchronizer, which has the models of the "
            f"app, not a {type(store).__name__}"
        )
    for place, name in enumerate(store.owned_models("")):
        model = store._models[name]
        TRACKED[model.using, model.source] = Tracked(mobync, store, model, place)
        _track_saves(model.source)
        _listen_to_deletes(model.source)
        for each in (model.owner, *model.fields.values()):
            if (
                isinstance(each, models.ForeignKey)
                and each.remote_field.on_delete not in _SEND_SIGNALS
            ):
                target: Any = each.related_model
                referring = _referring.setdefault((model.using, target), {})
                referring[model.source, each.attname] = each.target_field.attname
                _listen_to_deletes(target)


def is_tracked(store: DjangoSynchronizer) -> bool:
    """Whether the edits of all models of a synchronizer go into the log."""
    models = [store._models[name] for name in store.owned_models("")]
    return all((model.using, model.source) in TRACKED for model in models)


def _listen_to_deletes(source: Source) -> None:
    for kind in _kinds(source):
        signals.pre_delete.connect(_before_delete, sender=kind)
        signals.post_delete.connect(_after_delete, sender=kind)


def _kinds(source: Source) -> Iterator[Source]:
    """A class of Django, its proxies, and the classes whose rows extend its rows."""
    yield source
    for kind in source.__subclasses__():
        yield from _kinds(kind)


# ---- saves --------------------------------------------------------------------------------------


def _track_saves(source: Source) -> None:
    """Track each save of a model, of its proxies, and of the classes that extend it."""
    if source in _saves_are_tracked:
        return
    _saves_are_tracked.add(source)
    plain_save_base = source.save_base

    @wraps(plain_save_base)
    def save_base(
        self: models.Model,
        raw: bool = False,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Any = None,
    ) -> None:
        using = using or router.db_for_write(type(self), instance=self)
        tracked = None if raw else _tracked(type(self), using)
        with nullcontext() if tracked is None else _save(self, tracked):
            plain_save_base(
                self,
                raw=raw,
                force_insert=force_insert,
                force_update=force_update,
                using=using,
                update_fields=update_fields,
            )

    source.save_base = save_base  # type: ignore[method-assign]


@contextmanager
def _save(instance: models.Model, tracked: Tracked) -> Iterator[None]:
    """Add to the log what a save and its signals do to a row, in one transaction."""
    using = tracked.model.using
    connection = connections[using]
    begins = not connection.in_atomic_block
    with transaction.atomic(using=using) if begins else nullcontext():
        if _is_own(instance):
            if not tracked.is_read_back:  # so what a receiver changes and saves is the app's edit
                vars(instance)[WRITTEN_BY_MOBYNC] = False
            yield
            return
        with transaction.atomic(using=using, savepoint=False):
            seen = _look_at(instance, tracked)
        with saving(using, seen, lambda: _place(instance, tracked.model)):
            try:
                yield
            except Exception:
                # If the app has begun the transaction, it may commit the row without this receiver.
                if begins or connection.needs_rollback:
                    raise
                settle_saves(using)
                raise
            settle_saves(using)


def _tracked(sender: Source, using: str) -> Tracked | None:
    """The model of an instance, or of the row that it extends."""
    concrete: Source = sender._meta.concrete_model or sender
    for source in (concrete, *concrete._meta.get_parent_list()):
        if (using, source) in TRACKED:
            return TRACKED[using, source]
    return None


def _key(instance: models.Model, model: Model) -> Any:
    """The primary key of the row as Django reads it; None: the database will make one.

    The class of the instance may extend that of the row, and have another primary key.
    """
    key = getattr(instance, model.fields[Diff.ID].attname)
    if key is None or hasattr(key, "resolve_expression"):
        return None
    return model.fields[Diff.ID].to_python(key)


def _place(instance: models.Model, model: Model) -> Place | None:
    """Where the row of an instance is."""
    key = _key(instance, model)
    return None if key is None else (model.source, key)


def _look_at(instance: models.Model, tracked: Tracked) -> list[Seen]:
    """The row of an instance before a save; nothing if the database will make the key."""
    settle_saves(tracked.model.using)  # of an edit whose receivers have begun this one
    place = _place(instance, tracked.model)
    places = [] if place is None else [place]
    owner_id = tracked.model.owner_of(instance)
    return look(tracked.model.using, places, {owner_id}, ahead=not instance._state.adding)


# ---- deletes ------------------------------------------------------------------------------------


class _Deleting:
    """Rows that are deleted together, by one call of ``delete``.

    Django sends ``pre_delete`` for all of them before it deletes the first one.  They go into the
    log together, so that a row comes after those that refer to it.

    Attributes:
        mark: shows whether the transaction in which they are deleted is open.
        count: how many of them are not deleted yet.
        seen: these rows, and those that refer to them, as they were.
        locked: the owners who are locked.
    """

    def __init__(self, using: str) -> None:
        self.mark = Mark(using)
        self.count = 0
        self.seen: list[Seen] = []
        self.locked: set[str | None] = set()


def _deleting(origin: Any, using: str) -> _Deleting:
    """The rows that a call on an instance or a QuerySet deletes, in the open transaction."""
    found: _Deleting | None = vars(origin).get(_DELETING)
    if found is None or not found.mark.stands:
        found = vars(origin)[_DELETING] = _Deleting(using)
    return found


def _before_delete(
    sender: Source, instance: models.Model, using: str, origin: Any = None, **_: Any
) -> None:
    with transaction.atomic(using=using, savepoint=False):
        settle_saves(using)
        group = _deleting(instance if origin is None else origin, using)
        group.count += 1
        tracked = _tracked(sender, using)
        owner_id = None if tracked is None else tracked.model.owner_of(instance)
        if is_erased(using, owner_id):
            return
        places = [*_referring_places(sender, instance, using)]
        ahead = bool(places)  # rows of whatever owner
        if tracked is not None and not _is_own(instance):
            places.append((tracked.model.source, _key(instance, tracked.model)))
        if places:
            group.seen += look(using, places, {owner_id}, ahead=ahead, locked=group.locked)


def _referring_places(sender: Source, instance: models.Model, using: str) -> Iterator[Place]:
    """The rows that will change, without a signal, when an instance is deleted."""
    referring = _referring.get((using, sender._meta.concrete_model or sender), {})
    for (source, attname), referred in referring.items():
        rows = source._base_manager.using(using).order_by()
        found = rows.filter(**{attname: getattr(instance, referred)})
        for key in found.values_list("pk", flat=True):
            yield source, key


def _after_delete(
    sender: Source, instance: models.Model, using: str, origin: Any = None, **_: Any
) -> None:
    with transaction.atomic(using=using, savepoint=False):
        group = _deleting(instance if origin is None else origin, using)
        group.count -= 1
        if group.count == 0:
            settle(using, list({each.place: each for each in group.seen}.values()))
            group.seen = []


def _is_own(instance: models.Model) -> bool:
    return getattr(instance, WRITTEN_BY_MOBYNC, False)
