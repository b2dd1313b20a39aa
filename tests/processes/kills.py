"""Kill server processes in the middle of syncs, again and again."""

from __future__ import annotations

import random
import time

from .fleet import Fleet
from .server import Server

OWNERS = ["anna", "ben"]
DEVICES = 8
WHOLE_SERVER_EVERY = 20  # kills
MOST_WAIT_S = 0.02  # about as long as a sync takes


def kill_again_and_again(server: Server, kills: int, seed: int = 1) -> Fleet:
    """Let devices sync while server processes are killed; then settle.

    Most kills take one worker, each twentieth the whole server, which is started again.

    Returns:
        The devices, to be checked against the database.
    """
    rng = random.Random(seed)
    fleet = Fleet(server.port, OWNERS, DEVICES, seed)
    with fleet.living():
        for number in range(1, kills + 1):
            fleet.await_count("200", more=1)
            time.sleep(rng.uniform(0, MOST_WAIT_S))
            if number % WHOLE_SERVER_EVERY == 0:
                server.kill()
                server.start()
            else:
                server.kill_a_worker(rng)
    fleet.settle()
    return fleet
