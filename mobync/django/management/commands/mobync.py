"""``manage.py mobync``: what is done to logs from a shell."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from mobync import BusyError, InvalidDiffError, Mobync
from mobync.http.django import endpoint_of_settings

from ..._synchronizer import DjangoSynchronizer


class Command(BaseCommand):
    """The subcommands."""

    help = "Look after the logs of mobync: adopt, compact, reconcile, devices"

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        adopt = commands.add_parser("adopt", help="bring rows that were there before into the log")
        compact = commands.add_parser("compact", help="drop what no device can need")
        reconcile = commands.add_parser(
            "reconcile", help="bring rows that were edited by SQL into the log"
        )
        devices = commands.add_parser("devices", help="list the devices that name themselves")
        for each in (adopt, compact, reconcile, devices):
            each.add_argument("--owner", help="one owner's id; without it, of all owners")
        for each in (adopt, reconcile):
            each.add_argument("--model", help="one model, as devices name it; without it, all")
        reconcile.add_argument("--dry-run", action="store_true", help="only look")

    def handle(self, *args: Any, **options: Any) -> None:
        server, store = _server_and_store()
        work = getattr(self, f"_{options['command']}")
        owner = options["owner"]
        owners = [owner] if owner else list(_owners(store, options["command"] != "compact"))
        busy = 0
        for owner_id in owners:
            try:
                work(server, owner_id, options)
            except BusyError as error:
                busy += 1
                self.stderr.write(f"{owner_id}: {error}")
            except InvalidDiffError as error:
                raise CommandError(f"{owner_id}: {error}") from error
        if busy:
            raise CommandError(f"{busy} of {len(owners)} owners were busy: run it again")

    def _adopt(self, server: Mobync, owner_id: str, options: dict[str, Any]) -> None:
        for model in _models(server, owner_id, options["model"]):
            self.stdout.write(f"{owner_id}: {model}: {server.adopt(owner_id, model)} adopted")

    def _compact(self, server: Mobync, owner_id: str, options: dict[str, Any]) -> None:
        done = server.compact(owner_id)
        self.stdout.write(f"{owner_id}: {done.rows_before} diffs, now {done.rows_after}")

    def _reconcile(self, server: Mobync, owner_id: str, options: dict[str, Any]) -> None:
        found = server.reconcile(owner_id, options["model"], dry_run=options["dry_run"])
        self.stdout.write(
            f"{owner_id}: {found.rows} rows, {found.created} created, {found.updated} updated, "
            f"{found.deleted} deleted"
        )

    def _devices(self, server: Mobync, owner_id: str, options: dict[str, Any]) -> None:
        for known in server.devices(owner_id):
            label = f" ({known.label})" if known.label else ""
            revoked = ", revoked" if known.revoked else ""
            self.stdout.write(f"{owner_id}: {known.name}{label}: {known.behind} behind{revoked}")


def _server_and_store() -> tuple[Mobync, DjangoSynchronizer]:
    try:
        server = endpoint_of_settings().mobync
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    store = server.synchronizer
    if not isinstance(store, DjangoSynchronizer):
        raise CommandError(f"settings.MOBYNC: not a DjangoSynchronizer: {type(store).__name__}")
    return server, store


def _models(server: Mobync, owner_id: str, model: str | None) -> Iterable[str]:
    return [model] if model else server.synchronizer.owned_models(owner_id)


def _owners(store: DjangoSynchronizer, with_rows: bool) -> Iterator[str]:
    """Everyone who has a log, then who else has rows."""
    others = store.owners_of_rows() if with_rows else set()
    for owner_id in store.owners():
        others.discard(owner_id)
        yield owner_id
    yield from sorted(others)
