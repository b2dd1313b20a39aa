"""mobync, to which each request of a named device with diffs goes in parts."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from contextlib import suppress
from typing import Any

from mobync import PartsMissingError, UnknownDeviceError

from .named_phones import Reply, Request
from .named_servers import Server

MOST_LATE = 20


class InParts(Server):
    """Cuts requests at random: parts come in any order, twice, or not at all until they are missed.

    Between them come late ones of earlier requests, of the phone, of copies of it and of others.
    A phone may have begun to send its request in other parts before.

    Args:
        seed: what decides.

    Attributes:
        counts: what happened.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._late: list[Request] = []
        self._names = itertools.count()

    def __deepcopy__(self, memo: Any) -> Server:
        copied = super().__deepcopy__(memo)
        assert isinstance(copied, InParts)
        copied.counts, copied._names = self.counts, self._names
        copied._chance, copied._late = self._chance, self._late
        return copied

    def sync(self, request: Request) -> Reply:
        if not request.get("device") or not request["diffs"]:
            return super().sync(request)
        if self._chance.random() < 0.2:  # it was killed, and cuts otherwise now
            self._send_some(self._cut(request)[:-1])
        *first, last = self._cut(request)
        self._send_some(first)
        while True:
            try:
                reply = super().sync(last)
            except PartsMissingError as error:
                self.counts["parts missing"] += 1
                for number in error.missing:
                    super().sync(first[number - 1])
                self._deliver_late()
                continue
            assert reply.pop("part") == len(first) + 1
            return reply

    def _cut(self, request: Request) -> list[Request]:
        diffs = request["diffs"]
        count = self._chance.randint(1, 4)
        ends = sorted(self._chance.choices(range(len(diffs) + 1), k=count - 1))
        pieces = [diffs[i:j] for i, j in itertools.pairwise([0, *ends, len(diffs)])]
        upload = f"cut {next(self._names)}"
        return [
            {**request, "diffs": piece, "part": n, "more_diffs": n < count, "upload": upload}
            for n, piece in enumerate(pieces, 1)
        ]

    def _send_some(self, parts: list[Request]) -> None:
        some = [part for part in parts for _ in range(self._chance.choice((0, 1, 1, 1, 2)))]
        self._chance.shuffle(some)
        for part in some:
            assert super().sync(part)["part"] == part["part"]
            self.counts["parts"] += 1
            self._deliver_late()
        self._late = [*self._late, *parts][-MOST_LATE:]

    def _deliver_late(self) -> None:
        if self._late and self._chance.random() < 0.2:
            with suppress(UnknownDeviceError):
                super().sync(self._chance.choice(self._late))
                self.counts["late parts"] += 1
