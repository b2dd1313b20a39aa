"""The commands about people: an owner's devices, and an owner who is moved or erased."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich import box
from rich.table import Table

from .. import KnownDevice, Mobync, SameIdError
from ._live import live_of
from ._shared import check_owner, check_text, database_option, opened_database, owner_argument
from ._terminal import print_table, printable
from .lost import LostEdits
from .pushes import Pushes
from .settings import Settings

_COLUMNS = ("device", "called", "first seen", "last seen", "clock", "behind", "")
_LEAST_BEGINNING = 4  # characters of a device's name by which it is found

device_argument = click.argument("device", callback=check_text)
events_option = click.option(
    "--events",
    default="auto",
    show_default=True,
    metavar="auto|off|URL",
    callback=check_text,
    help="How the servers hear of it, so that the streams of events end at once: as `mobync serve` "
    "was told by --events or --events-url.",
)


class _ListByDefault(click.Group):
    """Takes what is no command for the owner whose devices shall be listed."""

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
    """Show the devices of OWNER that name themselves, or do something about one.

    DEVICE is its name, the beginning of it, or what a person calls it.  All take --database, behind
    the command.
    """


@devices.command("list")
@database_option
@owner_argument
def list_command(database: str, owner: str) -> None:
    """Show the devices of OWNER, the last seen first.

    "Behind" says how many diffs of the log a device has not seen.  The log is not folded further
    than up to the clock of one that holds the horizon.
    """
    with _server(database) as mobync:
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
@events_option
@owner_argument
@device_argument
def revoke(database: str, events: str, owner: str, device: str) -> None:
    """Refuse DEVICE from now on: it drops the rows of OWNER when it next syncs.

    Its token is good for another device still, or for one without a name; a new secret ends all
    tokens.
    """
    with _server(database) as mobync, _told(mobync, database, events):
        found = _find(mobync, owner, device)
        mobync.revoke_device(owner, found)
    click.echo(f"{printable(owner)}: {printable(found)} is refused from now on")


@devices.command()
@database_option
@owner_argument
@device_argument
def forget(database: str, owner: str, device: str) -> None:
    """Keep nothing of DEVICE any more.

    It loses nothing: when it comes again it takes a new name, and starts over.
    """
    with _server(database) as mobync:
        found = _find(mobync, owner, device)
        mobync.forget_device(owner, found)
    click.echo(f"{printable(owner)}: {printable(found)} is forgotten")


@devices.command("name")
@database_option
@owner_argument
@device_argument
@click.argument("label", callback=check_text)
def name_command(database: str, owner: str, device: str, label: str) -> None:
    """Note that people call DEVICE by LABEL: "Anna's phone"."""
    with _server(database) as mobync:
        found = _find(mobync, owner, device)
        try:
            mobync.name_device(owner, found, label)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    click.echo(f"{printable(owner)}: {printable(found)} is called {printable(label)!r}")


def _find(mobync: Mobync, owner: str, said: str) -> str:
    """The name of the device that somebody means.

    Raises:
        ClickException: there is none, or several are meant.
    """
    known = mobync.devices(owner)
    means = [
        [each.name for each in known if each.name == said],
        [each.name for each in known if each.label == said],
        [each.name for each in known if each.name.startswith(said)],
    ]
    if len(said) < _LEAST_BEGINNING:
        means.pop()
    found = next((names for names in means if names), [])
    if len(found) == 1:
        return found[0]
    many = "has no device" if not found else "has several devices"
    raise click.ClickException(f"owner {printable(owner)!r:.100} {many} {printable(said)!r:.100}")


@contextmanager
def _server(database: str) -> Iterator[Mobync]:
    with opened_database(database, "diffs", "diffs_heads") as opened, _keeping_devices():
        yield Mobync(opened.store)


@contextmanager
def _keeping_devices() -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:  # tables of 1.0
        raise click.ClickException(
            "the database does not store devices yet: `mobync serve` updates its tables"
        ) from error


@click.command("move-owner", short_help="Give all data of one owner to another.")
@database_option
@click.argument("old", callback=check_owner)
@click.argument("new", callback=check_owner)
@click.option(
    "--same",
    multiple=True,
    metavar="MODEL",
    callback=lambda context, parameter, names: [check_text(context, parameter, n) for n in names],
    help="Objects of MODEL are the same for both if their ids are; can be given several times.",
)
def move_owner(database: str, old: str, new: str, same: list[str]) -> None:
    """Give the documents and the log of OLD to NEW: a guest signs in, say.

    All of it or nothing.  Devices of OLD that name themselves go on with a token of NEW, and lose
    nothing that they had not sent; those without a name pull again.
    """
    if old == new:
        raise click.UsageError("OLD and NEW are the same owner")
    with opened_database(database) as opened:
        opened.check_owner(old)
        with _keeping_devices():
            try:
                moved = Mobync(opened.store).move_owner(old, new, same=same)
            except SameIdError as error:
                raise click.ClickException(
                    printable(str(error)).replace("same=(...) names", "--same names")
                ) from error
        LostEdits(opened.engine, opened.store.metadata.tables["diffs"]).move(old, new)
        Pushes(opened.engine).erase(old)  # the edits have other clocks now
    click.echo(
        f"{printable(old)}: {sum(moved.rows.values())} documents and {moved.diffs} diffs are "
        f"{printable(new)}'s now; {moved.devices} devices go on there"
    )


@contextmanager
def _told(mobync: Mobync, database: str, events: str) -> Iterator[None]:
    """Have servers hear of devices that are revoked, so that their streams end at once."""
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
@events_option
@click.argument("owner", callback=check_owner)
@click.option("--yes", is_flag=True, help="Do not ask first.")
def erase(database: str, events: str, owner: str, yes: bool) -> None:
    """Delete the documents and the log of OWNER, and what is kept of the devices.

    All of it or nothing.  Devices that name themselves are refused from now on, and drop their
    rows.  Prints how much went, as a receipt.  Backups keep what they have, and so do devices that
    do not name themselves.
    """
    with opened_database(database) as opened:
        if not yes:
            click.confirm(f"Delete all data of {printable(owner)}?", abort=True, err=True)
        mobync = Mobync(opened.store)
        with _told(mobync, database, events):
            receipt = mobync.erase(owner)
        LostEdits(opened.engine, opened.store.metadata.tables["diffs"]).erase(owner)
        Pushes(opened.engine).erase(owner)
    now = dt.datetime.now(dt.timezone.utc)
    click.echo(
        f"{printable(owner)}: erased at {now:%Y-%m-%dT%H:%M:%SZ}: "
        f"{sum(receipt.rows.values())} documents, {receipt.diffs} diffs; "
        f"{receipt.devices} devices are refused from now on"
    )
    for model, count in sorted(receipt.rows.items()):
        click.echo(f"  {printable(model)}: {count}")
