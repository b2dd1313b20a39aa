"""A device's sync in a process of its own, which says where it is.

    python waiter.py URL hold|pass NAME TIMESTAMP

It says "ready".  When a line comes in, it updates the task "a" of bob from clock 1.  With "hold"
its rule says "holds" and waits for another line; with "pass" it says "begins" before.  In the end
it prints the reply.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sqlalchemy import MetaData, create_engine
from task_list import diff, task_table

from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer


class Holding(SQLAlchemySynchronizer):
    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        print("holds", flush=True)
        return bool(sys.stdin.readline())


def main() -> None:
    url, how, name, timestamp = sys.argv[1:]
    kind = Holding if how == "hold" else SQLAlchemySynchronizer
    engine = create_engine(url)
    tasks = task_table(MetaData())
    mobync = Mobync(kind(engine, {"tasks": tasks}, lock_timeout_s=60))
    mobync.apply(0, [diff("create", id=how)], how)  # the connection is there, and checked
    print("ready", flush=True)
    sys.stdin.readline()
    edit = {**diff("update", id="a", name=name), "utc_timestamp": int(timestamp)}
    if how == "pass":
        print("begins", flush=True)
    print(json.dumps(mobync.apply(1, [edit], "bob")), flush=True)


main()
