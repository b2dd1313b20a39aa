"""The inspector of `mobync serve` in a real browser: where an edit went, and what an owner has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import browser
import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, Route, expect
from server_process import PATIENCE_S, Server, diff, eventually, mobync, serving

chromium, page = browser.chromium, browser.page

expect.set_options(timeout=browser.TIMEOUT_MS)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    """`mobync serve` with a task that two devices have edited while apart."""
    with serving(tmp_path) as server:
        token = mobync(tmp_path, "token", "anna").stdout.strip()
        server.sync(token, 0, diff(0, "create", id="t", name="milk"), diff(1, "create", id="u"))
        server.sync(token, 2, diff(9, "update", id="t", name="oat milk"))
        server.sync(token, 2, diff(5, "update", id="t", name="soy <milk>"))
        server.sync(token, 3, diff(20, "create", "notes", id="n", text="hello"))
        yield server


def sign_in(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_label("Token").fill(mobync(server.directory, "token", "--admin").stdout.strip())
    page.get_by_role("button", name="Open").click()


def test_where_an_edit_went(served: Server, page: Page) -> None:
    sign_in(page, served)
    page.get_by_role("link", name="anna").click()
    page.get_by_role("link", name="Lost edits").click()
    lost = page.locator(".losses > li")
    expect(lost).to_have_count(1)
    expect(lost.locator(".loss")).to_have_text('name lost "soy <milk>" against "oat milk"')
    expect(lost.locator(".why")).to_have_text(
        "made at 1970-01-01 00:00:05.000 by a device without a name: "
        "a later edit of the same field won, 4 s later"
    )
    lost.get_by_role("link", name="t").click()
    name = page.locator("section.field", has=page.get_by_role("heading", name="name"))
    expect(name.locator("> .value")).to_have_text('"oat milk"')
    expect(name.locator("> .value")).to_have_attribute("data-verdict", "won")
    expect(name.locator(".losses")).to_contain_text('lost "soy <milk>"')
    expect(page.locator(".losses-card summary")).to_have_text("conflict 1 edit of this object lost")


@pytest.mark.parametrize(
    ("view", "asks"), [("Log", "log"), ("Devices", "devices"), ("Lost edits", "lost")]
)
def test_a_view_that_is_left_during_a_request_says_nothing_more(
    served: Server, page: Page, view: str, asks: str
) -> None:
    def hold(route: Route) -> None:
        held.append(route)

    held: list[Route] = []
    sign_in(page, served)
    page.get_by_role("link", name="anna").click()
    page.get_by_role("link", name=view, exact=True).click()
    expect(page.locator("#live")).to_have_text("live")
    page.route(f"**/inspect/api/{asks}?*", hold)
    token = mobync(served.directory, "token", "anna").stdout.strip()
    served.sync(token, 4, diff(21, "update", id="t", name="rice milk"))
    eventually(lambda: page.wait_for_timeout(20) or held)
    page.get_by_role("link", name="mobync inspector").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Owners")
    expect(page.locator("#live")).to_have_text("live")


def test_the_objects_of_an_owner_are_listed_by_model(served: Server, page: Page) -> None:
    sign_in(page, served)
    page.get_by_role("link", name="anna").click()
    page.get_by_role("link", name="Objects").click()
    models = page.get_by_role("navigation", name="Models")
    expect(models.get_by_role("link")).to_have_text(["notes 1", "tasks 2"])
    expect(page.locator("table.objects tbody tr")).to_have_text(['ntext "hello"'])
    models.get_by_role("link", name="tasks").click()
    expect(page.locator("table.objects tbody th")).to_have_text(["t", "u"])
    page.get_by_role("link", name="t", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("tasks t")


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "UTC"])
def test_times_are_local_and_say_their_zone(served: Server, chromium: Browser, zone: str) -> None:
    context = chromium.new_context(timezone_id=zone)
    page = context.new_page()
    sign_in(page, served)
    page.get_by_role("link", name="anna").click()
    hour = {"Asia/Tokyo": "09:00", "America/New_York": "19:00", "UTC": "00:00"}[zone]
    at = page.locator(".log > li time").last
    expect(at).to_contain_text(f"{hour}:00.000")
    expect(at).to_have_attribute("title", "1970-01-01T00:00:00.000Z, 0 ms since 1970")
    expect(page.locator(".log-head")).to_have_attribute("title", re.compile(rf"^{zone}, UTC"))
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_views_fit_a_phone(served: Server, chromium: Browser, scheme: str) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    sign_in(page, served)
    expect(page.get_by_role("heading", level=1)).to_have_text("Owners")
    object_ = {"owner": "anna", "model": "tasks", "object": "t"}
    phone = Phone(served, "phone")
    phone.sync()
    phone.sync(diff(30, "update", id="t", name="rice " * 30))
    views = ({"show": "objects"}, {"show": "lost"}, {"show": "devices"}, {}, object_)
    for parameters in views:
        page.goto(f"{served.url}/?{urlencode({'owner': 'anna', **parameters})}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator("main .quiet").first).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator(".bar").bounding_box()["height"] < 110  # type: ignore[index]
    expect(page.locator(".picture .step")).to_have_count(4)
    context.close()


# ---- devices, and how their edits met -----------------------------------------------------------


class Phone:
    """A device of Anna's that names itself, as it speaks to the server."""

    def __init__(self, server: Server, name: str) -> None:
        self.url = f"{server.url}/sync"
        self.token = mobync(server.directory, "token", "anna").stdout.strip()
        self.name, self.request, self.mark, self.clock = name, 1, None, 0

    def ask(self, *diffs: dict[str, Any], **part: Any) -> requests.Response:
        named = {"device": self.name, "request": self.request, "mark": self.mark, **part}
        body = {"auth_token": self.token, "logical_clock": self.clock, "diffs": diffs, **named}
        return requests.post(self.url, json=body, timeout=PATIENCE_S)

    def sync(self, *diffs: dict[str, Any]) -> None:
        answer = self.ask(*diffs)
        answer.raise_for_status()
        self.request += bool(diffs)
        self.mark, self.clock = answer.json()["mark"], answer.json()["logical_clock"]


