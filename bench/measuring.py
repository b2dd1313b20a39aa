"""Measuring side by side: times that are interleaved, peaks of memory in a process of their own."""

from __future__ import annotations

import gc
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Contender:
    """One of several ways to do the same work.

    Attributes:
        run: does the work once; a float that it returns is the time by its own clock, in seconds.
        before, after: what must happen around it and is not timed.
    """

    run: Callable[[], Any]
    before: Callable[[], Any] = lambda: None
    after: Callable[[], Any] = lambda: None


@dataclass
class Times:
    """How long a contender took, each time.

    Attributes:
        seconds: by the clock of the race.
        elapsed: seconds that passed meanwhile.
    """

    seconds: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        if len(self.seconds) < 2:
            return math.nan
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


# In a round each contender has about this long, so that a slow one does not leave the caches of
# the processor cold for every single run of a fast one.
TURN_S = 0.02


Clock = Callable[[], float]


def race(
    contenders: dict[str, Contender],
    budget_s: float,
    *,
    clock: Clock = time.process_time,
    least: int = 3,
) -> dict[str, Times]:
    """Time contenders in turns, each round in another order.

    Args:
        contenders: by name.
        budget_s: seconds after which no new round begins.
        clock: processor time, which a busy machine hardly changes: by default of this process.
        least: rounds in any case.
    """
    times = {name: Times() for name in contenders}
    turns = dict.fromkeys(contenders, 1)
    for name, contender in contenders.items():  # warms up, and is not counted
        seconds, _ = _time_once(contender, clock)
        turns[name] = max(1, min(50, round(TURN_S / max(seconds, 1e-6))))
    names = list(contenders)
    begin, rounds = time.perf_counter(), 0
    gc.collect()
    gc.freeze()  # what is there already is nobody's garbage to look through
    while rounds < least or time.perf_counter() - begin < budget_s:
        names = names[1:] + names[:1]
        for name in names:
            gc.collect()
            taken = [_time_once(contenders[name], clock) for _ in range(turns[name])]
            taken = taken[1:] or taken  # the first one after a change is cold
            times[name].seconds += [seconds for seconds, _ in taken]
            times[name].elapsed += [elapsed for _, elapsed in taken]
        rounds += 1
    gc.unfreeze()
    return times


def _time_once(contender: Contender, clock: Clock) -> tuple[float, float]:
    """Seconds by the clock, and seconds that passed."""
    contender.before()
    begin, begin_clock = time.perf_counter(), clock()
    by_own_clock = contender.run()
    seconds, elapsed = clock() - begin_clock, time.perf_counter() - begin
    contender.after()
    return (by_own_clock if isinstance(by_own_clock, float) else seconds), elapsed


# ---- memory -------------------------------------------------------------------------------------


class PeakMemory:
    """The most memory that this process held at once, beyond what it held in the beginning.

    Counts what the kernel counts, so that memory of C and Rust is in it.  ``with PeakMemory() as
    peak: ...`` and afterwards ``peak.bytes``.
    """

    bytes = 0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
        self._before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        self.bytes = max(0, _status_bytes("VmHWM") - self._before)


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def in_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns in a fresh process, whose memory nobody else has used."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)
