"""apply_json: the same sync as apply, from bytes to bytes."""

from __future__ import annotations

import json
import sys
import threading
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobync import (
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    MobyncError,
    PageError,
    UnauthorizedError,
    _core,
)
from mobync.errors import shown
from mobync.memory import MemorySynchronizer

CASES = [
    json.loads(line) for line in (Path(__file__).parent / "merge.jsonl").read_text().splitlines()
]

GOOD: dict[str, Any] = {
    "id": "d",
    "owner": "o",
    "logical_clock": 0,
    "utc_timestamp": 10,
    "type": "create",
    "model": "tasks",
    "json_data": '{"id": "x", "n": 1.0}',
}


def body(*diffs: Any, clock: Any = 0, **more: Any) -> bytes:
    return json.dumps({"auth_token": "t", "logical_clock": clock, "diffs": diffs, **more}).encode()


class JsonStore(MemorySynchronizer):
    """Gives the log as JSON text; remembers what the rules were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []

    def read(self, where: str, filters: Any = ()) -> Any:
        return json.dumps(super().read(where, filters))

    def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
        self.asked.append(kwargs)
        return kwargs["id"] != "refused"


def filled(case: dict[str, Any], store: MemorySynchronizer) -> Mobync:
    """A store whose log holds the window of a case, and the rows that its request may meet."""
    for d in case["server"]:
        store.create("diffs", json.dumps(d))
    return Mobync(store)


@pytest.mark.parametrize("store", [MemorySynchronizer, JsonStore])
def test_it_does_what_apply_does(store: type[MemorySynchronizer]) -> None:
    for case in CASES:
        clock = min((d["logical_clock"] for d in case["server"]), default=0)
        by_dict, by_json = filled(case, store()), filled(case, store())
        reply = by_dict.apply(clock, case["client"], "o")
        text = by_json.apply_json(body(*case["client"], clock=clock), "o")
        assert json.loads(text) == reply
        assert by_json.synchronizer.read("diffs", []) == by_dict.synchronizer.read("diffs", [])


def test_a_body_may_be_str_or_bytes_and_its_clock_text() -> None:
    mobync = Mobync(MemorySynchronizer())
    assert json.loads(mobync.apply_json(body(GOOD, clock="0").decode(), "o")) == {
        "success": True,
        "message": "",
        "logical_clock": 1,
        "diffs": [],
    }
    for wrong in (None, 7, bytearray(b"{}"), {"diffs": []}):
        with pytest.raises(TypeError, match="str or bytes"):
            mobync.apply_json(wrong, "o")  # type: ignore[arg-type]


def test_json_data_passes_byte_for_byte_whatever_its_escapes() -> None:
    inner = '{ "id":"x","t":"é\\u00e9\\n\\ud83d\\ude00", "n":1e400}'
    mobync = Mobync(JsonStore())
    ascii_only, plain = ({**GOOD, "id": str(i), "json_data": inner} for i in range(2))
    sent = body(ascii_only), body(plain).decode("unicode_escape").encode("latin-1")
    mobync.apply_json(sent[0], "o")
    (reply,) = json.loads(mobync.apply_json(body(), "o"))["diffs"]
    assert reply["json_data"] == inner


def test_the_rules_see_the_diff_as_it_was_sent() -> None:
    store = JsonStore()
    sent = {**GOOD, "color": ["red", 1.5], "owner": "whoever"}
    Mobync(store).apply_json(body(sent), "o")
    assert store.asked == [sent]
    with pytest.raises(UnauthorizedError) as refusal:
        Mobync(store).apply_json(body({**GOOD, "id": "ok"}, {**GOOD, "id": "refused"}), "o")
    assert (refusal.value.index, refusal.value.diff_id) == (1, "refused")


def test_a_rule_may_sync_for_another_owner_meanwhile() -> None:
    class Forwarding(JsonStore):
        def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
            if owner_id == "ann":
                forwarded = {**kwargs, "id": f"of {kwargs['id']}", "model": "copies"}
                mobync.apply_json(body(*[forwarded] * 50), "bob")
            return True

    mobync = Mobync(Forwarding())
    diffs = [
        {**GOOD, "id": f"d{i}", "json_data": json.dumps({"id": f"x{i}", "n": "\n" * i})}
        for i in range(30)
    ]
    mobync.apply_json(body(*diffs), "ann")
    reply = json.loads(Mobync(mobync.synchronizer).apply_json(body(), "ann"))
    assert [(d["id"], d["json_data"]) for d in reply["diffs"]] == [
        (d["id"], d["json_data"]) for d in diffs
    ]
    copies = json.loads(Mobync(mobync.synchronizer).apply_json(body(), "bob"))["diffs"]
    assert [d["json_data"] for d in copies] == [d["json_data"] for d in diffs]


def test_a_retry_writes_nothing() -> None:
    store = JsonStore()
    mobync = Mobync(store)
    request = body(GOOD, {**GOOD, "id": "e", "type": "update", "json_data": '{"id":"y","é":2}'})
    assert mobync.apply_json(request, "o") == mobync.apply_json(request, "o")
    assert len(json.loads(store.read("diffs"))) == 2


@pytest.mark.parametrize(
    ("request_body", "index", "diff_id", "reason"),
    [
        (b"", None, None, "too early"),
        (b"[]", None, None, "JSON object"),
        (b'{"logical_clock": 0, "diffs": []} x', None, None, "text follows"),
        (b'{"logical_clock": 0, "diffs": [', 0, None, "too early"),
        (b'{"logical_clock": 0}', None, None, "diffs is missing"),
        (b'{"diffs": []}', None, None, "logical_clock is missing"),
        (b'{"logical_clock": 0, "diffs": {}}', None, None, "JSON array"),
        (b'{"logical_clock": 0, "diffs": [1]}', 0, None, "JSON object"),
        (b'{"a": "\xff", "logical_clock": 0, "diffs": []}', None, None, "UTF-8"),
        (body(GOOD, {**GOOD, "id": "e", "owner_id": 1}), 1, "e", "owner_id may not be a key"),
        (body({**GOOD, "self": 1}), 0, "d", "self may not be a key"),
        (body(GOOD, {**GOOD, "utc_timestamp": 1.0}), 1, "d", "utc_timestamp"),
        (body({**GOOD, "logical_clock": True}), 0, "d", "logical_clock"),
        (body({**GOOD, "type": "upsert"}), 0, "d", "type"),
        (body({**GOOD, "id": None}), 0, None, "id must be a string"),
        (body({n: v for n, v in GOOD.items() if n != "owner"}), 0, "d", "owner is missing"),
        (body(GOOD, {**GOOD, "id": "e", "json_data": "{}"}), 1, "e", "json_data"),
        (body({**GOOD, "id": ""}), 0, None, "id must not be empty"),
        (body({**GOOD, "model": "diffs"}), 0, "d", "log itself"),
        (
            body({**GOOD, "json_data": "[]"}, {"id": "e"}),
            0,
            "d",
            "json_data: expected a JSON object",
        ),
        ('{"\ud800": 1}', None, None, ": the JSON text has a lone surrogate$"),
        (body(GOOD)[:-3] + b', "x": ' + b"9" * 5000 + b"}]}", 0, "d", "too long"),
    ],
)
def test_a_malformed_body_is_an_invalid_diff(
    request_body: bytes | str, index: int | None, diff_id: str | None, reason: str
) -> None:
    store = MemorySynchronizer()
    with pytest.raises(InvalidDiffError, match=reason) as refusal:
        Mobync(store).apply_json(request_body, "o")
    assert (refusal.value.index, refusal.value.diff_id) == (index, diff_id)
    assert store.read("diffs") == []


def test_nesting_that_python_may_not_read_for_the_rules_is_refused() -> None:
    deep = "[" * 990 + "]" * 990
    mobync = Mobync(MemorySynchronizer())
    request = body(GOOD)[:-3] + b', "x": ' + deep.encode() + b"}]}"
    with pytest.raises(InvalidDiffError, match="too many levels deep"):
        mobync.apply_json(request, "o")


@pytest.mark.parametrize("clock", [-1, 1.0, "x", None, True, [0], 2**53, 10**400])
def test_a_clock_that_is_no_clock_is_refused(clock: Any) -> None:
    with pytest.raises(LogicalClockError):
        Mobync(MemorySynchronizer()).apply_json(body(clock=clock), "o")


@pytest.mark.parametrize("clock", [-1, 2**53, 10**24, -(10**24), 10**400, 10**4400], ids=shown)
def test_a_clock_out_of_range_is_called_so_in_every_form(clock: int) -> None:
    mobync = Mobync(MemorySynchronizer())
    text = f"{Decimal(clock):f}"  # which Python prints whatever its length
    for sync in (
        lambda: mobync.apply(clock, [], "o"),
        lambda: mobync.apply(text, [], "o"),
        lambda: mobync.apply_json(f'{{"logical_clock": {text}, "diffs": []}}', "o"),
        lambda: mobync.apply_json(f'{{"logical_clock": "{text}", "diffs": []}}', "o"),
    ):
        with pytest.raises(LogicalClockError, match=r"^logical_clock must be from 0 to 2\*\*53 "):
            sync()


def test_minus_zero_is_zero() -> None:
    sent = body(GOOD).decode().replace('"logical_clock": 0', '"logical_clock": -0')
    assert sent.count("-0") == 2
    stores = MemorySynchronizer(), MemorySynchronizer()
    request = json.loads(sent)
    reply = Mobync(stores[0]).apply(request["logical_clock"], request["diffs"], "o")
    assert json.loads(Mobync(stores[1]).apply_json(sent, "o")) == reply
    assert stores[0].read("diffs", []) == stores[1].read("diffs", [])


def test_the_limits_hold_too() -> None:
    mobync = Mobync(MemorySynchronizer(), max_diffs=1, max_json_data_bytes=22, max_depth=2)
    for refused in (
        body(GOOD, {**GOOD, "id": "e"}),
        body({**GOOD, "json_data": '{"id": "x", "n": 1.000}'}),
        body({**GOOD, "json_data": '{"id": "x","n":[[]]}'}),
    ):
        with pytest.raises(InvalidDiffError, match="are allowed"):
            mobync.apply_json(refused, "o")
    mobync.apply_json(body(GOOD), "o")


def test_of_duplicate_members_of_a_body_the_last_counts() -> None:
    text = b'{"diffs": [1], "logical_clock": 7, "diffs": [], "logical_clock": 0}'
    with pytest.raises(InvalidDiffError):
        Mobync(MemorySynchronizer()).apply_json(text, "o")
    text = b'{"diffs": [], "logical_clock": 7, "logical_clock": 0}'
    reply = json.loads(Mobync(MemorySynchronizer()).apply_json(text, "o"))
    assert reply["logical_clock"] == 0


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_no_bytes_do_more_than_raise(data: st.DataObject) -> None:
    whole = body(GOOD, {**GOOD, "id": "e", "json_data": '{"id":"y","\\u00e9":[{}]}'})
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    broken = whole[:begin] + data.draw(st.binary(max_size=6)) + whole[end:]
    store = MemorySynchronizer()
    try:
        Mobync(store).apply_json(broken, "o")
    except MobyncError:
        assert store.read("diffs") == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"auth_token": "t\\u006f", "diffs": [1, {"auth_token": "x"}]}', "to"),
        (b'{"auth_token": "a", "auth_token": "b"}', "b"),
        ('{"auth_token": "a", "auth_token": 1}', None),
        ('{"auth_token": ""}', ""),
        ("{}", None),
        ("[]", None),
        ("", None),
        ('{"auth_token": "a"', None),
        ('{"auth_token": "a"} x', None),
        (b'{"auth_token": "\xff"}', None),
    ],
)
def test_one_text_of_a_body_can_be_read_alone(body: str | bytes, found: str | None) -> None:
    assert _core.text_member(body, "auth_token") == found


@pytest.mark.parametrize(
    ("body", "name", "found"),
    [
        (r'{"a\n": "got"}', "a\n", "got"),
        (r'{"a\n": "got"}', r"a\n", None),
        (r'{"caf\u00e9": "got"}', "café", "got"),
        (r'{"caf\u00e8": "got"}', "café", None),
        ('{"café": "got"}', "café", "got"),
        (r'{"\ud83e\udd5b": "got"}', "🥛", "got"),
        (r'{"\u0061b": "got", "ab\u0063": "not"}', "ab", "got"),
        (r'{"": "got", "\u0061": "not"}', "", "got"),
        ('{"a\nb": "got"}', "a\nb", None),
        ('{"a":"b": "got"}', 'a":"b', None),
    ],
)
def test_a_name_is_that_of_the_member_and_not_how_it_is_written(body, name, found) -> None:
    assert _core.text_member(body, name) == found


def test_other_threads_run_while_a_large_body_is_looked_through(
    request: pytest.FixtureRequest,
) -> None:
    body = b'{"a": "' + b"x" * 4_000_000 + b'"}'
    waiting, ran = threading.Lock(), threading.Event()
    waiting.acquire()

    def run() -> None:
        with waiting:
            ran.set()

    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1000)  # nobody gets the GIL unless it is released
    thread = threading.Thread(target=run)
    thread.start()
    waiting.release()
    for _ in range(100):
        if not ran.is_set():
            assert _core.text_member(body, "auth_token") is None
    came_in_between = ran.is_set()
    thread.join()

    assert came_in_between


def test_only_text_has_members() -> None:
    with pytest.raises(TypeError):
        _core.text_member(1, "auth_token")  # type: ignore[arg-type]


# ---- what a request may hold, and what a reply ---------------------------------------------------

TOO_MUCH = [
    ({"x": "a" * 65_536}, None, "too many bytes beyond the seven fields: 65536 are allowed"),
    ({f"k{i}": 1 for i in range(9_000)}, None, "too many bytes beyond the seven fields"),
    ({"x": json.loads("[" * 65 + "]" * 65)}, None, "too many levels deep beyond the seven fields"),
    ({}, [f'"f{i}": 1' for i in range(10_000)], "too many fields: 10000 are allowed"),
    ({}, ['"f": 1'] * 10_000, "too many fields: 10000 are allowed"),
]


@pytest.mark.parametrize(("more", "members", "reason"), TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_what_a_diff_may_hold_has_limits(more: Any, members: Any, reason: str) -> None:
    row = "{" + ", ".join(['"id": "y"', *(members or [])]) + "}"
    sent = body({**GOOD, "id": "e", "json_data": row, **more}, GOOD)
    with pytest.raises(InvalidDiffError, match=reason):
        Mobync(MemorySynchronizer()).apply_json(sent, "o")
    skipping = Mobync(MemorySynchronizer(), on_refusal="skip")
    assert [r["id"] for r in json.loads(skipping.apply_json(sent, "o"))["refused"]] == ["e"]
    assert [row["id"] for row in skipping.synchronizer.read("tasks")] == ["x"]


def test_a_reply_has_a_limit_below_which_pages_stay() -> None:
    mobync = Mobync(MemorySynchronizer(), max_reply_bytes=100)
    sent = [{**GOOD, "id": f"d{i}", "json_data": f'{{"id": "x{i}"}}'} for i in range(30)]
    mobync.apply_json(body(*sent), "o")
    with pytest.raises(PageError, match="the reply would have over 100 bytes: ask for it in pages"):
        mobync.apply_json(body(), "o")
    reply, pulled = json.loads(mobync.apply_json(body(limit=1000), "o")), []
    pulled += reply["diffs"]
    while reply["more"]:
        assert sum(len(d["json_data"]) for d in reply["diffs"]) <= 100
        reply = json.loads(mobync.apply_json(body(limit=1000, cursor=reply["cursor"]), "o"))
        pulled += reply["diffs"]
    assert [d["id"] for d in pulled] == [d["id"] for d in sent]
