"""Where an apply spends its instructions, step by step, and the core among its own functions."""

from __future__ import annotations

import random

import core_program
import valgrinding
from fixed_apply import DIFFS
from tables import Table
from workload import Diff, edits_as_diffs, offline_edits, task_creates

from mobync import Mobync

# In the order of an apply; what the binding has and is not named here is among "the rest".
STEPS = {
    "begin_sync": "begin_sync(): the request's dicts read and checked",
    "begin_json_sync": "begin_json_sync(): the request's text read and checked",
    "read_log": "read_log(): the window read and checked",
    "validate_new": "validate_new(): the rules called, with a diff's fields as keywords",
    "merge_request": "merge_request(): the merge",
    "write_models": "write_models(): the models' rows as str, given to the store",
    "append_log": "append_log(): the log's rows, given to the store",
    "acknowledge": "acknowledge(): the clocks into the caller's dicts",
    "make_reply": "make_reply(): the reply's dicts",
    "make_json_reply": "make_json_reply(): the reply's text",
}
CORE_FUNCTIONS = 12  # the hottest

REST = "the rest: Python, the rules, a store that does nothing"


def measure(quick: bool) -> list[Table]:
    return [_json_technique(quick), *([] if quick else [_apply_steps(), _core_functions()])]


def _json_technique(quick: bool) -> Table:
    """One device that pushes to an empty log: all that is checked is its request."""
    path = core_program.BUILD / "technique.jsonl"
    core_program.write_requests([task_creates(random.Random(12), 1000)], path)
    (cost,) = core_program.run(core_program.build(), path, 20 if quick else 200)
    ours, tree = cost["read_ns"] + cost["check_ns"], cost["tree_ns"]
    table = Table(
        "json_technique",
        "Reading a request's JSON: text spans or trees",
        ["how", "ns for each diff", "/ own scanner"],
        notes=[
            "bench/core_bench.c, 1,000 creates of six fields, the fastest of many runs. Own "
            "scanner: reads the request and the members of each json_data as spans of the text, "
            "checks form and UTF-8, and makes diffs. cJSON: makes and frees a tree of the "
            "request and one of each json_data, makes no diffs, and rounds numbers to doubles.",
        ],
    )
    table.add("own scanner (csrc/core/json.c)", ours / 1000, 1.0)
    table.add("cJSON trees", tree / 1000, tree / ours)
    return table


def _apply_steps() -> Table:
    ways = [how for how in ("apply", "apply_json") if hasattr(Mobync, how)]
    table = Table(
        "steps",
        "Where the instructions of an apply go: instructions for each diff",
        ["step", *ways],
        notes=[
            f"callgrind, {DIFFS} diffs pushed and {DIFFS} in the window, divided by {2 * DIFFS}. "
            "The rows of the window are dicts. The work of Python inside a step is included.",
        ],
    )
    counts = {how: valgrinding.step_instructions(how) for how in ways}
    totals = {how: valgrinding.apply_instructions(how)[0] for how in ways}
    for function, step in STEPS.items():
        spent = [counts[how].get(function, 0) for how in ways]
        if any(spent):
            table.add(step, *(count / (2 * DIFFS) for count in spent))
    known = {how: sum(counts[how].get(function, 0) for function in STEPS) for how in ways}
    table.add(REST, *((totals[how] - known[how]) / (2 * DIFFS) for how in ways))
    table.add("all", *(totals[how] / (2 * DIFFS) for how in ways))
    return table


def core_requests() -> list[list[Diff]]:
    """What the devices of the fixed merge send."""
    rng = random.Random(10)
    return [edits_as_diffs(rng, edits) for edits in offline_edits(rng, 40, 100, 1000)]


def _core_functions() -> Table:
    path = core_program.BUILD / "steps.jsonl"
    core_program.write_requests(core_requests(), path)
    command = [str(core_program.build()), str(path), "1"]
    counts: dict[str, int] = {}
    for spent in valgrinding.functions(command):
        name = spent.function if spent.is_ours else f"{spent.function} ({spent.library})"
        counts[name] = counts.get(name, 0) + spent.instructions
    table = Table(
        "core",
        "Where the instructions of the core go: 40 devices, one after the other",
        ["function", "share"],
        notes=[
            "callgrind of bench/core_bench.c: requests read from JSON, windows checked, merged, "
            "replies printed as JSON. The share of a function does not include the functions "
            "that it calls."
        ],
    )
    hottest = sorted(counts.items(), key=lambda item: -item[1])[:CORE_FUNCTIONS]
    for function, count in hottest:
        table.add(function, f"{count / sum(counts.values()):.0%}")
    return table
