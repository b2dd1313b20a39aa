"""What must be true of each answer to a named device, whatever comes of it in the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mobync import LogicalClockError, UnknownDeviceError

from .named_phones import LIFE, SAW, Reply, Request
from .named_servers import Asked


def rows_of(request: Request, kind: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The diffs of a type, each with what its json_data says."""
    for each in request["diffs"]:
        if each["type"] == kind:
            yield each, json.loads(each["json_data"])


def lives_seen(request: Request, object_id: str) -> Iterator[str | None]:
    """The lives of an object that a request deletes, but for those that it makes as well: of these
    the server never hears."""
    is_made_here = False
    for each in request["diffs"]:
        if json.loads(each["json_data"])["id"] != object_id:
            continue
        if each["type"] == "delete" and not is_made_here:
            yield each[SAW]
        if each["type"] != "update":
            is_made_here = each["type"] == "create"


class Watch:
    """Asks the server, and notes what it should not have done.

    Args:
        server: asked.
        is_quiet: no phone and no server goes back to a backup, and no phone is copied.

    Attributes:
        wrong: what was noted.
    """

    def __init__(self, server: Asked, is_quiet: bool) -> None:
        self.server = server
        self.is_quiet = is_quiet
        self.wrong: list[str] = []
        self.silent: set[str] = set()
        self.done: dict[str, str] = {}
        self.same_life: dict[str | None, str | None] = {}
        self.knows_lives = True

    def forget(self, name: str) -> None:
        self.silent.add(name)

    def restore(self, server: Asked) -> None:
        """From now on a backup of the server is asked.  Clocks are given a second time, so a phone
        seems to have seen what it has not."""
        self.server = server
        self.knows_lives = False
        self.done.clear()

    def ask(self, request: Request, is_late: bool = False) -> Reply:
        """Have the server answer.

        Args:
            is_late: nobody waits for the answer.
        """
        name = request.get("device", "")
        rows, clock = self.server.rows(), self.server.clock()
        try:
            reply = self.server.sync(request)
        except (UnknownDeviceError, LogicalClockError):
            if self.is_quiet and not is_late and name not in self.silent:
                self.wrong.append(f"refused without need: {name} sent {request}")
            raise
        if not is_late:
            self.check_reset(name, request, reply)
        if is_late or reply.get("reset"):  # it may not hear that, and go on from where it was
            self.silent.add(name)
        else:
            self.silent.discard(name)
        if request["diffs"] and not reply.get("more"):
            self.check_retry(name, request, clock)
            self.check_lives(name, request, rows)
        return reply

    def check_reset(self, name: str, request: Request, reply: Reply) -> None:
        """Who was never silent for long has the window that it needs, and need not start over."""
        knew_all = request.get("mark") is not None and request["logical_clock"] > 0
        must = not knew_all or request.get("cursor") or name in self.silent
        if reply.get("reset") and self.is_quiet and not must:
            self.wrong.append(f"started over without need: {name} sent {request}")

    def check_retry(self, name: str, request: Request, clock: int) -> None:
        """What was done once is not done again."""
        said = json.dumps([request.get(n) for n in ("request", "mark", "logical_clock", "diffs")])
        if name and said == self.done.get(name) and self.server.clock() != clock:
            self.wrong.append(f"a retry wrote: {name} sent {request}")
        self.done[name] = said

    def check_lives(self, name: str, request: Request, before: dict[str, Any]) -> None:
        """A delete ends the life that its device has seen, and no other."""
        after = self.server.rows()
        for _, row in rows_of(request, "create"):
            for there in (before.get(row["id"]), after.get(row["id"])):
                if LIFE in row and there is not None:  # the two are merged
                    self.same_life[self.life(row[LIFE])] = self.life(there.get(LIFE))
        for object_id in before.keys() - after.keys():
            ended = self.life(before[object_id].get(LIFE))
            seen = {self.life(life) for life in lives_seen(request, object_id)}
            if name and self.knows_lives and ended not in seen:
                self.wrong.append(f"ended another life: {name} sent {request}, there was {before}")

    def life(self, create: str | None) -> str | None:
        """Lives that were merged have one name."""
        while create in self.same_life and self.same_life[create] != create:
            create = self.same_life[create]
        return create
