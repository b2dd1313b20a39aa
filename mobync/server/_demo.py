"""`mobync demo`: a server with something to see, and two devices that keep editing.

Anna's phone and tablet work on one shopping list. From time to time one of them is without a
network for a while, so that their edits meet. The to-do app of examples/todo is another device of
Anna's, in the browser. A wheel contains the app; in a checkout `make todo` builds it.

The two devices store nothing: at each start they are new devices that pull the list. The demo gives
them labels, and lets the server forget the devices of the last start.
"""

from __future__ import annotations

import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

import click

from .. import Mobync
from .._extras import needing
from ..sqlalchemy import DocumentSynchronizer
from .database import database_url, open_database

if TYPE_CHECKING:
    from ..client import Device

MOBYNC = [sys.executable, "-m", "mobync.server"]
OWNER = "anna"
MODEL = "todos"  # the one of the to-do app
GROCERIES = ("milk", "bread", "salt", "eggs", "rice", "tea", "apples", "oats", "soap", "olives")
KINDS = ("oat", "rye", "sea", "green", "brown", "organic", "cheap", "ten", "two", "fresh")
MOST_ITEMS = 12  # on the list
AWAY_PAUSES = (3, 8)  # for how many pauses a device is without a network
START_TIMEOUT_S = 60
# A terminal that is closed sends SIGHUP; Windows has no such signal.
STOPS = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
SYNCED = re.compile(r"\S+ sync owner=")  # these lines would push the printed links off the screen
TODO_OF_THE_WHEEL = Path(__file__).with_name("todo")


@click.command(short_help="Serve a demo: two devices that keep editing, and a to-do app.")
@click.option(
    "--port",
    envvar="PORT",
    type=click.IntRange(0, 65535),
    default=8001,  # beside a `mobync serve`
    show_default=True,
    help="0: any free port.",
)
@click.option(
    "--database",
    type=click.Path(dir_okay=False, path_type=Path),
    default="demo.db",
    show_default=True,
    help="A SQLite file.",
)
@click.option(
    "--todo",
    metavar="DIRECTORY",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=TODO_OF_THE_WHEEL if TODO_OF_THE_WHEEL.is_dir() else None,
    help="The built to-do app. Default: the one in the wheel.",
)
@click.option(
    "--pause",
    type=click.FloatRange(0, 3600),
    default=1.5,
    show_default=True,
    help="Seconds between two edits of a device.",
)
def demo(port: int, database: Path, todo: Path | None, pause: float) -> None:
    """Serve a demo database, with two devices that keep editing it, until Ctrl-C.

    It prints a link to the inspector, and a link to a to-do app for the browser. Open the app in
    two windows, and switch one offline. The data stays in the file, and the next start continues
    with it.
    """
    _check_client()
    stopped, server_ended = threading.Event(), threading.Event()

    def stop_without_server() -> None:
        server_ended.set()
        stopped.set()

    for number in STOPS:
        signal.signal(number, lambda *_: stopped.set())
    url_of_database = f"sqlite:///{quote(str(database.resolve()))}"
    with _served(port, url_of_database, todo, stop_without_server) as inspector:
        token = _token_for(OWNER, url_of_database)
        shoppers = _shoppers(urljoin(inspector, "/sync"), token, pause, stopped)
        for shopper in shoppers:
            shopper.begin()
        _introduce(shoppers, url_of_database)
        with _editing(shoppers, stopped):
            log = [*MOBYNC, "log", OWNER, "--follow", "-d", url_of_database]
            click.echo(f"{OWNER}'s phone and tablet are editing.  Ctrl-C ends it.\n")
            click.echo(f"log         {shlex.join(log)}")
            if todo is None:
                click.echo("to-do app   is not built here: `make run` in the checkout builds it")
            else:
                click.echo(f"to-do app   {urljoin(inspector, '/todo/')}#{token}")
            click.echo(f"inspector   {inspector}   (opens once)")
            stopped.wait()
        if server_ended.is_set():
            raise click.ClickException("mobync serve has ended")