def row_of(page: Page, called: str) -> Locator:
    return page.locator("table.devices tbody tr", has_text=called)


def test_devices_are_named_revoked_and_forgotten_after_a_question(
    served: Server, page: Page
) -> None:
    phone, tablet = Phone(served, "phone-1"), Phone(served, "tablet-1")
    tablet.sync()
    phone.sync(diff(40, "create", id="v"))
    phone.sync()
    sign_in(page, served)
    page.get_by_role("link", name="anna").click()
    page.get_by_role("link", name="Devices").click()
    heads = page.locator("table.devices thead th")
    columns = ["Device", "First seen", "Last seen", "Clock", "Behind by", "State", "Actions"]
    expect(heads).to_have_text(columns)
    expect(row_of(page, "phone-1").locator("td").nth(3)).to_have_text("nothing")
    expect(row_of(page, "phone-1").locator("td").nth(4)).to_have_text("in use")
    expect(row_of(page, "tablet-1").locator("td").nth(3)).to_have_text("1 edit")
    expect(row_of(page, "tablet-1").locator("td").nth(4)).to_have_text("holds the horizon")

    row_of(page, "phone-1").get_by_role("button", name="Rename").click()
    page.get_by_label("What people call it").fill("Anna's <b>phone</b>")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(row_of(page, "phone-1").locator(".called")).to_have_text("Anna's <b>phone</b>")
    assert page.locator("main b").count() == 0

    row_of(page, "phone-1").get_by_role("button", name="Revoke").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("with every edit that it has not sent")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    assert phone.ask().status_code == 200
    row_of(page, "phone-1").get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row_of(page, "phone-1").locator("td").nth(4)).to_have_text("revoked")
    assert phone.ask().json()["code"] == "device_revoked"

    row_of(page, "tablet-1").get_by_role("button", name="Forget").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    expect(row_of(page, "tablet-1")).to_have_count(0)
    assert tablet.ask(diff(41, "create", id="w")).json()["code"] == "unknown_device"


