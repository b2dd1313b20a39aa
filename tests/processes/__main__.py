"""python -m processes: kill server processes some hundred times, on one database."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from databases import KINDS, open_database

from .kills import OWNERS, kill_again_and_again
from .server import Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m processes", description=__doc__)
    parser.add_argument("--database", choices=KINDS, default="sqlite")
    parser.add_argument("--kills", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database(arguments.database, Path(directory)) as database,
        Server(database.url, Path(directory) / "log") as server,
    ):
        fleet = kill_again_and_again(server, arguments.kills, arguments.seed)
        fleet.check(database.engine)
        acknowledged = sum(
            len(phone.acknowledged) for owner in OWNERS for phone in fleet.phones[owner]
        )
    print(
        f"{arguments.database}: {arguments.kills} kills, {fleet.counts['interrupted']} requests "
        f"interrupted by them and {fleet.counts['200']} answered; all {acknowledged} acknowledged "
        "edits are in the log, the tables say the same, and all devices converge"
    )


if __name__ == "__main__":
    main()
