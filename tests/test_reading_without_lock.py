"""What only reads writes nothing, not even a row to lock for an owner whom nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import async_databases
import databases
import pytest
from databases import open_database
from django_databases import django_database
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from task_list import diff

from mobync import Mobync
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    AsyncDocumentSynchronizer,
    AsyncSQLAlchemySynchronizer,
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    create_tables_async,
)

# Django must know its settings first.
from django_app.models import Project, Task  # isort: skip
from mobync.django import DjangoSynchronizer  # isort: skip
from mobync.django.models import Head  # isort: skip

opened = async_databases.opened
STORES = [
    "memory",
    *(f"{how} {kind}" for how in ("engine", "session", "django") for kind in databases.KINDS),
]
NOBODY, ANNA = "nobody", "anna"


@pytest.fixture(params=STORES)
def mobync(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mobync]:
    how, _, kind = request.param.partition(" ")
    with ExitStack() as opening:
        yield Mobync(_store(how, kind, tmp_path, opening))


def _store(how: str, kind: str, directory: Path, opening: ExitStack) -> Any:
    if how == "memory":
        return MemorySynchronizer()
    if how == "django":
        alias = opening.enter_context(django_database(kind, directory, [Project, Task]))
        return DjangoSynchronizer({"tasks": Task}, using=alias)
    database = opening.enter_context(open_database(kind, directory))
    documents = DocumentSynchronizer(database.engine)
    create_tables(database.engine, documents.metadata)
    if how == "engine":
        return documents
    session = opening.enter_context(Session(database.engine))
    return SQLAlchemySynchronizer(session, {}, diffs=documents.metadata.tables["diffs"])


def owners_of(mobync: Mobync) -> list[str]:
    """All of whom a store has a head."""
    store: Any = mobync.synchronizer
    if isinstance(store, MemorySynchronizer):
        return [str(key) for table in store._database.tables.values() for key in table.rows]
    if isinstance(store, DjangoSynchronizer):
        return list(Head.objects.using(store._using).values_list("owner", flat=True))
    return list(store.owners())


def read_all(mobync: Mobync, owner_id: str) -> None:
    assert mobync.devices(owner_id) == []
    assert mobync.logical_clock(owner_id) == 0
    assert mobync.compact(owner_id) == (0, 0, 0, 0)
    if isinstance(mobync.synchronizer, DocumentSynchronizer | DjangoSynchronizer):
        assert mobync.reconcile(owner_id, dry_run=True).ok


def test_nothing_is_written_for_an_owner_whom_nobody_knows(mobync: Mobync) -> None:
    read_all(mobync, NOBODY)
    assert owners_of(mobync) == []
    with pytest.raises(ValueError, match="has no device"):
        mobync.name_device(NOBODY, "phone", "Anna's")
    with pytest.raises(ValueError, match="has no device"):
        mobync.forget_device(NOBODY, "phone")
    assert owners_of(mobync) == []


def test_devices_are_read_as_they_are(mobync: Mobync) -> None:
    mobync.apply(0, [], ANNA, device="phone", request=1)
    mobync.compact(ANNA)
    (known,) = mobync.devices(ANNA)
    assert (known.name, known.logical_clock, known.behind) == ("phone", 0, 0)


@pytest.mark.parametrize("kind", databases.KINDS)
def test_devices_can_be_read_while_the_owner_is_locked(kind: str, tmp_path: Path) -> None:
    with open_database(kind, tmp_path) as database:
        store = DocumentSynchronizer(database.engine)
        create_tables(database.engine, store.metadata)
        mobync = Mobync(store)
        edit = diff("create", id="t", name="milk")
        mobync.apply(0, [edit], ANNA, device="phone", request=1)
        other = Mobync(DocumentSynchronizer(database.new_engine()), lock_timeout_s=0.01)
        with store.transaction(ANNA):
            assert [device.name for device in other.devices(ANNA)] == ["phone"]


@pytest.mark.parametrize("how", ["engine", "session"])
def test_asyncio_writes_nothing_either(opened: async_databases.Opened, how: str) -> None:
    async def run() -> None:
        engine = opened.new_engine()
        documents = AsyncDocumentSynchronizer(engine)
        await create_tables_async(engine, documents.metadata)
        log = documents.metadata.tables["diffs"]
        async with AsyncSession(engine) as session:
            store: Any = documents
            if how == "session":
                store = AsyncSQLAlchemySynchronizer(session, {}, diffs=log)
            mobync = Mobync(store)
            assert await mobync.devices_async(NOBODY) == []
            assert await mobync.compact_async(NOBODY) == (0, 0, 0, 0)
            await session.rollback()
        async with engine.connect() as connection:
            heads = select(func.count()).select_from(documents.metadata.tables["diffs_heads"])
            assert await connection.scalar(heads) == 0
        await engine.dispose()

    asyncio.run(run())