def test_the_page_says_how_much_is_stored_of_requests_in_parts(served: Server, page: Page) -> None:
    phone, tablet = Phone(served, "phone-1"), Phone(served, "tablet-1")
    tablet.sync()
    sign_in(page, served)
    page.goto(f"{served.url}/?owner=anna&show=devices")
    expect(row_of(page, "tablet-1").locator("td").nth(4)).to_have_text("in use")
    expect(page.get_by_text("Parts of")).to_have_count(0)
    edits = [diff(number, "create", id=f"p{number}", text="x" * 2000) for number in (1, 2)]
    for number, edit in enumerate(edits, 1):
        phone.ask(edit, part=number, more_diffs=True).raise_for_status()
    tablet.ask(edits[0], part=1, more_diffs=True).raise_for_status()
    expect(row_of(page, "phone-1").locator("td").nth(4)).to_contain_text("2 parts, 4.")
    expect(row_of(page, "tablet-1").locator("td").nth(4)).to_contain_text("1 part, 2.")
    expect(
        page.get_by_text(re.compile(r"Parts of 2 requests are stored, 6\.. KiB; the oldest for"))
    ).to_be_visible()


def test_a_change_that_fails_says_so_and_stays_open(served: Server, page: Page) -> None:
    Phone(served, "phone-1").sync()
    sign_in(page, served)
    page.goto(f"{served.url}/?owner=anna&show=devices")
    row_of(page, "phone-1").get_by_role("button", name="Forget").click()
    assert mobync(served.directory, "devices", "forget", "anna", "phone-1").returncode == 0
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    alert = page.get_by_role("dialog").get_by_role("alert")
    expect(alert).to_have_text("owner 'anna' has no device 'phone-1'")


def test_the_session_of_the_link_changes_devices_and_a_page_without_rights_says_so(
    tmp_path: Path, page: Page
) -> None:
    with serving(tmp_path, "--print-link") as server:
        Phone(server, "phone-1").sync(diff(0, "create", id="t"))
        page.goto(
            server.log.wait_for(r"the inspector \(the link opens once\): (http://[^\s\"]+)")[1]
        )
        page.get_by_role("link", name="anna").click()
        page.get_by_role("link", name="Devices").click()
        row_of(page, "phone-1").get_by_role("button", name="Revoke").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(row_of(page, "phone-1").locator("td").nth(4)).to_have_text("revoked")
    with serving(tmp_path, "--inspector", "without-token") as server:
        page.goto(f"{server.url}/?owner=anna&show=devices")
        expect(row_of(page, "phone-1")).to_have_count(1)
        expect(page.get_by_text("To revoke, forget or rename a device, open")).to_be_visible()
        expect(page.locator("table.devices button")).to_have_count(0)


def steps(page: Page) -> Locator:
    return page.locator(".picture .step")


def open_note(served: Server, page: Page) -> None:
    """Open the page of the note x."""
    sign_in(page, served)
    page.goto(f"{served.url}/?{urlencode({'owner': 'anna', 'model': 'notes', 'object': 'x'})}")


def test_the_picture_shows_how_two_devices_edits_met(served: Server, page: Page) -> None:
    phone, tablet = Phone(served, "phone-1"), Phone(served, "tablet-1")
    phone.sync(diff(30, "create", "notes", id="x", text="milk", done=False))
    tablet.sync()
    tablet.sync(diff(39, "update", "notes", id="x", text="oat milk"))
    phone.sync(diff(35, "update", "notes", id="x", text="soy <img> milk", done=True))
    tablet.sync(diff(33, "update", "notes", id="x", text="late"))
    assert mobync(served.directory, "devices", "name", "anna", "phone-1", "Anna's phone").stdout
    open_note(served, page)
    lanes = page.locator(".picture .lanes li")
    expect(lanes).to_have_text(["Anna's phone", "server", "tablet-1"])
    expect(steps(page)).to_have_count(4)
    expect(steps(page).nth(0)).to_have_class(re.compile("left"))
    expect(steps(page).nth(1)).to_have_class(re.compile("right"))
    won = steps(page).nth(1).locator(".wrote li")
    expect(won).to_have_text(['replaced text "oat milk"after it had seen #4'])
    apart = steps(page).nth(2).locator(".wrote li")
    expect(apart).to_have_text(
        [
            "won done true" + "after its own #4",
            'lost text "soy <img> milk"against "oat milk": '
            "a later edit of the same field won, 4 s later",
        ]
    )
    expect(page.locator(".picture .result")).to_contain_text('text "late"')
    expect(page.locator(".picture path.landing")).to_have_count(4)
    expect(page.locator(".picture path.fork")).to_have_count(3)
    assert page.locator("main img").count() == 0
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator(".picture circle.now")).to_have_count(1)
    expect(page.locator(".picture circle.dot")).to_have_count(4)


