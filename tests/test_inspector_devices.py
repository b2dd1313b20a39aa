"""An owner's devices in the inspector's API: what it says, and who may change what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import databases
import pytest
import requests
from databases import open_database
from inspected import serving
from server_process import diff
from starlette.applications import Starlette
from starlette.requests import Request
from test_known_devices import Phone

from mobync import BusyError, DeviceRevokedError, Mobync, UnknownDeviceError
from mobync.server import inspector
from mobync.server._admission import Admission, OneTimeCode
from mobync.server._device_changes import MOST_BYTES
from mobync.server.tokens import Tokens
from mobync.sqlalchemy import DocumentSynchronizer, create_tables

database = databases.database

TOKENS = Tokens("a secret for tests, long enough")


class Inspected:
    """A Mobync that keeps devices, and the inspector in front of it."""

    def __init__(self, engine: Any) -> None:
        self.store = DocumentSynchronizer(engine)
        create_tables(engine, self.store.metadata)
        self.mobync = Mobync(self.store)
        self.engine = engine
        self.url = ""

    @contextmanager
    def served(
        self,
        allow: Callable[[Request], bool] = lambda request: True,
        may_change: Callable[[Request], bool] | None = lambda request: True,
    ) -> Iterator[Inspected]:
        tables = self.store.metadata.tables
        logs = self.engine, tables["diffs"], tables["diffs_heads"]
        routes = inspector.routes(*logs, allow, mobync=self.mobync, may_change=may_change)
        with serving(Starlette(routes=routes)) as self.url:
            yield self

    def devices(self, **headers: str) -> Any:
        url = f"{self.url}inspect/api/devices?owner=anna"
        return requests.get(url, headers=headers, timeout=60).json()

    def change(self, change: str, device: str = "phone", **more: Any) -> requests.Response:
        asked = {"change": change, "owner": "anna", "device": device, **more}
        return requests.post(f"{self.url}inspect/api/change", json=asked, timeout=60)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Inspected]:
    with open_database("sqlite", tmp_path) as opened:
        yield Inspected(opened.engine)


def test_devices_are_listed_and_changed(database: databases.Database) -> None:
    inspected = Inspected(database.engine)
    phone, tablet = Phone(inspected.mobync, "phone"), Phone(inspected.mobync, "tablet")
    tablet.sync()
    phone.sync(diff(1, "create", id="t"), diff(2, "create", id="u"))
    with inspected.served():
        assert inspected.change("name", label="Anna's <b>phone</b>").json() == {"done": "name"}
        listed = inspected.devices()
        assert (listed["keeps"], listed["may_change"]) == (True, True)
        by_name = {device["name"]: device for device in listed["devices"]}
        assert by_name["phone"]["label"] == "Anna's <b>phone</b>"
        assert (by_name["phone"]["logical_clock"], by_name["phone"]["behind"]) == (2, 0)
        assert by_name["tablet"]["behind"] == 2
        assert by_name["tablet"]["first_seen_ms"] > 0

        assert inspected.change("revoke").status_code == 200
        with pytest.raises(DeviceRevokedError):
            phone.sync()
        assert inspected.change("forget", "tablet").status_code == 200
        with pytest.raises(UnknownDeviceError):
            tablet.sync(diff(3, "create", id="v"))
        (left,) = inspected.devices()["devices"]
        assert (left["name"], left["revoked"]) == ("phone", True)


def test_the_stored_parts_of_a_request_are_listed(database: databases.Database) -> None:
    inspected = Inspected(database.engine)
    mobync = inspected.mobync
    Phone(mobync, "tablet").sync()
    said = {"device": "phone", "request": 1}

    def parts() -> dict[str, tuple[int, int]]:
        listed = inspected.devices()["devices"]
        assert all((each["parts_ms"] > 0) == (each["parts"] > 0) for each in listed)
        return {each["name"]: (each["parts"], each["parts_bytes"]) for each in listed}

    edits = [diff(number, "create", id=f"t{number}") for number in (1, 2)]
    sizes = [len(json.dumps([edit])) for edit in edits]
    with inspected.served():
        for number, edit in enumerate(edits, 1):
            mobync.apply(0, [edit], "anna", part=number, more_diffs=True, **said)
            assert parts() == {"tablet": (0, 0), "phone": (number, sum(sizes[:number]))}
        reply = mobync.apply(0, [diff(3, "create", id="t3")], "anna", part=3, **said)
        assert parts()["phone"] == (2, sum(sizes))  # for a retry
        more = {"device": "phone", "request": 2, "mark": reply["mark"]}
        reply = mobync.apply(reply["logical_clock"], [diff(4, "create", id="u")], "anna", **more)
        more |= {"request": 3, "mark": reply["mark"]}
        mobync.apply(reply["logical_clock"], [diff(5, "create", id="v")], "anna", **more)
        assert parts()["phone"] == (0, 0)


def test_what_cannot_be_done_is_an_error_that_says_so(on_sqlite: Inspected) -> None:
    Phone(on_sqlite.mobync, "phone").sync(diff(1, "create", id="t"))
    with on_sqlite.served():
        url = f"{on_sqlite.url}inspect/api/change"
        gone = on_sqlite.change("revoke", "nobody")
        assert (gone.status_code, gone.json()["message"]) == (
            400,
            "owner 'anna' has no device 'nobody'",
        )
        long = on_sqlite.change("name", label="x" * 256)
        assert (long.status_code, "at most 255" in long.text) == (400, True)
        for wrong in ({}, {"change": "erase"}, {"change": "revoke", "owner": "anna"}, [], "x"):
            assert requests.post(url, json=wrong, timeout=60).status_code == 400
        for more in ({"device": 7}, {"device": ""}, {"owner": "a\0"}, {"label": None}):
            asked = {"change": "name", "owner": "anna", "device": "phone", "label": "x", **more}
            assert requests.post(url, json=asked, timeout=60).status_code == 400
        plain = requests.post(url, data='{"change": "revoke"}', timeout=60)
        assert plain.status_code == 415
        json_ = {"Content-Type": "application/json"}
        large = requests.post(url, data=b" " * (MOST_BYTES + 1), headers=json_, timeout=60)
        assert large.status_code == 413
        deep = requests.post(url, data=b"[" * 10_000, headers=json_, timeout=60)
        assert deep.status_code == 400
        assert requests.get(url, timeout=60).status_code == 405
        assert on_sqlite.devices()["devices"][0]["label"] == ""


def test_a_busy_owner_is_a_503(on_sqlite: Inspected, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*arguments: Any) -> None:
        raise BusyError("a sync of 'anna' takes long")

    monkeypatch.setattr(on_sqlite.mobync, "devices", busy)
    monkeypatch.setattr(on_sqlite.mobync, "revoke_device", busy)
    with on_sqlite.served():
        assert on_sqlite.devices() == {"message": "a sync of 'anna' takes long"}
        assert on_sqlite.change("revoke").status_code == 503


def test_who_may_only_look_changes_nothing(on_sqlite: Inspected) -> None:
    Phone(on_sqlite.mobync, "phone").sync()
    with on_sqlite.served(may_change=None):
        assert on_sqlite.devices()["may_change"] is False
        assert on_sqlite.change("revoke").status_code == 403
    with on_sqlite.served(may_change=lambda request: False):
        assert on_sqlite.devices()["may_change"] is False
        assert on_sqlite.change("forget").status_code == 403
    with on_sqlite.served(allow=lambda request: False):
        assert on_sqlite.change("revoke").status_code == 401
    assert [device.revoked for device in on_sqlite.mobync.devices("anna")] == [False]


def test_a_database_of_1_0_shows_none(on_sqlite: Inspected) -> None:
    on_sqlite.store.metadata.tables["diffs_devices"].drop(on_sqlite.engine)
    with on_sqlite.served():
        assert on_sqlite.devices() == {"keeps": False, "may_change": False, "devices": []}
        assert on_sqlite.change("revoke").status_code == 400


HOSTS = "inspector.example:8000"


def asked(cookie: str | None, **headers: str) -> Request:
    """A request of a browser that may have a session."""
    given = [(name.replace("_", "-").lower().encode(), v.encode()) for name, v in headers.items()]
    given.append((b"host", HOSTS.encode()))
    if cookie is not None:
        given.append((b"cookie", f"mobync_inspector_8000={cookie}".encode()))
    return Request({"type": "http", "headers": given, "client": ("127.0.0.1", 1)})


def test_a_session_changes_something_for_the_page_itself_and_no_other_site(tmp_path: Path) -> None:
    admission = Admission("token", TOKENS, OneTimeCode(tmp_path / "code"))
    session = TOKENS.for_session(60)
    own = {"Origin": f"https://{HOSTS}"}
    assert admission.may_change(asked(session, Sec_Fetch_Site="same-origin"))
    assert admission.may_change(asked(session, **own))
    for site in ("cross-site", "same-site", "none", ""):
        assert not admission.may_change(asked(session, Sec_Fetch_Site=site, **own))
    for origin in ("https://evil.example", "null", f"https://{HOSTS}0", ""):
        assert not admission.may_change(asked(session, Origin=origin))
    assert not admission.may_change(asked(session))
    assert not admission.may_change(asked(None, Sec_Fetch_Site="same-origin"))
    assert not admission.may_change(asked(TOKENS.for_session(-1), Sec_Fetch_Site="same-origin"))


def test_a_token_changes_something_and_being_on_this_machine_does_not(tmp_path: Path) -> None:
    admission = Admission("without-token", TOKENS, OneTimeCode(tmp_path / "code"))
    admin, device = TOKENS.for_admin(60), TOKENS.for_owner("anna", 60)
    assert admission.may_change(asked(None, Authorization=f"Bearer {admin}"))
    assert not admission.may_change(asked(None, Authorization=f"Bearer {device}"))
    assert not admission.may_change(asked(None, Sec_Fetch_Site="same-origin"))
