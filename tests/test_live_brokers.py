"""Live updates through PostgreSQL and Redis, and what happens when those are gone for a while."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from live_updates import brokers
from live_updates.devices import (
    MODES,
    PATIENCE_S,
    Device,
    Log,
    eventually,
    is_heartbeat,
    report,
)

from mobync.live import PostgreSQLLive, RedisLive, _brokered, _postgresql, _redis
from mobync.live._bell import Bell
from mobync.live._live import _topic
from mobync.types import MAX_LOGICAL_CLOCK

broker = brokers.broker

TESTS = Path(__file__).resolve().parent


@pytest.mark.parametrize("mode", MODES)
def test_a_sync_is_told_to_devices_that_listen_to_another_process(broker, mode):
    here, there = broker.live(), broker.live()
    with Device(here, Log(3), mode) as phone, Device(there, Log(3), mode) as tablet:
        assert (phone.clock(), tablet.clock()) == (3, 3)
        broker.await_subscribers(2)
        here.announce(report("anna", 4))
        assert tablet.clock() == 4
        assert phone.clock() == 4
        there.announce(report("bob", 90))
        there.announce(report("anna", 5))
        assert phone.clock() == 5
        assert tablet.clock() == 5


def test_announcements_of_two_processes_that_cross_are_both_heard(broker):
    here, there = broker.live(), broker.live()
    with (
        Device(here, Log(), owner_id="anna") as phone,
        Device(there, Log(), owner_id="bob") as tablet,
    ):
        assert (phone.clock(), tablet.clock()) == (0, 0)
        broker.await_subscribers(2)
        for clock in range(1, 101):
            here.announce(report("bob", clock))
            there.announce(report("anna", clock))
            assert (phone.clock(), tablet.clock()) == (clock, clock)


def test_owner_ids_may_be_any_text(broker):
    here, there = broker.live(), broker.live()
    owner_ids = ["x" * 20_000, "ä🐟", "a b", "'; --", "line\nline", "*"]
    devices = [Device(there, Log(), owner_id=owner_id) for owner_id in owner_ids]
    for device in devices:
        device.chunk()
        assert device.clock() == 0
    broker.await_subscribers(1)
    for clock, owner_id in enumerate(owner_ids, start=1):
        here.announce(report(owner_id, clock))
    assert [device.clock() for device in devices] == list(range(1, len(devices) + 1))
    for device in devices:
        device.leave()


def test_what_was_missed_while_the_broker_restarted_is_told_afterwards(broker):
    here, there = broker.live(), broker.live()
    log = Log(3)
    with Device(here, log) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        there.announce(report("anna", 4))
        assert device.clock() == 4
        log.clock = 5  # by a process whose announcement went nowhere
        broker.end_connections()
        assert device.clock() == 5
        there.announce(report("anna", 6))
        assert device.clock() == 6


def test_a_connection_is_made_again_at_once_though_its_thread_ends_late(broker, monkeypatch):
    ring, rung = Bell.ring, threading.Event()

    def ring_and_linger(bell):
        ring(bell)
        if threading.current_thread().name == "mobync live: from Redis":
            rung.set()
            time.sleep(0.5)

    monkeypatch.setattr(Bell, "ring", ring_and_linger)
    network = broker.network()
    here, there = broker.live(network), broker.live()
    log = Log(3)
    with Device(here, log) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        there.announce(report("anna", 4))
        assert device.clock() == 4
        log.clock = 5
        network.cut()
        if broker.kind == "redis":
            assert rung.wait(PATIENCE_S)
        network.mend()
        assert device.clock() == 5, "no heartbeat came before"


def test_a_broker_that_is_not_there_yet_gets_the_announcements_when_it_is(broker, caplog):
    network = broker.network(up=False)
    here, there = broker.live(network), broker.live()
    with Device(there, Log(3)) as device, Device(here, Log(3)) as neighbour:
        assert (device.clock(), neighbour.clock()) == (3, 3)
        broker.await_subscribers(1)
        with caplog.at_level(logging.INFO, "mobync.live"):
            here.announce(report("anna", 4))
            assert neighbour.clock() == 4  # of the same process: needs no broker
            eventually(lambda: "connection lost" in caplog.text)
            here.announce(report("anna", 5))
            network.mend()
            assert device.clock() == 5
            eventually(lambda: "connected again" in caplog.text)
    assert caplog.text.count("connection lost") == 1


def test_what_is_announced_while_the_broker_is_gone_is_sent_when_it_is_back(broker):
    network = broker.network()
    here, there = broker.live(network), broker.live()
    with Device(there, Log(3)) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        here.announce(report("anna", 4))
        assert device.clock() == 4
        network.cut()
        here.announce(report("anna", 5))
        here.announce(report("anna", 6))
        network.mend()
        assert device.clock() == 6


def test_a_broker_that_has_fallen_silent_is_left_for_a_new_connection(broker, monkeypatch):
    for module in (_brokered, _postgresql, _redis):
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 1.0)
    network = broker.network()
    here, there = broker.live(network, heartbeat_s=0.2), broker.live()
    log = Log(3)
    with Device(here, log) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        there.announce(report("anna", 4))
        assert device.clock_after_heartbeats() == 4
        network.swallow()
        log.clock = 5
        there.announce(report("anna", 5))
        assert device.clock_after_heartbeats() == 5
        there.announce(report("anna", 6))
        assert device.clock_after_heartbeats() == 6


def test_a_process_with_too_much_to_say_has_everybody_look(broker, monkeypatch):
    monkeypatch.setattr(_brokered, "MAX_WAITING", 3)
    network = broker.network(up=False)
    here, there = broker.live(network), broker.live()
    log = Log(3)
    with Device(there, log) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        broker.live().announce(report("anna", 4))
        assert device.clock() == 4
        log.clock = 5
        for owner_id in ("anna", "bob", "carl", "dora", "emil"):
            here.announce(report(owner_id, 5))
        network.mend()
        assert device.clock() == 5
        here.announce(report("anna", 6))
        assert device.clock() == 6


def delivered(outbox: _brokered.Outbox) -> list[str]:
    with outbox.delivery() as messages:
        return messages


def test_a_full_outbox_holds_one_message():
    outbox = _brokered.Outbox()
    for number in range(_brokered.MAX_WAITING + 1):
        outbox.put(f"{number:032x}", 1)
    assert delivered(outbox) == ["* 0"]
    assert delivered(outbox) == []


def test_what_comes_while_the_outbox_is_emptied_stays_in_it():
    outbox = _brokered.Outbox()
    outbox.put("a", 4)
    with outbox.delivery() as messages:
        assert messages == ["a 4"]
        assert not outbox.is_empty
        outbox.put("a", 5)
    assert delivered(outbox) == ["a 5"]
    assert outbox.is_empty


def test_what_could_not_be_delivered_stays_in_the_outbox(monkeypatch):
    monkeypatch.setattr(_brokered, "MAX_WAITING", 2)
    outbox = _brokered.Outbox()
    for topic in "abcd":
        outbox.put(topic, 4)
    with pytest.raises(ConnectionError), outbox.delivery() as messages:
        assert messages == ["* 0", "d 4"]
        outbox.put("d", 6)
        raise ConnectionError
    assert delivered(outbox) == ["* 0", "d 6"]


@pytest.mark.parametrize(
    "message",
    ["", "anna 5", "* 1", f"{'a' * 32} -1", f"{'a' * 32} {'9' * 17}", f"{'a' * 32} {2**53}"],
)
def test_a_message_that_is_not_of_mobync_is_passed_over(broker, message, caplog):
    live = broker.live()
    with Device(live, Log(3)) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        broker.say(message)
        broker.live().announce(report("anna", 4))
        assert device.clock() == 4
    assert "not a message of mobync" in caplog.text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("forged", [4, 5, MAX_LOGICAL_CLOCK])
def test_a_forged_announcement_keeps_no_true_one_from_a_device(broker, mode, forged):
    here, there = broker.live(), broker.live()
    log = Log(3)
    with Device(here, log, mode) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        broker.say(f"{_topic('anna')} {forged}")
        assert device.clock() == forged  # who knows whether the database lags
        for clock in (4, 5):
            log.clock = clock
            there.announce(report("anna", clock))
            assert device.clock() == clock


def test_a_read_that_lags_behind_an_announcement_does_not_keep_it_back(broker):
    here, there = broker.live(), broker.live()
    with Device(here, Log(3)) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        here.announce(report("anna", 7))
        assert device.clock() == 7
        there.announce(report("anna", 8))
        assert device.clock() == 8


def test_an_announcement_that_cannot_be_checked_is_told(broker):
    here, there = broker.live(), broker.live()
    log = Log(3)
    with Device(here, log) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        log.error = OSError("the database is down")
        there.announce(report("anna", 4))
        assert device.clock() == 4


def test_only_what_others_announce_is_checked(broker):
    here, there = broker.live(), broker.live()
    log = Log(3)
    with Device(here, log) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        for clock in (4, 5, 6):
            log.clock = clock
            here.announce(report("anna", clock))
            assert device.clock() == clock
        reads = log.reads
        log.clock = 7
        there.announce(report("anna", 7))  # heard after this process's own
        assert device.clock() == 7
        assert log.reads == reads + 1


def test_what_strangers_send_is_logged_once_and_in_short(broker, caplog):
    live = broker.live()
    with Device(live, Log(3)) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        for number in range(20):
            broker.say(f"{number} " + "x" * 7000)
        broker.live().announce(report("anna", 4))
        assert device.clock() == 4
    assert caplog.text.count("not a message of mobync") == 1
    assert len(caplog.text) < 1000


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_a_pooler_that_lets_no_notifications_through_is_named(
    pool_mode, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(_postgresql, "HEARD_WITHIN_S", 0.5)
    with (
        brokers.pgbouncer(tmp_path, pool_mode) as url,
        closing(PostgreSQLLive(url, channel=tmp_path.name, heartbeat_s=0.2)) as live,
        Device(live, Log(3)) as device,
    ):
        assert device.clock() == 3
        if pool_mode == "transaction":
            eventually(lambda: "notifications do not arrive" in caplog.text)
        else:
            eventually(lambda: live._hear_call_until)
            eventually(lambda: live._call is None)
    assert ("--events-url" in caplog.text) == (pool_mode == "transaction")


def test_who_hears_itself_is_not_warned(broker, monkeypatch, caplog):
    monkeypatch.setattr(_postgresql, "HEARD_WITHIN_S", 0.3)
    with Device(broker.live(heartbeat_s=0.1), Log(3)) as device:
        assert device.clock() == 3
        for _ in range(6):
            assert is_heartbeat(device.chunk())
    assert not caplog.text


def test_close_sends_what_was_just_announced(broker):
    with Device(broker.live(), Log(3)) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        leaving = broker.live()
        leaving.announce(report("anna", 4))
        leaving.close()
        assert device.clock() == 4


def test_close_does_not_wait_for_a_broker_that_is_gone(broker, monkeypatch, caplog):
    monkeypatch.setattr(_brokered, "FLUSH_TIMEOUT_S", 0.1)
    before = threading.active_count()
    live = broker.live(broker.network(up=False))
    with Device(live, Log(3)) as device:
        assert device.clock() == 3
        live.announce(report("anna", 4))
        live.close()
        live.close()
        assert device.has_ended()
    live.announce(report("anna", 5))
    assert "some announcements were not sent" in caplog.text
    assert threading.active_count() == before


def run_script(script: str, broker: brokers.Broker) -> str:
    """Run a script that has ``live`` and ``report``; what it printed."""
    names = "from live_updates.brokers import live_on\nfrom live_updates.devices import *\n"
    made = f"live = live_on({broker.kind!r}, {broker.url!r}, {broker.channel!r})\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process", "-c", names + made + script],
        cwd=TESTS,
        env={**os.environ},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
    ).stdout


def test_a_script_that_ends_without_close_has_announced(broker):
    with Device(broker.live(), Log(3)) as device:
        assert device.clock() == 3
        broker.await_subscribers(1)
        run_script("live.announce(report('anna', 4))", broker)
        assert device.clock() == 4


FORKS = """
import os
log = Log(3)
with Device(live, log) as device:
    assert device.clock() == 3
    log.clock = 4
    live.announce(report("anna", 4))
    assert device.clock() == 4
    log.clock = 5  # what the child will announce, perhaps before this process hears anything
    with live._starting:  # as another thread may at that moment
        child = os.fork()
    if child == 0:
        assert live.listeners == 0
        with Device(live, Log(4)) as own:
            assert own.clock() == 4
            live.announce(report("anna", 5))
            assert own.clock() == 5
            live.close()
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert device.clock() == 5
    live.announce(report("anna", 6))
    assert device.clock() == 6
print("done")
live.close()
"""


def test_a_forked_worker_has_its_own_listeners_and_connection(broker):
    assert run_script(FORKS, broker) == "done\n"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PostgreSQLLive("postgresql://h/db?no_such=1"), "connection string of PostgreSQL"),
        (lambda: PostgreSQLLive("secret password"), "connection string of PostgreSQL"),
        (lambda: PostgreSQLLive("postgresql://h/db", channel=""), "channel"),
        (lambda: PostgreSQLLive("postgresql://h/db", channel="ä" * 32), "channel"),
        (lambda: PostgreSQLLive("postgresql://h/db", heartbeat_s=0), "heartbeat_s"),
        (lambda: RedisLive("http://h"), "redis://"),
        (lambda: RedisLive("redis://h", channel=""), "channel"),
        (lambda: RedisLive("redis://h", recheck_s=0), "recheck_s"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make: Callable[[], object], words: str):
    with pytest.raises(ValueError, match=words) as refusal:
        make()
    assert "secret" not in str(refusal.value)
