"""What the comparison of merges knows of a scenario, and of everybody who takes part."""

from __future__ import annotations

from dataclasses import dataclass

from measuring import Contender
from workload import Edit


@dataclass
class Scenario:
    """Devices that made edits while nobody heard of anybody.

    Attributes:
        edits: of each device.
        records: how many records all of them knew before.
    """

    name: str
    title: str
    edits: list[list[Edit]]
    records: int

    @property
    def edit_count(self) -> int:
        return sum(map(len, self.edits))


@dataclass
class Entrant:
    """One library in one scenario.

    Attributes:
        in_turn: merges device after device into the server, and makes each one's reply.
        from_storage: the same, with nothing kept in memory between two devices; None where
            in_turn keeps nothing anyway.
        at_once: one replica takes in what all the others did.
        at_once_edits: how many edits it then looks at.
        sent_bytes: what all devices send.
        stored_bytes: what they add to what is stored.
        peak_bytes: of memory, beyond what was held before the first device came.
    """

    name: str
    in_turn: Contender
    from_storage: Contender | None
    at_once: Contender
    at_once_edits: int
    sent_bytes: int
    stored_bytes: int
    peak_bytes: int
