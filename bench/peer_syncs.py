"""A CRDT library in a scenario: its devices, and its server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from entrants import Entrant, Scenario
from measuring import Contender, PeakMemory, in_child
from peers import Replica
from workload import record_ids

Peer = type[Replica]


@dataclass
class Updates:
    """What the devices send, in a library's own bytes.

    Attributes:
        base: what all had seen before.
        sent: by each device.
        seen: by each device when it sends.
    """

    base: bytes
    sent: list[bytes]
    seen: list[Any]


def entrant_of(name: str, peer: Peer, scenario: Scenario) -> Entrant:
    updates: Updates = in_child(_make_updates, peer, scenario)
    sent, stored = _sizes(peer, updates)
    return Entrant(
        name=name,
        in_turn=_OnLoaded(peer, updates, _sync_all),
        from_storage=Contender(lambda: _sync_from_storage(peer, updates)),
        at_once=_OnLoaded(peer, updates, lambda replica, made: replica.take_all(made.sent)),
        at_once_edits=scenario.edit_count,
        sent_bytes=sent,
        stored_bytes=stored,
        peak_bytes=in_child(_peak_bytes, peer, updates),
    )


def _make_updates(peer: Peer, scenario: Scenario) -> Updates:
    """Let the devices make their edits while apart."""
    server = peer(0)
    server.fill(record_ids(scenario.records))
    made = Updates(server.stored(), [], [])
    for number, edits in enumerate(scenario.edits, 1):
        device = peer(number)
        device.take(made.base)
        before = device.seen()
        device.edit(edits)
        made.sent.append(device.lacking(before))
        made.seen.append(device.seen())
    return made


def _loaded(peer: Peer, stored: bytes) -> Replica:
    replica = peer(0)
    replica.take(stored)
    return replica


class _OnLoaded(Contender):
    """Work on a replica that has what all devices had before; loading it is not timed."""

    def __init__(self, peer: Peer, updates: Updates, work: Any) -> None:
        def before() -> None:
            self._replica = _loaded(peer, updates.base)

        def run() -> None:
            work(self._replica, updates)

        super().__init__(run, before)


def _sync_all(server: Replica, updates: Updates) -> None:
    for update, seen in zip(updates.sent, updates.seen, strict=True):
        server.take(update)
        server.lacking(seen)


def _sync_from_storage(peer: Peer, updates: Updates) -> None:
    stored = updates.base
    for update, seen in zip(updates.sent, updates.seen, strict=True):
        server = _loaded(peer, stored)
        server.take(update)
        server.lacking(seen)
        stored = server.stored()


def _sizes(peer: Peer, updates: Updates) -> tuple[int, int]:
    """Bytes sent and bytes stored; makes sure that both ways to take them in agree."""
    server, other = _loaded(peer, updates.base), _loaded(peer, updates.base)
    server.take_all(updates.sent)
    _sync_all(other, updates)
    if server.value() != other.value():
        raise RuntimeError(f"{peer.__name__}: two replicas differ")
    return sum(map(len, updates.sent)), len(server.stored()) - len(updates.base)


def _peak_bytes(peer: Peer, updates: Updates) -> int:
    server = _loaded(peer, updates.base)
    with PeakMemory() as peak:
        _sync_all(server, updates)
    return peak.bytes
