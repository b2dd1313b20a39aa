"""The commands about people: an owner's devices, and an owner who is moved or erased."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich import box
from rich.table import Table

from .. import KnownDevice, Mobync, SameIdError
from .._sync.known_devices import device_meant
from ._apps import app_option, check_known, engine_of, opened_mobync, store_of
from ._live import live_of
from ._shared import check_owner, check_text, database_option, owner_argument
from ._terminal import print_table, printable
from .lost import LostEdits
from .pushes import Pushes, beside_log
from .settings import Settings

_COLUMNS = ("device", "called", "first seen", "last seen", "clock", "behind", "")

device_argument = click.argument("device", callback=check_text)
events_option = click.option(
    "--events",
    default="auto",
    show_default=True,
    metavar="auto|off|URL",
    callback=check_text,
    help="How to tell the servers, so that streams of events end at once: the value of --events or "
    "--events-url of `mobync serve`. With --app, auto tells only the functions that the app has "
    "passed to Mobync.listen.",
)


class _ListByDefault(click.Group):
    """Takes an argument that is not a command as the owner whose devices to list."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)


@click.group(
    cls=_ListByDefault,
    short_help="Show an owner's devices; revoke, forget or name one.",
    subcommand_metavar="OWNER | COMMAND OWNER [DEVICE] ...",
)
def devices() -> None:
    """Show the devices of OWNER that name themselves, or change one.

    DEVICE is its name, the beginning of its name, or its label. Each command takes --database or
    --app, after the command.
    """


@devices.command("list")
@database_option
@app_option
@owner_argument
def list_command(database: str, app: str | None, owner: str) -> None:
    """Show the devices of OWNER, the most recently seen first.

    "Behind" says how many diffs of the log a device has not seen. "Holds the horizon" means that no
    other device is further behind: compaction cannot fold the part of the log that this device may
    still ask for.
    """
    with _opened(database, app) as mobync:
        known = mobync.devices(owner)
    if not known:
        raise click.ClickException(f"owner {printable(owner)!r:.100} has no device with a name")
    table = Table(*_COLUMNS, box=box.SIMPLE_HEAD, show_edge=False)
    for each in known:
        table.add_row(*_cells(each))
    print_table(table)


def _cells(device: KnownDevice) -> Iterator[str]:
    yield printable(device.name)
    yield printable(device.label)
    yield _time(device.first_seen_ms)
    yield _time(device.last_seen_ms)
    yield from ("", "") if device.revoked else (str(device.logical_clock), str(device.behind))
    yield "revoked" if device.revoked else "holds the horizon" if device.holds_horizon else ""


def _time(milliseconds: int) -> str:
    if milliseconds == 0:
        return ""
    moment = dt.datetime.fromtimestamp(milliseconds / 1000, dt.timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M:%S}"


@devices.command()
@database_option
@app_option
@events_option
@owner_argument
@device_argument
def revoke(database: str, app: str | None, events: str, owner: str, device: str) -> None:
    """Refuse DEVICE from now on, for example a lost phone.

    When it next syncs, it drops the rows of OWNER. Its token stays valid for another device, or for
    one without a name. A new secret ends all tokens.
    """
    with _opened(database, app) as mobync, _told(mobync, database, app, events):
        found = _find(mobync, owner, device)
        mobync.revoke_device(owner, found)
    click.echo(f"{printable(owner)}: {printable(found)} is refused from now on")


@devices.command()
@database_option
@app_option
@owner_argument
@device_argument
def forget(database: str, app: str | None, owner: str, device: str) -> None:
    """Delete what is stored about DEVICE.

    The device loses nothing: when it comes again it takes a new name, and starts over.
    """
    with _opened(database, app) as mobync:
        found = _find(mobync, owner, device)
        mobync.forget_device(owner, found)
    click.echo(f"{printable(owner)}: {printable(found)} is forgotten")


@devices.command("name")
@database_option
@app_option
@owner_argument
@device_argument
@click.argument("label", callback=check_text)
def name_command(database: str, app: str | None, owner: str, device: str, label: str) -> None:
    """Give DEVICE a LABEL for people, such as "Anna's phone"."""
    with _opened(database, app) as mobync:
        found = _find(mobync, owner, device)
        try:
            mobync.name_device(owner, found, label)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    click.echo(f"{printable(owner)}: {printable(found)} is called {printable(label)!r}")


