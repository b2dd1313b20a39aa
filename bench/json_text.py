"""From the request's body to the reply's, against parsing and printing alone (orjson)."""

from __future__ import annotations

import json
import random

import orjson
from measuring import Contender, race
from ready_store import CLOCK, Ready, ReadyWithNamedRules
from tables import Table, percent
from workload import OWNER, task_updates

from mobync import Mobync


def measure(quick: bool) -> list[Table]:
    table = Table(
        "json_text",
        "JSON: from the request's bytes to the reply's, the store's own work left out",
        ["pushed", "sent back", "how", "ms", "spread", "/ orjson"],
        notes=[
            "Processor time. orjson: only loads of the request's body and dumps of the reply's. "
            "apply, orjson around it: orjson makes dicts of the request for apply, and JSON of "
            "apply's reply. The store has the window in memory, as dicts or as text, and writes "
            "nothing. Its rules are Python functions that accept everything. They take **diff; "
            "with 'named rules' they take the fields by name.",
        ],
    )
    if not hasattr(Mobync, "apply_json"):
        table.notes.append(
            "This mobync has no apply_json: apply between loads and dumps stands in."
        )
    for pushed, window in ((1000, 0), (0, 1000), (1000, 1000), (1, 0)):
        contenders, sent_back = _contest(pushed, window)
        times = race(contenders, 0.5 if quick else 5)
        floor = times["orjson"].median
        for how, taken in times.items():
            table.add(
                pushed,
                sent_back,
                how,
                taken.median * 1000,
                percent(taken.spread),
                taken.median / floor,
            )
    return [table]


def _contest(pushed: int, window: int) -> tuple[dict[str, Contender], int]:
    rng = random.Random(6)
    ids = [f"task-{i}" for i in range(5000)]
    rows = [
        {**row, "logical_clock": CLOCK + i} for i, row in enumerate(task_updates(rng, ids, window))
    ]
    body = orjson.dumps(
        {
            "auth_token": "token",
            "logical_clock": CLOCK,
            "diffs": task_updates(rng, ids, pushed),
        }
    )
    rows_as_text = json.dumps(rows)
    with_dicts, with_text = Mobync(Ready(rows)), Mobync(Ready(rows_as_text))
    with_named_rules = Mobync(ReadyWithNamedRules(rows_as_text))
    reply = _apply(with_dicts, body)

    def floor() -> None:
        orjson.loads(body)
        orjson.dumps(parsed_reply)

    parsed_reply = orjson.loads(reply)
    contenders = {
        "orjson": Contender(floor),
        "apply, orjson around it, rows as dicts": Contender(lambda: _apply(with_dicts, body)),
        "apply, orjson around it, rows as text": Contender(lambda: _apply(with_text, body)),
    }
    if hasattr(Mobync, "apply_json"):
        contenders["apply_json, rows as dicts"] = Contender(
            lambda: with_dicts.apply_json(body, OWNER)
        )
        contenders["apply_json, rows as text"] = Contender(
            lambda: with_text.apply_json(body, OWNER)
        )
        if pushed:
            contenders["apply_json, rows as text, named rules"] = Contender(
                lambda: with_named_rules.apply_json(body, OWNER)
            )
    return contenders, len(parsed_reply["diffs"])


def _apply(mobync: Mobync, body: bytes) -> bytes:
    request = orjson.loads(body)
    return orjson.dumps(mobync.apply(request["logical_clock"], request["diffs"], OWNER))