class Shopper:
    """Edits a list on a device, as people do, and syncs when there is a network."""

    def __init__(self, name: str, device: Device, pause_s: float, stopped: threading.Event) -> None:
        self.name = name
        self.device = device
        self.pause_s = pause_s
        self.stopped = stopped

    @property
    def label(self) -> str:
        """The label of the device."""
        return f"{OWNER.title()}'s {self.name}"

    def begin(self) -> None:
        """Pull the list, which may be from an earlier start."""
        while not (self.stopped.is_set() or self.sync()):
            self.stopped.wait(max(self.pause_s, 0.1))

    def run(self) -> None:
        """Edit until it is stopped, or a person revokes the device."""
        from ..client import DeviceRevokedError

        try:
            self._edit_on()
        except DeviceRevokedError as error:
            click.echo(f"{self.name}: {error}", err=True)

    def _edit_on(self) -> None:
        away = 0
        while not self.stopped.wait(self.pause_s * random.uniform(0.5, 1.5)):
            self.edit()
            away = away - 1 if away else random.choice((0, 0, 0, random.randint(*AWAY_PAUSES)))
            if away == 0:
                self.sync()

    def edit(self) -> None:
        """Create, rename, tick or delete an item; those that a person typed stay as they are."""
        rows = [row for row in self.device.rows(MODEL) if is_of_a_shopper(row)]
        kind = random.choices(("create", "rename", "tick", "delete"), (2, 3, 3, 1))[0]
        if not rows or (kind == "create" and len(rows) < MOST_ITEMS):
            self.device.create(MODEL, new_item(random.choice(GROCERIES)))
            return
        chosen = random.choice(rows)
        if kind == "delete" or len(rows) >= MOST_ITEMS:
            self.device.delete(MODEL, chosen["id"])
        elif kind == "tick":
            self.device.update(MODEL, chosen["id"], {"done": not chosen["done"]})
        else:
            name = f"{random.choice(KINDS)} {random.choice(GROCERIES)}"
            self.device.update(MODEL, chosen["id"], {"name": name})

    def sync(self) -> bool:
        """Sync, or leave it for later if the server does not answer; return whether it did."""
        from ..client import ClientError, DeviceRevokedError

        try:
            self.device.sync()
            return True
        except DeviceRevokedError:
            raise
        except ClientError as error:
            if not self.stopped.is_set():
                click.echo(f"{self.name}: {error}", err=True)
            return False


def new_item(name: str) -> dict[str, Any]:
    """An item with the fields that the to-do app needs."""
    created_ms = time.time_ns() // 1_000_000
    return {"id": uuid.uuid4().hex[:8], "name": name, "done": False, "created": created_ms}


def is_of_a_shopper(row: Mapping[str, Any]) -> bool:
    """Whether the name is one that a shopper gives."""
    words = str(row.get("name", "")).split(" ")
    return words[-1] in GROCERIES and all(word in KINDS for word in words[:-1])


def _check_client() -> None:
    """Find out that the extra is missing before a server starts.

    Raises:
        ClickException: it is missing.
    """
    try:
        with needing("client"):
            from .. import client  # noqa: F401
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from error


def _shoppers(url: str, token: str, pause_s: float, stopped: threading.Event) -> list[Shopper]:
    from ..client import Device

    return [
        Shopper(name, Device(":memory:", url, token, patience_s=0), pause_s, stopped)
        for name in ("phone", "tablet")
    ]


def _introduce(shoppers: Sequence[Shopper], database: str) -> None:
    """Label these devices at the server, and forget those of the last start."""
    labels = {shopper.device.name: shopper.label for shopper in shoppers}
    with open_database(database_url(database)) as engine:
        server = Mobync(DocumentSynchronizer(engine))
        for known in server.devices(OWNER):
            if known.name in labels:
                server.name_device(OWNER, known.name, labels[known.name])
            elif known.label in labels.values():
                server.forget_device(OWNER, known.name)


@contextmanager
def _editing(shoppers: Sequence[Shopper], stopped: threading.Event) -> Iterator[None]:
    threads = [threading.Thread(target=shopper.run) for shopper in shoppers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


@contextmanager
def _served(
    port: int, database: str, todo: Path | None, ended: Callable[[], object]
) -> Iterator[str]:
    """Run `mobync serve`. Yields the link to its inspector, and calls ``ended`` when it ends."""
    options = ("--port", str(port), "-d", database, "--log-format", "text", "--print-link")
    pages = () if todo is None else ("--static", f"/todo={todo}")
    server = subprocess.Popen(
        [*MOBYNC, "serve", *options, *pages],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this program, which stops the devices first
    )
    assert server.stderr is not None
    found: list[str] = []
    listens = threading.Event()

    def pass_on(lines: Any) -> None:
        for line in lines:
            match = re.search(r"inspector \(the link opens once\): (http://\S+)", line)
            if match is not None:
                found.append(match[1])
                listens.set()
            elif not SYNCED.match(line):
                sys.stderr.write(line)
        ended()
        listens.set()

    log = threading.Thread(target=pass_on, args=(server.stderr,))
    log.start()
    try:
        if not (listens.wait(START_TIMEOUT_S) and found):
            raise click.ClickException("mobync serve did not start")
        yield found[0]
    finally:
        server.terminate()
        server.wait()
        log.join()
        server.stderr.close()


def _token_for(owner: str, database: str) -> str:
    command = [*MOBYNC, "token", owner, "-d", database]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