def _find(mobync: Mobync, owner: str, said: str) -> str:
    """The name of the device that an argument means."""
    known = mobync.devices(owner)
    try:
        return device_meant(known, owner, said)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _opened(database: str, app: str | None) -> Iterator[Mobync]:
    with opened_mobync(database, app, "diffs", "diffs_heads") as mobync, _keeping_devices(app):
        yield mobync


@contextmanager
def _keeping_devices(app: str | None) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:  # tables of 1.0
        raise click.ClickException(
            "the database does not store devices yet: `mobync serve` updates its tables"
            if app is None
            else str(error)
        ) from error


@click.command("move-owner", short_help="Give all data of one owner to another.")
@database_option
@app_option
@click.argument("old", callback=check_owner)
@click.argument("new", callback=check_owner)
@click.option(
    "--same",
    multiple=True,
    metavar="MODEL",
    callback=lambda context, parameter, names: [check_text(context, parameter, n) for n in names],
    help="Objects of MODEL with the same id are the same object. Can be given several times.",
)
def move_owner(database: str, app: str | None, old: str, new: str, same: list[str]) -> None:
    """Give the rows and the log of OLD to NEW, for example when a guest signs in.

    It moves everything or nothing. Give the named devices of OLD a token of NEW: they continue with
    it, and lose no unsent edit. Devices without a name pull again.
    """
    if old == new:
        raise click.UsageError("OLD and NEW are the same owner")
    with opened_mobync(database, app) as mobync:
        check_known(mobync, old)
        with _keeping_devices(app):
            try:
                moved = mobync.move_owner(old, new, same=same)
            except SameIdError as error:
                raise click.ClickException(
                    printable(str(error)).replace("same=(...) names", "--same names")
                ) from error
        lost, pushes = _of_inspector(mobync)
        lost.move(old, new)
        pushes.erase(old)  # the moved edits have other clocks
    click.echo(
        f"{printable(old)}: {sum(moved.rows.values())} rows and {moved.diffs} diffs are "
        f"{printable(new)}'s now; {moved.devices} devices continue there"
    )


def _of_inspector(mobync: Mobync) -> tuple[LostEdits, Pushes]:
    """What the inspector of the server or the app stores; its tables may be missing."""
    store = store_of(mobync)
    return beside_log(engine_of(store), store)


@contextmanager
def _told(mobync: Mobync, database: str, app: str | None, events: str) -> Iterator[None]:
    """Tell servers which devices are revoked, so that their streams end at once."""
    if app is not None and events == "auto":  # the app knows how
        yield
        return
    settings = Settings(database, None, events=events)
    if events.startswith("postgresql"):
        settings = Settings(database, None, events_url=events)
    try:
        live = live_of(settings)
    except (ImportError, ValueError) as error:
        raise click.BadParameter(f"{events}: {error}", param_hint="--events") from error
    if live is not None:
        mobync.listen(live.announce)
    try:
        yield
    finally:
        if live is not None:
            live.close()


@click.command(short_help="Delete all data of an owner, and refuse the owner's devices.")
@database_option
@app_option
@events_option
@click.argument("owner", callback=check_owner)
@click.option("--yes", is_flag=True, help="Do not ask first.")
def erase(database: str, app: str | None, events: str, owner: str, yes: bool) -> None:
    """Delete the rows and the log of OWNER, and what is stored about the devices.

    It deletes everything or nothing, and prints how much. Named devices are refused from now on,
    and drop their rows. Backups keep their data, and so do devices without a name.
    """
    with opened_mobync(database, app) as mobync:
        if not yes:
            click.confirm(f"Delete all data of {printable(owner)}?", abort=True, err=True)
        with _told(mobync, database, app, events):
            receipt = mobync.erase(owner)
        for table in _of_inspector(mobync):
            table.erase(owner)
    now = dt.datetime.now(dt.timezone.utc)
    click.echo(
        f"{printable(owner)}: erased at {now:%Y-%m-%dT%H:%M:%SZ}: "
        f"{sum(receipt.rows.values())} rows, {receipt.diffs} diffs; "
        f"{receipt.devices} devices are refused from now on"
    )
    for model, count in sorted(receipt.rows.items()):
        click.echo(f"  {printable(model)}: {count}")
