"""A device that syncs by itself, against a real server over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import http_app
import http_servers
import pytest
from client_transports import Meddling, Scripted, answer, reply
from http_servers import on_uvicorn
from server_process import eventually

from mobync.client import Device, HttpTransport, OfflineError, ServerError, SyncResult, TokenError
from mobync.client import _live as live_module
from mobync.client._live import fields_of
from mobync.client._server import Server
from mobync.client._transport import Answer, HttpEvents
from mobync.http.asgi import SyncApp
from mobync.live import InProcessLive

address, address_of = http_servers.address, http_servers.address_of


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "RECONNECT_S", 0.05)
    monkeypatch.setattr(live_module, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(Server, "wait", staticmethod(lambda seconds: None))


class Served:
    """A server in this process."""

    def __init__(self) -> None:
        self.live = InProcessLive(heartbeat_s=0.2)
        self.endpoint = http_app.make_endpoint(self.live)
        self.url = ""

    def device(self, **options: Any) -> Device:
        return Device(":memory:", self.url, "token-of-anna", **options)


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    with on_uvicorn(SyncApp(server.endpoint)) as (host, port):
        server.url = f"http://{host}:{port}/sync"
        yield server
        server.live.hang_up()
    server.live.close()


def test_two_live_devices_have_the_same_rows_without_being_told(served: Served) -> None:
    with served.device() as phone, served.device() as tablet, phone.live(), tablet.live():
        phone.create("tasks", {"id": "t", "name": "milk"})
        eventually(lambda: tablet.get("tasks", "t"))
        tablet.update("tasks", "t", {"done": True})
        eventually(lambda: phone.get("tasks", "t") == {"id": "t", "name": "milk", "done": True})
        assert served.live.listeners == 2
    eventually(lambda: served.live.listeners == 0)


def test_the_app_is_told_what_each_sync_did(served: Served) -> None:
    told: list[SyncResult] = []
    with served.device() as phone, served.device() as tablet, phone.live(told.append):
        eventually(lambda: told)
        tablet.create("tasks", {"id": "t"})
        tablet.sync()
        eventually(lambda: phone.rows("tasks"))
    assert sum(result.received for result in told) == 1


def test_a_stream_that_ends_is_begun_again_and_nothing_is_missed(served: Served) -> None:
    with served.device() as phone, served.device() as tablet, phone.live():
        for name in ("a", "b", "c"):
            eventually(lambda: served.live.listeners == 1)
            served.live.hang_up()
            served.live = InProcessLive(heartbeat_s=0.2)
            served.endpoint.live = served.live
            served.endpoint.mobync.listen(served.live.announce)
            tablet.create("tasks", {"id": name})
            tablet.sync()
            eventually(lambda name=name: phone.get("tasks", name))


def test_being_offline_does_not_end_it(served: Served) -> None:
    offline = threading.Event()
    offline.set()

    def cut(body: dict[str, Any]) -> None:
        if offline.is_set():
            raise OfflineError("no network")

    with served.device(patience_s=0) as phone, served.device() as tablet:
        phone._server._transport = Meddling(HttpTransport(served.url), before=cut)
        with phone.live() as live:
            phone.create("tasks", {"id": "t"})
            phone.create("tasks", {"id": "u"})
            offline.clear()
            eventually(lambda: not phone.waiting)
            assert live.error is None
        tablet.sync()
        assert tablet.rows("tasks") == phone.rows("tasks")


def test_a_server_that_tells_no_events_is_asked_now_and_then(served: Served) -> None:
    served.endpoint.live = None
    with served.device() as phone, served.device() as tablet, phone.live(poll_s=0.02):
        for name in ("a", "b"):
            tablet.create("tasks", {"id": name})
            tablet.sync()
            eventually(lambda name=name: phone.get("tasks", name))


@pytest.mark.parametrize(
    ("token", "error"), [("nobody", TokenError), (lambda: "nobody", TokenError)]
)
def test_what_waiting_does_not_help_against_ends_it_and_is_told(
    served: Served, token: Any, error: type[Exception]
) -> None:
    with Device(":memory:", served.url, token) as phone:
        live = phone.live()
        eventually(lambda: live.error)
        with pytest.raises(error):
            live.close()


def test_an_answer_that_no_device_expects_ends_it() -> None:
    with Device(":memory:", Scripted([answer(418, message="I am a teapot")]), "t") as phone:
        live = phone.live()
        eventually(lambda: live.error)
        with pytest.raises(ServerError, match="I am a teapot"):
            live.close()


def test_what_the_app_raises_ends_it_and_reaches_the_app() -> None:
    def fail(result: SyncResult) -> None:
        raise ZeroDivisionError("a bug of the app")

    with Device(":memory:", Scripted([reply(0)] * 9), "t") as phone:
        live = phone.live(fail)
        eventually(lambda: live.error)
        with pytest.raises(ZeroDivisionError, match="a bug of the app"):
            live.close()


class Refused:
    """A stream of events that the server refuses, for longer than a thread can wait."""

    answer = Answer(503, b"", {"retry-after": "9" * 400})

    def lines(self) -> Iterator[str]:
        return iter(())

    def close(self) -> None:
        pass


class Ended(Refused):
    """One that ends at once, and asks to be begun again as late."""

    answer = Answer(200, b"")

    def lines(self) -> Iterator[str]:
        return iter((f"retry: {'9' * 5000}",))


@pytest.mark.parametrize("stream", [Refused, Ended])
def test_a_pause_that_no_thread_can_wait_is_cut(
    monkeypatch: pytest.MonkeyPatch, stream: type[Refused]
) -> None:
    pauses: list[float] = []

    class Noting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                return super().wait()
            pauses.append(timeout)
            return super().wait(0.01)

    used = SimpleNamespace(Event=Noting, Lock=threading.Lock, Thread=threading.Thread)
    monkeypatch.setattr(live_module, "threading", used)
    with Device(":memory:", Scripted([reply(0)] * 99), "t") as phone:
        monkeypatch.setattr(phone._server, "listen", lambda *_: stream())
        with phone.live(poll_s=1e9):
            eventually(lambda: max(pauses, default=0) > 10_000)
    assert max(pauses) <= threading.TIMEOUT_MAX


@pytest.mark.parametrize("moment", range(4))
def test_it_can_be_closed_at_any_moment(served: Served, moment: int) -> None:
    moments: list[Callable[[], object]] = [
        lambda: None,
        lambda: eventually(lambda: served.live.listeners),
        lambda: phone.create("tasks", {"id": "t"}),
        served.live.hang_up,
    ]
    with served.device() as phone:
        live = phone.live()
        moments[moment]()
        live.close()
        assert not [thread for thread in live._threads if thread.is_alive()]
        phone.create("tasks", {"id": "later"})
        assert phone.waiting >= 1


STREAM = """retry: 2731

