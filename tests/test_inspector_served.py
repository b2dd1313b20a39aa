"""The inspector of `mobync serve` in a real browser: where an edit went, and what an owner has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import browser
import pytest
from playwright.sync_api import Browser, Page, expect
from server_process import Server, diff, mobync, serving

chromium, page = browser.chromium, browser.page


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
    for parameters in ({"show": "objects"}, {"show": "lost"}, {}, object_):
        page.goto(f"{served.url}/?{urlencode({'owner': 'anna', **parameters})}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator("main .quiet").first).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator(".bar").bounding_box()["height"] < 110  # type: ignore[index]
    context.close()
