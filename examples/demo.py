"""Two devices edit the same tasks while apart, sync over HTTP, and end up with the same rows.

    python examples/demo.py                                    starts a server of its own
    python examples/demo.py --url http://127.0.0.1:5000/sync   plays against a running one, as whom
                                                               --token says

Prints what each device did, what it sent (->) and what came back (<-).  Exits with 1 if phone,
tablet and server do not end with equal rows.  The devices are those of mobync.client, with a way to
the server that tells what passes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from mobync.client import Answer, ClientError, Device, Events, HttpTransport, OfflineError

APP = Path(__file__).parent / "in_memory" / "app.py"
TOKEN = "anna-demo-token"
MODEL = "tasks"

Row = dict[str, Any]
Exchange = Callable[[str, dict[str, Any]], None]


class NotStarted(Exception):
    """The server of the demo did not come up."""


class Link:
    """The way from a device to the server.  Tells what passes, and can break before each reply."""

    def __init__(self, url: str, tell: Exchange) -> None:
        self.tell = tell
        self.loses_replies = False
        self._http = HttpTransport(url)

    def post(self, body: bytes, token: str | None) -> Answer:
        """Send a sync."""
        self.tell("request", json.loads(body))
        answer = self._http.post(body, token)
        if self.loses_replies:
            raise OfflineError("the reply is lost")
        if answer.status == 200:
            self.tell("reply", answer.json())
        return answer

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        """Begin to listen."""
        return self._http.events(token, last_event_id, device)


class WallClock:
    """The time in the story, in milliseconds since 1970: a minute passes between two edits."""

    def __init__(self) -> None:
        self.now_ms = int(time.time() * 1000) - 3_600_000

    def tick(self) -> int:
        self.now_ms += 60_000
        return self.now_ms


class Story:
    """Plays the scenes and writes the transcript."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.clock = WallClock()
        self.run = uuid.uuid4().hex[:8]  # a server that runs on may hold rows of earlier runs
        self.names: dict[Device, str] = {}
        self.phone_link = Link(url, self.show)
        self.phone = self.device("phone", self.phone_link)
        self.tablet = self.device("tablet", Link(url, self.show))
        self.scenes = 0

    def device(self, name: str, link: Link) -> Device:
        """Make a device; its database is gone with the demo."""
        device = Device(":memory:", link, self.token, patience_s=0, now_ms=self.clock.tick)
        self.names[device] = name
        return device

    def play(self) -> bool:
        """Play it all; return whether phone, tablet and server hold equal rows at the end."""
        print(f"Two devices of one owner, one server: {self.url}")
        with redirect_stdout(None):  # what the server has of earlier runs
            self.phone.sync()
            self.tablet.sync()
        self.offline_edits()
        self.conflict_on_one_field()
        self.merge_of_two_fields()
        self.delete_against_update()
        self.lost_reply()
        return self.ending()

    def offline_edits(self) -> None:
        self.scene("Offline edits", "Both work without a network, then sync.")
        self.edit(self.phone, "create", "milk", name="milk", done=False)
        self.edit(self.phone, "create", "bread", name="bread", done=False)
        self.edit(self.tablet, "create", "salt", name="salt", done=False)
        self.sync(self.phone)
        self.sync(self.tablet)
        self.sync(self.phone)

    def conflict_on_one_field(self) -> None:
        self.scene("A conflict on one field", "The later edit wins, whoever syncs first.")
        self.edit(self.phone, "update", "milk", name="soy milk")
        self.edit(self.tablet, "update", "milk", name="oat milk")
        self.sync(self.tablet)
        self.sync(self.phone)

    def merge_of_two_fields(self) -> None:
        self.scene("A merge of two fields", "Edits of different fields both stand.")
        self.edit(self.tablet, "update", "bread", done=True)
        self.edit(self.phone, "update", "bread", name="rye bread")
        self.sync(self.tablet)
        self.sync(self.phone)
        self.sync(self.tablet)

    def delete_against_update(self) -> None:
        self.scene("A delete against an update", "The delete wins, even over a later edit.")
        self.edit(self.tablet, "delete", "salt")
        self.edit(self.phone, "update", "salt", name="sea salt")
        self.sync(self.tablet)
        self.sync(self.phone)

    def lost_reply(self) -> None:
        self.scene("A lost reply and a retry", "Nothing is lost and nothing is done twice.")
        self.edit(self.phone, "create", "eggs", name="eggs", done=False)
        self.phone_link.loses_replies = True
        self.sync(self.phone)
        self.phone_link.loses_replies = False
        self.edit(self.phone, "update", "eggs", name="ten eggs")
        self.sync(self.phone)
        self.sync(self.tablet)

    def ending(self) -> bool:
        self.scene("The end", "The server's rows are what a new device gets from clock 0.")
        server = self.device("server", Link(self.url, lambda *_: None))
        server.sync()
        devices = (self.phone, self.tablet, server)
        for device in devices:
            self.show_rows(device)
        print()
        equal = all(device.rows(MODEL) == server.rows(MODEL) for device in devices)
        if equal:
            print(f"EQUAL: phone, tablet and server hold the same {len(self.mine(server))} rows.")
        else:
            print("DIFFERENT: phone, tablet and server do not hold the same rows.")
        return equal

    def scene(self, title: str, lesson: str) -> None:
        self.scenes += 1
        print(f"\n{self.scenes}  {title}\n   {lesson}\n")

    def edit(self, device: Device, kind: str, task: str, /, **fields: Any) -> None:
        row_id = f"{task}-{self.run}"
        if kind == "create":
            device.create(MODEL, {"id": row_id, **fields})
        elif kind == "update":
            device.update(MODEL, row_id, fields)
        else:
            device.delete(MODEL, row_id)
        wall = time.strftime("%H:%M", time.localtime(self.clock.now_ms / 1000))
        change = self.change(kind, {"id": row_id, **fields})
        print(f"   {wall}   {self.names[device]:<7}   {change}")

    def sync(self, device: Device) -> None:
        print(f"   sync    {self.names[device]}")
        try:
            device.sync()
        except OfflineError:
            if not self.phone_link.loses_replies:
                raise
            print(f"                  (reply lost: clock stays {device.logical_clock})")

    def show(self, what: str, body: dict[str, Any]) -> None:
        """Show a request or a reply as it passes."""
        clock, diffs = body["logical_clock"], body["diffs"]
        if what == "request":
            print(f"           clock {clock}, sends {len(diffs)}")
            self.show_diffs("->", diffs)
        else:
            print(f"                     gets {len(diffs)}, clock {clock}")
            self.show_diffs("<-", diffs)

    def show_diffs(self, arrow: str, diffs: list[dict[str, Any]]) -> None:
        for diff in diffs:
            row = json.loads(diff["json_data"])
            print(f"                {arrow}   {self.change(diff['type'], row)}")

    def show_rows(self, device: Device) -> None:
        rows = self.mine(device)
        for label, row in zip([self.names[device]] + [""] * len(rows), rows, strict=False):
            print(f"   {label:<8}{self.change('', row)}")

    def mine(self, device: Device) -> list[Row]:
        return [row for row in device.rows(MODEL) if row["id"].endswith(self.run)]

    def change(self, kind: str, row: Row) -> str:
        task = row["id"].removesuffix(f"-{self.run}")
        fields = [f"{key}: {json.dumps(row[key])}" for key in ("name", "done") if key in row]
        return f"{kind:<6}  {task:<5}  {'   '.join(f'{field:<17}' for field in fields)}".rstrip()


@contextmanager
def own_server() -> Iterator[str]:
    """Run the example app on a free port; gives the URL of its sync route."""
    with tempfile.TemporaryFile(mode="w+") as log:
        server = subprocess.Popen(
            [sys.executable, str(APP)],
            env={**os.environ, "PORT": "0"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert server.stdout is not None
        try:
            _, _, rest = server.stdout.readline().partition("serving ")
            if not rest:
                log.seek(0)
                raise NotStarted(f"{APP} did not start:\n{log.read()}")
            yield rest.split()[0]
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()


def main() -> None:
    """Play the story; exit with 1 if it goes wrong."""
    parser = argparse.ArgumentParser(description="Two devices sync over HTTP.")
    parser.add_argument("--url", help="sync route of a running server (default: starts its own)")
    parser.add_argument("--token", default=TOKEN, help="of the owner whose devices these are")
    options = parser.parse_args()
    try:
        if options.url is not None:
            equal = Story(options.url, options.token).play()
        else:
            with own_server() as url:
                equal = Story(url, options.token).play()
    except (ClientError, NotStarted, ValueError) as error:
        sys.exit(f"demo: {error}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
