"""An owner's transaction: Django's own, with the row of the owner's head locked in it.

PostgreSQL, MariaDB and MySQL lock only this row.  SQLite locks the whole file, so there syncs of
different owners wait for each other, too.  The head is locked before anything is read, so that the
sync sees what the last holder of the lock committed.

If the app has begun a transaction (``ATOMIC_REQUESTS``, a view in ``atomic``, a test case), the
sync is a savepoint in it, and the owner stays locked until the app commits.
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
from .models import KEY_LENGTH, Diff, Head


class HeadOfOwner(NamedTuple):
    """An owner's head: the highest clock of the log, -1 if it is empty, and the stored state."""

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
    """Open a transaction in which an owner is locked.  It commits at the end of the ``with``.

    Args:
        using: the alias of the database.
        owner_id: whom to lock.
        timeout_s: seconds to wait for the lock.

    Yields:
        The owner's head.

    Raises:
        BusyError: the app's own transaction has read the log before another sync was committed.
        django.db.Error: any error of the database; among others, the wait was too long.
    """
    connection = connections[using]
    is_nested = connection.in_atomic_block
    with _waiting(connection, timeout_s, is_nested), transaction.atomic(using=using):
        if connection.vendor == "postgresql" and not is_nested:
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [_ms(timeout_s)])
        lock_file(using)
        head = lock_head(using, owner_id)
        if is_nested and connection.vendor == "mysql":
            # At REPEATABLE READ the app still reads what was there at its first read.
            heads = Head.objects.using(using).filter(owner=owner_id)
            seen = heads.values_list("logical_clock", flat=True).first()
            if seen is not None and seen != head.clock:
                raise BusyError("the app has read before another sync of this owner was committed")
        yield head


def lock_file(using: str) -> None:
    """On SQLite, lock the database against other writers until the transaction ends.

    As the first statement of a transaction, a write waits for that lock just as BEGIN IMMEDIATE
    does.  After a read, SQLite may refuse it at once.
    """
    if connections[using].vendor == "sqlite":
        Head.objects.using(using).filter(owner="").update(state=None)


def lock_head(using: str, owner_id: str) -> HeadOfOwner:
    """Lock an owner until the transaction ends that the database is in."""
    heads = Head.objects.using(using).filter(owner=owner_id)
    locked = heads.select_for_update().values_list("logical_clock", "state")
    row = locked.first()
    if row is None:
        head = Head(owner=owner_id, logical_clock=highest_of_log(using, owner_id))
        Head.objects.using(using).bulk_create([head], ignore_conflicts=True)
        row = locked.get()
    return HeadOfOwner(*row)


def why_no_log(using: str, owner_id: str) -> str | None:
    """Why a database cannot have the log of an owner; None: it can."""
    if connections[using].vendor == "mysql" and owner_id.endswith(" "):
        return "owner_id ends in a space, which MySQL and MariaDB do not compare"
    if len(owner_id) > KEY_LENGTH:
        return f"owner_id {owner_id!r:.100}: is longer than {KEY_LENGTH} characters"
    if "\0" in owner_id:
        return f"owner_id {owner_id!r:.100}: has the character U+0000"
    return None


def _ms(timeout_s: float) -> str:
    return f"{max(1, math.ceil(timeout_s * 1000))}ms"


# ---- how long to wait ---------------------------------------------------------------------------


@contextmanager
def _waiting(connection: Any, timeout_s: float, is_nested: bool) -> Iterator[None]:
    """Limit each wait for a lock.  At the end, the limit is what it was before.

    In a transaction of the app, the app's own limit stays.
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
            except Error:  # it is lost; or nobody else may use it with this limit
                connection.close()


def _execute(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


# ---- reading without the lock -------------------------------------------------------------------


@contextmanager
def one_moment(using: str) -> Iterator[None]:
    """Open a transaction in which all reads see the same moment.  It locks nothing."""
    connection = connections[using]
    with transaction.atomic(using=using):
        if connection.vendor in ("postgresql", "mysql"):
            _execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def is_busy_sqlite(error: BaseException) -> bool:
    """Whether another writer has locked the SQLite file."""
    return is_busy(error.__cause__)
