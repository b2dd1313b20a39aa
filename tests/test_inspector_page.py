"""The inspector's page in Chromium: what it shows, and that nothing a device wrote runs in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import browser
import pytest
import requests
from databases import open_database
from inspected import Logs, serving
from playwright.sync_api import Error, Locator, Page, Request, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from mobync.live import InProcessLive
from mobync.server import _log_pages, inspector
from mobync.server._admission import Admission, OneTimeCode
from mobync.server.tokens import Tokens

chromium, page = browser.chromium, browser.page

expect.set_options(timeout=browser.TIMEOUT_MS)


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    with open_database("sqlite", tmp_path) as opened:
        yield Logs(opened.engine)


@pytest.fixture
def url(logs: Logs) -> Iterator[str]:
    with logs.inspected() as served:
        yield served


def view(url: str, **parameters: str) -> str:
    return f"{url}?{urlencode(parameters)}"


def rows(page: Page) -> Locator:
    return page.locator(".log > li")


# ---- what it shows ------------------------------------------------------------------------------


def test_from_the_owners_to_who_won_a_field_and_back(logs: Logs, url: str, page: Page) -> None:
    logs.sync("anna", 0, ("create", 0, {"id": "x", "name": "milk", "done": "no"}))
    logs.sync("anna", 1, ("update", 9000, {"id": "x", "name": "oat milk"}))
    logs.sync("anna", 1, ("update", 5000, {"id": "x", "name": "soy milk", "done": "yes"}))
    logs.sync("anna", 3, ("update", 7000, {"id": "x", "name": "rice milk"}))
    logs.sync("bob", 0, ("create", 0, {"id": "y"}))

    page.goto(url)
    table = page.locator("table.owners tbody tr")
    expect(table).to_have_count(2)
    expect(table.nth(0)).to_have_text(re.compile(r"^anna44\d+ B$"))
    expect(table.nth(1)).to_have_text(re.compile(r"^bob11\d+ B$"))

    page.get_by_role("link", name="anna").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log of anna logical clock 4")
    expect(rows(page).locator(".clock")).to_have_text(["#3", "#2", "#1", "#0"])
    expect(rows(page).nth(3)).to_contain_text("2026-09-21 14:13:20.000")
    expect(rows(page).nth(3)).to_contain_text('name "milk"')
    expect(rows(page).locator(".kind")).to_have_text(["update", "update", "update", "create"])

    rows(page).first.get_by_role("link", name="x").click()
    name = page.locator("section.field", has=page.get_by_role("heading", name="name"))
    expect(name.locator("> .value")).to_have_text('"rice milk"')
    expect(name.locator("> .why")).to_have_text(
        "#3 2026-09-21 14:13:27.000 made after syncing #1, though its time is 2 s earlier, "
        'replaced "oat milk"'
    )
    done = page.locator("section.field", has=page.get_by_role("heading", name="done"))
    expect(done.locator("> .why")).to_contain_text('5 s later than #0, replaced "no"')
    name.get_by_text("3 writers").click()
    expect(name.locator(".writes > li > .value")).to_have_text(
        ['"rice milk"', '"oat milk"', '"milk"']
    )

    page.go_back()
    expect(rows(page)).to_have_count(4)
    page.go_back()
    expect(table).to_have_count(2)


def test_filters_and_older_entries(logs: Logs, url: str, page: Page) -> None:
    logs.write(
        "anna",
        [("create", "lists" if n % 50 == 0 else "tasks", f'{{"id": "{n}"}}') for n in range(250)],
    )
    page.goto(view(url, owner="anna"))
    expect(rows(page)).to_have_count(100)
    page.get_by_role("button", name="Older").click()
    expect(rows(page)).to_have_count(200)
    page.get_by_role("button", name="Older").click()
    expect(rows(page)).to_have_count(250)
    expect(page.get_by_text("The beginning of the log.")).to_be_visible()

    page.get_by_label("Model").fill("lists")
    page.get_by_role("button", name="Filter").click()
    expect(rows(page).locator(".clock")).to_have_text(["#200", "#150", "#100", "#50", "#0"])
    page.get_by_label("Object id").fill("100")
    page.keyboard.press("Enter")
    expect(rows(page).locator(".clock")).to_have_text(["#100"])
    page.reload()
    expect(rows(page).locator(".clock")).to_have_text(["#100"])
    page.get_by_role("link", name="Show all").click()
    expect(rows(page)).to_have_count(100)


def test_a_long_log_is_searched_piece_by_piece(
    logs: Logs, url: str, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log_pages, "SECONDS", 60.0)  # however busy the machine is
    logs.write(
        "anna",
        [("create", "tasks", '{"id": "first", "name": "milk"}')]
        + [("create", "tasks", f'{{"id": "{n}"}}') for n in range(149_999)],
    )
    page.goto(view(url, owner="anna", model="tasks", object="first"))
    expect(page.get_by_text("No edit of this object.")).to_be_visible()
    further = page.get_by_role("button", name="Look further back")
    further.click()
    expect(page.locator("section.field > .why")).to_contain_text("set by the create")
    expect(further).to_be_hidden()


def test_a_long_log_is_measured_when_that_is_asked_for(logs: Logs, url: str, page: Page) -> None:
    logs.write("anna", [("create", "tasks", f'{{"id": "{n}"}}') for n in range(25_000)])
    page.goto(url)
    row = page.locator("tbody tr")
    row.get_by_role("button", name="Count").click()
    expect(row.locator("td").nth(1)).to_have_text("25\u202f000")


def test_the_lives_of_an_object(logs: Logs, url: str, page: Page) -> None:
    logs.sync("anna", 0, ("create", 0, {"id": "x", "name": "milk"}))
    logs.sync("anna", 1, ("delete", 1, {"id": "x"}), ("create", 2, {"id": "x", "name": "bread"}))
    logs.sync("anna", 3, ("delete", 3, {"id": "x"}))
    page.goto(view(url, owner="anna", model="tasks", object="x"))
    expect(page.locator("main")).to_contain_text("Deleted by #3.")
    expect(page.locator("section.field > .value")).to_have_text('"bread"')
    page.get_by_role("button", name="#0 \u2013 #1").click()
    expect(page.locator("section.field > .value")).to_have_text('"milk"')
    expect(page.locator("main")).to_contain_text("Deleted by #1.")


def test_an_object_with_more_edits_than_a_history_takes(logs: Logs, url: str, page: Page) -> None:
    logs.write(
        "anna",
        [("update", "tasks", json.dumps({"id": "x", "n": n})) for n in range(450)],
    )
    page.goto(view(url, owner="anna", model="tasks", object="x"))
    expect(page.locator("section.field > .value")).to_have_text("449")
    expect(page.get_by_text("200 writers")).to_be_visible()
    expect(page.get_by_text("Looked down to #250.")).to_be_visible()
    page.get_by_role("button", name="Look further back").click()
    expect(page.get_by_text("These are the edits #50 to #249")).to_be_visible()
    page.get_by_role("button", name="Look further back").click()
    expect(page.get_by_text("These are the edits #0 to #199")).to_be_visible()
    page.get_by_role("link", name="The newest").click()
    expect(page.locator("section.field > .value")).to_have_text("449")


# ---- hostile text -------------------------------------------------------------------------------

HOSTILE = [
    '<img src="x" onerror="window.pwned=1">',
    "<script>window.pwned=1</script>",
    '"><svg onload=window.pwned=1>',
    "javascript:window.pwned=1",
    "</title></option><iframe srcdoc='<script>parent.pwned=1</script>'>",
    "{{constructor.constructor('window.pwned=1')()}}",
    "&lt;b&gt; %3Cscript%3E ?owner=x&model=y#z",
    "__proto__",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_device_wrote_is_text_and_nothing_else(
    logs: Logs, url: str, page: Page, text: str
) -> None:
    logs.write(
        text,
        [
            ("create", text, json.dumps({"id": text, text: text, "also": [text]})),
            ("update", text, json.dumps({"id": text, text: f"{text}!"})),
        ],
    )
    asked: list[str] = []
    messages: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("dialog", lambda dialog: messages.append(dialog.message))

    page.goto(url)
    page.locator("tbody").get_by_role("link", name=text, exact=True).click()
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first.locator(".object")).to_have_text(f"{text} {text}")
    expect(rows(page).first.locator(".name")).to_have_text(text)
    rows(page).first.locator(".object").get_by_role("link", name=text, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{text} {text}")
    field = page.locator("section.field").first
    expect(field.locator("h2")).to_have_text(text)
    expect(field.locator("> .value")).to_have_text(json.dumps(f"{text}!"))
    field.get_by_text("2 writers").click()
    expect(field.locator(".writes > li")).to_have_count(2)
    assert page.title() == f"{text} \u2013 mobync inspector"
    page.locator("#trail a").last.click()
    expect(page.get_by_label("Model")).to_have_value(text)

    assert page.evaluate("window.pwned") is None
    assert page.locator("img, svg, iframe, script:not([src])").count() == 0
    assert all(to.startswith(url) for to in asked)
    assert messages == []


def test_text_that_hides_or_turns_around_is_spelled_out(logs: Logs, url: str, page: Page) -> None:
    row = json.dumps({"id": "a\u202etxt.exe", "na\u200bme": "x\u0085y"}, ensure_ascii=False)
    logs.write("an\u2066na", [("create", "ta\u00adsks", row)])
    page.goto(url)
    page.get_by_role("link", name="an\\u{2066}na").click()
    expect(rows(page).locator(".object")).to_have_text("ta\\u{ad}sks a\\u{202e}txt.exe")
    expect(rows(page).locator(".fields")).to_contain_text('na\\u{200b}me "x\\u{85}y"')
    rows(page).locator(".object a").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("a\\u{202e}txt.exe")


def test_the_page_cannot_make_html_of_a_string_and_runs_no_script_but_its_own(
    url: str, page: Page
) -> None:
    page.goto(url)
    page.evaluate("() => { window.script = document.createElement('script') }")
    for attempt in (
        "document.body.innerHTML = '<b>'",
        "document.body.insertAdjacentHTML('beforeend', '<b>')",
        "document.write('<b>')",
        "script.text = 'window.pwned=1'",
        "script.src = 'data:text/javascript,window.pwned=1'",
    ):
        with pytest.raises(Error, match="Trusted"):
            page.evaluate(f"() => {{ {attempt} }}")
    page.evaluate(
        """() => {
            const bad = document.createElement("a");
            bad.id = "bad";
            bad.href = "javascript:window.pwned=1";
            bad.textContent = "bad";
            document.body.append(bad);
        }"""
    )
    page.locator("#bad").click()
    assert page.evaluate("window.pwned") is None


def test_a_moment_that_no_calendar_has_is_a_number(logs: Logs, url: str, page: Page) -> None:
    logs.write("anna", [("create", "tasks", '{"id": "x"}')])
    with logs.engine.begin() as connection:
        connection.execute(logs.diffs.update().values(utc_timestamp=2**53 - 1))
    page.goto(view(url, owner="anna"))
    expect(rows(page).locator("time")).to_have_text("9007199254740991 ms")


# ---- live ---------------------------------------------------------------------------------------


def asked_for(page: Page, name: str) -> list[Request]:
    """The requests to a name of the API from now on."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        if f"/inspect/api/{name}" in request.url:
            requests.append(request)

    page.on("request", note)
    return requests


