"""`mobync reconcile`, and `mobync check` of an app's own tables, which compares in the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click
from rich.table import Table
from rich.text import Text

from .. import Difference, Mobync, ReconcileResult
from ..sqlalchemy import reconcile_all
from ._apps import app_option, check_known, mobync_of, opened_mobync
from ._shared import (
    check_one_or_all,
    check_text,
    database_option,
    of_one_or_all,
    progress,
)
from ._terminal import print_table, printable

DIFFERENCES_SHOWN = 20


@click.command(short_help="Add edits made by SQL to the log.")
@database_option
@app_option
@of_one_or_all
@click.option("--model", callback=check_text, help="Only this model.")
@click.option("--dry-run", is_flag=True, help="Only print what would be added to the log.")
def reconcile(
    database: str,
    app: str | None,
    owner: str | None,
    every: bool,
    model: str | None,
    dry_run: bool,
) -> None:
    """Compare the rows of OWNER with the log, and add the differences to the log.

    Use it after SQL, an admin page or a batch job has inserted, updated or deleted rows, or given
    them to another owner. OWNER's devices get these edits with their next sync. The rows are not
    changed.
    """
    check_one_or_all(owner, every)
    with opened_mobync(database, app) as mobync:
        busy = 0
        for owner_id, result in compared(mobync, owner, model, dry_run=dry_run):
            if result is None:
                busy += 1
                click.echo(f"{printable(owner_id)}: busy, skipped", err=True)
            else:
                _say_reconciled(owner_id, result, dry_run)
    if busy:
        raise click.ClickException(f"{busy} owners were busy: try again")


def compared(
    mobync: Mobync, owner: str | None, model: str | None = None, *, dry_run: bool
) -> Iterator[tuple[str, ReconcileResult | None]]:
    """Each owner and the result of the comparison; shows a progress bar meanwhile."""
    doing = "comparing" if dry_run else "reconciling"
    if owner is not None:
        check_known(mobync, owner)
        with progress(f"{doing} {printable(owner)}") as advance_to:
            found = mobync.reconcile(owner, model, dry_run=dry_run, progress=advance_to)
        yield owner, found
        return
    with progress(f"{doing} all owners") as advance_to:

        def of_owner(owner_id: str, done: int, total: int) -> None:
            advance_to(done, total)

        yield from reconcile_all(mobync, model, dry_run=dry_run, progress=of_owner)


def _say_reconciled(owner_id: str, result: ReconcileResult, dry_run: bool) -> None:
    owner = printable(owner_id)
    if result.ok:
        click.echo(f"{owner}: ok, {result.rows} rows match the log")
        return
    would = "would go" if dry_run else "went"
    click.echo(
        f"{owner}: {result.created} creates, {result.updated} updates and "
        f"{result.deleted} deletes {would} into the log"
    )
    if dry_run:
        show_differences(result.differences, result.created + result.updated + result.deleted)


def check_app(app: str, owner: str | None) -> None:
    """Compare the tables of an app with its log; exits with 1 if they do not match."""
    failed = 0
    for owner_id, result in compared(mobync_of(app), owner, dry_run=True):
        name = printable(owner_id)
        failed += result is None or not result.ok
        if result is None:
            click.echo(f"{name}: busy, not checked", err=True)
        elif result.ok:
            click.echo(f"{name}: ok, {result.rows} rows match the log")
        else:
            count = result.created + result.updated + result.deleted
            click.echo(f"{name}: {count} objects do not match the log")
            show_differences(result.differences, count)
    if failed:
        sys.exit(1)


def show_differences(differences: Sequence[Difference], count: int) -> None:
    """Print the first of them as a table, and how many more there are."""
    table = Table("model", "object", "only in the log", "only in the table")
    for difference in differences[:DIFFERENCES_SHOWN]:
        table.add_row(
            Text(printable(difference.model)),
            Text(printable(difference.id)),
            Text("no such object" if difference.log is None else printable(difference.log)),
            Text("no such object" if difference.table is None else printable(difference.table)),
        )
    print_table(table)
    if count > DIFFERENCES_SHOWN:
        click.echo(f"and {count - DIFFERENCES_SHOWN} more")
