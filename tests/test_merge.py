"""The merge: the protocol's cases, the model beside the C, and what must hold for any input."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import merge_model
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobync import InvalidDiffError, MergeResult, merge

CASES = [
    json.loads(line) for line in (Path(__file__).parent / "merge.jsonl").read_text().splitlines()
]


def by_value(diffs: list[Any]) -> list[Any]:
    return [{**diff, "json_data": json.loads(diff["json_data"])} for diff in diffs]


def diff(
    diff_id: str, kind: str, data: str | dict[str, Any], at: int = 10, clock: int = 0, **more: Any
) -> dict[str, Any]:
    return {
        "id": diff_id,
        "owner": "o",
        "logical_clock": clock,
        "utc_timestamp": at,
        "type": kind,
        "model": "tasks",
        "json_data": data if isinstance(data, str) else json.dumps(data),
        **more,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_conformance(case: dict[str, Any]) -> None:
    result = merge(case["server"], case["client"])
    assert by_value(result.upstream) == by_value(case["upstream"])
    assert by_value(result.downstream) == by_value(case["downstream"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_model_conforms_too(case: dict[str, Any]) -> None:
    upstream, downstream = merge_model.merge(case["server"], case["client"])
    assert by_value(upstream) == by_value(case["upstream"])
    assert by_value(downstream) == by_value(case["downstream"])


def histories(ids: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Lists of diffs, of which many make no sense: updates of the dead, creates of the living.

    An id is of one object, but for a stray one.
    """
    values = st.sampled_from(["A", "B", 1, 2, None, [1], {"x": 1}])
    rows = st.dictionaries(st.sampled_from(["a", "b", "c", "ID", "é"]), values, max_size=3)

    def of_object(diff_id: str, kind: str, row: dict[str, Any], stray: int, **more: Any) -> Any:
        number = ord(diff_id) + (stray == 0)
        model = "notes" if number % 5 == 0 else "tasks"
        return diff(diff_id, kind, {"id": "xy"[number % 2], **row}, model=model, **more)

    one = st.builds(
        of_object,
        st.sampled_from(ids),
        st.sampled_from(["create", "update", "update", "delete"]),
        rows,
        stray=st.integers(0, 40),
        at=st.integers(0, 6),
        clock=st.integers(0, 8),
    )
    return st.lists(one, max_size=9)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(server=histories("stuvwkl"), client=histories("lmnopqk"))
def test_the_c_does_what_the_model_does(server: list[Any], client: list[Any]) -> None:
    server = list({d["id"]: d for d in server}.values())
    try:
        upstream, downstream = merge_model.merge(server, client)
    except merge_model.NamesTwoThings:
        with pytest.raises(InvalidDiffError, match="another object"):
            merge(server, client)
        return
    result = merge(server, client)
    assert by_value(result.upstream) == by_value(upstream)
    assert by_value(result.downstream) == by_value(downstream)


@settings(max_examples=300, deadline=None)
@given(server=histories("stuvwkl"), client=histories("lmnopqk"))
def test_the_arguments_stay_as_they_were(server: list[Any], client: list[Any]) -> None:
    before = copy.deepcopy((server, client))
    with contextlib.suppress(InvalidDiffError):
        merge(server, client)
    assert (server, client) == before


@settings(max_examples=300, deadline=None)
@given(client=histories("lmnopqrst"))
def test_what_was_merged_once_is_known_when_it_comes_again(client: list[Any]) -> None:
    """A retry whose first reply was lost: nothing is written twice, nothing comes back."""
    upstream, _ = merge([], client)
    logged = [{**d, "logical_clock": i} for i, d in enumerate(upstream)]
    again = merge(logged, client)
    dead = {merge_model.object_of(d) for d in logged if d["type"] == "delete"}
    assert [d for d in again.upstream if merge_model.object_of(d) not in dead] == []
    assert [d for d in again.downstream if merge_model.object_of(d) not in dead] == []


def test_the_result_has_names() -> None:
    result = merge([], [])
    assert isinstance(result, MergeResult)
    assert result == ([], [])