@pytest.fixture(params=["asking", "listening"])
def live_url(request: pytest.FixtureRequest, logs: Logs) -> Iterator[str]:
    """The page's address, where it must ask for what is new, and where it is told."""
    if request.param == "asking":
        with logs.inspected() as served:
            yield served
        return
    live = InProcessLive()
    logs.mobync.listen(live.announce)
    with logs.inspected(live=live) as served:
        yield served
        live.close()


def test_a_log_grows_before_ones_eyes(logs: Logs, live_url: str, page: Page) -> None:
    logs.sync("anna", 0, ("create", 0, {"id": "x", "name": "milk"}))
    page.goto(view(live_url, owner="anna"))
    expect(page.locator("#live")).to_have_text("live")
    expect(rows(page)).to_have_count(1)
    for clock in (1, 2):
        logs.sync("anna", clock, ("update", clock, {"id": "x", "name": f"{clock}"}))
        expect(rows(page)).to_have_count(clock + 1)
    expect(rows(page).locator(".clock")).to_have_text(["#2", "#1", "#0"])
    logs.sync("anna", 3, *[("create", 5, {"id": f"n{n}"}) for n in range(150)])
    expect(rows(page).first.locator(".clock")).to_have_text("#152")
    expect(rows(page)).to_have_count(100)
    page.get_by_role("button", name="Older").click()
    expect(rows(page)).to_have_count(153)


