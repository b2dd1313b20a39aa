"""The Mobync that a command works with: that of your own app, or of a server's database."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from sqlalchemy.engine import Engine

from .. import Mobync
from .._waiting import IN_A_THREAD
from ..sqlalchemy import SQLAlchemySynchronizer
from ._shared import opened_database

F = TypeVar("F", bound=Callable[..., Any])

app_option: Callable[[F], F] = click.option(
    "--app",
    metavar="MODULE:NAME",
    help="The Mobync of your own app, or a function that makes it, instead of --database.",
)


@contextmanager
def opened_mobync(database: str, app: str | None, *tables: str) -> Iterator[Mobync]:
    """The Mobync of an app, or one of a database that `mobync serve` has made.

    Args:
        database: the URL of the database, if there is no app.
        app: the place of the app's Mobync, or None.
        *tables: which the database must have; all of them if none is named.
    """
    if app is not None:
        yield mobync_of(app)
        return
    with opened_database(database, *tables) as opened:
        yield Mobync(opened.store)


def store_of(mobync: Mobync) -> SQLAlchemySynchronizer:
    """The store of a Mobync of ``opened_mobync``."""
    store = mobync.synchronizer
    assert isinstance(store, SQLAlchemySynchronizer)
    return store


def engine_of(store: SQLAlchemySynchronizer) -> Engine:
    """The engine of a store, also of one with a session."""
    with store._reading() as connection:
        return connection.engine


def check_logged(mobync: Mobync, owner_id: str) -> None:
    """Fail if an owner has no log; the name is probably mistyped."""
    if mobync.synchronizer.highest_logical_clock(owner_id) < 0:
        raise click.ClickException(f"owner {owner_id!r:.100} has no log")


def check_known(mobync: Mobync, owner_id: str) -> None:
    """Fail if an owner has neither log nor rows; the name is probably mistyped."""
    has_log = mobync.synchronizer.highest_logical_clock(owner_id) >= 0
    if not has_log and mobync.reconcile(owner_id, dry_run=True).rows == 0:
        raise click.ClickException(f"owner {owner_id!r:.100} has no log and no rows")


def mobync_of(place: str) -> Mobync:
    """The Mobync at a place like ``myapp.sync:mobync``, searched for in the current directory
    first.

    Raises:
        click.UsageError: there is none, or its store is not one of ``mobync.sqlalchemy``, or it is
            for asyncio.
    """
    module_name, _, name = place.partition(":")
    if not module_name or not name or module_name.startswith("."):
        form = "MODULE:NAME, such as myapp.sync:mobync"
        raise click.UsageError(f"--app must be {form}, not {place!r:.100}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # the app imports a module that is missing
        raise click.UsageError(f"there is no module {error.name!r:.100}") from error
    found: Any = getattr(module, name, None)
    if _can_be_called(found):
        found = found()
    if not isinstance(found, Mobync):
        raise click.UsageError(f"{place!r:.100} is not a Mobync: it is {found!r:.100}")
    if not isinstance(found.synchronizer, SQLAlchemySynchronizer):
        raise click.UsageError(f"{place!r:.100} has no SQLAlchemySynchronizer, which lists owners")
    if found.synchronizer._waiting is not IN_A_THREAD:
        raise click.UsageError(
            f"{place!r:.100} is for asyncio: give a function that makes a Mobync with a "
            "SQLAlchemySynchronizer over a blocking engine"
        )
    return found


def _can_be_called(found: Any) -> bool:
    """Whether it is a function that needs no argument."""
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return False
    return True
