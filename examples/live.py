"""A server with something to see: `mobync serve`, and two devices that keep editing.

    python examples/live.py             serves http://127.0.0.1:8000 (or PORT) until Ctrl-C

Anna's phone and tablet work on one shopping list.  Now and then each is without a network for a
while, so that their edits meet.  The inspector at / shows what the server makes of it.

The data is in the file demo.db (or --database), and stays: started again, the server has it still,
and two new devices of Anna's, which have nothing yet, pull the list and go on with it.  To begin
anew, delete the file.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.append(str(Path(__file__).resolve().parent))
from demo import Device, Link, Refused

MOBYNC = [sys.executable, "-m", "mobync.server"]
OWNER = "anna"
GROCERIES = ("milk", "bread", "salt", "eggs", "rice", "tea", "apples", "oats", "soap", "olives")
KINDS = ("oat", "rye", "sea", "green", "brown", "organic", "cheap", "ten", "two", "fresh")
MOST_ITEMS = 12  # on the list
AWAY_PAUSES = (3, 8)  # how many pauses long a device is without a network
START_TIMEOUT_S = 60


class SignedLink(Link):
    """A link of a device that has a token of its own."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url)
        self.token = token

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        return super().post({**body, "auth_token": self.token})


class Shopper:
    """Edits a list on a device, as people do, and syncs when there is a network."""

    def __init__(self, device: Device, pause_s: float, stopped: threading.Event) -> None:
        self.device = device
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
        rows = self.device.rows
        kind = random.choices(("create", "rename", "tick", "delete"), (2, 3, 3, 1))[0]
        if not rows or (kind == "create" and len(rows) < MOST_ITEMS):
            item = {"id": uuid.uuid4().hex[:8], "name": random.choice(GROCERIES), "done": False}
            self.device.edit("create", item, now_ms())
            return
        chosen = random.choice(list(rows.values()))
        change = {"id": chosen["id"]}
        if kind == "delete" or len(rows) >= MOST_ITEMS:
            self.device.edit("delete", change, now_ms())
        elif kind == "tick":
            self.device.edit("update", {**change, "done": not chosen["done"]}, now_ms())
        else:
            name = f"{random.choice(KINDS)} {random.choice(GROCERIES)}"
            self.device.edit("update", {**change, "name": name}, now_ms())

    def sync(self) -> None:
        try:
            self.device.sync()
        except Refused as error:  # the server stops, say: what was edited is sent later
            if not self.stopped.is_set():
                print(f"{self.device.name}: {error}", file=sys.stderr)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def served(port: int, database: str, ended: Callable[[], object]) -> Iterator[str]:
    """Run `mobync serve`; gives its address once it listens, and calls ``ended`` when it ends."""
    server = subprocess.Popen(
        [*MOBYNC, "serve", "--port", str(port), "-d", database, "--log-format", "text"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this program, which stops the devices first
    )
    assert server.stderr is not None
    found: list[str] = []
    listens = threading.Event()

    def pass_on(lines: Any) -> None:
        for line in lines:
            sys.stderr.write(line)
            match = re.search(r"running on (http://\S+)", line)
            if match is not None:
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
    database = f"sqlite:///{quote(str(options.database))}"
    with served(options.port, database, stop_without_server) as url:
        token = subprocess.run(
            [*MOBYNC, "token", OWNER, "-d", database],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        shoppers = [
            Shopper(Device(name, SignedLink(f"{url}/sync", token)), options.pause, stopped)
            for name in ("phone", "tablet")
        ]
        threads = [threading.Thread(target=shopper.run) for shopper in shoppers]
        for thread in threads:
            thread.start()
        print(f"inspector   {url}/   ({OWNER}'s phone and tablet are editing; Ctrl-C ends it)")
        print(f"log         mobync log {OWNER} --follow -d {database}", flush=True)
        stopped.wait()
        for thread in threads:
            thread.join()
        if server_ended.is_set():
            sys.exit("mobync serve has ended")


if __name__ == "__main__":
    main()
