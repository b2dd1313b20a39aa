"""``manage.py mobync``: commands about logs, owners and devices."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from mobync import BusyError, InvalidDiffError, Mobync, MobyncError
from mobync._sync.known_devices import device_meant
from mobync.http.django import endpoint_of_settings

from ..._synchronizer import DjangoSynchronizer


class Command(BaseCommand):
    """The subcommands."""

    help = "Manage logs, devices and owners of mobync"

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        adopt = commands.add_parser("adopt", help="add rows that existed before mobync to the log")
        compact = commands.add_parser("compact", help="drop diffs that no device can need")
        reconcile = commands.add_parser(
            "reconcile", help="add edits that were not tracked to the log"
        )
        devices = commands.add_parser(
            "devices", help="list, revoke, forget or name the devices that name themselves"
        )
        for each in (adopt, compact, reconcile, devices):
            each.add_argument("--owner", help="the id of one owner; without it, all owners")
        for each in (adopt, reconcile):
            each.add_argument("--model", help="the name of one model; without it, all models")
        reconcile.add_argument("--dry-run", action="store_true", help="only look")
        _add_devices(devices)
        move = commands.add_parser("move-owner", help="give all data of one owner to another")
        move.add_argument("old")
        move.add_argument("new")
        move.add_argument(
            "--same",
            action="append",
            default=[],
            metavar="MODEL",
            help="objects of this model with the same id are the same object",
        )
        erase = commands.add_parser("erase", help="delete all data of an owner")
        erase.add_argument("of_owner", metavar="owner")
        erase.add_argument("--yes", action="store_true", help="do not ask first")

    def handle(self, *args: Any, **options: Any) -> None:
        server, store = _server_and_store()
        command = options["device_command"] if options.get("device_command") else options["command"]
        work = getattr(self, f"_{command.replace('-', '_')}")
        if command not in _OF_ALL:
            try:
                work(server, options)
            except (MobyncError, ValueError) as error:
                raise CommandError(str(error)) from error
            return
        owner = options["owner"]
        owners = [owner] if owner else list(_owners(store, command != "compact"))
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

    # ---- of one owner, or of all -------------------------------------------------------------

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

    # ---- of one device -----------------------------------------------------------------------

    def _revoke(self, server: Mobync, options: dict[str, Any]) -> None:
        owner, device = _device(server, options)
        server.revoke_device(owner, device)
        self.stdout.write(f"{owner}: {device} is refused from now on")

    def _forget(self, server: Mobync, options: dict[str, Any]) -> None:
        owner, device = _device(server, options)
        server.forget_device(owner, device)
        self.stdout.write(f"{owner}: {device} is forgotten")

    def _name(self, server: Mobync, options: dict[str, Any]) -> None:
        owner, device = _device(server, options)
        server.name_device(owner, device, options["label"])
        self.stdout.write(f"{owner}: {device} is called {options['label']!r}")

    # ---- of one owner ------------------------------------------------------------------------

    def _move_owner(self, server: Mobync, options: dict[str, Any]) -> None:
        moved = server.move_owner(options["old"], options["new"], same=options["same"])
        self.stdout.write(
            f"{moved.old}: {sum(moved.rows.values())} rows and {moved.diffs} diffs are "
            f"{moved.new}'s now; {moved.devices} devices continue there"
        )

    def _erase(self, server: Mobync, options: dict[str, Any]) -> None:
        owner = options["of_owner"]
        if not options["yes"] and not _says_yes(f"Delete all data of {owner}? [y/N]: "):
            raise CommandError("nothing was deleted")
        receipt = server.erase(owner)
        self.stdout.write(
            f"{owner}: {sum(receipt.rows.values())} rows and {receipt.diffs} diffs are erased; "
            f"{receipt.devices} devices are refused from now on"
        )


_OF_ALL = ("adopt", "compact", "reconcile", "devices")


def _add_devices(devices: ArgumentParser) -> None:
    commands = devices.add_subparsers(dest="device_command")
    for name, said in (
        ("revoke", "refuse a device from now on"),
        ("forget", "delete what is stored about a device"),
        ("name", "store what people call a device"),
    ):
        command = commands.add_parser(name, help=said)
        command.add_argument("of_owner", metavar="owner")
        command.add_argument("device", help="its name, the beginning of it, or its label")
        if name == "name":
            command.add_argument("label")


def _device(server: Mobync, options: dict[str, Any]) -> tuple[str, str]:
    """The owner, and the full name of the device that the arguments mean."""
    owner = options["of_owner"]
    return owner, device_meant(server.devices(owner), owner, options["device"])


def _says_yes(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # nobody can answer
        return False


def _server_and_store() -> tuple[Mobync, DjangoSynchronizer]:
    try:
        server = endpoint_of_settings().mobync
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    store = server.synchronizer
    if not isinstance(store, DjangoSynchronizer):
        kind = type(store).__name__
        raise CommandError(
            f"settings.MOBYNC: its Synchronizer must be a DjangoSynchronizer, not {kind}"
        )
    return server, store


def _models(server: Mobync, owner_id: str, model: str | None) -> Iterable[str]:
    return [model] if model else server.synchronizer.owned_models(owner_id)


def _owners(store: DjangoSynchronizer, with_rows: bool) -> Iterator[str]:
    """Everyone who has a log, then everyone else who has rows."""
    others = store.owners_of_rows() if with_rows else set()
    for owner_id in store.owners():
        others.discard(owner_id)
        yield owner_id
    yield from sorted(others)
