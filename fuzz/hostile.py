"""Objects that are not what they seem, chosen by a row of bytes."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn


class Decisions:
    """A fuzzer's bytes as choices; when they are used up, every choice is the first."""

    def __init__(self, source: bytes) -> None:
        self._left = iter(source)

    def below(self, count: int) -> int:
        return next(self._left, 0) % count

    def one_of(self, choices: Any) -> Any:
        return choices[self.below(len(choices))]

    def rarely(self) -> bool:
        return self.below(16) == 15


class Surprise(Exception):
    """What hostile code raises."""


class Abort(BaseException):
    """The same, past every ``except Exception``; as KeyboardInterrupt does."""


ERRORS = (
    Surprise,
    Abort,
    KeyboardInterrupt,
    GeneratorExit,
    SystemExit,
    StopIteration,
    AttributeError,
    TypeError,
    MemoryError,
    RecursionError,
)


def misbehave(*_: Any, **__: Any) -> NoReturn:
    raise Surprise


LIES: tuple[Callable[..., Any], ...] = (
    misbehave,
    lambda *_: NotImplemented,
    lambda *_: True,
    lambda *_: -1,
    lambda *_: None,
    lambda *_: "",
    lambda *_: 2**70,
)

# CPython leaks what a __hash__ returns that is no int (slot_tp_hash), and raises TypeError.
LIES_OF = {"__hash__": (misbehave, lambda *_: True, lambda *_: -1, lambda *_: 2**70)}

TRUE_HASH = "__hash__"  # keeps an object a usable key, so that its __eq__ is reached


def lying(base: type, honest: Any, methods: tuple[str, ...], d: Decisions) -> Any:
    """An instance of a subclass of ``base``, some methods of which lie or raise."""
    body: dict[str, Any] = {TRUE_HASH: base.__hash__}
    for name in methods:
        if d.below(3) == 0:
            body[name] = d.one_of(LIES_OF.get(name, LIES))
    made: Any = type(f"Lying{base.__name__.title()}", (base,), body)
    return made(honest)


def lying_str(honest: str, d: Decisions) -> str:
    names = ("__eq__", "__len__", "__contains__", "__repr__", "__str__", "encode", "__bool__")
    return lying(str, honest, (*names, "__hash__", "isascii", "isdigit", "__format__"), d)


def lying_int(honest: int, d: Decisions) -> int:
    names = ("__index__", "__int__", "__le__", "__lt__", "__add__", "__repr__", "__eq__")
    return lying(int, honest, names, d)


def lying_dict(honest: dict[Any, Any], d: Decisions) -> dict[Any, Any]:
    names = ("__getitem__", "get", "keys", "items", "__iter__", "__len__", "copy", "__contains__")
    return lying(dict, honest, (*names, "__setitem__", "__eq__"), d)


def lying_list(honest: list[Any], d: Decisions) -> Any:
    names = ("__iter__", "__len__", "__getitem__", "__bool__", "__eq__", "__contains__")
    return lying(d.one_of((list, tuple)), honest, names, d)


