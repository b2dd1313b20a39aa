"""Stories of one device, recorded: what it must send, and what it must then have.

    python client_stories.py            writes client_conformance.jsonl again

Each story is played by mobync.client against the real merge, with other devices around it, and ends
with the server's rows.  What the server answered is written down with what the device did, so that
a client in any language can be played the same story without a server (docs/writing-a-client.md).
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from client_transports import Direct, NoEvents

from mobync import Mobync, Synchronizer
from mobync.client import (
    Answer,
    Device,
    Events,
    OfflineError,
    ServerError,
    TokenError,
    Transport,
)
from mobync.client._server import Server
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer

FILE = Path(__file__).with_name("client_conformance.jsonl")
MODEL = "tasks"
RANDOM_STORIES = 60

Step = dict[str, Any]
Row = dict[str, Any]
During = Callable[[], None]


class Store(MemorySynchronizer):
    """Nothing may be called ``forbidden``."""

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return "forbidden" not in diff["json_data"]

    validate_update = validate_create


class Nameless(Store):
    """It keeps no devices."""

    read_devices = Synchronizer.read_devices
    write_devices = Synchronizer.write_devices


def without_parts(request: dict[str, Any]) -> dict[str, Any]:
    """A request as a server sees it that knows no parts: the cases are for clients without, too."""
    parts = ("part", "more_diffs", "upload")
    return {name: value for name, value in request.items() if name not in parts}


class Story:
    """A device that is recorded, the server, and another device of the same owner.

    Args:
        directory: for the device's file.
        page_size: of the device.
        on_refusal: of the server.
        store: of the server.
    """

    def __init__(
        self, directory: Path, page_size: int, on_refusal: str, store: type[Store]
    ) -> None:
        self.store = store
        self.labels: dict[str, str] = {}
        self.edits = False
        self.steps: list[Step] = []
        self.page_size = page_size
        self.path = directory / "device.db"
        self.now_ms = 1_000
        self.ids = 0
        self.server_ids: dict[str, str] = {}
        self.known: set[str] = set()
        self.exchanges: list[Step] = []
        self.plans: list[tuple[During | None, Answer | str | None]] = []
        self.start_server(on_refusal)
        self.other = self.make("o", ":memory:", self.direct)
        self.device = self.open()

    def start_server(self, on_refusal: str = "raise") -> None:
        """A new one: what the one before had is lost."""
        self.mobync = Mobync(self.store(), on_refusal=on_refusal)  # type: ignore[arg-type]
        self.direct = Direct(Endpoint(self.mobync, lambda token, headers: "anna"))

    def make(self, letter: str, path: Path | str, way: Transport, **options: Any) -> Device:
        device = Device(path, way, "token", now_ms=self.tick, **options)
        device._new_diff_id = lambda: self.new_id(letter)  # type: ignore[method-assign]
        return device

    def open(self) -> Device:
        return self.make("d", self.path, self, page_size=self.page_size, patience_s=0)

    def tick(self) -> int:
        self.now_ms += 1_000
        return self.now_ms

    def new_id(self, letter: str) -> str:
        self.ids += 1
        self.known.add(f"{letter}{self.ids}")
        if letter == "d" and not self.edits:  # of what waits, for its new name
            self.exchanges[-1].setdefault("renamed", []).append(f"d{self.ids}")
        return f"{letter}{self.ids}"

    def close(self) -> None:
        self.device.close()
        self.other.close()

    # ---- what happens ------------------------------------------------------------------------

    def edit(self, kind: str, row_id: str, **fields: Any) -> Step:
        """The user edits."""
        self.edits = True
        self.device._edit(kind, MODEL, {"id": row_id, **fields})  # type: ignore[arg-type]
        self.edits = False
        step: Step = {
            "id": f"d{self.ids}",
            "utc_timestamp": self.now_ms,
            "type": kind,
            "model": MODEL,
            "row": {"id": row_id, **fields},
        }
        self.note({"edit": step})
        return step

    def note(self, step: Step) -> None:
        """Into the exchange that is under way, else into the story."""
        if self.exchanges and "answer" not in self.exchanges[-1]:
            self.exchanges[-1].setdefault("during", []).append(step["edit"])
        else:
            self.steps.append(step)

    def elsewhere(self, kind: str, row_id: str, **fields: Any) -> None:
        """The other device edits and syncs."""
        self.other.sync()
        self.other._edit(kind, MODEL, {"id": row_id, **fields})  # type: ignore[arg-type]
        self.other.sync()

    def sync(self, *plans: During | Answer | str | None) -> None:
        """The device syncs.

        Args:
            plans: what becomes of each request: None is nothing special; a function is called while
                it is under way; ``lost`` and ``lost reply`` are that; an answer is given in the
                server's place.
        """
        self.plans = [(p, None) if callable(p) else (None, p) for p in plans]
        self.exchanges = []
        ends = "done"
        try:
            self.device.sync()
        except OfflineError:
            ends = "offline"
        except (ServerError, TokenError):
            ends = "error"
        self.steps.append({"sync": self.exchanges, "ends": ends})
        self.exchanges = []
        self.expect()

    def restart(self) -> None:
        """The device is killed and started again."""
        self.device.close()
        self.device = self.open()
        self.steps.append({"restart": True})
        self.expect()

    def expect(self) -> None:
        replica = self.device._replica
        self.steps.append(
            {
                "expect": {
                    "logical_clock": self.device.logical_clock,
                    "rows": self.device.rows(MODEL),
                    "outbox": [edit.id for edit in replica.outbox.edits()],
                    "refused": [edit.id for edit in self.device.refused()],
                }
            }
        )

    # ---- the device's way to the server ------------------------------------------------------

    def post(self, body: bytes, token: str | None) -> Answer:
        request = without_parts(json.loads(body))
        body = json.dumps(request).encode()
        del request["limit"]
        self.exchanges.append({"request": self.labelled(request)})
        during, answer = self.plans.pop(0) if self.plans else (None, None)
        if answer is None or answer == "lost reply":
            found = self.direct.post(body, token)
        if during is not None:
            during()
        if isinstance(answer, str):
            self.exchanges[-1]["answer"] = None
            raise OfflineError(answer)
        found = answer or found
        self.exchanges[-1]["answer"] = {
            "status": found.status,
            "body": self.with_stable_ids(found.json()),
        }
        return Answer(found.status, json.dumps(found.json()).encode(), found.headers)

    def with_stable_ids(self, body: dict[str, Any]) -> dict[str, Any]:
        """What restores an object has ids that the server makes up."""
        diffs = [
            diff
            if diff["id"] in self.known
            else {**diff, "id": self.server_ids.setdefault(diff["id"], f"s{len(self.server_ids)}")}
            for diff in body.get("diffs", [])
        ]
        with_ids = {**body, "diffs": diffs} if "diffs" in body else body
        return self.labelled(with_ids)

    def labelled(self, body: dict[str, Any]) -> dict[str, Any]:
        """With names, marks and cursors that are the same each time: n1, n2 …, m1, m2 …, c1 …"""
        found = dict(body)
        for member, letter in (("device", "n"), ("mark", "m"), ("cursor", "c")):
            if isinstance(found.get(member), str):
                found[member] = self.label(letter, found[member])
        if found.get("code") in ("unknown_device", "device_revoked"):
            found["message"] = found["code"]
        return found

    def label(self, letter: str, random_text: str) -> str:
        of_kind = sum(each.startswith(letter) for each in self.labels.values())
        return self.labels.setdefault(random_text, f"{letter}{of_kind + 1}")

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        return NoEvents()

    def server_rows(self) -> list[Row]:
        with Device(":memory:", self.direct, "token") as new:
            new.sync()
            return new.rows(MODEL)


STORIES: dict[str, tuple[Callable[[Story], None], int, str, type[Store]]] = {}


def story(
    name: str, page_size: int = 1000, on_refusal: str = "raise", store: type[Store] = Store
) -> Any:
    def keep(play: Callable[[Story], None]) -> Callable[[Story], None]:
        STORIES[name] = play, page_size, on_refusal, store
        return play

    return keep


@story("an edit is sent, and leaves the outbox when it is answered")
def _(s: Story) -> None:
    s.edit("create", "milk", name="milk", done=False)
    s.edit("update", "milk", done=True)
    s.expect()
    s.sync()


@story("what others did comes, in the order of the reply")
def _(s: Story) -> None:
    s.elsewhere("create", "milk", name="milk")
    s.elsewhere("create", "salt", name="salt")
    s.elsewhere("update", "milk", name="oat milk")
    s.sync()
    s.elsewhere("delete", "salt")
    s.sync()


@story("the same request is sent until it is answered, whatever the user does meanwhile")
def _(s: Story) -> None:
    s.edit("create", "milk", name="milk")
    s.sync("lost")
    s.edit("update", "milk", name="oat milk")
    s.sync("lost reply")
    s.edit("create", "salt", name="salt")
    s.restart()
    s.sync()


@story("an edit during a sync is kept and laid over what comes")
def _(s: Story) -> None:
    s.elsewhere("create", "milk", name="milk", shop="market")
    s.sync()
    s.elsewhere("update", "milk", name="oat milk", shop="corner")
    s.sync(lambda: s.edit("update", "milk", name="soy milk"))


@story("of an edit during a sync and a later one in the reply the later stands")
def _(s: Story) -> None:
    s.elsewhere("create", "milk", name="milk")
    s.sync()
    s.edit("create", "salt", name="salt")
    s.sync("lost")
    s.edit("update", "milk", name="soy milk", shop="corner")
    s.elsewhere("update", "milk", name="oat milk")
    s.sync()


@story("of two edits of a field the second stands, though the clock was set back before it")
def _(s: Story) -> None:
    s.elsewhere("create", "milk", name="milk")
    s.sync()
    s.edit("create", "salt", name="salt")
    s.sync("lost")
    s.now_ms += 200_000
    s.edit("update", "milk", name="soy milk", shop="corner")
    s.now_ms -= 100_000
    s.elsewhere("update", "milk", name="oat milk", shop="market")
    s.now_ms -= 50_000
    s.edit("update", "milk", name="rice milk")
    s.sync()


@story("an edit of a row that the reply deletes is nothing")
def _(s: Story) -> None:
    s.elsewhere("create", "milk", name="milk")
    s.sync()
    s.edit("create", "salt", name="salt")
    s.sync("lost")
    s.edit("update", "milk", name="soy milk")
    s.elsewhere("delete", "milk")
    s.sync()


@story("an edit of a row that was deleted and made again elsewhere is nothing")
def _(s: Story) -> None:
    s.elsewhere("create", "milk", name="milk")
    s.sync()
    s.edit("create", "salt", name="salt")
    s.sync("lost")
    s.edit("update", "milk", shop="corner")
    s.elsewhere("delete", "milk")
    s.elsewhere("create", "milk", name="another milk")
    s.sync()


@story("a row that was made here and elsewhere is one row")
def _(s: Story) -> None:
    s.edit("create", "salt", name="salt")
    s.sync("lost")
    s.edit("create", "milk", name="milk", shop="corner")
    s.elsewhere("create", "milk", name="oat milk", done=True)
    s.sync()


@story("a pull in pages goes on after a kill", page_size=2)
def _(s: Story) -> None:
    for name in ("a", "b", "c", "d", "e"):
        s.elsewhere("create", name, name=name)
    s.edit("create", "mine", name="mine")
    s.sync(None, "lost")
    s.restart()
    s.edit("update", "a", name="edited between pages")
    s.elsewhere("update", "b", name="later")
    s.sync()


@story("a pull without edits sends none with its later pages either", page_size=2)
def _(s: Story) -> None:
    for name in ("a", "b", "c", "d", "e"):
        s.elsewhere("create", name, name=name)
    s.sync(lambda: s.edit("create", "mine", name="mine"))


@story("a refused edit is told, and its row goes back: the whole request was refused")
def _(s: Story) -> None:
    s.edit("create", "milk", name="milk")
    s.sync()
    s.edit("create", "salt", name="forbidden")
    s.edit("update", "salt", done=True)
    s.edit("update", "milk", name="forbidden")
    s.edit("update", "milk", shop="corner")
    s.sync()


@story("a refused edit is told, and its row goes back: the sync went on", on_refusal="skip")
def _(s: Story) -> None:
    s.edit("create", "milk", name="milk")
    s.sync()
    s.edit("create", "salt", name="forbidden")
    s.edit("update", "milk", name="forbidden", note="what the server never had")
    s.sync(lambda: s.edit("update", "milk", shop="corner"))


@story("a refusal in the middle of pages: the rows are pulled from the start", page_size=2)
def _(s: Story) -> None:
    for name in ("a", "b", "c", "d"):
        s.elsewhere("create", name, name=name)
    s.edit("create", "mine", name="forbidden")
    s.edit("create", "other", name="other")
    s.sync()


def told(status: int, code: str = "", **more: Any) -> Answer:
    return Answer(status, json.dumps({"success": False, "code": code, **more}).encode())


@story(
    "a server that lost data and keeps no devices: pull with no diffs, then send the unsent edits",
    store=Nameless,
)
def _(s: Story) -> None:
    s.elsewhere("create", "milk", name="milk")
    s.edit("create", "lost", name="lost")
    s.sync()
    s.start_server()
    s.other.close()
    s.other = s.make("o", ":memory:", s.direct)
    s.elsewhere("create", "milk", name="milk of the backup")
    s.edit("update", "milk", shop="corner")
    s.edit("update", "lost", name="gone with its row")
    s.edit("create", "salt", name="salt")
    s.sync(None, "lost")
    s.restart()
    s.sync()


@story("a device has a name, counts its requests, and gives back the mark of the last reply")
def _(s: Story) -> None:
    s.sync()
    s.edit("create", "milk", name="milk")
    s.sync("lost reply")
    s.sync()
    s.restart()
    s.edit("update", "milk", name="oat milk")
    s.sync()
    s.sync()


@story("a server that keeps no devices gives no mark, and nothing is counted", store=Nameless)
def _(s: Story) -> None:
    for name in ("a", "b"):
        s.edit("create", name, name=name)
        s.sync()


@story("a name that is not known: another one, other ids, and what was edited meanwhile stays")
def _(s: Story) -> None:
    s.elsewhere("create", "milk", name="milk")
    s.edit("create", "lost", name="lost")
    s.sync()
    s.start_server()
    s.other.close()
    s.other = s.make("o", ":memory:", s.direct)
    s.elsewhere("create", "milk", name="milk of the backup")
    s.edit("update", "milk", shop="corner")
    s.edit("create", "salt", name="salt")
    s.sync(None, lambda: s.edit("update", "salt", name="edited meanwhile"), "lost")
    s.restart()
    s.edit("update", "milk", note="edited before the rows came")
    s.sync()


@story("starting over in pages that break off begins again", page_size=2)
def _(s: Story) -> None:
    for name in ("a", "b", "c", "d", "e"):
        s.elsewhere("create", name, name=name)
    s.sync()
    s.edit("update", "a", name="mine")
    s.mobync.forget_device("anna", s.device.name)
    s.sync(None, None, None, "lost")
    s.edit("delete", "b")
    s.restart()
    s.sync()


@story("what is refused while starting over is told", on_refusal="skip")
def _(s: Story) -> None:
    s.edit("create", "milk", name="milk")
    s.sync()
    s.edit("update", "milk", name="forbidden")
    s.edit("create", "salt", name="salt")
    s.mobync.forget_device("anna", s.device.name)
    s.sync()


@story("a device that was revoked drops everything, and tells the app")
def _(s: Story) -> None:
    s.edit("create", "milk", name="milk")
    s.sync()
    s.edit("create", "salt", name="salt")
    s.mobync.revoke_device("anna", s.device.name)
    s.sync()
    s.sync()
    s.mobync.forget_device("anna", s.device.name)
    s.sync()


@story("an edit that had arrived is not sent once more after starting over", store=Nameless)
def _(s: Story) -> None:
    s.edit("create", "milk", name="milk")
    s.sync("lost reply")
    s.edit("update", "milk", name="oat milk")
    s.sync(told(409, "clock_ahead", pull_anew=True))


@story("a page that is refused: the rows are pulled from the start", page_size=2)
def _(s: Story) -> None:
    for name in ("a", "b", "c", "d", "e"):
        s.elsewhere("create", name, name=name)
    s.edit("create", "mine", name="mine")
    s.sync(None, told(400, "invalid_page"))


@story("a body that is too large is sent in parts")
def _(s: Story) -> None:
    for name in ("a", "b", "c", "d"):
        s.edit("create", name, name=name)
    s.sync(told(413, "too_large"))


@story("an edit that is too large alone is refused")
def _(s: Story) -> None:
    s.edit("create", "a", name="long")
    s.edit("create", "b", name="short")
    s.sync(told(413, "too_large"), told(413, "too_large"))


@story("a server that is busy is sent the same again")
def _(s: Story) -> None:
    s.edit("create", "a", name="a")
    s.sync(told(503, "busy"))
    s.sync(told(429))
    s.sync()


@story("what the client cannot make anything of loses nothing")
def _(s: Story) -> None:
    s.edit("create", "a", name="a")
    s.sync(told(400, "invalid_request"))
    s.sync(told(401, "unauthenticated"))
    s.sync(Answer(200, b'"please sign in to this network"'))
    s.sync()


def at_random(seed: int) -> Callable[[Story], None]:
    def play(s: Story) -> None:
        rng = random.Random(seed)

        def edit() -> None:
            row_id, fields = rng.choice("abc"), {rng.choice("xyz"): rng.randint(0, 99)}
            here = s.device.get(MODEL, row_id) is not None
            kind = rng.choice(("update", "update", "delete")) if here else "create"
            s.edit(kind, row_id, **({} if kind == "delete" else fields))

        def edit_elsewhere() -> None:
            s.other.sync()
            row_id, fields = rng.choice("abc"), {rng.choice("xyz"): rng.randint(100, 199)}
            here = s.other.get(MODEL, row_id) is not None
            kind = rng.choice(("update", "update", "delete")) if here else "create"
            s.elsewhere(kind, row_id, **({} if kind == "delete" else fields))

        def sync() -> None:
            plans = [rng.choice((None, None, edit, "lost", "lost reply")) for _ in range(3)]
            s.sync(*plans)

        for _ in range(rng.randint(6, 16)):
            rng.choice((edit, edit, edit_elsewhere, sync, s.restart))()
        s.sync()

    return play


for seed in range(RANDOM_STORIES):
    story(f"at random {seed}", page_size=(1000, 2)[seed % 2], on_refusal="skip")(at_random(seed))


def record() -> Iterator[Step]:
    """Play all stories; gives the cases."""
    original, Server.wait = Server.wait, staticmethod(lambda seconds: None)  # type: ignore[method-assign]
    directory = Path(tempfile.mkdtemp())
    try:
        for name, (play, page_size, on_refusal, store) in STORIES.items():
            with tempfile.TemporaryDirectory(dir=directory) as own:
                s = Story(Path(own), page_size, on_refusal, store)
                try:
                    play(s)
                    s.device.sync()
                    assert s.device.rows(MODEL) == s.server_rows(), name
                finally:
                    s.close()
            yield {"name": name, "page_size": page_size, "steps": s.steps}
    finally:
        Server.wait = original  # type: ignore[method-assign]
        shutil.rmtree(directory)


def text() -> str:
    return "".join(json.dumps(case) + "\n" for case in record())


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
