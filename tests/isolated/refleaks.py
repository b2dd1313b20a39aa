"""Runs every path through the extension many times and looks for memory that stays.

    python refleaks.py [NAME ...]

Counts blocks, and on a debug build of Python (run_refcounts.sh) every reference.  Run alone, in a
process of its own: other tests' caches would blur the count.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from out_of_memory import CLIENT, LOG, ON_THE_LOG, RULES, SERVER, diff, leaks

from mobync import Diff, Mobync, UnauthorizedError, _core, merge
from mobync.memory import MemorySynchronizer
from mobync.types import OperationType

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))
import python_surface

WARM_UP, ROUNDS = 5, 40
HOSTILE_INPUTS, HOSTILE_BYTES = 200, 200


# ---- objects that misbehave ----------------------------------------------------------------------


BODY = json.dumps({"logical_clock": 0, "limit": 9, "cursor": "\u00e9", "diffs": CLIENT})
PLAIN_BODY = json.dumps({"logical_clock": 0, "diffs": CLIENT})


class Unreadable(str):
    """A key that cannot be compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        return str.__hash__(self)


class Text(str):
    """A str of which the binding makes an exact one."""

    __slots__ = ()


class BrokenMapping:
    """Looks like a mapping until it is read."""

    def keys(self) -> Iterator[str]:
        yield "id"
        raise ZeroDivisionError

    def __getitem__(self, key: str) -> str:
        return key


def broken_iterator() -> Any:
    yield SERVER[0]
    raise ZeroDivisionError


# ---- the extension -------------------------------------------------------------------------------


def no(*_: object, **__: object) -> bool:
    return False


def request(*more: Any, **limits: Any) -> Any:
    return _core.Exchange([*CLIENT, *more], "diffs", **limits)


def met() -> Any:
    made = request()
    made.meet(SERVER)
    return made


def merged() -> Any:
    made = met()
    made.merge(5, 0)
    return made


def from_json() -> Any:
    made = _core.Exchange.from_json(BODY, "diffs")
    made.meet(json.dumps(SERVER))
    made.ask(RULES, "o", iter(made.news()))
    made.merge()
    return made


def asked_of(json_number: str) -> Any:
    text = json.dumps({"logical_clock": 0, "diffs": [diff("n1", "create", '{"id":"x"}')]})
    made = _core.Exchange.from_json(
        text.replace('"id": "n1"', f'"id": "n1", "extra": {json_number}')
    )
    made.meet([])
    return made.ask(RULES, "o", iter(made.news())), made.sent(0)


def unwritable_clock() -> None:
    dicts = [dict(d) for d in CLIENT]
    made = _core.Exchange(dicts)
    made.meet([])
    made.merge()
    for d in dicts:
        del d["logical_clock"]
        d[Unreadable("logical_clock")] = 0
    made.acknowledge(3)


def cycle() -> None:
    loop: dict[str, Any] = dict(CLIENT[0])
    loop["extra"] = _core.Exchange([loop])


def module_anew() -> None:
    module = importlib.util.module_from_spec(_core.__spec__)
    _core.__spec__.loader.exec_module(module)
    assert module.Exchange is not _core.Exchange
    module.Exchange(CLIENT).meet(SERVER)


def compacted() -> None:
    compaction = _core.Compaction()
    compaction.piece(json.dumps(SERVER), "o", 3, 9)
    compaction.piece([*LOG, diff("d1", "update", '{"id":"z","a":1}', clock=1)], "o", 0, 3)


def paged() -> Any:
    made = met()
    made.select(True, False, 0, made.page_end(1))
    made.merge()
    return made.downstream()


def without_one() -> Any:
    made = met()
    made.leave_out(2)
    made.merge()
    return made.operations("o", 7)


def attributes(made: Any) -> Any:
    counts = len(made), made.downstream_count, made.conflicts, made.fingerprint
    return counts, made.logical_clock, made.limit, made.cursor


