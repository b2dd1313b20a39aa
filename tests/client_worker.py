"""A program that edits and syncs one device's file until it is killed; tests/test_client_kills.py.

    python client_worker.py FILE URL TOKEN NAME BEGIN

For each number from BEGIN on it creates a row, updates the row before and deletes each third, and
syncs.  It says `made NUMBER` once an edit is in the file: what it said must not be lost.
"""

from __future__ import annotations

import itertools
import sys

from mobync.client import Device, OfflineError


def main(path: str, url: str, token: str, name: str, begin: str) -> None:
    with Device(path, url, token, page_size=2, patience_s=5) as device:
        for number in itertools.count(int(begin)):
            row_id = f"{name}-{number}"
            if device.get("tasks", row_id) is None:
                device.create("tasks", {"id": row_id, "name": name, "count": 0})
            device.update("tasks", row_id, {"count": number})
            print(f"made {number}", flush=True)
            if number % 2:
                try:
                    device.sync()
                except OfflineError as error:
                    print(f"offline {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
