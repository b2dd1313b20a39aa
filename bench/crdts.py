"""The merge alone, against CRDT libraries: devices that were offline come back one by one."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import core_program
from entrants import Entrant, Scenario
from measuring import Contender, PeakMemory, in_child, race
from peer_syncs import entrant_of
from peers import PEERS
from tables import Table, percent
from workload import Diff, edits_as_diffs, offline_edits, one_key_edits

import mobync

DEVICES, DEVICES_QUICK = 100, 30  # that edited different records
CLIENTS, CLIENTS_QUICK = 1540, 100  # that edited the same key

COLUMNS = [
    "who",
    "each in turn µs",
    "spread",
    "stored, each in turn µs",
    "one takes all µs",
    "spread ",
    "sent B",
    "stored B",
    "peak MB",
]
NOTES = [
    "Each in turn: the server merges each device and returns what the device lacks. Processor time "
    "in µs for each edit of the devices.",
    "Stored, each in turn: the same, but between two devices the server keeps nothing in memory: "
    "it loads its state and stores it again. mobync never keeps anything. For each device it "
    "merges the window again, that is, all edits that the device has not seen. The window is in "
    "memory, so neither column includes the database.",
    "One takes all: one replica merges the edits of all others at once; µs for each edit.",
    "mobync core: bench/core_bench.c, from diffs to outcomes; json_data is read and checked. "
    "mobync.merge: from dicts to dicts. The CRDTs: from bytes to bytes.",
    "Sent: bytes that a device sends for each edit. Stored: bytes that an edit adds to the "
    "stored state; for mobync this is the log, not compacted. A mobync diff is JSON text with a "
    "UUID, owner, model and times.",
    "Peak MB: the most memory that the process had, minus what it had when the first device came. "
    "For the core, it is the memory of the largest sync (its arena).",
]


def measure(quick: bool) -> list[Table]:
    devices, clients = (DEVICES_QUICK, CLIENTS_QUICK) if quick else (DEVICES, CLIENTS)
    scenarios = [
        Scenario(
            "crdts_records",
            f"The merge: 1,000 records of 4 fields, {devices} devices that were offline, "
            "100 random field edits each",
            offline_edits(random.Random(1), devices, 100, 1000),
            1000,
        ),
        Scenario(
            "crdts_one_key",
            f"The merge: {clients:,} clients set the same key of a map at once (B3.1 of "
            "crdt-benchmarks)",
            one_key_edits(clients),
            1,
        ),
    ]
    program = core_program.build()
    return [_compare(scenario, program, 1 if quick else 8) for scenario in scenarios]


def _compare(scenario: Scenario, program: Path, budget_s: float) -> Table:
    installed = {name: peer for name, peer in PEERS.items() if importlib.util.find_spec(name)}
    entrants = _mobyncs(scenario, program)
    entrants += [entrant_of(name, peer, scenario) for name, peer in installed.items()]
    in_turn = race({e.name: e.in_turn for e in entrants}, budget_s, least=2)
    at_once = race({e.name: e.at_once for e in entrants}, budget_s / 2)
    stored = in_turn | race(
        {e.name: e.from_storage for e in entrants if e.from_storage is not None},
        budget_s / 3,
        least=1,
    )

    table = Table(scenario.name, scenario.title, COLUMNS, notes=[*NOTES, _left_out(installed)])
    for e in entrants:
        table.add(
            e.name,
            in_turn[e.name].median / scenario.edit_count * 1e6,
            percent(in_turn[e.name].spread),
            stored[e.name].median / scenario.edit_count * 1e6,
            at_once[e.name].median / e.at_once_edits * 1e6,
            percent(at_once[e.name].spread),
            e.sent_bytes / scenario.edit_count,
            e.stored_bytes / scenario.edit_count,
            e.peak_bytes / 1e6,
        )
    return table


def _left_out(installed: dict[str, object]) -> str:
    missing = [f"{name} (not installed)" for name in PEERS if name not in installed]
    return f"Left out: {', '.join([*missing, 'automerge'])} (its wheel, of 2022, cannot edit)."


# ---- mobync ------------------------------------------------------------------------------------


def _mobyncs(scenario: Scenario, program: Path) -> list[Entrant]:
    rng = random.Random(2)
    requests = [edits_as_diffs(rng, edits) for edits in scenario.edits]
    path = core_program.BUILD / f"{scenario.name}.jsonl"
    core_program.write_requests(requests, path)
    log = _sync_all(requests)
    sent = sum(len(json.dumps(request)) for request in requests)
    stored = sum(len(json.dumps(row)) for row in log)
    last = requests[-1]
    window = [row for row in log if row["id"] not in {diff["id"] for diff in last}]

    def in_core() -> float:
        return core_program.merge_s(core_program.run(program, path))

    def last_in_core() -> float:
        return core_program.merge_s(core_program.run(program, path)[-1:])

    at_once_edits = len(window) + len(last)
    return [
        Entrant(
            "mobync core",
            in_turn=Contender(in_core),
            from_storage=None,
            at_once=Contender(last_in_core),
            at_once_edits=at_once_edits,
            sent_bytes=sent,
            stored_bytes=stored,
            peak_bytes=max(cost["arena_bytes"] for cost in core_program.run(program, path)),
        ),
        Entrant(
            "mobync.merge",
            in_turn=Contender(lambda: _sync_all(requests)),
            from_storage=None,
            at_once=Contender(lambda: mobync.merge(window, last)),
            at_once_edits=at_once_edits,
            sent_bytes=sent,
            stored_bytes=stored,
            peak_bytes=in_child(_peak_bytes, requests),
        ),
    ]


def _sync_all(requests: list[list[Diff]]) -> list[Diff]:
    """The log after all devices have synced, each with what was logged before it."""
    log: list[Diff] = []
    for request in requests:
        for row in mobync.merge(log, request).upstream:
            log.append({**row, "logical_clock": len(log)})
    return log


def _peak_bytes(requests: list[list[Diff]]) -> int:
    with PeakMemory() as peak:
        _sync_all(requests)
    return peak.bytes
