"""Random histories of guests who sign in: devices offline, answers lost, logs compacted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from client_transports import Direct, Meddling, lost

from mobync import Mobync
from mobync.client import Answer, Device, OfflineError, ServerError
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer

OWNERS = ("guest", "other", "anna")
STEPS = 60


class Phone:
    """A device that writes a field of its own, and signs in when it is told to."""

    def __init__(self, history: History, number: int, owner: str) -> None:
        self.history, self.owner = history, owner
        self.field = f"by{number}"
        self.way = Meddling(history.way)
        self.device = Device(
            ":memory:",
            self.way,
            lambda: self.owner,
            page_size=history.random.choice([2, 1_000]),
            patience_s=0,
            now_ms=history.tick,
        )

    def edit(self) -> None:
        said, choose = self.history.said, self.history.random
        ids = [row["id"] for row in self.device.rows("tasks")]
        kind = choose.choice(["create", "update", "update", "delete"]) if ids else "create"
        value = self.history.tick()
        if kind == "create":
            id_ = f"t{value}"
            self.device.create("tasks", {"id": id_, self.field: value})
            said[id_, self.field] = value
        elif kind == "update":
            id_ = choose.choice(ids)
            self.device.update("tasks", id_, {self.field: value})
            said[id_, self.field] = value
        elif self.history.deletes:
            self.device.delete("tasks", choose.choice(ids))

    def sync(self, loses: bool = False) -> None:
        """Sync, perhaps with an answer or a request that is lost; sign in if that is asked for."""
        if loses and self.history.random.random() < 0.5:
            self.way.after = lost
        elif loses:
            self.way.before = lost
        else:
            self.way.after = self._edits_meanwhile
        try:
            self.device.sync()
        except OfflineError:
            assert loses
        except ServerError as error:
            if error.code != "owner_moved":
                raise
            self.sign_in(self.history.moved[self.owner])
        finally:
            self.way.after, self.way.before = _as_it_is, lambda body: None

    def sign_in(self, owner: str) -> None:
        self.owner = owner
        self.device._server._known_token = None

    def _edits_meanwhile(self, answer: Answer) -> Answer:
        if not self.history.is_ending and self.history.random.random() < 0.2:
            self.edit()
        return answer

    def rows(self) -> dict[str, Any]:
        return {row["id"]: row for row in self.device.rows("tasks")}


def _as_it_is(answer: Answer) -> Answer:
    return answer


class History:
    """What happens, by a seed.

    Attributes:
        said: the last value that a device wrote into its field of an object.
        moved: to whom the data of an owner went.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.deletes = seed % 2 == 0
        self.store = MemorySynchronizer()
        self.mobync = Mobync(self.store)
        self.way = Direct(Endpoint(self.mobync, lambda token, headers: token))
        self.now_ms = 1_700_000_000_000
        self.said: dict[tuple[str, str], int] = {}
        self.moved: dict[str, str] = {}
        self.is_ending = False
        owners = ["guest", "guest", "other", "anna", "anna"]
        self.phones = [Phone(self, number, owner) for number, owner in enumerate(owners)]

    def tick(self) -> int:
        self.now_ms += self.random.randrange(1, 50)
        return self.now_ms

    def play(self) -> None:
        for _ in range(STEPS):
            phone = self.random.choice(self.phones)
            step = self.random.random()
            if step < 0.45:
                phone.edit()
            elif step < 0.85:
                phone.sync(loses=self.random.random() < 0.3)
            elif step < 0.95:
                self.mobync.compact(self.random.choice(OWNERS))
            else:
                self.move(self.random.choice(OWNERS[:2]))
        for owner in OWNERS[:2]:
            self.move(owner)
        self.end()

    def move(self, owner: str) -> None:
        targets = [each for each in OWNERS if each != owner and each not in self.moved]
        if owner not in self.moved:
            target = self.random.choice(targets)
            known = {device.name for device in self.mobync.devices(owner)}
            self.mobync.move_owner(owner, target)
            self.moved[owner] = target
            for phone in self.phones:
                if phone.owner == owner and phone.device.name not in known:
                    phone.sign_in(target)  # nobody could tell it

    def end(self) -> None:
        self.is_ending = True
        for _ in range(2):
            for phone in self.phones:
                for _ in range(len(OWNERS)):
                    phone.sync()
                assert (phone.owner, phone.device.waiting) == ("anna", 0)

    def close(self) -> None:
        for phone in self.phones:
            phone.device.close()


@pytest.fixture
def history(request: pytest.FixtureRequest) -> Iterator[History]:
    made = History(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("history", range(60), indirect=True)
def test_all_devices_have_the_same_in_the_end(history: History) -> None:
    history.play()
    rows = {row["id"]: row for row in history.store.read("tasks")}
    for phone in history.phones:
        assert phone.rows() == rows
    if not history.deletes:
        found = {(id_, name): row[name] for id_, row in rows.items() for name in row}
        assert {key: found.get(key) for key in history.said} == history.said