def test_a_device_without_a_label_leads_to_where_it_gets_one(served: Server, page: Page) -> None:
    phone = Phone(served, "3f2a8c1e" * 4)  # as an app makes a name, not a person
    phone.sync(diff(30, "create", "notes", id="x", text="milk"))
    open_note(served, page)
    device = page.locator("main .device").first
    expect(device).to_have_text("device 3f2a8c…")
    device.get_by_role("link").click()
    row = row_of(page, phone.name)
    row.get_by_role("button", name="Rename").click()
    page.get_by_role("textbox", name="What people call it").fill("Anna's phone")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(row_of(page, "Anna's phone")).to_be_visible()
    page.go_back()
    expect(page.locator("main .device").first).to_have_text("Anna's phone")


def test_an_edit_that_lost_altogether_ends_before_the_history(served: Server, page: Page) -> None:
    phone, tablet = Phone(served, "phone-1"), Phone(served, "tablet-1")
    phone.sync(diff(30, "create", "notes", id="x", text="milk"))
    tablet.sync()
    phone.sync(diff(39, "update", "notes", id="x", text="oat milk"))
    tablet.sync(diff(35, "update", "notes", id="x", text="soy milk"))
    phone.sync()
    phone.sync(diff(50, "delete", "notes", id="x"))
    tablet.sync(diff(60, "create", "notes", id="x", text="again"))
    open_note(served, page)
    page.get_by_role("button", name="#4 \u2013 #6").click()
    expect(steps(page)).to_have_count(4)
    expect(page.locator(".picture path.cross")).to_have_count(1)
    expect(page.locator(".picture .result")).to_have_text("Deleted by #6")


def test_an_edit_that_lost_is_above_what_its_device_made_later(served: Server, page: Page) -> None:
    phone, tablet = Phone(served, "phone-1"), Phone(served, "tablet-1")
    phone.sync(diff(30, "create", "notes", id="x", text="milk", done=False))
    tablet.sync()
    phone.sync(diff(39, "update", "notes", id="x", text="oat milk"))
    tablet.sync(
        diff(35, "update", "notes", id="x", text="soy milk"),
        diff(41, "update", "notes", id="x", done=True),
    )
    open_note(served, page)
    expect(steps(page)).to_have_count(4)
    expect(steps(page).nth(2)).to_contain_text('lost text "soy milk"')
    expect(steps(page).nth(3)).to_contain_text("won done true")
    expect(page.locator(".picture path.fork")).to_have_count(3)


def test_no_value_of_a_deleted_object_won_against_an_edit(served: Server, page: Page) -> None:
    phone, tablet = Phone(served, "phone-1"), Phone(served, "tablet-1")
    phone.sync(diff(30, "create", "notes", id="x", text="milk"))
    tablet.sync()
    phone.sync(diff(39, "delete", "notes", id="x"))
    tablet.sync(diff(45, "update", "notes", id="x", text="soy milk"))
    open_note(served, page)
    expect(steps(page)).to_have_count(3)
    expect(steps(page).nth(2)).to_contain_text('lost text "soy milk"the object was deleted')
    expect(page.locator(".picture .won")).to_have_count(0)
    expect(page.locator("section.field > .value")).to_have_text('"milk"')
    expect(page.locator("[data-verdict=won]")).to_have_count(0)


def test_objects_are_found_by_what_is_in_them(served: Server, page: Page) -> None:
    phone = Phone(served, "phone-1")
    many = [diff(100 + n, "create", "notes", id=f"n{n:03}", text=f"Thing {n}") for n in range(120)]
    phone.sync(*many)
    sign_in(page, served)
    page.goto(f"{served.url}/?owner=anna&show=objects&model=notes")
    objects = page.locator("table.objects tbody tr")
    expect(objects).to_have_count(50)
    page.get_by_role("button", name="More objects").click()
    expect(objects).to_have_count(100)
    page.get_by_label("Find").fill("thing 11")
    page.get_by_role("button", name="Search").click()
    expect(objects).to_have_count(11)
    expect(page.get_by_text("Found 11 objects.")).to_be_visible()
    page.get_by_role("link", name="n110").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("notes n110")
    page.go_back()
    page.get_by_role("link", name="Show all").click()
    expect(objects).to_have_count(50)