def test_a_history_goes_on_before_ones_eyes(logs: Logs, live_url: str, page: Page) -> None:
    logs.sync("anna", 0, ("create", 0, {"id": "x", "name": "milk"}))
    page.goto(view(live_url, owner="anna", model="tasks", object="x"))
    holder = page.locator("section.field > .value")
    expect(holder).to_have_text('"milk"')
    logs.sync("anna", 1, ("create", 0, {"id": "other", "name": "salt"}))
    logs.sync("anna", 2, ("update", 1, {"id": "x", "name": "oat"}))
    expect(holder).to_have_text('"oat"')
    expect(page.locator("section.field > .why")).to_contain_text("1 ms later than #0")


def test_the_page_listens_where_it_can_and_does_not_ask_all_the_time(
    logs: Logs, page: Page
) -> None:
    live = InProcessLive()
    logs.mobync.listen(live.announce)
    logs.sync("anna", 0, ("create", 0, {"id": "x"}))
    with logs.inspected(live=live) as served:
        events = asked_for(page, "events")
        clocks = asked_for(page, "clock")
        page.goto(view(served, owner="anna"))
        expect(page.locator("#live")).to_have_text("live")
        with page.expect_response(re.compile("/inspect/api/log.*after=0")):
            logs.sync("anna", 1, ("update", 0, {"id": "x", "name": "milk"}))
        expect(rows(page)).to_have_count(2)
        assert len(events) == 1
        assert len(clocks) == 2  # where the view begins, and where listening does
        live.close()