def test_an_unchanged_diff_passes_byte_for_byte() -> None:
    odd = '{ "n" : 1.0,\t"id":"x" ,"big":9007199254740993, "n\\u0061me":"\\u00e9\\n" }'
    sent = diff("l1", "create", odd)
    assert merge([], [sent]).upstream == [sent]
    assert merge([sent], []).downstream == [sent]


VALUES = [
    "9007199254740993",
    "123456789012345678901234567890",
    "1.0",
    "0.1000",
    "1e400",
    "-0",
    "-0.0e-5",
    "1E+2",
    '"\\u00e9\\ud83d\\ude00\\/"',
    '"\x7f"',
    '[1.50, {"a" : 2.0}]',
    "null",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_keeps_its_text_through_a_merge_that_changes_its_diff(value: str) -> None:
    server = [diff("s1", "update", f'{{"id":"x","won":{value},"lost":1}}', at=5, clock=3)]
    client = [
        diff("l1", "update", f'{{"id":"x","mine":{value},"won":0}}', at=1),
        diff("l2", "update", '{"id":"x","lost":2}', at=9),
    ]
    upstream, downstream = merge(server, client)
    assert upstream[0]["json_data"] == f'{{"id":"x","mine":{value}}}'
    assert downstream[0]["json_data"] == f'{{"id":"x","won":{value}}}'


@pytest.mark.parametrize("value", VALUES)
def test_a_value_keeps_its_text_when_it_is_folded_into_a_create(value: str) -> None:
    client = [
        diff("l1", "create", '{"id":"x","a":0}'),
        diff("l2", "update", f'{{"id":"x","a":{value},"b":{value}}}'),
    ]
    assert merge([], client).upstream[0]["json_data"] == f'{{"id":"x","a":{value},"b":{value}}}'


def test_values_are_equal_when_their_texts_are() -> None:
    server = [diff("s1", "update", '{"id":"x","n":1.0}', at=10, clock=3)]
    same = merge(server, [diff("l1", "update", '{"id":"x","n":1.0}', at=20)])
    other = merge(server, [diff("l1", "update", '{"id":"x","n":1.00}', at=20)])
    assert same == ([], [])
    assert [d["id"] for d in other.upstream] == ["l1"]


def test_of_duplicate_members_the_last_counts() -> None:
    server = [diff("s1", "update", '{"id":"x","n":2}', at=50, clock=3)]
    client = [diff("l1", "update", '{"id":"y","n":1,"m":1,"id":"x","n":2,"m":3}', at=10)]
    upstream, downstream = merge(server, client)
    assert [d["json_data"] for d in upstream] == ['{"id":"x","m":3}']
    assert downstream == []


def test_a_diff_whose_duplicates_all_win_is_not_changed() -> None:
    sent = diff("l1", "update", '{"id":"x","n":1,"n":2}')
    assert merge([], [sent]).upstream == [sent]


def test_keys_are_compared_decoded() -> None:
    server = [diff("s1", "update", '{"id":"x","na\\u006de":"S"}', at=50, clock=3)]
    client = [diff("l1", "update", '{"\\u0069d":"x","name":"L"}', at=10)]
    assert merge(server, client).upstream == []
    assert merge(server, client).downstream == server


def test_the_object_id_is_compared_decoded() -> None:
    server = [diff("s1", "delete", '{"id":"\\u00e9"}', clock=3)]
    client = [diff("l1", "update", '{"id":"é","a":1}')]
    assert merge(server, client) == ([], server)


def test_a_diff_id_that_stands_twice_counts_the_first_time() -> None:
    client = [
        diff("l1", "update", {"id": "x", "a": 1}),
        diff("l1", "update", {"id": "x", "a": 2}),
        diff("l1", "delete", {"id": "x"}),
    ]
    assert merge([], client).upstream == client[:1]


def test_rows_that_the_device_cannot_have_seen_are_not_edited_by_it() -> None:
    """Else the device would take the create whole and the server the edit: they would differ."""
    server = [diff("s1", "create", {"id": "x", "name": "S"}, at=10, clock=3)]
    assert merge(server, [diff("l1", "update", {"id": "x", "name": "L"}, at=20)]) == ([], server)


def test_a_row_that_an_update_cannot_mend_is_replaced() -> None:
    """The device's own row has `b`; the server's new incarnation never had it."""
    server = [
        diff("l1", "create", {"id": "x", "a": 1, "b": 1}, at=10, clock=3),
        diff("s1", "delete", {"id": "x"}, at=20, clock=4),
        diff("s2", "create", {"id": "x", "a": 2}, at=30, clock=5),
    ]
    client = [diff("l1", "create", {"id": "x", "a": 1, "b": 1}, at=10)]
    assert merge(server, client) == ([], server[1:])


def test_an_edit_that_was_folded_into_a_known_create_is_known_too() -> None:
    """Else the retry would beat an edit that another device made after seeing it."""
    window = [
        diff("l1", "create", {"id": "x", "a": 2}, at=20, clock=0),
        diff("s1", "update", {"id": "x", "a": 9}, at=5, clock=1),
    ]
    retry = [
        diff("l1", "create", {"id": "x", "a": 1}),
        diff("l2", "update", {"id": "x", "a": 2}, 20),
    ]
    assert merge(window, retry) == ([], window[1:])
    later = [*retry, diff("l3", "update", {"id": "x", "a": 2}, at=21)]
    assert [d["id"] for d in merge(window, later).upstream] == ["l3"]


def test_an_edit_back_to_what_was_created_is_an_edit() -> None:
    """In the millisecond of the create, even: a known update stands between."""
    window = [
        diff("l1", "create", {"id": "x", "a": 0}, clock=0),
        diff("l2", "update", {"id": "x", "a": 1}, clock=1),
    ]
    request = [*window, diff("l3", "update", {"id": "x", "a": 0})]
    assert merge(window, request) == (request[2:], [])


def test_only_the_beginning_of_a_request_can_have_been_folded() -> None:
    """An edit back to the created value, after one that the server has not heard of, is news."""
    window = [
        diff("l1", "create", {"id": "x", "a": 1}, at=7, clock=0),
        diff("s1", "update", {"id": "x", "a": 9}, at=20, clock=1),
    ]
    request = [
        diff("l1", "create", {"id": "x", "a": 2}, at=5),
        diff("l2", "update", {"id": "x", "a": 1}, at=7),
        diff("l3", "update", {"id": "x", "a": 3}, at=30),
        diff("l4", "update", {"id": "x", "a": 1}, at=31),
    ]
    assert merge(window, request[:2]) == ([], window[1:])
    assert merge(window, request) == (request[3:], [])


@pytest.mark.parametrize("limited", [False, True])
def test_a_request_that_comes_again_is_known_as_a_whole(limited: bool) -> None:
    """Its edits go to and fro between two values; so does the time of a device far ahead."""
    window = [
        diff("l1", "create", {"id": "x", "done": True}, at=20, clock=0),
        diff("s1", "update", {"id": "x", "done": False}, at=25, clock=1),
    ]
    at = 90 if limited else 20
    retry = [diff("l1", "create", {"id": "x", "done": False}, at=at)] + [
        diff(f"u{i}", "update", {"id": "x", "done": i % 2 == 1}, at=at) for i in (1, 2, 3)
    ]
    assert merge(window, retry) == ([], window[1:])


def test_a_thousand_fields_fold_into_one_create() -> None:
    fields = {f"f{i}": i for i in range(1000)}
    client = [diff("l0", "create", {"id": "x"})]
    client += [
        diff(f"u{i}", "update", {"id": "x", n: v}) for i, (n, v) in enumerate(fields.items())
    ]
    (create,) = merge([], client).upstream
    assert json.loads(create["json_data"]) == {"id": "x", **fields}


@pytest.mark.parametrize("bad", [0, "no list", {"a": 1}, None])
def test_something_that_is_no_list_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidDiffError, match="must be a list"):
        merge([], bad)


@pytest.mark.parametrize("side", [lambda d: merge([d], []), lambda d: merge([], [d])])
def test_a_malformed_diff_of_either_list_is_refused(side: Callable[[Any], Any]) -> None:
    with pytest.raises(InvalidDiffError) as refusal:
        side(diff("bad", "update", "{}"))
    assert (refusal.value.index, refusal.value.diff_id) == (0, "bad")
