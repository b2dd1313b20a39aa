"""What the inspector's API gives, to whom, and that no answer grows with the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import databases
import pytest
import requests
from inspected import Logs
from sqlalchemy import event
from starlette.requests import Request

from mobync.server import _history, _log_pages, inspector
from mobync.server._log_pages import Entry
from mobync.server._views import history_view

database = databases.database


@pytest.fixture
def logs(database: databases.Database) -> Logs:
    return Logs(database.engine)


@pytest.fixture
def on_sqlite(tmp_path: Any) -> Iterator[Logs]:
    with databases.open_database("sqlite", tmp_path) as opened:
        yield Logs(opened.engine)


def get(url: str, name: str, **parameters: Any) -> Any:
    answer = requests.get(f"{url}inspect/api/{name}", parameters, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def all_entries(url: str, **parameters: Any) -> list[Any]:
    entries: list[Any] = []
    before = None
    while True:
        piece = get(url, "log", before=before, **parameters)
        entries += piece["entries"]
        before = piece["next"]
        if before is None:
            return entries


# ---- owners -------------------------------------------------------------------------------------


def test_owners_come_page_by_page_with_their_clocks(logs: Logs) -> None:
    for number in range(120):
        edits = [("create", 0, {"id": f"{number}-{n}"}) for n in range(1 + number % 2)]
        logs.sync(f"owner-{number:03}", 0, *edits)
    with logs.inspected() as url:
        first = get(url, "owners")
        second = get(url, "owners", after=first["next"])
        third = get(url, "owners", after=second["next"])
        assert get(url, "owners", first="owner-118")["owners"] == third["owners"][-2:]
    listed = [*first["owners"], *second["owners"], *third["owners"]]
    assert [len(page["owners"]) for page in (first, second, third)] == [50, 50, 20]
    assert third["next"] is None
    assert listed == [
        {"owner": f"owner-{number:03}", "logical_clock": 1 + number % 2} for number in range(120)
    ]


def test_measuring_stops_after_a_step_when_its_time_is_over(
    on_sqlite: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log_pages, "SECONDS", 0.0)
    on_sqlite.write("anna", [("create", "tasks", f'{{"id": "{n}"}}') for n in range(120)])
    with on_sqlite.inspected() as url:
        pieces = [get(url, "size", owner="anna", first=first) for first in (0, 50, 100)]
    assert [piece["rows"] for piece in pieces] == [50, 50, 20]
    assert [piece["complete"] for piece in pieces] == [False, False, True]


def test_the_pieces_of_a_log_measure_what_compaction_says_it_measures(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log_pages, "SECONDS", 60.0)
    logs.write("anna", [("create", "täsks", f'{{"id": "é{n}"}}') for n in range(10_500)])
    logs.write("bob", [("create", "tasks", '{"id": "x"}')])
    with logs.inspected() as url:
        first = get(url, "size", owner="anna")
        rest = get(url, "size", owner="anna", first=first["next"])
        nothing = get(url, "size", owner="nobody")
    assert first["rows"] == 10_000
    assert (first["next"], first["complete"]) == (10_000, False)
    assert (rest["next"], rest["complete"]) == (10_500, True)
    assert nothing == {"rows": 0, "bytes": 0, "next": 0, "complete": True}
    compacted = logs.mobync.compact("anna")
    assert first["rows"] + rest["rows"] == compacted.rows_before
    assert first["bytes"] + rest["bytes"] == compacted.bytes_before


# ---- the log ------------------------------------------------------------------------------------


def test_an_entry_says_what_the_log_has(logs: Logs) -> None:
    row = '{"id": "x", "price": 1.50, "big": 9007199254740993, "price": 1.0, "n\\u0061me": "é"}'
    logs.write("anna", [("create", "tasks", row)])
    with logs.inspected() as url:
        [entry] = get(url, "log", owner="anna")["entries"]
    assert entry == {
        "logical_clock": 0,
        "id": "written-0",
        "utc_timestamp": 1_790_000_000_000,
        "type": "create",
        "model": "tasks",
        "object": "x",
        "object_is_cut": False,
        "bytes": len(row.encode()),
        "fields": [["price", "1.0"], ["big", "9007199254740993"], ["name", '"é"']],
        "more_fields": 0,
        "device": None,
    }


def test_the_log_comes_page_by_page_from_the_newest_down(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log_pages, "SECONDS", 60.0)  # however busy the machine is
    logs.write("anna", [("create", "tasks", f'{{"id": "{n}"}}') for n in range(2350)])
    logs.write("bob", [("create", "tasks", '{"id": "x"}')])
    with logs.inspected() as url:
        assert len(get(url, "log", owner="anna")["entries"]) == 100
        clocks = [entry["logical_clock"] for entry in all_entries(url, owner="anna")]
        assert clocks == list(range(2350))[::-1]
        since = get(url, "log", owner="anna", after=2345)
        assert [entry["object"] for entry in since["entries"]] == ["2349", "2348", "2347", "2346"]
        assert since["next"] is None
        assert get(url, "log", owner="anna", before=100)["next"] is None
        assert get(url, "log", owner="anna", model="none", before=1000)["next"] is None


def test_filters_find_just_the_model_and_the_object(logs: Logs) -> None:
    ids = ["a", "A", "a%", "a_", "ab", "é", '"', "\\", "\\u0061", "a/", "x" * 300]
    logs.write(
        "anna",
        [
            ("update", model, json.dumps({"id": object_id, "also": ids}, ensure_ascii=ascii_only))
            for model in ("tasks", "Tasks")
            for object_id in ids
            for ascii_only in (True, False)
        ],
    )
    with logs.inspected() as url:
        for object_id in ids:
            found = all_entries(url, owner="anna", object=object_id)
            assert [entry["object"] for entry in found] == [object_id] * 4
            found = all_entries(url, owner="anna", model="Tasks", object=object_id)
            assert [entry["model"] for entry in found] == ["Tasks"] * 2
        assert len(all_entries(url, owner="anna", model="tasks")) == 2 * len(ids)
        assert all_entries(url, owner="Anna") == []


def test_json_that_nobody_can_follow_is_an_entry_without_fields(on_sqlite: Logs) -> None:
    deep = '{"id": "x", "deep": ' + "[" * 1000 + "]" * 1000 + "}"
    rows = ["", "[]", '{"id": 1}', '{"id"', '{"id": "x",}', "{} {}", deep]
    on_sqlite.write("anna", [("create", "tasks", row) for row in rows])
    with on_sqlite.inspected() as url:
        entries = all_entries(url, owner="anna")
    assert len(entries) == len(rows)
    assert all(entry["object"] is None for entry in entries[1:])


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 995 + "]" * 995, '"\\ud83e\\udd5b"'])
def test_no_value_that_the_core_takes_hides_an_edit(on_sqlite: Logs, value: str) -> None:
    on_sqlite.write("anna", [("create", "tasks", f'{{"id": "x", "value": {value}}}')])
    with on_sqlite.inspected() as url:
        [entry] = get(url, "log", owner="anna", object="x")["entries"]
        history = get(url, "history", owner="anna", model="tasks", object="x", clocks="0")
    assert entry["fields"][0][1].startswith(value[:100])
    [write] = history["fields"][0]["writes"]
    assert write["value"].startswith(value[:1000])


# ---- bounds -------------------------------------------------------------------------------------


def test_a_search_in_vain_looks_at_a_part_of_the_log_and_says_which(on_sqlite: Logs) -> None:
    on_sqlite.write("anna", [("create", "tasks", f'{{"id": "{n}"}}') for n in range(50_000)])
    with on_sqlite.inspected() as url:
        begun = get(url, "log", owner="anna", object="none such")
        assert begun["entries"] == []
        assert 30_000 <= begun["next"] < 50_000
        assert all_entries(url, owner="anna", object="none such") == []
        assert [entry["object"] for entry in all_entries(url, owner="anna", object="7")] == ["7"]


def test_a_search_among_escaped_texts_is_bounded_and_loses_nothing(on_sqlite: Logs) -> None:
    on_sqlite.write(
        "anna",
        [("update", "tasks", json.dumps({"id": "x", "name": "é", "n": n})) for n in range(3000)],
    )
    with on_sqlite.inspected() as url:
        assert len(get(url, "log", owner="anna", object="x")["entries"]) == 100
        found = all_entries(url, owner="anna", object="x")
        assert [entry["logical_clock"] for entry in found] == list(range(3000))[::-1]
        assert all_entries(url, owner="anna", object="y") == []


@pytest.mark.parametrize("sign", ["a", "\\\\"])
def test_a_step_of_a_search_reads_a_few_megabytes_or_one_diff(
    on_sqlite: Logs, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    monkeypatch.setattr(_log_pages, "SECONDS", 0.0)  # a page is one step then
    text = sign * (1_000_000 // len(sign))
    sizes = [1] * 20 + [6] + [1] * 20
    on_sqlite.write(
        "anna",
        [
            ("update", "tasks", f'{{"id": "{n}", "text": "{text * s}"}}')
            for n, s in enumerate(sizes)
        ],
    )
    reached: list[int] = []
    with on_sqlite.inspected() as url:
        while not reached or reached[-1] is not None:
            before = reached[-1] if reached else None
            piece = get(url, "log", owner="anna", object="none such", before=before)
            reached.append(piece["next"])
    assert reached == [37, 33, 29, 25, 21, 20, 16, 12, 8, 4, None]


def test_a_history_makes_no_more_of_a_million_fields_than_it_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[_history.Write] = []

    def noted(*arguments: Any) -> Any:
        made.append(Write(*arguments))
        return made[-1]

    Write = _history.Write
    monkeypatch.setattr(_history, "Write", noted)
    fields = {f"f{number}": "1" for number in range(100_000)}
    entries = [
        Entry(clock, f"d{clock}", clock, kind, "tasks", "x", 1, fields)
        for clock, kind in enumerate(("create", "update", "update"))
    ]
    view = history_view(entries, _history.lives_of(entries), None, 99_950)
    assert [field["name"] for field in view["fields"]] == [f"f{n}" for n in range(99_950, 100_000)]
    assert view["next_field"] is None
    assert len(made) == 50 * 3


def test_a_page_reads_a_few_megabytes_or_one_diff(on_sqlite: Logs) -> None:
    text = "x" * 3_000_000
    on_sqlite.write(
        "anna",
        [
            ("create", "tasks", f'{{"id": "{n}", "text": "{text * size}"}}')
            for n, size in enumerate([1, 1, 2, 1])
        ],
    )
    with on_sqlite.inspected() as url:
        read = _read_rows(on_sqlite)
        answer = requests.get(f"{url}inspect/api/log?owner=anna", timeout=60)
        assert len(answer.content) < 10_000
        assert len(answer.json()["entries"]) == 1
        assert sum(map(len, read)) < 3_100_000
        sizes = [entry["bytes"] // 1_000_000 for entry in all_entries(url, owner="anna")]
    assert sizes == [3, 6, 3, 3]


def test_pieces_of_a_search_share_the_room_of_a_page(on_sqlite: Logs) -> None:
    def big(size: int) -> tuple[str, str, str]:
        return "create", "photos", f'{{"id": "{size}", "text": "{"x" * size}"}}'

    small = [("create", "tasks", '{"id": "x"}')] * 1500
    on_sqlite.write("anna", [big(4_000_000), *small, big(3_000_000), *small, big(1_000_000)])
    with on_sqlite.inspected() as url:
        first = get(url, "log", owner="anna", model="photos")
        rest = get(url, "log", owner="anna", model="photos", before=first["next"])
    assert [entry["object"] for entry in first["entries"]] == ["1000000", "3000000"]
    assert [entry["object"] for entry in rest["entries"]] == ["4000000"]


def _read_rows(logs: Logs) -> list[str]:
    """What is read of json_data from now on."""
    read: list[str] = []

    @event.listens_for(logs.engine, "connect")
    def _(connection: Any, _: Any) -> None:
        connection.row_factory = note

    def note(_: Any, row: tuple[Any, ...]) -> tuple[Any, ...]:
        read.extend(value for value in row if isinstance(value, str) and len(value) > 1000)
        return row

    logs.engine.dispose()
    return read


def test_no_statement_goes_through_a_whole_table(on_sqlite: Logs) -> None:
    on_sqlite.sync("anna", 0, ("create", 0, {"id": "x"}))
    statements: list[tuple[str, Any]] = []

    @event.listens_for(on_sqlite.engine, "before_cursor_execute")
    def _(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    with on_sqlite.inspected() as url:
        get(url, "owners")
        get(url, "owners", after="a")
        get(url, "clock", owner="anna")
        get(url, "clock", owner="nobody")
        get(url, "size", owner="anna")
        get(url, "log", owner="anna")
        get(url, "log", owner="anna", model="tasks", object="x", before=5, after=0)
        get(url, "history", owner="anna", model="tasks", object="x", clocks="0")
    event.remove(on_sqlite.engine, "before_cursor_execute", _)
    assert len(statements) > 8
    with on_sqlite.engine.connect() as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            assert {row.detail.split()[0] for row in plan} == {"SEARCH"}, statement


def test_what_an_object_holds_is_cut_and_paged(on_sqlite: Logs) -> None:
    fields = {f"f{n:03}": "x" * 5000 for n in range(250)}
    on_sqlite.write("anna", [("create", "tasks", json.dumps({"id": "x", **fields}))])
    asked = {"owner": "anna", "model": "tasks", "object": "x", "clocks": "0"}
    with on_sqlite.inspected() as url:
        [entry] = get(url, "log", owner="anna")["entries"]
        assert len(entry["fields"]) + entry["more_fields"] == 250
        assert len(json.dumps(entry)) < 5000
        pages = [get(url, "history", **asked, field=field) for field in (0, 100, 200)]
    assert [page["next_field"] for page in pages] == [100, 200, None]
    assert [field["name"] for page in pages for field in page["fields"]] == list(fields)
    [write] = pages[0]["fields"][0]["writes"]
    assert write["value"].endswith("… (5002 characters)")
    assert len(write["value"]) < 1100


# ---- an object ----------------------------------------------------------------------------------


def test_a_history_says_who_holds_each_field_and_why(logs: Logs) -> None:
    logs.sync("anna", 0, ("create", 0, {"id": "x", "name": "milk", "shop": "corner"}))
    logs.sync("anna", 1, ("update", 9000, {"id": "x", "name": "oat milk"}))
    logs.sync("anna", 1, ("update", 5000, {"id": "x", "name": "soy milk", "shop": "market"}))
    logs.sync("anna", 3, ("update", 7000, {"id": "x", "name": "rice milk"}))
    asked = {"owner": "anna", "model": "tasks", "object": "x", "clocks": "0,1,2,3"}
    with logs.inspected() as url:
        history = get(url, "history", **asked)
    assert history["lives"] == [{"created": 0, "deleted": None}]
    held = {field["name"]: field["writes"][-1] for field in history["fields"]}
    assert held["name"] == {
        "logical_clock": 3,
        "value": '"rice milk"',
        "why": "seen",
        "replaced": 1,
        "later_ms": -2000,
    }
    assert (held["shop"]["logical_clock"], held["shop"]["why"]) == (2, "later")
    assert [edit["id"] for edit in history["edits"]] == ["edit-1", "edit-2", "edit-3", "edit-4"]


def test_a_history_leaves_out_other_objects_and_shows_each_life(logs: Logs) -> None:
    logs.write(
        "anna",
        [
            ("create", "tasks", '{"id": "x", "name": "milk"}'),
            ("create", "tasks", '{"id": "y", "name": "salt"}'),
            ("delete", "tasks", '{"id": "x"}'),
            ("create", "lists", '{"id": "x", "name": "shop"}'),
            ("create", "tasks", '{"id": "x", "name": "bread"}'),
        ],
    )
    asked = {"owner": "anna", "model": "tasks", "object": "x", "clocks": "0,1,2,3,4,99"}
    with logs.inspected() as url:
        now = get(url, "history", **asked)
        before = get(url, "history", **asked, life=0)
        none = get(url, "history", **asked, life=7)
    assert [edit["logical_clock"] for edit in now["edits"]] == [0, 2, 4]
    assert now["lives"] == [{"created": 0, "deleted": 2}, {"created": 4, "deleted": None}]
    assert [write["value"] for write in now["fields"][0]["writes"]] == ['"bread"']
    assert [write["value"] for write in before["fields"][0]["writes"]] == ['"milk"']
    assert none["fields"] == []


# ---- who may ask --------------------------------------------------------------------------------

NAMES = ["owners", "clock", "size", "log", "history", "events"]


class NoEvents:
    def events(self, *_: object) -> Any:
        raise AssertionError("nobody was to get this far")


def test_only_whom_the_app_allows_learns_anything(on_sqlite: Logs) -> None:
    def has_token(request: Request) -> bool:
        return inspector.bearer_token(request) == "secret"

    headers: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic secret"},
        {"Cookie": "token=secret"},
    ]
    on_sqlite.sync("anna", 0, ("create", 0, {"id": "t"}))
    with on_sqlite.inspected(has_token, NoEvents()) as url:
        for name in NAMES:
            for given in headers:
                answer = requests.get(
                    f"{url}inspect/api/{name}?owner=anna", headers=given, timeout=60
                )
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert list(answer.json()) == ["message"]
        allowed = {"Authorization": "bearer secret"}
        answer = requests.get(f"{url}inspect/api/owners", headers=allowed, timeout=60)
        assert [owner["owner"] for owner in answer.json()["owners"]] == ["anna"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "localhost", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "rebound.example"}, 401),
        ({"Host": "localhost.rebound.example:8000"}, 401),
        ({"Host": "127.0.0.1.rebound.example"}, 401),
        ({"Host": "[::1].rebound.example"}, 401),
        ({"Host": ""}, 401),
        ({"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}, 401),
        ({"Host": "localhost", "Forwarded": "for=127.0.0.1"}, 401),
        *(
            ({"Host": "localhost", name: "of a proxy"}, 401)
            for name in (
                "Via",
                "X-Forwarded-Host",
                "X-Forwarded-Proto",
                "X-Real-IP",
                "CF-Connecting-IP",
                "CF-Ray",
                "True-Client-IP",
                "X-Original-Host",
                "X-Envoy-External-Address",
                "X-Amzn-Trace-Id",
                "Fly-Client-IP",
                "Tailscale-User-Login",
            )
        ),
        ({"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, 401),
        ({"Host": "localhost", "Sec-Fetch-Site": "same-site"}, 401),
    ],
)
def test_loopback_means_this_machine_by_a_name_of_this_machine(
    on_sqlite: Logs, headers: dict[str, str], status: int
) -> None:
    with on_sqlite.inspected() as url:
        connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.putrequest("GET", "/inspect/api/owners", skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == status
        connection.close()


@pytest.mark.parametrize("peer", [None, ("192.0.2.1", 4711), ("2001:db8::1", 4711)])
def test_another_machine_is_not_loopback_whatever_it_says(peer: tuple[str, int] | None) -> None:
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "headers": headers, "client": peer}
    assert not inspector.from_loopback(Request(scope))
    assert inspector.from_loopback(Request(scope | {"client": ("127.0.0.1", 4711)}))


def test_every_answer_is_strict_about_what_a_browser_may_do(on_sqlite: Logs) -> None:
    paths = ["", "inspect/static/app.js", "inspect/static/none", "inspect/api/owners"]
    with on_sqlite.inspected() as url:
        for path in paths:
            headers = requests.get(
                url + path, headers={"Origin": "http://other.example"}, timeout=60
            ).headers
            policy = headers["Content-Security-Policy"].split("; ")
            assert "default-src 'none'" in policy
            assert "script-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert not any(name.lower().startswith("access-control") for name in headers)
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("log", "owner is missing"),
        ("log?owner=", "owner is missing"),
        ("log?owner=%00", "owner has U+0000"),
        ("log?owner=a&model=%00", "model has U+0000"),
        ("log?owner=a&before=x", "before must be a number"),
        ("log?owner=a&before=-1", "before must be a number"),
        ("log?owner=a&after=9007199254740992", "after must be a number"),
        ("log?owner=a&after=²", "after must be a number"),
        ("owners?first=%00", "first has U+0000"),
        ("size?owner=a&first=1.5", "first must be a number"),
        ("clock", "owner is missing"),
        ("history?owner=a", "model is missing"),
        ("history?owner=a&model=m", "object is missing"),
        ("history?owner=a&model=m&object=x", "clocks is missing"),
        ("history?owner=a&model=m&object=x&clocks=1,,2", "clocks must be a number"),
        (f"history?owner=a&model=m&object=x&clocks={'1,' * 200}1", "clocks has more than 200"),
        ("history?owner=a&model=m&object=x&clocks=1&field=a", "field must be a number"),
        ("events", "owner is missing"),
    ],
)
def test_a_bad_query_is_refused_by_name(on_sqlite: Logs, query: str, names: str) -> None:
    with on_sqlite.inspected(live=NoEvents()) as url:
        answer = requests.get(f"{url}inspect/api/{query}", timeout=60)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(names)


def test_no_file_is_served_but_those_of_the_page(on_sqlite: Logs) -> None:
    with on_sqlite.inspected() as url:
        for name in ["index.html", "..%2finspector.py", "%2e%2e%2finspector.py", "app.js%00"]:
            assert requests.get(f"{url}inspect/static/{name}", timeout=60).status_code == 404
