"""The same apply a number of times, for work.py to count under valgrind.

    python bench/fixed_apply.py apply 10
    python bench/fixed_apply.py apply_json 10

A device pushes 200 edits and meets 200 others; the store costs nothing.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from typing import Any

from ready_store import CLOCK, Ready
from workload import OWNER, task_updates

from mobync import Mobync

DIFFS = 200


def main() -> None:
    once = _prepared(sys.argv[1])
    for _ in range(int(sys.argv[2])):
        once()


def python_calls(how: str) -> int:
    """How many Python functions one apply calls, once everything is imported and cached."""
    once = _prepared(how)
    once()
    return calls_of(once)


def calls_of(once: Callable[[], object], directory: str = "") -> int:
    """How many Python functions are called, or how many of those in a directory."""
    calls = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(directory)

    sys.setprofile(note)
    try:
        once()
    finally:
        sys.setprofile(None)
    return calls


def _prepared(how: str) -> Callable[[], object]:
    rng = random.Random(9)
    ids = [f"task-{i}" for i in range(DIFFS)]
    window = [
        {**row, "logical_clock": CLOCK + i} for i, row in enumerate(task_updates(rng, ids, DIFFS))
    ]
    pushed = task_updates(rng, ids, DIFFS)
    synced = Mobync(Ready(window))
    if how == "apply":
        return lambda: synced.apply(CLOCK, pushed, OWNER)
    request = {"auth_token": "", "logical_clock": CLOCK, "diffs": pushed}
    body = json.dumps(request).encode()
    return lambda: synced.apply_json(body, OWNER)


if __name__ == "__main__":
    main()
