"""The Mobync of an app of one's own, for commands that work on its tables."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .. import Mobync
from ..sqlalchemy import SQLAlchemySynchronizer

F = TypeVar("F", bound=Callable[..., Any])

app_option: Callable[[F], F] = click.option(
    "--app",
    metavar="MODULE:NAME",
    help="The Mobync of your own app, or a function that makes it, instead of --database.",
)


def mobync_of(place: str) -> Mobync:
    """The Mobync at a place as ``myapp.sync:mobync``, sought from the current directory.

    Raises:
        click.UsageError: there is none, or it keeps its tables in another way.
    """
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        form = "MODULE:NAME, such as myapp.sync:mobync"
        raise click.UsageError(f"--app must be {form}, not {place!r:.100}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # of something that the app itself imports
        raise click.UsageError(f"there is no module {error.name!r:.100}") from error
    found: Any = getattr(module, name, None)
    if _can_be_called(found):
        found = found()
    if not isinstance(found, Mobync):
        raise click.UsageError(f"{place!r:.100} is not a Mobync: it is {found!r:.100}")
    if not isinstance(found.synchronizer, SQLAlchemySynchronizer):
        raise click.UsageError(f"{place!r:.100} has no SQLAlchemySynchronizer, which lists owners")
    return found


def _can_be_called(found: Any) -> bool:
    """Whether it is a function that needs no argument."""
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return False
    return True
