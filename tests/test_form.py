"""The form of a diff: what is taken, and what is refused with its index, its id and the reason."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobync import (
    Diff,
    FilterType,
    InvalidDiffError,
    Mobync,
    MobyncError,
    OperationType,
    ReadFilter,
    UnauthorizedError,
    merge,
)
from mobync.memory import MemorySynchronizer

GOOD: dict[str, Any] = {
    "id": "d",
    "owner": "o",
    "logical_clock": 0,
    "utc_timestamp": 10,
    "type": "create",
    "model": "tasks",
    "json_data": '{"id": "x", "n": 1}',
}


def refusal(bad: Any, *, before: int = 0) -> InvalidDiffError:
    """The error that a request of `before` good diffs and the bad one meets."""
    store = MemorySynchronizer()
    request = [{**GOOD, "id": f"good{i}"} for i in range(before)] + [bad]
    with pytest.raises(InvalidDiffError) as raised:
        Mobync(store).apply(0, request, "o")
    assert store.read("tasks") == store.read("diffs") == []
    return raised.value


def test_the_first_bad_diff_refuses_the_whole_request_and_is_named() -> None:
    error = refusal({**GOOD, "id": "bad", "utc_timestamp": -1}, before=2)
    assert (error.index, error.diff_id) == (2, "bad")
    assert "utc_timestamp" in error.reason
    assert str(error) == f"invalid diff 2 ('bad'): {error.reason}"


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_field_that_is_missing_is_named(field: str) -> None:
    bad = {name: value for name, value in GOOD.items() if name != field}
    assert refusal(bad).reason == f"{field} is missing"


@pytest.mark.parametrize("field", ["id", "owner", "type", "model", "json_data"])
@pytest.mark.parametrize("value", [None, 7, b"x", ["x"], {}, True, 1.5])
def test_a_text_must_be_a_str(field: str, value: Any) -> None:
    assert refusal({**GOOD, field: value}).reason == f"{field} must be a string"


@pytest.mark.parametrize("field", ["id", "owner", "type", "model", "json_data"])
def test_a_text_must_be_unicode(field: str) -> None:
    assert refusal({**GOOD, field: "x\ud800"}).reason == f"{field} has a lone surrogate"


@pytest.mark.parametrize("field", ["logical_clock", "utc_timestamp"])
@pytest.mark.parametrize("value", [None, "0", 1.0, True, False, [0]])
def test_an_integer_must_be_an_int(field: str, value: Any) -> None:
    reason = refusal({**GOOD, field: value}).reason
    assert reason == f"{field} must be an integer from 0 to 9007199254740991"


@pytest.mark.parametrize("field", ["logical_clock", "utc_timestamp"])
@pytest.mark.parametrize("value", [-1, 2**53, 2**64, -(2**70), 10**400])
def test_an_integer_must_fit_every_json_client(field: str, value: int) -> None:
    assert refusal({**GOOD, field: value}).reason.startswith(f"{field} must be an integer from 0")


@pytest.mark.parametrize("field", ["logical_clock", "utc_timestamp"])
@pytest.mark.parametrize("value", [0, 2**53 - 1])
def test_the_bounds_of_an_integer_are_in(field: str, value: int) -> None:
    assert Diff.validate({**GOOD, field: value})


@pytest.mark.parametrize("field", ["id", "owner", "model"])
@pytest.mark.parametrize("value", ["", "a\0b", "\ud800"])
def test_a_text_must_be_storable(field: str, value: str) -> None:
    assert refusal({**GOOD, field: value}).reason.startswith(field)


@pytest.mark.parametrize("value", ["Create", "upsert", "", "create ", "0"])
def test_a_type_must_be_one_of_three(value: str) -> None:
    reason = refusal({**GOOD, "type": value}).reason
    assert reason == 'type must be "create", "update" or "delete"'


def test_the_model_must_not_be_the_log() -> None:
    assert "log itself" in refusal({**GOOD, "model": "diffs"}).reason


@pytest.mark.parametrize("key", ["owner_id", "self"])
def test_a_key_that_collides_with_the_rules_arguments_is_refused(key: str) -> None:
    error = refusal({**GOOD, key: "x"}, before=1)
    assert (error.index, error.diff_id) == (1, "d")
    assert error.reason == f"{key} may not be a key of a diff"


@pytest.mark.parametrize(
    ("key", "name"),
    [(7, "7"), (b"x", "b'x'"), (None, "None"), (10**5000, "a int too long to show")],
    ids=["int", "bytes", "None", "long int"],
)
def test_a_key_that_is_no_str_is_refused(key: Any, name: str) -> None:
    error = refusal({**GOOD, key: "x"}, before=1)
    assert (error.index, error.diff_id) == (1, "d")
    assert error.reason == f"a key must be a str, not {name}"


@pytest.mark.parametrize("bad", [None, "x", 7, ["id"], [("id", "d")]])
def test_a_diff_must_be_a_dict(bad: Any) -> None:
    error = refusal(bad, before=1)
    assert (error.index, error.diff_id) == (1, None)
    assert "must be a dict" in error.reason


@pytest.mark.parametrize("bad", [None, "[]", 7, {"a": 1}, iter([])])
def test_the_diffs_must_be_a_list(bad: Any) -> None:
    with pytest.raises(InvalidDiffError) as raised:
        Mobync(MemorySynchronizer()).apply(0, bad, "o")
    assert (raised.value.index, raised.value.diff_id) == (None, None)


NOT_JSON_DATA = [
    "",
    " ",
    "null",
    "[]",
    '"x"',
    "7",
    "{}",
    '{"id"}',
    '{"id": }',
    '{"id": "x"',
    '{"id": "x",}',
    '{"id": "x"} x',
    '{"id": "x"}{}',
    '{"id": "x" "n": 1}',
    "{'id': 'x'}",
    '{id: "x"}',
    '{"id": ""}',
    '{"id": 7}',
    '{"id": null}',
    '{"ID": "x"}',
    '{"id": "x", "n": 01}',
    '{"id": "x", "n": -01}',
    '{"id": "x", "n": 1.}',
    '{"id": "x", "n": .5}',
    '{"id": "x", "n": +1}',
    '{"id": "x", "n": 1e}',
    '{"id": "x", "n": 0x10}',
    '{"id": "x", "n": NaN}',
    '{"id": "x", "n": Infinity}',
    '{"id": "x", "n": -Infinity}',
    '{"id": "x", "n": True}',
    '{"id": "x", "n": nul}',
    '{"id": "x", "n": [1,]}',
    '{"id": "x", "n": [1 2]}',
    '{"id": "x", "n": {"a"}}',
    '{"id": "x", "n": "\\x41"}',
    '{"id": "x", "n": "\\u12"}',
    '{"id": "x", "n": "\\u0000"}',
    '{"id": "x", "n": "\\ud800"}',
    '{"id": "x", "n": "\\udc00\\ud800"}',
    '{"id": "x", "n": "\\ud800\\u0041"}',
    '{"id": "x\\u0000y"}',
    '{"id": "x", "n": "\t"}',
    '{"id": "x", "n": "a\nb"}',
    '{"id": "x"\v}',
    '{"id": "x", "n": "\x00"}',
    "\ufeff" + '{"id": "x"}',
    '{"id": "x", "n": /* none */ 1}',
    '{"id": "x", "n": "\ud800"}',
]


@pytest.mark.parametrize("json_data", NOT_JSON_DATA, ids=ascii)
@pytest.mark.parametrize("kind", ["create", "update", "delete"])
def test_what_is_no_object_with_an_id_is_refused(json_data: str, kind: str) -> None:
    error = refusal({**GOOD, "type": kind, "json_data": json_data}, before=1)
    assert (error.index, error.diff_id) == (1, "d")
    assert error.reason.startswith("json_data")


def test_the_reason_names_the_byte() -> None:
    assert refusal({**GOOD, "json_data": '{"id": "x", "é": 01}'}).reason.endswith("(at byte 19)")


def nested(levels: int) -> str:
    return '{"id": "x", "n": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def test_nesting_ends_at_a_thousand_levels() -> None:
    assert Diff.validate({**GOOD, "json_data": nested(1000)})
    assert "1000 levels" in refusal({**GOOD, "json_data": nested(1001)}).reason
    assert "1000 levels" in refusal({**GOOD, "json_data": nested(1_000_000)}).reason


@pytest.mark.parametrize(
    ("limit", "request_diffs", "index", "reason"),
    [
        ({"max_diffs": 2}, [GOOD] * 3, None, "diffs are too many for one request: 2 are allowed"),
        (
            {"max_json_data_bytes": len(GOOD["json_data"])},
            [GOOD, {**GOOD, "id": "é", "json_data": '{"id": "x", "n": 10}'}],
            1,
            "json_data has too many bytes: 19 are allowed",
        ),
        (
            {"max_depth": 3},
            [{**GOOD, "json_data": nested(3)}, {**GOOD, "json_data": nested(4)}],
            1,
            "json_data is nested too many levels deep: 3 are allowed",
        ),
    ],
)
def test_a_request_over_a_limit_is_refused(
    limit: dict[str, int], request_diffs: list[Any], index: int | None, reason: str
) -> None:
    store = MemorySynchronizer()
    mobync = Mobync(store, **limit)
    with pytest.raises(InvalidDiffError) as refusal:
        mobync.apply(0, request_diffs, "o")
    assert (refusal.value.index, refusal.value.reason) == (index, reason)
    assert store.read("diffs") == []
    assert mobync.apply(0, request_diffs[:1], "o")["logical_clock"] == 1


LIMITS: dict[str, int] = {"max_diffs": 3, "max_json_data_bytes": 40, "max_depth": 3}
OTHER = {**GOOD, "id": "other"}
TOO_LONG = '{"id": "x", "n": "' + "y" * 40 + '"}'


@pytest.mark.parametrize(
    "request_diffs",
    [
        *([{name: v for name, v in GOOD.items() if name != field}] for field in GOOD),
        *([{**GOOD, field: None}] for field in GOOD),
        *([{**GOOD, field: ""}] for field in GOOD),
        *([{**GOOD, field: -1}] for field in GOOD),
        *([{**GOOD, field: 2**53}] for field in GOOD),
        *([{**GOOD, field: True}] for field in GOOD),
        *([{**GOOD, field: 1.0}] for field in GOOD),
        [{}],
        [{**GOOD, "owner": 1, "logical_clock": -1, "model": 1}],
        [{**GOOD, "id": 1, "json_data": "[]"}],
        [{**GOOD, "json_data": "[]"}],
        [{**GOOD, "json_data": "{}"}],
        [{**GOOD, "json_data": '{"id": 7}'}],
        [{**GOOD, "json_data": '{"id": "x", "n": 01}'}],
        [{**GOOD, "json_data": nested(4)}],
        [{**GOOD, "json_data": TOO_LONG}],
        [{**GOOD, "model": "diffs"}],
        [{**GOOD, "model": "diffs", "json_data": TOO_LONG}],
        [{**GOOD, "owner_id": 1}],
        [{**GOOD, "self": 1, "owner_id": 1, "model": "diffs"}],
        [{**GOOD, "owner_id": 1, "json_data": "[]"}],
        # the first of two
        [{**GOOD, "model": "diffs"}, {**OTHER, "type": "upsert"}],
        [{**GOOD, "type": "upsert"}, {**OTHER, "model": "diffs"}],
        [{**GOOD, "json_data": TOO_LONG}, {**OTHER, "self": 1}],
        [OTHER, {**GOOD, "json_data": nested(4)}, {}],
        [GOOD, OTHER, OTHER, OTHER],
        [GOOD, OTHER, OTHER, {}],
        [GOOD, OTHER, {}, OTHER],
    ],
    ids=lambda request_diffs: repr(request_diffs)[-60:],
)
def test_both_ways_to_apply_name_the_same_diff_and_reason(
    request_diffs: list[dict[str, Any]],
) -> None:
    mobync = Mobync(MemorySynchronizer(), **LIMITS)
    with pytest.raises(InvalidDiffError) as of_dicts:
        mobync.apply(0, request_diffs, "o")
    body = json.dumps({"logical_clock": 0, "diffs": request_diffs})
    with pytest.raises(InvalidDiffError) as of_json:
        mobync.apply_json(body, "o")
    assert of_json.value.args == of_dicts.value.args


def test_more_diffs_than_are_allowed_are_not_read() -> None:
    body = json.dumps({"logical_clock": 0, "diffs": [GOOD] * 3})[:-2] + ", no JSON"
    with pytest.raises(InvalidDiffError, match="too many for one request: 3 are allowed"):
        Mobync(MemorySynchronizer(), **LIMITS).apply_json(body, "o")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(value=json_values, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_what_python_prints_as_json_is_taken_and_passes_unchanged(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps({"id": "x", "n": value}, ensure_ascii=ascii_only, indent=indent)
    sent = {**GOOD, "json_data": text}
    assert merge([], [sent]).upstream == [sent]


@settings(max_examples=600, deadline=None)
@given(
    st.text(st.sampled_from('{}[]:,"\\/ \n\ttrufalsen0123456789.eE+-ud8\x00\x7fé😀x'), max_size=40)
)
def test_mobync_takes_no_json_that_python_refuses(tail: str) -> None:
    text = '{"id": "x", "n": ' + tail + "}"

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    if Diff.validate({**GOOD, "json_data": text}):
        json.loads(text, parse_constant=refuse)


# ---- the small types of 0.2.0 ----------------------------------------------------------------


def test_diff_validate_takes_a_dict_or_json() -> None:
    assert Diff.validate(GOOD) is True
    assert Diff.validate(json.dumps(GOOD)) is True
    for bad in ({}, "{}", "no json", "[" * 100_000, None, 7, [GOOD], {**GOOD, "id": ""}):
        assert Diff.validate(bad) is False


def test_the_field_names() -> None:
    assert list(GOOD) == [
        Diff.ID,
        Diff.OWNER,
        Diff.LOGICAL_CLOCK,
        Diff.UTC_TIMESTAMP,
        Diff.TYPE,
        Diff.MODEL,
        Diff.JSON_DATA,
    ]


def test_the_enums() -> None:
    assert {m.name: m.value for m in OperationType} == {"create": 0, "update": 1, "delete": 2}
    assert {m.name: m.value for m in FilterType} == {
        "equal": 0,
        "major": 1,
        "minor": 2,
        "majorOrEqual": 3,
        "minorOrEqual": 4,
    }
    assert [OperationType.validate(name) for name in ("create", "update", "delete")] == [True] * 3
    for bad in ("Create", "", 0, None, OperationType.create):
        assert OperationType.validate(bad) is False


def test_a_read_filter_is_its_three_attributes() -> None:
    f = ReadFilter("owner", FilterType.equal, "ann")
    assert (f.field_name, f.filter_by, f.data) == ("owner", FilterType.equal, "ann")


@pytest.mark.parametrize("kind", [InvalidDiffError, UnauthorizedError])
def test_errors_survive_pickling(kind: type[InvalidDiffError]) -> None:
    error = kind("because", 3, "d3")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(error, MobyncError)
    assert (str(copy), copy.reason, copy.index, copy.diff_id) == (str(error), "because", 3, "d3")


# ---- objects that lie ------------------------------------------------------------------------


class LyingStr(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        return str.__hash__(self)


class LyingDict(dict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise ZeroDivisionError

    def keys(self) -> Any:
        return ["surprise"]

    def get(self, key: str, default: Any = None) -> Any:
        raise ZeroDivisionError


class LyingList(list[Any]):
    def __len__(self) -> int:
        return 10**9

    def __iter__(self) -> Any:
        raise ZeroDivisionError

    def __getitem__(self, index: Any) -> Any:
        raise ZeroDivisionError


def test_a_str_subclass_counts_as_its_text() -> None:
    class Loud(str):
        __slots__ = ()

    sent = {name: Loud(v) if isinstance(v, str) else v for name, v in GOOD.items()}
    (taken,) = merge([], [sent]).upstream
    assert taken == GOOD
    assert {type(v) for v in taken.values()} == {str, int}


def test_a_dict_subclass_counts_as_what_it_holds() -> None:
    assert merge([], [LyingDict(GOOD)]).upstream == [GOOD]


def test_a_list_subclass_counts_as_what_it_holds() -> None:
    assert merge([], LyingList([GOOD])).upstream == [GOOD]
    assert merge(LyingList([GOOD]), []).downstream == [GOOD]


def test_a_list_that_changes_while_it_is_read() -> None:
    class Clearing(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            sent.clear()
            return str.__eq__(self, other)

        def __hash__(self) -> int:
            return str.__hash__(self)

    sent = [{Clearing(name): value for name, value in GOOD.items()}]
    sent.append({**GOOD, "id": "second", "model": "notes"})
    assert [d["model"] for d in merge([], sent).upstream] == ["tasks", "notes"]
    assert sent == []


def test_a_key_that_raises_when_compared_raises_and_nothing_else_happens() -> None:
    hostile = {LyingStr(name): value for name, value in GOOD.items()}
    with pytest.raises(ZeroDivisionError):
        merge([], [hostile])


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from(["create", "update", "delete", '{"id": "x"}', object(), int, LyingStr("id")]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*GOOD, "other", 3]), inner, max_size=8)
    ),
    max_leaves=15,
)


@pytest.mark.long
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    request_diffs=st.lists(anything | st.fixed_dictionaries(dict.fromkeys(GOOD, anything)))
    | anything,
    clock=st.integers(0, 2) | anything,
    owner=st.just("o") | anything,
)
def test_no_input_does_more_than_raise(request_diffs: Any, clock: Any, owner: Any) -> None:
    store = MemorySynchronizer()
    try:
        Mobync(store).apply(clock, request_diffs, owner)
    except (MobyncError, TypeError, ValueError, ZeroDivisionError):
        assert store.read("diffs") == []