class Collects(str):
    """Runs the garbage collector whenever it is compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        gc.collect()
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        return str.__hash__(self)


class Unhashable(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise Surprise


STRANGE_TEXT = (
    "",
    "\0",
    "x\0y",
    "\ud800",
    "\U0001f600",
    "é",
    "x" * 5000,
    "diffs",
    "create",
    "0",
    "-1",
    "٣",
    "1e3",
    "owner_id",
)

STRANGE: tuple[Callable[[Decisions], Any], ...] = (
    lambda d: None,
    lambda d: d.one_of((True, False)),
    lambda d: d.one_of((-1, 0, 1, 2**53 - 1, 2**53, 2**63, 2**64, -(2**63), 10**5000)),
    lambda d: d.one_of((0.0, 1.5, float("nan"), float("inf"))),
    lambda d: d.one_of(STRANGE_TEXT),
    lambda d: d.one_of((b"", b"x", b"\xff", bytearray(b"{}"))),
    lambda d: d.one_of(([], (), {}, set(), [[]], {"id": {}})),
    lambda d: lying_str(d.one_of(("x", "create", "{}", "0", '{"id": "x"}')), d),
    lambda d: lying_int(d.one_of((0, 1, -1, 2**70)), d),
    lambda d: Collects("create"),
    lambda d: Unhashable("x"),
    lambda d: object(),
    lambda d: type(d.one_of(("Odd", "Even")), (), {"__eq__": misbehave, "__hash__": misbehave})(),
    lambda d: misbehave,
    lambda d: int,
)

JSON_DATAS = (
    '{"id": "x"}',
    '{"id": "x", "a": 1}',
    '{"id": "y", "a": 1.50, "b": [1, {"c": null}]}',
    '{"\\u0069d": "\\u0078", "\\u0061": "\\ud83d\\ude00"}',
    '{"id": "x", "id": "y", "a": 1, "a": 2}',
    '{"id": "x", "a": "\\ud800"}',
    '{"id": "x", "a": "\\u0000"}',
    '{"id": "", "a": 01}',
    '{"id": 7}',
    "{}",
    "[]",
    "{",
    "\ufeff{}",
    '{"id": "x", "a": ' + "[" * 2000 + "]" * 2000 + "}",
)


def strange(d: Decisions) -> Any:
    return d.one_of(STRANGE)(d)


def diff(d: Decisions, number: int) -> dict[Any, Any]:
    """A diff, sound but for what chance puts into it."""
    made: dict[Any, Any] = {
        "id": f"d{number if d.below(4) else d.below(3)}",
        "owner": d.one_of(("ann", "bob")),
        "logical_clock": d.below(4),
        "utc_timestamp": d.below(10),
        "type": d.one_of(("create", "update", "delete")),
        "model": "tasks",
        "json_data": JSON_DATAS[d.below(5)],
    }
    if d.rarely():
        made["json_data"] = d.one_of(JSON_DATAS)
    if d.rarely():
        made[d.one_of(tuple(made))] = strange(d)
    if d.rarely():
        del made[d.one_of(tuple(made))]
    if d.rarely():
        key = d.one_of(("more", "self", "owner_id", 7, None, "type", Collects("json_data")))
        with suppress(Exception):  # it may not even let itself be put there
            made[lying_str(key, d) if isinstance(key, str) and d.below(2) else key] = strange(d)
    return lying_dict(made, d) if d.rarely() else made


def diffs(d: Decisions) -> Any:
    """A request or a window."""
    if d.rarely():
        return strange(d)
    made: list[Any] = [diff(d, number) for number in range(d.below(6))]
    if d.rarely():
        made.insert(d.below(len(made) + 1), strange(d))
    if d.rarely():
        return lying_list(made, d)
    return tuple(made) if d.rarely() else made


def stumbling(rows: list[Any], d: Decisions) -> Iterator[Any]:
    """The rows one after the other, until something happens on the way."""
    error = d.one_of(ERRORS[:5] + ERRORS[6:])
    last = d.below(len(rows) + 1)
    for index, row in enumerate(rows):
        if index == last:
            rows.clear()
            raise error
        yield row


def rows(honest: list[dict[str, Any]], d: Decisions) -> Any:
    """What a read that goes wrong returns in place of ``honest``."""
    choices: tuple[Callable[[], Any], ...] = (
        lambda: strange(d),
        lambda: diffs(d),
        lambda: stumbling(honest, d),
        lambda: (row for row in honest),
        lambda: json.dumps(honest),
        lambda: json.dumps(honest).encode(),
        lambda: json.dumps(honest)[: -1 - d.below(9)],
        lambda: "[" * d.one_of((1, 999, 1001, 100_000)),
        lambda: "[" + json.dumps(honest) + "]",
        lambda: json.dumps(honest).encode("utf-16"),
        lambda: [lying_dict(row, d) for row in honest],
        lambda: [tuple(row.items()) for row in honest],
        lambda: [*honest, *honest],
        lambda: {"diffs": honest},
        lambda: honest and honest[0],
    )
    return d.one_of(choices)()
