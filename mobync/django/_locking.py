"""An owner's transaction: Django's own, with the row of the owner's head locked in it.

PostgreSQL, MariaDB and MySQL lock that one row.  SQLite can only lock the whole file, so there
syncs of different owners wait for each other too.  The head is locked before anything is read, so
that what the last holder committed is seen.

Where the app has begun a transaction already (``ATOMIC_REQUESTS``, a view in ``atomic``, a test
case), the sync is a savepoint in it, and the owner stays locked until the app commits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import Error, connections, transaction
from django.db.models import Max

from .._relational.database_errors import is_busy
from ..errors import BusyError
from .models import Diff, Head


class HeadOfOwner(NamedTuple):
    """What an owner's head says: the highest clock of the log, -1 if it is empty, and the state."""

    clock: int
    state: str | None


def read_head(using: str, owner_id: str) -> HeadOfOwner:
    """An owner's head, without locking it."""
    rows = Head.objects.using(using).filter(owner=owner_id)
    row = rows.values_list("logical_clock", "state").first()
    return HeadOfOwner(highest_of_log(using, owner_id), None) if row is None else HeadOfOwner(*row)


def highest_of_log(using: str, owner_id: str) -> int:
    """The highest clock of an owner's log, -1 if it is empty."""
    highest = Diff.objects.using(using).filter(owner=owner_id).aggregate(Max("logical_clock"))
    clock: int | None = highest["logical_clock__max"]
    return -1 if clock is None else clock


@contextmanager
def locking(using: str, owner_id: str, timeout_s: float) -> Iterator[HeadOfOwner]:
    """A transaction in which an owner is locked; leaving it normally commits.

    Raises:
        BusyError: the app's own transaction has read the log before another sync was committed.
        django.db.Error: among others when the wait for the lock was too long.
    """
    connection = connections[using]
    is_nested = connection.in_atomic_block
    with _waiting(connection, timeout_s, is_nested), transaction.atomic(using=using):
        if connection.vendor == "postgresql" and not is_nested:
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [_ms(timeout_s)])
        yield _lock(connection, using, owner_id, is_nested)


def _lock(connection: Any, using: str, owner_id: str, is_nested: bool) -> HeadOfOwner:
    heads = Head.objects.using(using).filter(owner=owner_id)
    if connection.vendor == "sqlite":
        # A write as the first statement waits for SQLite's lock just as BEGIN IMMEDIATE does.
        heads.update(owner=owner_id)
    locked = heads.select_for_update().values_list("logical_clock", "state")
    row = locked.first()
    if row is None:
        head = Head(owner=owner_id, logical_clock=highest_of_log(using, owner_id))
        Head.objects.using(using).bulk_create([head], ignore_conflicts=True)
        row = locked.get()
    if is_nested and connection.vendor == "mysql":
        # At REPEATABLE READ the app goes on to read what was there when it read first.
        seen = heads.values_list("logical_clock", flat=True).first()
        if seen is not None and seen != row[0]:
            raise BusyError("the app has read before another sync of this owner was committed")
    return HeadOfOwner(*row)


def _ms(timeout_s: float) -> str:
    return f"{max(1, math.ceil(timeout_s * 1000))}ms"


# ---- how long to wait ---------------------------------------------------------------------------


@contextmanager
def _waiting(connection: Any, timeout_s: float, is_nested: bool) -> Iterator[None]:
    """Bound each wait for a lock; what was set before is set again in the end.

    In a transaction of the app its own bound is as it was.
    """
    names = {"sqlite": "busy_timeout", "mysql": "innodb_lock_wait_timeout"}
    name = names.get(connection.vendor)
    if name is None or is_nested:
        yield
        return
    is_sqlite = connection.vendor == "sqlite"
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA {name}" if is_sqlite else f"SELECT @@SESSION.{name}")
        (before,) = cursor.fetchone()
    setting = f"PRAGMA {name} = " if is_sqlite else f"SET SESSION {name} = "
    wanted = math.ceil(timeout_s * 1000) if is_sqlite else max(1, math.ceil(timeout_s))
    _execute(connection, f"{setting}{wanted}")
    try:
        yield
    finally:
        if connection.connection is not None:
            try:
                _execute(connection, f"{setting}{before}")
            except Error:  # the connection is lost, or must not be used by others as it is
                connection.close()


def _execute(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


# ---- reading without the lock -------------------------------------------------------------------


@contextmanager
def one_moment(using: str) -> Iterator[None]:
    """A transaction whose reads all see what was committed when it read first; it locks nothing."""
    connection = connections[using]
    with transaction.atomic(using=using):
        if connection.vendor in ("postgresql", "mysql"):
            _execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def is_busy_sqlite(error: BaseException) -> bool:
    """Whether somebody else had locked the SQLite file."""
    return is_busy(error.__cause__)