def test_where_too_many_listen_the_page_asks(logs: Logs, page: Page) -> None:
    live = InProcessLive(max_listeners=1)
    with logs.inspected(live=live) as served:
        with requests.get(
            f"{served}inspect/api/events?owner=anna", stream=True, timeout=60
        ) as first:
            assert first.status_code == 200
            with page.expect_response(re.compile("/inspect/api/events")) as refusal:
                page.goto(view(served, owner="anna"))
            assert refusal.value.status == 503
            expect(page.locator("#live")).to_have_text("live")
            logs.sync("anna", 0, ("create", 0, {"id": "x"}))
            expect(rows(page)).to_have_count(1)
        live.close()


def test_new_owners_and_their_clocks_appear(logs: Logs, url: str, page: Page) -> None:
    page.goto(url)
    expect(page.get_by_text("No owner has synced yet.")).to_be_visible()
    logs.sync("anna", 0, ("create", 0, {"id": "x"}))
    row = page.locator("tbody tr")
    expect(row).to_have_text(re.compile("^anna11"))
    logs.sync("anna", 1, ("create", 0, {"id": "y"}))
    expect(row).to_have_text(re.compile("^anna22"))


# ---- who may look -------------------------------------------------------------------------------


def test_without_a_token_there_is_a_form_and_nothing_else(logs: Logs, page: Page) -> None:
    def allow(request: Any) -> bool:
        return inspector.bearer_token(request) == "secret"

    logs.sync("anna", 0, ("create", 0, {"id": "x"}))
    with logs.inspected(allow) as url:
        page.goto(view(url, owner="anna"))
        token = page.get_by_label("Token")
        token.fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("The server does not take this token.")).to_be_visible()
        assert rows(page).count() == 0
        token.fill("secret")
        page.get_by_role("button", name="Open").click()
        expect(rows(page)).to_have_count(1)
        page.reload()
        expect(rows(page)).to_have_count(1)
        assert "secret" not in page.url
        assert page.context.cookies() == []
        page.get_by_role("button", name="Forget token").click()
        expect(token).to_be_visible()
        expect(rows(page)).to_have_count(0)


def test_the_link_opens_the_page_below_whatever_prefix_and_leaves_no_token_to_scripts(
    logs: Logs, page: Page, tmp_path: Path
) -> None:
    code = OneTimeCode(tmp_path / "code")
    admission = Admission("token", Tokens("a secret for tests, long enough"), code)
    found = inspector.routes(logs.engine, logs.diffs, logs.heads, admission.allow)
    logs.sync("anna", 0, ("create", 0, {"id": "x"}))
    with serving(Starlette(routes=[Mount("/below", routes=[*admission.routes(), *found])])) as url:
        page.goto(f"{url}below/inspect/open?code={code.make()}")
        expect(page.get_by_role("link", name="anna")).to_be_visible()
        assert page.url == f"{url}below/"
        assert page.evaluate("document.cookie") == ""
        [cookie] = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert cookie["path"] == "/below/inspect"


def test_the_page_says_so_when_the_server_is_gone_and_goes_on_when_it_is_back(
    logs: Logs, url: str, page: Page
) -> None:
    logs.sync("anna", 0, ("create", 0, {"id": "x"}))
    page.goto(view(url, owner="anna"))
    expect(page.locator("#live")).to_have_text("live")
    page.context.set_offline(True)
    expect(page.locator("#live")).to_have_text("no connection, trying again")
    logs.sync("anna", 1, ("create", 0, {"id": "y"}))
    page.context.set_offline(False)
    expect(rows(page)).to_have_count(2)


# ---- how it looks -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_sticks_out_at_any_width(logs: Logs, url: str, page: Page, width: int) -> None:
    long = "w" * 180
    logs.write(long, [("create", long, json.dumps({"id": long, long: long * 3}))])
    page.set_viewport_size({"width": width, "height": 800})
    for parameters in ({}, {"owner": long}, {"owner": long, "model": long, "object": long}):
        page.goto(view(url, **parameters))
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator("#live")).to_have_text("live")
        assert page.evaluate("document.documentElement.scrollWidth") == width
