"""Applies a million times and looks at what the process holds.

    python rss.py [APPLIES]

One owner with a small window after another, so that log and tables, which are meant to grow, stay
small: after every few hundred applies the owner's rows and log are forgotten.  Dicts and JSON, new
diffs and retries, refused diffs and errors of the app take turns.  After a warm-up the resident set
may not grow by more than BOUND_KIB.

Run alone, in a process of its own.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

from mobync import Mobync, MobyncError
from mobync.memory import MemorySynchronizer

APPLIES_OF_AN_OWNER = 200
WARM_UP = 0.2  # of all applies
BOUND_KIB = 512


class Refused(Exception):
    """What the store raises now and then."""


class ForgettingStore(MemorySynchronizer):
    """A memory store that can be emptied, and whose rules fail now and then."""

    def forget(self) -> None:
        self._database.tables.clear()

    def validate_update(self, owner_id: str, **kwargs: Any) -> bool:
        if kwargs["utc_timestamp"] == 13:
            raise Refused
        return True

    def validate_delete(self, owner_id: str, **kwargs: Any) -> bool:
        return bool(kwargs["utc_timestamp"] != 17)


def resident_kib() -> int:
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def diff(number: int, kind: str, at: int, **row: Any) -> dict[str, Any]:
    return {
        "id": f"d{number}",
        "owner": "whoever",
        "logical_clock": 0,
        "utc_timestamp": at,
        "type": kind,
        "model": "tasks",
        "json_data": json.dumps({"id": f"x{number % 10**9 // 4}", **row}),
    }


def request_of(number: int) -> list[dict[str, Any]]:
    """What a device sends: mostly an edit or two, sometimes something that is refused."""
    kind = ("create", "update", "update", "delete")[number % 4]
    diffs = [diff(number, kind, number % 19, name=f"n\u00e9{number}", done=number % 2 == 0)]
    if number % 3 == 0:
        diffs.append(diff(number + 10**9, "update", 20, note="escaped \n \U0001f600"))
    if number % 23 == 0:
        diffs[0]["json_data"] = '{"id": "x", "bad": 01}'
    return diffs


def one_apply(server: Mobync, number: int, owner: str, clock: int) -> int | None:
    """One sync and now and then its retry; the device's clock afterwards, None if it failed."""
    request = request_of(number)
    try:
        if number % 2:
            text = json.dumps({"logical_clock": clock, "diffs": request})
            reply = json.loads(server.apply_json(text, owner))
        else:
            reply = server.apply(clock, request, owner)
            if number % 5 == 0:
                server.apply(clock, request, owner)
    except (MobyncError, Refused):
        return None
    return max(0, int(reply["logical_clock"]) - 3)  # so that the window is never empty


def main() -> int:
    applies = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    store = ForgettingStore()
    server = Mobync(store)
    warm_up = int(applies * WARM_UP)
    before = clock = failed = 0
    begun = time.monotonic()
    for number in range(applies):
        if number % APPLIES_OF_AN_OWNER == 0:
            store.forget()
            clock = 0
            if number >= warm_up and before == 0:
                before = resident_kib()
        after = one_apply(server, number, f"owner{number // APPLIES_OF_AN_OWNER}", clock)
        failed += after is None
        clock = clock if after is None else after
    store.forget()
    grown = resident_kib() - before
    seconds = time.monotonic() - begun
    print(f"{applies} applies, {failed} refused, in {seconds:.0f} s")
    print(f"{before} KiB resident after {warm_up}, {grown:+d} KiB in the end")
    both_ways = 0 < failed < applies // 2
    return 0 if grown <= BOUND_KIB and both_ways else 1


if __name__ == "__main__":
    sys.exit(main())
