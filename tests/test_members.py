"""mobync._core.members: what an object's members are, by the reader of the merge."""

from __future__ import annotations

import gc
import json
import random

import pytest

from mobync import InvalidDiffError, _core


def test_names_are_decoded_and_values_are_the_text_that_stood_there():
    text = ' {"id": "x", "n\\u0061me" : "\\u00e9" ,"a":1.50,"a":[1, {"b" :2}], "": null}\n'
    expected = [
        ("id", '"x"'),
        ("name", '"\\u00e9"'),
        ("a", "1.50"),
        ("a", '[1, {"b" :2}]'),
        ("", "null"),
    ]
    assert _core.members(text) == _core.members(text.encode()) == expected
    assert _core.members("{}") == []


@pytest.mark.parametrize("value", ["9" * 5000, "1e" + "9" * 5000, "[" * 999 + "]" * 999])
def test_what_the_merge_takes_is_read_however_long_and_deep(value):
    assert _core.members(f'{{"id": {value}}}') == [("id", value)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"{}"',
        "{} {}",
        '{"a"',
        '{"a":1,}',
        '{"a":01}',
        "{'a':1}",
        '{"a":"\ud800"}',
    ],
)
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(InvalidDiffError):
        _core.members(text)


def test_bytes_that_are_no_utf_8_are_refused_and_other_types_are_a_type_error():
    with pytest.raises(InvalidDiffError, match="not UTF-8"):
        _core.members(b'{"a":"\xff"}')
    with pytest.raises(TypeError, match="str or bytes, not list"):
        _core.members([])


def test_random_objects_are_taken_apart_as_python_does():
    chance = random.Random(1)
    texts = ["", "a", "é", "🥛", '"', "\\", "\u2028", "\u007f", "a b"]
    for _ in range(500):
        row = {chance.choice(texts) * chance.randint(1, 3): chance.choice(texts) for _ in range(5)}
        text = json.dumps(row, ensure_ascii=chance.random() < 0.5)
        assert {name: json.loads(value) for name, value in _core.members(text)} == row


def test_the_collector_may_look_at_a_list_that_is_being_made():
    seen: list[int] = []

    class Ring:
        def __init__(self) -> None:
            self.self = self

        def __del__(self) -> None:
            seen.append(len([thing for thing in gc.get_objects() if type(thing) is list]))
            seen.append(len(_core.members('{"a": 1}')))

    threshold = gc.get_threshold()
    gc.set_threshold(10)
    try:
        text = json.dumps({f"f{n}": n for n in range(500)})
        for _ in range(20):
            Ring()
            assert len(_core.members(text)) == 500
    finally:
        gc.set_threshold(*threshold)
    assert seen
