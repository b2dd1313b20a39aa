"""What a listening device is told, in one process."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from interrupting import interrupted_at
from live_updates.devices import MODES, Device, Log, is_heartbeat, report

from mobync import BusyError, TooManyListenersError
from mobync.live import InProcessLive, Live


@pytest.fixture
def make_live() -> Iterator[Callable[..., Live]]:
    with ExitStack() as stack:

        def make(**options: float) -> Live:
            made = InProcessLive(**{"recheck_s": 3600, **options})
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def live(make_live: Callable[..., Live]) -> Live:
    return make_live()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("last_event_id", [None, "", "4", "-1", "five", "٤", "9" * 5000])
def test_a_device_that_is_not_at_the_clock_is_told_it_at_once(live, mode, last_event_id):
    with Device(live, Log(5), mode, last_event_id=last_event_id) as device:
        assert device.chunk() == b"id: 5\nevent: clock\ndata: 5\n\n"


def test_a_device_without_edits_yet_is_told_the_clock_0(live, mode):
    with Device(live, Log(0), mode) as device:
        assert device.clock() == 0


def test_a_device_at_the_clock_is_told_the_next_one_only(make_live, mode):
    live = make_live(heartbeat_s=0.05)
    with Device(live, Log(5), mode, last_event_id="5") as device:
        assert is_heartbeat(device.chunk())
        live.announce(report("anna", 6))
        assert device.clock_after_heartbeats() == 6


def test_a_device_ahead_of_a_server_that_lost_its_log_is_told_so(live, mode):
    with Device(live, Log(5), mode, last_event_id="9") as device:
        assert device.clock() == 5


def test_a_device_is_told_of_each_sync_of_its_owner_and_of_no_other(live, mode):
    owner_ids = ["anna", "Anna", "anna ", "bob", "ä", "0", "x" * 100_000, "a\ndata: 7\n\n", "🐟"]
    devices = {owner_id: Device(live, Log(), mode, owner_id) for owner_id in owner_ids}
    for device in devices.values():
        device.chunk()
        assert device.clock() == 0
    for clock, owner_id in enumerate(owner_ids, start=1):
        live.announce(report(owner_id, clock))
    assert [device.clock() for device in devices.values()] == list(range(1, len(devices) + 1))
    for device in devices.values():
        device.leave()
    assert live.listeners == 0


def test_a_sync_that_left_the_log_as_it_was_is_not_announced(make_live, mode):
    live = make_live(heartbeat_s=0.05)
    with Device(live, Log(5), mode) as device:
        assert device.clock() == 5
        live.announce(report("anna", 6, accepted=0))
        assert is_heartbeat(device.chunk())


def test_a_device_that_reads_slowly_is_told_the_last_clock_only(live, mode):
    with Device(live, Log(1), mode) as slow, Device(live, Log(1), mode) as other:
        assert (slow.clock(), other.clock()) == (1, 1)
        for clock in range(2, 1000):
            live.announce(report("anna", clock))
        assert other.clock_after_heartbeats() == 999
        assert slow.clock() == 999
        live.announce(report("anna", 1000))
        assert slow.clock() == 1000


def test_announcements_that_overtake_each_other_do_not_turn_the_clock_back(make_live, mode):
    live = make_live(heartbeat_s=0.05)
    with Device(live, Log(1), mode) as device:
        assert device.clock() == 1
        live.announce(report("anna", 6))
        assert device.clock_after_heartbeats() == 6
        for late in (5, 6):
            live.announce(report("anna", late))
            assert is_heartbeat(device.chunk())
        for clock in (9, 8):
            live.announce(report("anna", clock))
        assert device.clock_after_heartbeats() == 9


def test_a_sync_between_the_subscription_and_the_read_of_the_clock_is_not_lost(live, mode):
    def read_while_another_syncs() -> int:
        live.announce(report("anna", 6))
        return 5

    with Device(live, read_while_another_syncs, mode) as device:
        assert device.clock() == 5
        assert device.clock() == 6


def test_a_quiet_device_gets_heartbeats(make_live, mode):
    live = make_live(heartbeat_s=0.05)
    log = Log(5)
    with Device(live, log, mode) as device:
        assert device.clock() == 5
        assert [device.chunk() for _ in range(3)] == [b":\n\n"] * 3
    assert log.reads == 1


def test_a_change_that_nobody_announced_is_told_when_the_clock_is_read_again(make_live, mode):
    live = make_live(recheck_s=0.05)
    log = Log(5)
    with Device(live, log, mode) as device:
        assert device.clock() == 5
        log.clock = 8
        assert device.clock() == 8
        log.clock = 2  # the database was restored from a backup
        assert device.clock() == 2
        live.announce(report("anna", 3))
        assert device.clock() == 3


def test_a_clock_that_is_read_first_is_not_read_again(make_live, mode):
    live = make_live(heartbeat_s=0.05)
    log = Log(5)
    with Device(live, log, mode, read_first=True) as device:
        log.clock = 7  # not announced: nobody is to hear of it before the next recheck
        assert device.clock() == 5
        assert is_heartbeat(device.chunk())
        live.announce(report("anna", 8))
        assert device.clock_after_heartbeats() == 8
    assert log.reads == 1


def test_a_clock_that_is_read_first_is_read_anew_in_time(make_live, mode):
    live = make_live(recheck_s=0.05)
    log = Log(5)
    with Device(live, log, mode, read_first=True, last_event_id="5") as device:
        log.clock = 6
        assert device.clock() == 6


@pytest.mark.parametrize("when", ["while it is read", "before the stream begins"])
def test_a_sync_that_is_announced_about_the_first_read_is_told(live, mode, when):
    def clock_now() -> int:
        if when == "while it is read":
            live.announce(report("anna", 6))
        return 5

    device = Device(live, clock_now, mode, read_first=True)
    live.announce(report("anna", 6))
    with device:
        assert device.clock() == 6


def test_an_error_of_the_first_read_is_raised_at_once_and_gives_up_the_place(live, mode):
    class DatabaseIsDown(Exception):
        pass

    def fails() -> int:
        raise DatabaseIsDown

    with pytest.raises(DatabaseIsDown):
        Device(live, fails, mode, read_first=True)
    assert live.listeners == 0


@pytest.mark.parametrize("read_first", [False, True])
def test_a_stream_survives_a_database_that_is_down_for_a_while(make_live, mode, read_first, caplog):
    live = make_live(heartbeat_s=0.02, recheck_s=0.05)
    log = Log(5)
    with Device(live, log, mode, read_first=read_first) as device:
        assert device.clock() == 5
        with caplog.at_level(logging.INFO, "mobync.live"):
            log.error = OSError("the database\nis down")
            reads = log.reads
            device.heartbeats_until(lambda: log.reads >= reads + 3)
            live.announce(report("anna", 6))  # of another process, whose database is there
            assert device.clock_after_heartbeats() == 6
            log.clock, log.error = 4, None  # what was restored is an older backup
            assert device.clock_after_heartbeats() == 4
    assert [record.getMessage() for record in caplog.records] == [
        "a clock cannot be read, trying again: OSError: the database is down",
        "clocks can be read again",
    ]


def test_a_doubt_is_not_forgotten_when_the_clock_cannot_be_read(make_live, mode):
    live = make_live(heartbeat_s=0.05)  # the next recheck is an hour away
    log = Log(5)
    with Device(live, log, mode) as device:
        assert device.clock() == 5
        log.clock, log.error = 6, OSError("the database is down")
        live._hub.doubt()  # as when the connection to a broker was made again
        device.heartbeats_until(lambda: log.reads >= 2)
        log.error = None
        assert device.clock_after_heartbeats() == 6


def test_an_error_of_the_app_reaches_who_reads_the_stream(live, mode):
    class DatabaseIsDown(Exception):
        pass

    def fails() -> int:
        raise DatabaseIsDown

    with Device(live, fails, mode) as device:
        with pytest.raises(DatabaseIsDown):
            device.chunk()
        assert live.listeners == 0


def test_a_clock_that_was_read_before_the_subscription_is_refused(live):
    with pytest.raises(TypeError, match="clock_now must be a function"):
        live.events("anna", 5)


async def waits() -> int:
    return 5


def waits_in_secret() -> object:
    return waits()


@pytest.mark.parametrize("listen", ["events", "blocking_events"])
def test_a_clock_now_that_must_be_awaited_is_refused(live, listen):
    with pytest.raises(TypeError, match="clock_now must be a plain function"):
        getattr(live, listen)("anna", waits)
    with pytest.raises(TypeError, match="clock_now must be a plain function"):
        getattr(live, listen)("anna", waits_in_secret, read_first=True)
    assert live.listeners == 0


@pytest.mark.parametrize("clock", [None, "5", 5.0, True, -1])
@pytest.mark.parametrize("read_first", [False, True])
def test_what_is_no_clock_is_named(live, mode, clock, read_first):
    with (
        pytest.raises(TypeError, match="clock_now must return an int of 0 or more"),
        Device(live, lambda: clock, mode, read_first=read_first) as device,
    ):
        device.chunk()
    assert live.listeners == 0


def test_a_clock_that_must_be_awaited_ends_the_stream_that_asked_first(live, mode):
    with Device(live, waits_in_secret, mode) as device:
        with pytest.raises(TypeError, match="clock_now must be a plain function"):
            device.chunk()
        assert live.listeners == 0


def test_more_listeners_than_allowed_are_refused_until_one_leaves(make_live, mode):
    live = make_live(max_listeners=2)
    with Device(live, Log(), mode), Device(live, Log(), mode, "bob") as leaving:
        with pytest.raises(BusyError, match="2 devices are listening"):
            Device(live, Log(), mode)
        leaving.leave()
        with Device(live, Log(), mode) as device:
            assert device.clock() == 0


def test_an_owner_has_so_many_listeners_and_the_others_go_on(make_live, mode):
    live = make_live(max_listeners_per_owner=2)
    with Device(live, Log(), mode), Device(live, Log(), mode) as leaving:
        with pytest.raises(TooManyListenersError, match="2 devices of this owner"):
            Device(live, Log(), mode)
        with Device(live, Log(), mode, "bob") as device:
            assert device.clock() == 0
        leaving.leave()
        with Device(live, Log(), mode) as device:
            assert device.clock() == 0


def test_unless_told_otherwise_an_owner_has_a_hundred_listeners(live):
    streams = [live.blocking_events("anna", Log()) for _ in range(100)]
    with pytest.raises(TooManyListenersError):
        live.blocking_events("anna", Log())
    del streams


def test_unless_told_otherwise_listeners_leave_half_of_the_open_files(live):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, before[1]))
    try:
        streams = [live.blocking_events(f"owner {number}", Log()) for number in range(8)]
        with pytest.raises(BusyError, match="8 devices are listening"):
            live.blocking_events("anna", Log())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(streams) == 8


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_anywhere_while_a_device_joins_and_leaves_keeps_no_listener(live):
    def join() -> None:
        live.blocking_events("anna", Log()).close()

    place = 1
    while interrupted_at(place, join):
        assert live.listeners == 0, f"after an interruption at bytecode {place}"
        place += 1
    assert place > 50


def test_a_stream_that_was_never_begun_or_is_dropped_leaves(live):
    never_begun = live.blocking_events("anna", Log())
    dropped = live.blocking_events("anna", Log())
    next(dropped)
    assert live.listeners == 2
    del never_begun, dropped
    gc.collect()
    assert live.listeners == 0


def test_hanging_up_ends_the_streams_and_those_to_come(live, mode):
    with Device(live, Log(5), mode) as waiting, Device(live, Log(5), mode) as slow:
        assert waiting.clock() == 5
        hanging_up = threading.Timer(0.05, live.hang_up)
        hanging_up.start()
        assert waiting.has_ended()
        hanging_up.join()  # it tells one after the other
        assert slow.has_ended()
        with Device(live, Log(5), mode) as late:
            assert late.has_ended()


def test_an_event_loop_that_is_gone_harms_nobody(live):
    async def read_one(stream) -> bytes:
        return await anext(stream)

    loop = asyncio.new_event_loop()
    dead = live.events("anna", Log())
    loop.run_until_complete(read_one(dead))
    loop.close()
    with Device(live, Log()) as device:
        assert device.clock() == 0
        live.announce(report("anna", 1))
        assert device.clock() == 1
    with pytest.raises(StopIteration):
        dead.aclose().send(None)


def test_a_cancelled_reader_leaves(live):
    async def listen_and_be_cancelled() -> None:
        stream = live.events("anna", Log(5), "5")
        await anext(stream)
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(listen_and_be_cancelled())
    assert live.listeners == 0


def test_syncs_in_many_threads_leave_every_device_at_the_highest_clock(live):
    clocks = range(1, 4001)
    with Device(live, Log(), "asyncio") as phone, Device(live, Log(), "threads") as tablet:
        threads = [
            threading.Thread(
                target=lambda first: [live.announce(report("anna", n)) for n in clocks[first::4]],
                args=(first,),
            )
            for first in range(4)
        ]
        for thread in threads:
            thread.start()
        for device in (phone, tablet):
            told = [device.clock()]
            while told[-1] != clocks[-1]:
                told.append(device.clock())
            assert told == sorted(set(told))
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("heartbeat_s", 0),
        ("heartbeat_s", float("nan")),
        ("recheck_s", -1),
        ("recheck_s", float("inf")),
        ("max_listeners", 0),
        ("max_listeners_per_owner", 0),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=option):
        InProcessLive(**{option: value})


@pytest.mark.parametrize("option", ["max_listeners", "max_listeners_per_owner"])
def test_a_number_of_listeners_is_an_int(option):
    for value in (True, 2.0, "2"):
        with pytest.raises(TypeError, match=option):
            InProcessLive(**{option: value})
