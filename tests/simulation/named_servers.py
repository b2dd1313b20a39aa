"""What named devices sync with: mobync, or the model of it."""

from __future__ import annotations

import copy
import json
from typing import Any, Protocol

import named_model

from mobync import Mobync, UnknownDeviceError
from mobync.memory import MemorySynchronizer

from .named_phones import OWNER, Reply, Request, play

ANY_SKEW_MS = 2**52


class WentWrong(AssertionError):
    """What was promised does not hold."""


class Asked(Protocol):
    """A server that can be copied with all that it keeps."""

    def sync(self, request: Request) -> Reply: ...

    def compact(self) -> None: ...

    def forget(self, name: str) -> None:
        """Have a device, or those without a name, have been silent for very long."""

    def rows(self) -> dict[str, Any]: ...

    def clock(self) -> int: ...

    def rows_of_log(self) -> int: ...

    def gone_back_to(self, backup: Any) -> Any:
        """A copy of a backup; it gives no mark that this one has given."""

    def check_what_is_kept(self) -> None:
        """In the end: raise WentWrong if something is kept that nobody needs."""


class Server:
    """mobync on a store in memory."""

    def __init__(self) -> None:
        self.store = MemorySynchronizer()
        self.mobync = Mobync(self.store, max_clock_skew_ms=ANY_SKEW_MS)

    def __deepcopy__(self, memo: Any) -> Server:
        copied = type(self)()
        copied.store._database.tables = copy.deepcopy(self.store._database.tables)
        return copied

    def sync(self, request: Request) -> Reply:
        reply: Reply = json.loads(self.mobync.apply_json(json.dumps(request), OWNER))
        return reply

    def compact(self) -> None:
        self.mobync.compact(OWNER)

    def forget(self, name: str) -> None:
        seen = "seen_ms" if name else "nameless_ms"
        for known, text in self.store.read_devices(OWNER, [name]).items():
            state = json.loads(text)
            if state[seen] is not None:
                self.store.write_devices(OWNER, {known: json.dumps({**state, seen: 0})})
        if not name:
            self.mobync._noted.clear()

    def rows(self) -> dict[str, Any]:
        return {row["id"]: row for row in self.store.read("tasks")}

    def clock(self) -> int:
        return self.mobync.logical_clock(OWNER)

    def rows_of_log(self) -> int:
        return len(list(self.store.read("diffs")))

    def gone_back_to(self, backup: Server) -> Server:
        return copy.deepcopy(backup)

    def check_what_is_kept(self) -> None:
        pass


class Model:
    """The model of mobync, which knows no pages and no device without a name.

    Rules of the merge are taken out of it, since they cannot be of the C.
    """

    def __init__(self) -> None:
        self.model = named_model.Server()

    def sync(self, request: Request) -> Reply:
        said = (request[n] for n in ("device", "request", "mark", "logical_clock", "diffs"))
        try:
            reply, mark = self.model.sync(*said)
        except named_model.Unknown:
            raise UnknownDeviceError("") from None
        return {**reply, "mark": mark}

    def compact(self) -> None:
        self.model.compact()

    def forget(self, name: str) -> None:
        self.model.forget(name)

    def rows(self) -> dict[str, Any]:
        return play({}, self.model.log)

    def clock(self) -> int:
        return self.model.clock

    def rows_of_log(self) -> int:
        return len(self.model.log)

    def gone_back_to(self, backup: Model) -> Model:
        restored = copy.deepcopy(backup)
        restored.model.marks = self.model.marks
        return restored

    def check_what_is_kept(self) -> None:
        pass