id: 8
event: clock
data: 8

:

event: other
data: 9

data: 10

retry: soon
event:clock
data:11

"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [1, 3, 4096])
def test_a_stream_is_read_however_it_is_cut(newline: str, size: int) -> None:
    text = newline.join(STREAM.split("\n")).encode()
    response = Pieces([text[i : i + size] for i in range(0, len(text), size)])
    events = HttpEvents("http://x", response)  # type: ignore[arg-type]
    assert list(fields_of(events.lines())) == [("retry", "2731"), ("data", "8"), ("data", "11")]


class Pieces:
    status = 200

    def __init__(self, pieces: list[bytes]) -> None:
        self.headers: dict[str, str] = {}
        self.pieces = pieces

    def read1(self, amount: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        assert not self.pieces


def test_an_address_where_nobody_listens_is_named(tmp_path: Path) -> None:
    with (
        Device(tmp_path / "a.db", "http://127.0.0.1:1/sync", patience_s=0) as phone,
        pytest.raises(OfflineError, match=r"no answer from http://127.0.0.1:1/sync"),
    ):
        phone.sync()


def test_a_device_hears_from_every_adapter_at_once(address: tuple[str, int]) -> None:
    """Also where the server sends no chunks, and a piece of a stream has no end that it says."""
    host, port = address
    url, owner = f"http://{host}:{port}/sync", "token-of-live"
    with Device(":memory:", url, owner) as phone, Device(":memory:", url, owner) as tablet:
        told: list[SyncResult] = []
        with phone.live(told.append, poll_s=1_000):
            eventually(lambda: told)
            for _ in range(3):
                tablet.create("tasks", {})
                tablet.sync()
                eventually(lambda: len(phone.rows("tasks")) == len(tablet.rows("tasks")))
