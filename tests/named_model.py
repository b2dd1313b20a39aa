"""A server of named devices once more, slow and obvious: docs/protocol.md, "Named devices"."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import merge_model
from merge_model import DiffRow

AGAIN = " again"  # behind the id of a diff whose own the log had already


class Unknown(Exception):
    """A request is neither the next one of its device nor a retry of the last."""


@dataclass
class Device:
    number: int = 0
    content: str | None = None
    marks: dict[int | None, int] = field(default_factory=lambda: {None: 0})
    pulled: tuple[int | None, int] | None = None
    hold: int | None = None


class Server:
    """One owner's log, and what is kept of the owner's devices.  Marks are numbers.

    Attributes:
        clock: the owner's.
    """

    def __init__(self) -> None:
        self.log: list[DiffRow] = []
        self.clock = 0
        self.devices: dict[str, Device] = {}
        self.marks = 0
        self.horizon = 0

    def sync(
        self,
        name: str,
        number: int,
        mark: int | None,
        clock: int,
        diffs: Sequence[DiffRow],
    ) -> tuple[dict[str, Any], int | None]:
        """A reply as the stories have it, and its mark."""
        diffs = list(diffs)
        known, device = name in self.devices, self.devices.get(name, Device())
        content = json.dumps([mark, clock, diffs])
        is_retry = bool(diffs) and (number, content) == (device.number, device.content)
        has_mark = device.marks.get(mark) == clock if known else mark is None
        if not is_retry and not (number == device.number + 1 and has_mark):
            raise Unknown
        if self.must_start_over(is_retry, mark, clock):
            if not is_retry:
                self.accept(merge_model.merge_behind(self.log, diffs, clock))
            reply: dict[str, Any] = {"logical_clock": 0, "diffs": [], "reset": True}
        elif known and not diffs and clock == self.clock:
            device.hold = clock if device.hold is None else max(device.hold, clock)
            return {"logical_clock": clock, "diffs": []}, mark
        else:
            reply = self.merge(clock, diffs, is_retry)
        self.devices[name] = device
        self.marks += 1
        self.hold(device, is_retry, (mark, clock), diffs, reply)
        self.keep(device, is_retry, number, content if diffs else None, (mark, clock))
        device.marks[self.marks] = reply["logical_clock"]
        return reply, self.marks

    def must_start_over(self, is_retry: bool, mark: int | None, clock: int) -> bool:
        """Whether nobody can say what the device's rows are."""
        if clock > 0 and mark is None:
            return True
        return clock < self.horizon and (clock > 0 or is_retry)

    def hold(
        self,
        device: Device,
        is_retry: bool,
        carried: tuple[int | None, int],
        diffs: list[DiffRow],
        reply: dict[str, Any],
    ) -> None:
        """Note from where on the device needs the log as it was."""
        clock = carried[1]
        if clock == 0 and not diffs:
            clock = reply["logical_clock"]
        if "reset" in reply:
            device.hold = None
        elif is_retry and device.hold is not None:
            device.hold = min(device.hold, clock)
        else:
            device.hold = clock

    def compact(self) -> list[DiffRow]:
        """Move the horizon, and fold what is below it; the log afterwards."""
        holds = [d.hold for d in self.devices.values() if d.hold is not None]
        self.horizon = max(self.horizon, min(holds, default=self.clock))
        self.log = merge_model.compacted(self.log, self.horizon)
        return self.log

    def forget(self, name: str) -> None:
        """A device that was silent for too long holds no more."""
        if name in self.devices:
            self.devices[name].hold = None

    def merge(self, clock: int, diffs: list[DiffRow], is_retry: bool) -> dict[str, Any]:
        window = [d for d in self.log if d["logical_clock"] >= clock]
        if clock == 0:
            window = merge_model.without_dead(window, diffs, self.log, self.clock)
        known_too = [diff["id"] for diff in diffs] if is_retry else []
        up, down = merge_model.merge(window, diffs, known_too)
        assert not (is_retry and up)
        self.accept(up)
        return {"logical_clock": self.clock, "diffs": down}

    def accept(self, upstream: list[DiffRow]) -> None:
        taken = {diff["id"] for diff in self.log}
        for diff in upstream:
            own = diff["id"] + AGAIN if diff["id"] in taken else diff["id"]
            self.log.append({**diff, "id": own, "logical_clock": self.clock})
            self.clock += 1

    def keep(
        self,
        device: Device,
        is_retry: bool,
        number: int,
        content: str | None,
        carried: tuple[int | None, int],
    ) -> None:
        if content is None:
            if device.pulled != carried:
                device.marks = dict([carried])
            device.pulled = carried
        elif not is_retry:
            device.number, device.content = number, content
            device.marks, device.pulled = {}, None
