"""Two devices edit the same tasks while apart, sync over HTTP, and end up with the same rows.

    python examples/demo.py                                    starts a server of its own
    python examples/demo.py --url http://127.0.0.1:5000/sync   plays against a running one

Prints what each device did, what it sent (->) and what came back (<-).  Exits with 1 if phone,
tablet and server do not end with equal rows.  Device is the client's half of mobync.  It works as
the published Flutter client does, and is a place to start from in another language.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

APP = Path(__file__).parent / "in_memory" / "app.py"
TOKEN = "anna-demo-token"
MODEL = "tasks"
TIMEOUT_S = 30

Row = dict[str, Any]
Diff = dict[str, Any]


class Refused(Exception):
    """The server could not be reached, or said no."""


class ReplyLost(Exception):
    """The server got the request and did it; its reply never arrived."""


class Link:
    """The way from a device to the server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            request = urllib.request.Request(
                self.url, json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                reply: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.code} from {self.url}: {error.read().decode()}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Refused(f"no answer from {self.url}: {error}") from error
        return reply


class LossyLink(Link):
    """A link that breaks before each reply."""

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        super().post(body)
        raise ReplyLost


class WallClock:
    """The time in the story, in milliseconds since 1970: a minute passes between two edits."""

    def __init__(self) -> None:
        self.now_ms = int(time.time() * 1000) - 3_600_000

    def tick(self) -> int:
        self.now_ms += 60_000
        return self.now_ms


class Device:
    """What runs on a phone: rows, a log of the device's own edits, and a logical clock.

    An edit changes the row at once and is logged with the clock of the last sync.  The outbox is
    what was logged since then: a reply with a higher clock empties it.
    """

    def __init__(self, name: str, link: Link) -> None:
        self.name = name
        self.link = link
        self.rows: dict[str, Row] = {}
        self.log: list[Diff] = []
        self.logical_clock = 0

    def edit(self, kind: str, row: Row, now_ms: int) -> None:
        """Do a create, update or delete, now and offline."""
        self._change(kind, row)
        self.log.append(
            {
                "id": str(uuid.uuid4()),
                "owner": "me",  # the server puts the authenticated owner here
                "logical_clock": self.logical_clock,
                "utc_timestamp": now_ms,
                "type": kind,
                "model": MODEL,
                "json_data": json.dumps(row),
            }
        )

    def outbox(self) -> list[Diff]:
        unsent = [diff for diff in self.log if diff["logical_clock"] >= self.logical_clock]
        return sorted(unsent, key=_log_order)

    def sync(self) -> list[Diff]:
        """Send the outbox, apply the reply in its order, and return what it brought."""
        reply = self.link.post(
            {
                "auth_token": TOKEN,
                "logical_clock": self.logical_clock,
                "diffs": self.outbox(),
            }
        )
        if reply["logical_clock"] <= self.logical_clock:
            return []
        received: list[Diff] = sorted(reply["diffs"], key=_log_order)
        for diff in received:
            self._change(diff["type"], json.loads(diff["json_data"]))
        self.logical_clock = reply["logical_clock"]
        return received

    def _change(self, kind: str, row: Row) -> None:
        row_id = row["id"]
        if kind == "create":
            if row_id in self.rows:
                raise KeyError(f"{self.name} has a row {row_id} already")
            self.rows[row_id] = dict(row)
        elif kind == "update":
            if row_id in self.rows:
                self.rows[row_id].update(row)
        else:
            self.rows.pop(row_id, None)


def _log_order(diff: Diff) -> tuple[int, int]:
    return diff["logical_clock"], diff["utc_timestamp"]


class Story:
    """Plays the scenes and writes the transcript."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = WallClock()
        self.run = uuid.uuid4().hex[:8]  # a server that runs on may hold rows of earlier runs
        self.phone = Device("phone", Link(url))
        self.tablet = Device("tablet", Link(url))
        self.scenes = 0

    def play(self) -> bool:
        """Play it all; return whether phone, tablet and server hold equal rows at the end."""
        print(f"Two devices of one owner, one server: {self.url}")
        for device in (self.phone, self.tablet):
            device.sync()
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
        sound, self.phone.link = self.phone.link, LossyLink(self.url)
        self.sync(self.phone)
        self.phone.link = sound
        self.edit(self.phone, "update", "eggs", name="ten eggs")
        self.sync(self.phone)
        self.sync(self.tablet)

    def ending(self) -> bool:
        self.scene("The end", "The server's rows are what a new device gets from clock 0.")
        server = Device("server", Link(self.url))
        server.sync()
        devices = (self.phone, self.tablet, server)
        for device in devices:
            self.show_rows(device)
        print()
        equal = all(device.rows == server.rows for device in devices)
        if equal:
            print(f"EQUAL: phone, tablet and server hold the same {len(self.mine(server))} rows.")
        else:
            print("DIFFERENT: phone, tablet and server do not hold the same rows.")
        return equal

    def scene(self, title: str, lesson: str) -> None:
        self.scenes += 1
        print(f"\n{self.scenes}  {title}\n   {lesson}\n")

    def edit(self, device: Device, kind: str, task: str, /, **fields: Any) -> None:
        now_ms = self.clock.tick()
        row = {"id": f"{task}-{self.run}", **fields}
        device.edit(kind, row, now_ms)
        wall = time.strftime("%H:%M", time.localtime(now_ms / 1000))
        print(f"   {wall}   {device.name:<7}   {self.change(kind, row)}")

    def sync(self, device: Device) -> None:
        clock, outbox = device.logical_clock, device.outbox()
        print(f"   sync    {device.name:<7}   clock {clock}, sends {len(outbox)}")
        self.show_diffs("->", outbox)
        try:
            received = device.sync()
        except ReplyLost:
            print(f"                  (reply lost: clock stays {device.logical_clock})")
            return
        print(f"                     gets {len(received)}, clock {device.logical_clock}")
        self.show_diffs("<-", received)

    def show_diffs(self, arrow: str, diffs: list[Diff]) -> None:
        for diff in diffs:
            row = json.loads(diff["json_data"])
            print(f"                {arrow}   {self.change(diff['type'], row)}")

    def show_rows(self, device: Device) -> None:
        rows = self.mine(device)
        for label, row in zip([device.name] + [""] * len(rows), rows, strict=False):
            print(f"   {label:<8}{self.change('', row)}")

    def mine(self, device: Device) -> list[Row]:
        return [row for row_id, row in sorted(device.rows.items()) if row_id.endswith(self.run)]

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
                raise Refused(f"{APP} did not start:\n{log.read()}")
            yield rest.split()[0]
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()


def main() -> None:
    """Play the story; exit with 1 if it goes wrong."""
    parser = argparse.ArgumentParser(description="Two devices sync over HTTP.")
    parser.add_argument("--url", help="sync route of a running server (default: starts its own)")
    url = parser.parse_args().url
    try:
        if url is not None:
            equal = Story(url).play()
        else:
            with own_server() as url:
                equal = Story(url).play()
    except Refused as error:
        sys.exit(f"demo: {error}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
