"""The commands of `mobync`, except those with their own file."""

from __future__ import annotations

import math
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

import click

from .. import CompactResult, __version__
from ..sqlalchemy import DocumentSynchronizer, compact_all
from ..sqlalchemy._connections import EngineSource
from ..types import MAX_LOGICAL_CLOCK
from ._apps import app_option, check_logged, engine_of, opened_mobync, store_of
from ._demo import demo
from ._devices import devices, erase, move_owner
from ._log_pages import LogPages, Only
from ._reconcile import check_app, reconcile, show_differences
from ._serve import serve
from ._shared import (
    Commands,
    check_one_or_all,
    check_owner,
    check_text,
    database_option,
    of_one_or_all,
    opened_database,
    owner_argument,
    progress,
    secret_file_of,
    secret_file_option,
)
from ._terminal import printable
from .database import database_url, make_tables, open_database
from .log_view import LogTable, following, last_entries, seen_up_to
from .replay import Check, check
from .tokens import load_tokens
from .transfer import exported, import_lines

DAY_S = 24 * 3600
MOST_DAYS = 36_500


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mobync")
def main() -> None:
    """Offline-first sync: a server for devices, and tools for its database."""


main.add_command(serve)
main.add_command(demo)


# ---- token --------------------------------------------------------------------------------------


def check_days(context: click.Context, parameter: click.Parameter, days: float) -> float:
    """Refuse NaN, which the range check lets through."""
    if math.isnan(days):
        raise click.BadParameter("must be a number")
    return days


@main.command(short_help="Print a token for an owner's devices, or for the inspector.")
@database_option
@secret_file_option
@click.argument("owner", required=False, callback=check_owner)
@click.option("--admin", is_flag=True, help="Print a token for the inspector instead.")
@click.option(
    "--days",
    type=click.FloatRange(0, MOST_DAYS, min_open=True),
    callback=check_days,
    default=365,
    show_default=True,
    help="How long the token is valid.",
)
def token(
    database: str, secret_file: Path | None, owner: str | None, admin: bool, days: float
) -> None:
    """Print a token for the devices of OWNER.

    A device sends it as Authorization: Bearer, or as auth_token in the body. A single token cannot
    be revoked; a new secret ends all tokens.
    """
    if admin == (owner is not None):
        raise click.UsageError("give either OWNER or --admin")
    tokens = load_tokens(secret_file_of(secret_file, database))
    lifetime_s = days * DAY_S
    click.echo(
        tokens.for_admin(lifetime_s) if owner is None else tokens.for_owner(owner, lifetime_s)
    )


# ---- log ----------------------------------------------------------------------------------------


@main.command("log", short_help="Show an owner's diff log as a table.")
@database_option
@app_option
@owner_argument
@click.option("--model", callback=check_text, help="Only this model.")
@click.option(
    "--object",
    "object_id",
    metavar="ID",
    callback=check_text,
    help="Only the object with this id.",
)
@click.option(
    "--since",
    type=click.IntRange(0, MAX_LOGICAL_CLOCK),
    metavar="CLOCK",
    help="Only from this clock on.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="How many of the newest diffs; 0 for all.",
)
@click.option("-f", "--follow", is_flag=True, help="Keep showing new diffs, until Ctrl-C.")
def log_command(
    database: str,
    app: str | None,
    owner: str,
    model: str | None,
    object_id: str | None,
    since: int | None,
    limit: int,
    follow: bool,
) -> None:
    """Show the diff log of OWNER as a table, the newest diffs last."""
    with opened_mobync(database, app, "diffs", "diffs_heads") as mobync:
        if not follow:
            check_logged(mobync, owner)
        store = store_of(mobync)
        pages = LogPages(engine_of(store), store._log.table, store._devices.heads.table)
        only = Only(model, object_id, after=-1 if since is None else since - 1)
        clock = pages.logical_clock(owner)
        table = LogTable()
        last = last_entries(pages, owner, only, limit or None)
        table.show(last)
        if not follow:
            return
        rest = Only(model, object_id, after=max(only.after, seen_up_to(clock, last)))
        try:
            for entries in following(pages, owner, rest):
                table.show(entries)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


# ---- compact ------------------------------------------------------------------------------------


@main.command(short_help="Drop diffs from a log that no device can need.")
@database_option
@app_option
@of_one_or_all
def compact(database: str, app: str | None, owner: str | None, every: bool) -> None:
    """Drop diffs from the log of OWNER that no device can need.

    This is safe at any time. The best time is when few devices sync, for example at night.
    """
    check_one_or_all(owner, every)
    makes = "`mobync serve`" if app is None else "`create_tables`"
    with opened_mobync(database, app, "diffs", "diffs_heads") as mobync:
        if owner is not None:
            check_logged(mobync, owner)
            _say_compacted(owner, mobync.compact(owner), makes)
            return
        busy = 0
        for owner_id, result in compact_all(mobync):
            if result is None:
                busy += 1
                click.echo(f"{printable(owner_id)}: busy, skipped", err=True)
            else:
                _say_compacted(owner_id, result, makes)
    if busy:
        raise click.ClickException(f"{busy} owners were busy: try again")