ONE = CLIENT[0]
BAD_DIFFS: list[Any] = [
    7,
    {},
    {**ONE, "id": 7},
    {**ONE, "id": ""},
    {**ONE, "owner": "\ud800"},
    {**ONE, "logical_clock": "0"},
    {**ONE, "logical_clock": True},
    {**ONE, "utc_timestamp": 2**70},
    {**ONE, "type": 7},
    {**ONE, "type": "upsert"},
    {**ONE, "type": "\ud800"},
    {**ONE, "model": "diffs"},
    {**ONE, "json_data": '{"id": "x", "\\u0061": [1, {"b": tru}]}'},
    {**ONE, "json_data": '{"a": 1}'},
    {**ONE, "owner_id": 1},
    {**ONE, 7: 1},
    {Unreadable("id"): "x"},
    *[{name: ONE[name] for name in ONE if name != missing} for missing in ONE],
    *[{**ONE, name: None} for name in ONE],
]
BAD_ROWS: list[Any] = [
    None,
    7,
    "[",
    "[{}]",
    b"\xff",
    "\ud800",
    [7],
    [None],
    [{}],
    [[("id", "x")]],
    [BrokenMapping()],
    [
        {
            Unreadable("json_data"): "x",
            **{name: SERVER[0][name] for name in SERVER[0] if name != "json_data"},
        }
    ],
    [*SERVER, {"id": "x"}],
    (*SERVER, 7),
    json.dumps([*SERVER, {**SERVER[0], "json_data": "{}"}]),
    json.dumps([*SERVER, {**SERVER[0], "type": "upsert"}]),
]
BAD_BODIES: list[Any] = [
    7,
    "[",
    '{"diffs": []}',
    b"\xff",
    "\ud800",
    json.dumps({"logical_clock": 0, "diffs": [*CLIENT, {**ONE, "json_data": "{}"}]}),
    json.dumps({"logical_clock": 0, "diffs": [*CLIENT, {**ONE, "self": 1}]}),
    json.dumps({"logical_clock": 0, "diffs": ON_THE_LOG}),
]
LIMITS: list[dict[str, Any]] = [
    {"max_diffs": 1},
    {"max_json_data_bytes": 1},
    {"max_depth": 0},
    {"max_depth": "0"},
]


# ---- the package on top of it --------------------------------------------------------------------


class Failing(MemorySynchronizer):
    """A memory store of which one method raises, or gives what it should not."""

    def __init__(self, method: str, answer: Callable[[], Any]) -> None:
        super().__init__()
        Mobync(self).apply(0, [diff("w1", "create", '{"id":"y","a":1}')], "o")
        setattr(self, method, lambda *_, **__: answer())


def fails() -> Any:
    raise ZeroDivisionError


def refuses() -> Any:
    raise UnauthorizedError("no")


def applied(method: str, answer: Callable[[], Any]) -> None:
    server = Mobync(Failing(method, answer), lock_timeout_s=0, on_refusal="skip")
    requests = [dict(d) for d in [*CLIENT, diff("l5", "delete", '{"id":"y"}')]]
    for call in (
        lambda: server.apply(0, requests, "o", limit=1),
        lambda: server.apply(0, requests, "o", cursor="1.0.0"),
        lambda: server.apply(0, requests, "o"),
        lambda: server.apply_json(PLAIN_BODY, "o"),
        lambda: server.push(
            "o", [("create", "tasks", {"id": "p"}), ("delete", "tasks", {"id": "y"})]
        ),
        lambda: server.adopt("o", "tasks", [{"id": "q"}]),
        lambda: server.compact("o"),
        lambda: server.validate(CLIENT[1], "o"),
    ):
        with suppress(Exception):
            call()


def apply_and_retry() -> None:
    server = Mobync(MemorySynchronizer())
    requests = [dict(d) for d in CLIENT]
    server.apply(0, requests, "o")
    server.apply(0, requests, "o")
    server.apply_json(PLAIN_BODY, "o")
    server.push("o", [("update", "tasks", {"id": "n", "a": 2})])
    server.adopt("o", "others", [{"id": "q"}])
    server.compact("o")
    server.apply(0, [], "o", limit=2)
    server.apply(0, [], "o")


CHANCE = random.Random(1)
HOSTILE = [CHANCE.randbytes(HOSTILE_BYTES) for _ in range(HOSTILE_INPUTS)]


