"""A server with something to see: `mobync serve`, and two devices that keep editing.

    python examples/live.py             serves http://127.0.0.1:8000 (or PORT) until Ctrl-C

Anna's phone and tablet work on one shopping list.  Now and then each is without a network for a
while, so that their edits meet.  The inspector, whose link it prints, shows what the server makes
of it; demo.py can play against the same server, with the token that it prints.  The to-do app in
todo/, if it was built, is a device of Anna's in the browser.

The data is in the file demo.db (or --database), and stays: started again, the server has it still,
and two new devices of Anna's, which have nothing yet, pull the list and go on with it.  To begin
again, delete the file.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from mobync.client import ClientError, Device

MOBYNC = [sys.executable, "-m", "mobync.server"]
OWNER = "anna"
MODEL = "tasks"
GROCERIES = ("milk", "bread", "salt", "eggs", "rice", "tea", "apples", "oats", "soap", "olives")
KINDS = ("oat", "rye", "sea", "green", "brown", "organic", "cheap", "ten", "two", "fresh")
MOST_ITEMS = 12  # on the list
AWAY_PAUSES = (3, 8)  # how many pauses long a device is without a network
START_TIMEOUT_S = 60
TODO = Path(__file__).resolve().parent / "todo" / "dist"  # `make` builds it
DEMO = Path(__file__).resolve().with_name("demo.py")


class Shopper:
    """Edits a list on a device, as people do, and syncs when there is a network."""

    def __init__(
        self, name: str, url: str, token: str, pause_s: float, stopped: threading.Event
    ) -> None:
        self.name = name
        self.device = Device(":memory:", url, token, patience_s=0)
        self.pause_s = pause_s
        self.stopped = stopped

    def run(self) -> None:
        self.sync()  # the list may be from before
        away = 0
        while not self.stopped.wait(self.pause_s * random.uniform(0.5, 1.5)):
            self.edit()
            away = away - 1 if away else random.choice((0, 0, 0, random.randint(*AWAY_PAUSES)))
            if away == 0:
                self.sync()

    def edit(self) -> None:
        rows = self.device.rows(MODEL)
        kind = random.choices(("create", "rename", "tick", "delete"), (2, 3, 3, 1))[0]
        if not rows or (kind == "create" and len(rows) < MOST_ITEMS):
            item = {"id": uuid.uuid4().hex[:8], "name": random.choice(GROCERIES), "done": False}
            self.device.create(MODEL, item)
            return
        chosen = random.choice(rows)
        if kind == "delete" or len(rows) >= MOST_ITEMS:
            self.device.delete(MODEL, chosen["id"])
        elif kind == "tick":
            self.device.update(MODEL, chosen["id"], {"done": not chosen["done"]})
        else:
            name = f"{random.choice(KINDS)} {random.choice(GROCERIES)}"
            self.device.update(MODEL, chosen["id"], {"name": name})

    def sync(self) -> None:
        try:
            self.device.sync()
        except ClientError as error:  # the server stops, say: what was edited is sent later
            if not self.stopped.is_set():
                print(f"{self.name}: {error}", file=sys.stderr)


@contextmanager
def served(port: int, database: str, ended: Callable[[], object]) -> Iterator[str]:
    """Run `mobync serve`; gives the link to its inspector, and calls ``ended`` when it ends."""
    options = ("--port", str(port), "-d", database, "--log-format", "text", "--print-link")
    pages = ("--static", f"/todo={TODO}") if TODO.is_dir() else ()
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
            match = re.search(r"inspector, once: (http://\S+)", line)
            if match is None:
                sys.stderr.write(line)
            else:
                found.append(match[1])
                listens.set()
        ended()
        listens.set()

    log = threading.Thread(target=pass_on, args=(server.stderr,))
    log.start()
    try:
        if not (listens.wait(START_TIMEOUT_S) and found):
            sys.exit("mobync serve did not start")
        yield found[0]
    finally:
        server.terminate()
        server.wait()
        log.join()
        server.stderr.close()


def token_for(owner: str, database: str) -> str:
    command = [*MOBYNC, "token", owner, "-d", database]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Serve and edit until Ctrl-C or SIGTERM; exits with 1 if the server ends before that."""
    parser = argparse.ArgumentParser(description="A server, and two devices that keep editing.")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8000")))
    parser.add_argument("--database", type=Path, default=Path("demo.db"), help="SQLite file")
    parser.add_argument("--pause", type=float, default=1.5, help="seconds between two edits")
    options = parser.parse_args()
    stopped, server_ended = threading.Event(), threading.Event()

    def stop_without_server() -> None:
        server_ended.set()
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    database = f"sqlite:///{quote(str(options.database.resolve()))}"
    with served(options.port, database, stop_without_server) as inspector:
        url = urljoin(inspector, "/sync")
        token = token_for(OWNER, database)
        shoppers = [
            Shopper(name, url, token, options.pause, stopped) for name in ("phone", "tablet")
        ]
        threads = [threading.Thread(target=shopper.run) for shopper in shoppers]
        for thread in threads:
            thread.start()
        log = [*MOBYNC, "log", OWNER, "--follow", "-d", database]
        demo = [sys.executable, str(DEMO), "--url", url, "--token", token_for("demo", database)]
        print(f"{OWNER}'s phone and tablet are editing; Ctrl-C ends it.  In another shell:\n")
        print(f"log         {shlex.join(log)}")
        print(f"demo        {shlex.join(demo)}")
        print(f"token       {shlex.join([*MOBYNC, 'token', '--admin', '-d', database])}\n")
        if TODO.is_dir():
            print(f"to-do app   {urljoin(inspector, '/todo/')}#{token}")
        print(f"inspector   {inspector}   (opens once)", flush=True)
        stopped.wait()
        for thread in threads:
            thread.join()
        if server_ended.is_set():
            sys.exit("mobync serve has ended")


if __name__ == "__main__":
    main()
