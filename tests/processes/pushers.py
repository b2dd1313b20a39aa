"""One of several servers that note who pushed, in one table: ``pushers.py URL NUMBER OF COUNT``.

Each writes clocks between those of the others.  It prints what the server would log of that.
"""

from __future__ import annotations

import logging
import sys

from sqlalchemy import create_engine

from mobync import SyncReport
from mobync.server import pushes as module
from mobync.server.pushes import Pushes
from mobync.sqlalchemy import DocumentSynchronizer


def main() -> None:
    url, number, of, count = sys.argv[1], *map(int, sys.argv[2:])
    logging.getLogger("mobync.server").addHandler(logging.StreamHandler(sys.stdout))
    module.AT_ONCE = 4
    engine = create_engine(url)
    pushes = Pushes(engine, DocumentSynchronizer(engine).metadata.tables["diffs_devices"])
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(count):
        for owner in sorted(("anna", "bob"), reverse=bool(number % 2)):
            end = turn * of + number + 1
            pushes.note(SyncReport(owner, end, pushed=1, accepted=1, device="phone"))
        if turn % 3 == 0:
            pushes.write()
    pushes.close()
    engine.dispose()


if __name__ == "__main__":
    main()