def _say_compacted(owner_id: str, result: CompactResult, makes: str) -> None:
    click.echo(
        f"{printable(owner_id)}: {result.rows_before} diffs -> {result.rows_after}, "
        f"{result.bytes_before} bytes -> {result.bytes_after}"
    )
    if result.held_by:
        holders = ", ".join(map(printable, result.held_by))
        click.echo(f"  folded below clock {result.horizon}; held there by {holders}", err=True)
    if result.unfolded_objects:
        click.echo(
            f"  {result.unfolded_objects} objects are not folded, because the log has no column "
            f"for the times of their fields: {makes} makes it",
            err=True,
        )


# ---- check --------------------------------------------------------------------------------------


@main.command("check", short_help="Compare a log with the stored documents, or with tables.")
@database_option
@app_option
@of_one_or_all
def check_command(database: str, app: str | None, owner: str | None, every: bool) -> None:
    """Replay the log of OWNER and compare it with the stored documents, or the tables of an app.

    Exits with 1 if they do not match.
    """
    check_one_or_all(owner, every)
    if app is not None:
        check_app(app, owner)
        return
    with opened_database(database) as opened:
        if owner is not None:
            opened.check_owner(owner)
        owners = opened.store.owners() if owner is None else [owner]
        failed = 0
        for owner_id in owners:
            with progress(f"replaying {printable(owner_id)}") as advance_to:
                result = check(opened.store, owner_id, advance_to)
            failed += not result.ok
            _say_checked(owner_id, result)
    if failed:
        sys.exit(1)


def _say_checked(owner_id: str, result: Check) -> None:
    owner = printable(owner_id)
    if result.ok:
        click.echo(f"{owner}: ok, {result.diffs} diffs make its {result.documents} documents")
        return
    if result.log_clock != result.head_clock:
        click.echo(
            f"{owner}: the log ends at clock {result.log_clock}, its head says {result.head_clock}"
        )
    if not result.mismatches:
        return
    click.echo(f"{owner}: {len(result.mismatches)} objects do not match the log")
    show_differences(result.mismatches, len(result.mismatches))


main.add_command(reconcile)
main.add_command(devices)
main.add_command(move_owner)
main.add_command(erase)


# ---- export, import -----------------------------------------------------------------------------


@main.command("export", short_help="Write an owner's log as JSON lines.")
@database_option
@app_option
@owner_argument
@click.argument(
    "file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default="-"
)
def export_command(database: str, app: str | None, owner: str, file: Path) -> None:
    """Write the log of OWNER to FILE as JSON lines; to stdout by default.

    The log contains the documents. The file has the log of one moment, and syncs continue
    meanwhile. An existing FILE is replaced only when the new one is complete. FILE may also be a
    pipe or a device.
    """
    with opened_mobync(database, app, "diffs", "diffs_heads") as mobync:
        check_logged(mobync, owner)
        store = store_of(mobync)
        if not isinstance(store._source, EngineSource):
            raise click.UsageError(
                f"{app!r:.100} has a session: give a function that makes a Mobync over an engine"
            )
        with (
            progress(f"exporting {printable(owner)}") as advance_to,
            _written_whole(file) as stream,
        ):
            for line in exported(store, owner, advance_to):
                stream.write(line)


@contextmanager
def _written_whole(file: Path) -> Iterator[IO[str]]:
    """A stream to a file that appears only when it is complete."""
    if str(file) == "-":
        with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as stdout:
            yield stdout
        return
    try:
        mode = _mode_of(file)
        if mode is not None and not stat.S_ISREG(mode):
            with file.open("w", encoding="utf-8") as stream:
                yield stream
            return
        target = Path(os.path.realpath(file))
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as stream:
            written = Path(stream.name)
            try:
                yield stream
                stream.flush()
                if mode is not None:
                    written.chmod(stat.S_IMODE(mode))
                written.replace(target)
            except BaseException:
                written.unlink()
                raise
    except BrokenPipeError:
        raise  # the reader of the pipe has ended, which is not an error of the file
    except OSError as error:
        raise click.FileError(str(file), error.strerror) from error


def _mode_of(file: Path) -> int | None:
    """The kind and the permissions of a file; None if there is none."""
    try:
        return file.stat().st_mode
    except FileNotFoundError:
        return None


@main.command("import", short_help="Read a file that export wrote.")
@database_option
@owner_argument
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
def import_command(database: str, owner: str, file: TextIO) -> None:
    """Store a file that `export` wrote as the log and documents of OWNER.

    It reads FILE, by default stdin. It imports everything or nothing. OWNER must have no data yet,
    and may have another name than the exported owner. Missing tables are made.
    """
    url = database_url(database)
    with open_database(url) as engine:
        store = DocumentSynchronizer(engine)
        make_tables(store, engine)
        with progress(f"importing {printable(owner)}") as advance_to:
            diffs = import_lines(store, owner, file, advance_to)
    click.echo(f"{printable(owner)}: {diffs} diffs imported", err=True)
