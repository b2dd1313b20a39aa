"""Turns that a history seldom takes by chance, and in which a single rule decides how it ends.

Each is a generator: between two of its steps anything else may happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .named_phones import Nameless, Phone

if TYPE_CHECKING:
    from .named import World

MOST_PHONES = 6
Story = Callable[["World", int], Iterator[None]]


def lost_answer(world: World, now: int) -> Iterator[None]:
    """A phone's request is done and the answer lost; before it tries again, others edit the same
    object, and the log is compacted."""
    yield from _edited_by_two(world, now, is_sent=True)


def long_silence(world: World, now: int) -> Iterator[None]:
    """A phone has edits and no network for very long; others edit the same object meanwhile."""
    yield from _edited_by_two(world, now, is_sent=False)


def _edited_by_two(world: World, now: int, is_sent: bool) -> Iterator[None]:
    chance = world.chance
    first, second = world.two_named_phones()
    world.sync_all_of(second)
    if chance.random() < 0.5:
        world.sync_all_of(first)
    object_id = first.object_id(chance)
    _edit(world, first, object_id, now)
    yield
    if is_sent:
        world.sync(first, lost=True)
        yield
    world.sync_all_of(second)
    if object_id in second.rows or not second.new_ids:
        _edit(world, second, object_id, now)
        world.sync_all_of(second)
    yield
    if not is_sent or chance.random() < 0.5:
        world.forget(first)
    _others_catch_up(world, first)
    world.compact()
    yield
    if chance.random() < 0.2:
        _a_newcomer_is_not_answered(world, now)
        world.compact()
    world.sync(first)


def _a_newcomer_is_not_answered(world: World, now: int) -> None:
    """It may ask again from 0, so it holds the horizon, which is above that."""
    newcomer = world.newcomer()
    if newcomer is not None:
        newcomer.edit(world.chance, now)
        world.sync(newcomer, lost=True)


def _edit(world: World, phone: Phone, object_id: str, now: int) -> None:
    """Edit an object once or twice; where no id is used again, one that is deleted stays so."""
    for _ in range(world.chance.randint(1, 2)):
        phone.edit_object(world.chance, now, object_id)
        if phone.new_ids and object_id not in phone.rows:
            return


def _others_catch_up(world: World, left_behind: Phone) -> None:
    """Have nobody but one hold the log."""
    for phone in world.phones:
        if phone is not left_behind:
            world.sync_all_of(phone)
    for phone in world.phones:
        if phone is not left_behind:
            world.sync(phone)


def lost_phone(world: World, now: int) -> Iterator[None]:
    """A phone is used for a while and never seen again: it must not hold the log for ever."""
    phone = world.newcomer()
    if phone is None:
        return
    world.sync_all_of(phone)
    phone.edit(world.chance, now)
    world.sync(phone)
    yield
    if phone in world.phones:
        world.lose(phone)


def pages_of_what_is_folded(world: World, now: int) -> Iterator[None]:
    """A phone pulls in pages for so long that what it has yet to get is folded meanwhile."""
    first, second = world.two_named_phones()
    world.sync_all_of(second)
    for _ in range(3):
        second.edit(world.chance, now)
    world.sync_all_of(second)
    for _ in range(world.chance.randint(1, 2)):
        world.sync(first, limit=1)
        yield
    for object_id in list(second.rows):
        second.edit_object(world.chance, now, object_id)
    world.sync_all_of(second)
    world.forget(first)
    _others_catch_up(world, first)
    world.compact()
    yield
    world.sync(first, limit=1)


def nameless_silence(world: World, now: int) -> Iterator[None]:
    """A device without a name is silent for very long, and the log is folded without it."""
    nameless = next(phone for phone in world.phones if isinstance(phone, Nameless))
    other = world.named_phone()
    world.sync_all_of(other)
    world.sync_all_of(nameless)
    yield
    for object_id in list(other.rows):
        other.edit_object(world.chance, now, object_id)
    world.sync_all_of(other)
    world.forget(nameless)
    _others_catch_up(world, nameless)
    world.compact()
    yield
    world.sync(nameless)


def copied_phone(world: World, now: int) -> Iterator[None]:
    """A phone is copied with an edit that it has not sent; both send it, and one of them is told
    that it is a copy."""
    phone, other = world.two_named_phones()
    if len(world.phones) >= MOST_PHONES:
        return
    world.sync_all_of(phone)
    object_id = phone.object_id(world.chance)
    phone.edit_object(world.chance, now, object_id)
    twin = world.copy_of(phone)
    yield
    if world.chance.random() < 0.5:
        other.edit_object(world.chance, now, object_id)
        world.sync_all_of(other)
    world.sync_all_of(twin)
    yield
    phone.edit_object(world.chance, now, object_id)
    world.sync_all_of(phone)


STORIES: list[Story] = [lost_answer, long_silence, lost_phone]
RICH_STORIES: list[Story] = [*STORIES, pages_of_what_is_folded]
STORIES_OF_COPIES: list[Story] = [copied_phone]
STORIES_BESIDE_NAMELESS: list[Story] = [*RICH_STORIES, nameless_silence]
