"""Places of an owner: who waits for whom, and that no interruption anywhere keeps one."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from interrupting import interrupted_at

from mobync import BusyError
from mobync._sync.owner_locks import OwnerLocks

PATIENCE_S = 600  # a loaded machine may let a process wait for very long


@contextmanager
def held_elsewhere(locks: OwnerLocks, release: threading.Event | None = None) -> Iterator[None]:
    """Another thread holds the key: to the end of the block, or until ``release`` is set."""
    holding, over = threading.Event(), release or threading.Event()

    def hold() -> None:
        with locks.hold("anna", PATIENCE_S):
            holding.set()
            assert over.wait(PATIENCE_S)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(hold)
        assert holding.wait(PATIENCE_S)
        try:
            yield
        finally:
            over.set()
            running.result(PATIENCE_S)


def is_free(locks: OwnerLocks, places: int) -> bool:
    """Whether nobody holds or waits, and each place can be held."""

    def hold_all(left: int) -> bool:
        if left == 0:
            return True
        with locks.hold("anna", 0):
            return hold_all(left - 1)

    with ThreadPoolExecutor(1) as other_thread:
        return len(locks) == 0 and other_thread.submit(hold_all, places).result(PATIENCE_S)


@pytest.mark.parametrize("places", [1, 3])
def test_an_interruption_anywhere_in_a_hold_keeps_no_place(places: int) -> None:
    locks = OwnerLocks(places)

    def sync() -> None:
        with locks.hold("anna", 0):
            pass

    place = 1
    while interrupted_at(place, sync):
        assert is_free(locks, places), f"after an interruption at bytecode {place}"
        place += 1
    assert place > 50


def test_an_interruption_anywhere_in_a_wait_that_is_in_vain_keeps_no_place() -> None:
    locks = OwnerLocks()

    def sync() -> None:
        with suppress(BusyError), locks.hold("anna", 0):
            raise AssertionError("two hold it")

    place = 1
    with held_elsewhere(locks):
        while interrupted_at(place, sync):
            assert len(locks) == 1, f"after an interruption at bytecode {place}"
            place += 1
    assert place > 50
    assert is_free(locks, 1)


def test_an_interruption_anywhere_while_another_lets_go_keeps_no_place() -> None:
    locks = OwnerLocks()
    hit, place = True, 1
    while hit:
        release = threading.Event()

        def sync(release: threading.Event = release) -> None:
            with locks.hold("anna", PATIENCE_S):
                assert release.is_set()

        with held_elsewhere(locks, release):
            threading.Timer(0.001, release.set).start()
            hit = interrupted_at(place, sync)
        assert is_free(locks, 1), f"after an interruption at bytecode {place}"
        place += 1
    assert place > 50


def test_those_who_wait_are_served_in_the_order_in_which_they_came() -> None:
    locks, served = OwnerLocks(), []

    def sync(name: int) -> None:
        with locks.hold("anna", PATIENCE_S):
            served.append(name)

    with ThreadPoolExecutor(10) as pool, held_elsewhere(locks):
        for name in range(10):
            pool.submit(sync, name)
            while len(locks) < name + 2:
                pass
    assert served == list(range(10))
    assert is_free(locks, 1)


@pytest.mark.parametrize("places", [1, 3])
def test_never_more_hold_than_there_are_places(places: int) -> None:
    locks, inside, most = OwnerLocks(places), [], []

    def sync(_: int) -> None:
        with locks.hold("anna", PATIENCE_S):
            inside.append(None)
            most.append(len(inside))
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync, range(2000)))
    assert max(most) <= places
    assert is_free(locks, places)


def test_who_gives_up_waiting_is_no_longer_waited_for() -> None:
    locks = OwnerLocks()
    with ThreadPoolExecutor(2) as pool:
        with held_elsewhere(locks):
            gave_up = pool.submit(locks.hold("anna", 0).__enter__)
            assert isinstance(gave_up.exception(PATIENCE_S), BusyError)
            waits = pool.submit(locks.hold("anna", PATIENCE_S).__enter__)
        waits.result(PATIENCE_S)


def test_a_hold_inside_a_hold_of_the_same_thread_is_an_error_at_once() -> None:
    locks = OwnerLocks()
    with locks.hold("anna", 0):
        with pytest.raises(RuntimeError, match="further up this call stack"):
            locks.hold("anna", PATIENCE_S).__enter__()
        with locks.hold("bob", 0):
            assert len(locks) == 2
    assert is_free(locks, 1)


def test_a_forked_child_finds_all_places_free() -> None:
    locks = OwnerLocks()
    with locks.hold("anna", 0):
        child = os.fork()
        if child == 0:
            with suppress(BaseException), locks.hold("anna", 0):
                os._exit(0)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_locks_live_no_longer_than_whoever_has_them() -> None:
    locks = OwnerLocks()
    with locks.hold("anna", 0):
        pass
    gone = weakref.ref(locks)
    del locks
    gc.collect()
    assert gone() is None


def test_an_error_that_somebody_keeps_keeps_no_place() -> None:
    locks = OwnerLocks()
    kept: list[BaseException] = []
    for _ in range(2):
        with locks.hold("anna", 0):
            try:
                with locks.hold("anna", 0):
                    raise AssertionError("it is held")
            except RuntimeError as error:
                kept.append(error)
    with held_elsewhere(locks):
        try:
            with locks.hold("anna", 0):
                raise AssertionError("it is held")
        except BusyError as error:
            kept.append(error)
    assert len(kept) == 3
    assert is_free(locks, 1)


def test_what_waits_until_the_caller_is_free() -> None:
    locks = OwnerLocks()
    done: list[str] = []

    def work(name: str) -> None:
        with locks.hold("anna", 0):  # free by then
            done.append(name)

    locks.when_free(lambda: work("now"))
    with locks.hold("bob", 0):
        with suppress(KeyError), locks.hold("anna", 0):
            locks.when_free(lambda: work("late"))
            locks.when_free(lambda: work("later"))
            raise KeyError
        assert done == ["now"]
    assert done == ["now", "late", "later"]
    with held_elsewhere(locks):
        locks.when_free(lambda: done.append("others do not count"))
    assert done[3:] == ["others do not count"]
    assert len(locks) == 0


def test_what_waits_is_done_though_another_thread_closes_what_holds() -> None:
    locks = OwnerLocks()
    done: list[str] = []

    def holding() -> Iterator[None]:
        with locks.hold("anna", 0):
            yield

    held = holding()
    next(held)
    locks.when_free(lambda: done.append("late"))
    assert done == []

    def close() -> None:
        with locks.hold("bob", 0):
            held.close()
            assert done == []  # as it may need bob
        assert done == ["late"]

    with ThreadPoolExecutor(1) as other:
        other.submit(close).result(PATIENCE_S)
    assert is_free(locks, 1)


def test_what_waits_is_done_though_something_before_it_is_interrupted() -> None:
    locks = OwnerLocks()
    done: list[str] = []

    def interrupted() -> None:
        done.append("interrupted")
        with locks.hold("anna", 0):
            locks.when_free(lambda: done.append("its own"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), locks.hold("anna", 0):
        locks.when_free(interrupted)
        locks.when_free(lambda: done.append("next"))
    assert done == ["interrupted", "its own", "next"]
    assert is_free(locks, 1)
