"""What the commands share: options, opening the database, errors in one line, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from .. import MobyncError, UnavailableError
from ..sqlalchemy import DocumentSynchronizer
from ._terminal import printable
from .database import (
    DatabaseError,
    check_directory,
    check_tables,
    database_file,
    database_url,
    open_database,
)
from .owners import OwnerError, check_owner_id, is_storable
from .replay import DamagedLogError
from .tokens import SECRET_VARIABLE, SecretError
from .transfer import TransferError

F = TypeVar("F", bound=Callable[..., Any])

_ERRORS = (
    *(DatabaseError, SecretError, TransferError, DamagedLogError, MobyncError),
    NoSuchTableError,  # of an app
)


class Commands(click.Group):
    """Prints an error in one line, unless it is a bug."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DBAPIError as error:
            raise click.ClickException(_said(error.orig)) from error
        except UnavailableError as error:
            raise click.ClickException(_said(getattr(error.__cause__, "orig", error))) from error
        except _ERRORS as error:
            raise click.ClickException(printable(str(error))) from error


def _said(by_database: object) -> str:
    """The message of a database in one line; it may repeat what a device sent."""
    return printable(f"the database says: {by_database}")


def check_owner(
    context: click.Context, parameter: click.Parameter, owner_id: str | None
) -> str | None:
    if owner_id is not None:
        try:
            check_owner_id(owner_id)
        except OwnerError as error:
            raise click.BadParameter(str(error)) from error
    return owner_id


def check_text(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Refuse bytes that are not UTF-8: no device could send them."""
    if text is not None and not is_storable(text):
        raise click.BadParameter("must be UTF-8 text")
    return text


database_option = click.option(
    "-d",
    "--database",
    metavar="URL",
    envvar="MOBYNC_DATABASE",
    default="sqlite:///mobync.db",
    callback=check_text,
    show_default=True,
    show_envvar=True,
    help="Database to use: sqlite:///FILE, postgresql://… or mariadb://…",
)
secret_file_option = click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="MOBYNC_SECRET_FILE",
    show_envvar=True,
    help="The file with the secret that signs tokens. It is made if it does not exist. "
    f"{SECRET_VARIABLE} in the environment has priority.  [default: beside the SQLite file]",
)
owner_argument = click.argument("owner", callback=check_owner)
_owner_or_all = (
    click.argument("owner", required=False, callback=check_owner),
    click.option("--all", "every", is_flag=True, help="All owners, one after the other."),
)


def of_one_or_all(command: F) -> F:
    """Give a command the argument ``owner`` and the option ``every``."""
    for decorate in _owner_or_all:
        command = decorate(command)
    return command


def secret_file_of(given: Path | None, database: str) -> Path | None:
    """The file of the secret; None if no option names one and the database is not a file."""
    if given is not None:
        return given
    url = database_url(database)
    check_directory(url)
    file = database_file(url)
    return None if file is None else file.with_name(f"{file.name}.secret")


@dataclass(frozen=True)
class Opened:
    """A database that `mobync serve` has made."""

    engine: Engine
    store: DocumentSynchronizer

    def check_owner(self, owner_id: str) -> None:
        """Fail if an owner has no log; the name is probably mistyped."""
        if self.store.highest_logical_clock(owner_id) < 0:
            raise click.ClickException(f"owner {owner_id!r:.100} has no log")


@contextmanager
def opened_database(database: str, *tables: str) -> Iterator[Opened]:
    """Open a database that has these tables, or all of them if none is named."""
    with open_database(database_url(database)) as engine:
        store = DocumentSynchronizer(engine)
        check_tables(store, engine, *tables)
        yield Opened(engine, store)


def check_one_or_all(owner: str | None, every: bool) -> None:
    """Fail unless exactly one of the two was given."""
    if every == (owner is not None):
        raise click.UsageError("give either OWNER or --all")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, if that is a terminal. Yields a function that moves it: done,
    total.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