def raises(call: Callable[[], object]) -> Callable[[], None]:
    def attempt() -> None:
        try:
            call()
        except Exception:
            return
        raise AssertionError("this path was meant to raise")

    return attempt


PATHS: dict[str, Callable[[], object]] = {
    "merge": lambda: merge(SERVER, CLIENT),
    "every step": lambda: (merged().news, merged().upstream(), merged().downstream()),
    "attributes": lambda: (attributes(merged()), attributes(from_json())),
    "diffs": lambda: [met().diff(i) for i in range(len(CLIENT))],
    "a page": paged,
    "the whole on a page": lambda: met().page_end(99),
    "without one": without_one,
    "text_member": lambda: [_core.text_member(BODY, name) for name in ("cursor", "diffs", "none")],
    "text_member of no JSON": lambda: (
        _core.text_member("[", "a"),
        _core.text_member(b"\xff", "a"),
    ),
    "log_values": lambda: (
        _core.log_values(merged().operations("owner", 7)[3]),
        _core.log_values(["{}"]),
        _core.log_values([]),
    ),
    "operations": lambda: merged().operations("owner", 7),
    "news": lambda: met().news(),
    "news of what is written": lambda: (merged().news(), merged().news(True), merged().is_retry),
    "meet twice": lambda: met().meet(SERVER),
    "meet a tuple": lambda: request().meet(tuple(SERVER)),
    "meet an iterator": lambda: request().meet(iter(SERVER)),
    "meet JSON": lambda: (
        request().meet(json.dumps(SERVER)),
        request().meet(json.dumps(SERVER).encode()),
    ),
    "acknowledge": lambda: (merged().acknowledge(3), from_json().acknowledge(3)),
    "from JSON": lambda: (from_json().reply_json(7), from_json().operations("o", 7)),
    "JSON to dicts": lambda: (from_json().downstream(), from_json().upstream()),
    "subclasses of str": lambda: request(
        {name: Text(v) if isinstance(v, str) else v for name, v in ONE.items()}
    ),
    "an OperationType": lambda: request({**ONE, "type": OperationType.create}),
    "a cycle": cycle,
    "the module": module_anew,
    "compaction": compacted,
    "validate": lambda: (Diff.validate(ONE), Diff.validate({}), Diff.validate(7)),
    "too early": raises(lambda: _core.Exchange([]).upstream()),
    "ask": lambda: met().ask(RULES, "o", iter((0, 1, 1))),
    "ask of JSON": lambda: asked_of("1"),
    "ask of whole JSON": lambda: from_json().ask(RULES, "o", iter((0, 1, 1))),
    "sent": lambda: (met().sent(0), from_json().sent(1)),
    "a rule says no": lambda: met().ask((no, no, no), "o", iter((1,))),
    "a rule raises": raises(lambda: met().ask((int, int, int), "o", iter((1,)))),
    "a rule raises, of JSON": raises(lambda: from_json().ask((int, int, int), "o", iter((1,)))),
    "ask of what": raises(lambda: met().ask(RULES, "o", iter((0, len(CLIENT))))),
    "ask of no index": raises(lambda: met().ask(RULES, "o", iter(("0",)))),
    "ask a broken iterator": raises(lambda: met().ask(RULES, "o", broken_iterator())),
    "ask no iterator": raises(lambda: met().ask(RULES, "o", [0])),
    "ask two rules": raises(lambda: met().ask(RULES[:2], "o", iter(()))),
    "ask without rules": raises(lambda: met().ask(None, "o", iter(()))),
    "sent what": raises(lambda: met().sent(99)),
    "news too early": raises(lambda: _core.Exchange([]).news()),
    "merge too early": raises(lambda: _core.Exchange([]).merge()),
    "operations too early": raises(lambda: met().operations("o", 1)),
    "acknowledge too early": raises(lambda: met().acknowledge(1)),
    "reply too early": raises(lambda: met().reply_json(1)),
    "broken rows": raises(lambda: request().meet(broken_iterator())),
    "foreign rows": raises(lambda: request().meet(SERVER, "other", 0)),
    "old rows": raises(lambda: request().meet(SERVER, "o", 4)),
    "foreign rows of JSON": raises(lambda: request().meet(json.dumps(SERVER), "other", 0)),
    "no rows": raises(lambda: request().meet()),
    "clock used up": raises(lambda: merged().operations("o", 2**53)),
    "bad owner": raises(lambda: merged().operations("\ud800", 1)),
    "bad time": raises(lambda: met().merge(-1, 0)),
    "no time": raises(lambda: met().merge("now", 0)),
    "no skew": raises(lambda: met().merge(1, None)),
    "bad clock of a reply": raises(lambda: merged().reply_json("1")),
    "bad clock to acknowledge": raises(lambda: merged().acknowledge(2**70)),
    "unwritable clock": raises(unwritable_clock),
    "number too long for the rules": raises(lambda: asked_of("9" * 5000)),
    "no diff": raises(lambda: met().diff(len(CLIENT))),
    "diff of what": raises(lambda: met().diff("0")),
    "leave out the dead": lambda: met().leave_out_dead(),
    "leave out the dead too early": raises(lambda: request().leave_out_dead()),
    "leave out what": raises(lambda: met().leave_out(99)),
    "leave out too early": raises(lambda: request().leave_out(0)),
    "no room on a page": raises(lambda: met().page_end(0)),
    "a page of what": raises(lambda: met().page_end(None)),
    "a page too early": raises(lambda: request().page_end(1)),
    "select what": raises(lambda: met().select(True, True, None, 0)),
    "select too early": raises(lambda: request().select(True, True, 0, 1)),
    "log_values of what": raises(lambda: _core.log_values([7])),
    "log_values of no text": raises(lambda: _core.log_values(["\ud800"])),
    "text_member of what": raises(lambda: _core.text_member(7, "a")),
    "text_member without a name": raises(lambda: _core.text_member(BODY)),
    "no list": raises(lambda: _core.Exchange(7)),
    "no arguments": raises(_core.Exchange),
    "no body": raises(_core.Exchange.from_json),
    "compaction refused": raises(lambda: _core.Compaction().piece(SERVER, "p", 0, 9)),
    "compaction of no rows": raises(lambda: _core.Compaction().piece(7, "o", 0, 9)),
    "compaction of what": raises(lambda: _core.Compaction().piece()),
    "compaction with arguments": raises(lambda: _core.Compaction(1)),
    **{f"limit {limit}": raises(lambda limit=limit: request(**limit)) for limit in LIMITS},
    **{
        f"limit {limit} of JSON": raises(
            lambda limit=limit: _core.Exchange.from_json(BODY, **limit)
        )
        for limit in LIMITS
    },
    **{f"bad diff {i}": raises(lambda bad=bad: request(bad)) for i, bad in enumerate(BAD_DIFFS)},
    **{
        f"bad rows {i}": raises(lambda bad=bad: request().meet(bad))
        for i, bad in enumerate(BAD_ROWS)
    },
    **{
        f"bad body {i}": raises(lambda bad=bad: _core.Exchange.from_json(bad, "diffs"))
        for i, bad in enumerate(BAD_BODIES)
    },
    "apply": apply_and_retry,
    **{
        f"{method} {answer.__name__}": lambda method=method, answer=answer: applied(method, answer)
        for method in (
            "read",
            "create",
            "update",
            "delete",
            "validate_create",
            "validate_update",
            "validate_delete",
            "create_many",
            "update_many",
            "delete_many",
            "highest_logical_clock",
            "transaction",
        )
        for answer in (fails, refuses, bool)
    },
    **{
        f"bad rows {i} from read": lambda rows=rows: applied("read", lambda: rows)
        for i, rows in enumerate(BAD_ROWS)
    },
    **{
        f"hostile input {source.hex()}": lambda source=source: python_surface.one_input(source)
        for source in HOSTILE
    },
}


def main() -> int:
    names = sys.argv[1:] or list(PATHS)
    failed = 0
    for name in names:
        try:
            for _ in range(WARM_UP):
                PATHS[name]()
            left = leaks(PATHS[name], ROUNDS)
        except AssertionError as broken:
            raise AssertionError(f"{name}: {broken}") from broken
        if left:
            failed += 1
            print(f"{name}: {left} blocks or references stay")
    print(f"{len(names) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
