"""Runs every path through the extension many times and looks for memory that stays.

    python refleaks.py [NAME ...]

Counts blocks, and on a debug build of Python (run_refcounts.sh) every reference.  Run alone, in a
process of its own: other tests' caches would blur the count.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from out_of_memory import BAD, CLIENT, LOG, ON_THE_LOG, SERVER, TWICE, Text, diff, leaks

from mobync import (
    Diff,
    InvalidDiffError,
    Mobync,
    MobyncError,
    Synchronizer,
    UnauthorizedError,
    _core,
    merge,
)
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


class BrokenMapping:
    """Looks like a mapping until it is read."""

    def keys(self) -> Iterator[str]:
        yield "id"
        raise ZeroDivisionError

    def __getitem__(self, key: str) -> str:
        return key


# ---- the extension -------------------------------------------------------------------------------


class Store(MemorySynchronizer):
    """A memory store with rules that refuse, and rows that do not fit."""

    def validate_create(self, owner_id: str, **sent: Any) -> bool:
        if "why" in sent["json_data"]:
            raise UnauthorizedError("that is \ud800 why")
        return "refused" not in sent["json_data"]

    validate_update = validate_delete = validate_create

    def create_many(self, where: str, rows_json: Any) -> None:
        if any("unnamed" in row for row in rows_json):
            raise InvalidDiffError("no room")
        super().create_many(where, rows_json)

    def create(self, where: str, data_json: str) -> None:
        if "misfit" in data_json and where != "diffs":
            raise InvalidDiffError("no room")
        super().create(where, data_json)


class JsonStore(Store):
    """Reads as JSON, takes the log as values, and has an order of its own."""

    def read(self, where: str, filters: Any = ()) -> Any:
        return json.dumps(super().read(where, filters))

    def append_log(self, where: str, rows: Any) -> None:
        if any(row[0] == "l1" for row in rows):
            raise InvalidDiffError("id: is there", [row[0] for row in rows].index("l1"))
        super().append_log(where, rows)

    def write_order(self, operations: Any) -> Any:
        return reversed(range(len(operations)))

    def highest_logical_clock(self, owner_id: str) -> int | None:
        return None


class Plain(Store):
    """Has no transactions."""

    transaction = Synchronizer.transaction  # type: ignore[assignment]


STORES = (Store, JsonStore, Plain)
REQUESTS = {
    "client": CLIENT,
    "refused": [*CLIENT, diff("r", "create", '{"id":"r","refused":1,"why":2}')],
    "refused twice": [
        diff("r", "create", '{"id":"r","refused":1}'),
        diff("q", "update", '{"id":"r"}'),
        diff("p", "delete", '{"id":"y"}'),
    ],
    "malformed": [*BAD, {}, 7, {**CLIENT[0], "id": "m", "type": "upsert"}],
    "misfits": [*CLIENT, diff("m", "create", '{"id":"m","misfit":1}')],
    "unnamed misfits": [*CLIENT, diff("m", "create", '{"id":"m","misfit":1,"unnamed":1}')],
    "more keys": [{**CLIENT[0], "more": [1, {"a": "\u00e9"}]}],
    "subclasses of str": [{n: Text(v) if isinstance(v, str) else v for n, v in CLIENT[0].items()}],
    "an OperationType": [{**CLIENT[0], "type": OperationType.create}],
    "an id twice": TWICE,
    "nothing": [],
}


def server_of(store: type[Store], **settings: Any) -> Mobync:
    filled = store()
    for logged in SERVER:
        MemorySynchronizer.create(filled, "diffs", json.dumps(logged))
    return Mobync(filled, lock_timeout_s=0, **settings)


def synced(store: type[Store], request: list[Any], on_refusal: Any) -> None:
    """A request as dicts and as JSON, its retry, in pages, and as a push of the backend."""
    server = server_of(store, on_refusal=on_refusal)
    again = server_of(store, on_refusal=on_refusal)
    diffs = [dict(sent) if isinstance(sent, dict) else sent for sent in request]
    body = json.dumps({"logical_clock": 3, "diffs": diffs}, default=str)
    for call in (
        lambda: server.apply(0, diffs, "o", limit=1),
        lambda: server.apply(0, diffs, "o", cursor=server.apply(0, diffs, "o", limit=1)["cursor"]),
        lambda: server.apply(3, diffs, "o"),
        lambda: server.apply(3, diffs, "o"),
        lambda: again.apply_json(body, "o"),
        lambda: again.apply_json(body.encode(), "o"),
        lambda: again._push_diffs(diffs, "o"),
        lambda: again.validate(diffs[0], "o"),
        lambda: again.logical_clock("o"),
    ):
        with suppress(Exception):
            call()


def synced_within(limit: dict[str, Any]) -> None:
    server = server_of(Store, **limit)
    for call in (
        lambda: server.apply(0, [dict(sent) for sent in CLIENT], "o"),
        lambda: server.apply_json(PLAIN_BODY, "o"),
    ):
        with suppress(MobyncError):
            call()


def skipped(bad: Any) -> None:
    """A malformed diff among others; a key that raises is the caller's own fault."""
    with suppress(ZeroDivisionError):
        server_of(Store, on_refusal="skip").apply(3, [*map(dict, CLIENT), bad], "o")


def unwritable_clock() -> None:
    """The new clock cannot be set in the caller's dict, as comparing its keys raises."""
    sent = {name: value for name, value in CLIENT[0].items() if name != "logical_clock"}

    class Late(MemorySynchronizer):
        def create_many(self, where: str, rows_json: Any) -> None:
            super().create_many(where, rows_json)
            sent.clear()
            sent[Unreadable("logical_clock")] = 0

    sent["logical_clock"] = 0
    Mobync(Late()).apply(0, [sent], "o")


def cycle() -> None:
    """A store, its Mobync and a request that know each other."""
    store: Any = Store()
    store.server = Mobync(store)
    store.server.listen(lambda _, server=store.server: server)
    loop: dict[str, Any] = dict(CLIENT[0])
    loop["server"] = store.server
    store.server.apply(0, [loop], "o")
    store.loop = loop


def module_anew() -> None:
    module = importlib.util.module_from_spec(_core.__spec__)
    _core.__spec__.loader.exec_module(module)
    assert module.Mobync is not _core.Mobync
    module.merge(SERVER, CLIENT)
    module.Compaction().piece(SERVER, "o", 3, 9)


def compacted() -> None:
    compaction = _core.Compaction()
    compaction.piece(json.dumps(SERVER), "o", 3, 9)
    compaction.piece([*LOG, diff("d1", "update", '{"id":"z","a":1}', clock=1)], "o", 0, 3)


def folded() -> None:
    """With times that are there and that are made, and an object that cannot be folded."""
    log = [
        {**diff("f1", "create", '{"id":"v","a":1}', clock=0), "field_times": '{"a":5}'},
        diff("f2", "update", '{"id":"v","b":2}', clock=1),
        diff("f3", "delete", '{"id":"w"}', clock=2),
    ]
    for keeps_times in (False, True):
        compaction = _core.Compaction(3, keeps_times=keeps_times)
        compaction.piece(log, "o", 0, 3)
        assert compaction.expects_folds
        compaction.fold(json.dumps(log), "o", 0, 1)
        compaction.fold(log[1:], "o", 1, 3)


def made_again() -> None:
    server = server_of(Store)
    with suppress(RuntimeError):
        server.__init__(Store("another log"), "".join(["another", " log"]))  # type: ignore[misc]
    server.apply(0, [], "o")


SETTINGS: list[dict[str, Any]] = [
    {"diffs_model_name": ""},
    {"diffs_model_name": 7},
    {"max_clock_skew_ms": -1},
    {"lock_timeout_s": "1"},
    {"lock_timeout_s": -1},
    {"lock_timeout_s": 10**400},
    {"max_diffs": True},
    {"max_diffs": 2**70},
    {"max_depth": 1001},
    {"on_refusal": "maybe"},
    {"on_refusal": 7},
]


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
    {"max_fields": 0},
    {"max_reply_bytes": 1},
]
ARGUMENTS: list[tuple[Any, ...]] = [
    ("x", [], "o"),
    (-1, [], "o"),
    (2**70, [], "o"),
    ("\ud800", [], "o"),
    (0, 7, "o"),
    (0, [], ""),
    (0, [], 7),
    (0, [], "\ud800"),
    (99, [], "o"),
    (0,),
]
PAGES: list[dict[str, Any]] = [
    {"limit": 0},
    {"limit": "x"},
    {"cursor": 7},
    {"cursor": "\ud800"},
    {"cursor": "1.0"},
    {"cursor": "1.2.7.0"},
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


def apply_in_parts() -> None:
    server = Mobync(MemorySynchronizer())
    for part, more in ((1, True), (3, False), (2, True), (3, False), (3, False), (0, True)):
        head: dict[str, Any] = {"device": "phone", "request": 1, "part": part, "more_diffs": more}
        with suppress(MobyncError):
            server.apply(0, [dict(CLIENT[part])], "o", upload="é", **head)
        body = {"logical_clock": 0, "upload": "é", "diffs": [{**CLIENT[part], "type": 7}]}
        with suppress(MobyncError):
            server.apply_json(json.dumps({**body, **head, "device": "tablet"}), "o")


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
    "merge": lambda: (merge(SERVER, CLIENT), merge(iter(SERVER), tuple(CLIENT))),  # type: ignore
    "merge JSON": lambda: (
        _core.merge(json.dumps(SERVER), CLIENT),
        _core.merge(json.dumps(SERVER).encode(), CLIENT),
    ),
    "text_member": lambda: [_core.text_member(BODY, name) for name in ("cursor", "diffs", "none")],
    "text_member of no JSON": lambda: (
        _core.text_member("[", "a"),
        _core.text_member(b"\xff", "a"),
    ),
    "text_member of a long body": lambda: _core.text_member(BODY + " " * 70_000, "cursor"),
    "text_member of what": raises(lambda: _core.text_member(7, "a")),
    "text_member without a name": raises(lambda: _core.text_member(BODY)),
    "check_log": lambda: (_core.check_log(SERVER, "o", 3), _core.check_log(json.dumps(LOG), "o")),
    "check_log, another owner": raises(lambda: _core.check_log(SERVER, "p")),
    "check_log, an early row": raises(lambda: _core.check_log(SERVER, "o", 4)),
    "check_text": lambda: _core.check_text("name", "".join(["\u00e9", "x"])),
    "a cycle": cycle,
    "the module": module_anew,
    "compaction": compacted,
    "made again": made_again,
    "never made": raises(lambda: Mobync.__new__(Mobync).apply(0, [], "o")),
    "pickled": raises(lambda: pickle.dumps(server_of(Store))),
    "attributes": lambda: [
        getattr(server_of(Store), name) for name in inspect.signature(Mobync).parameters
    ],
    "validate": lambda: (Diff.validate(ONE), Diff.validate({}), Diff.validate(7)),
    "unwritable clock": raises(unwritable_clock),
    "compaction refused": raises(lambda: _core.Compaction().piece(SERVER, "p", 0, 9)),
    "compaction of no rows": raises(lambda: _core.Compaction().piece(7, "o", 0, 9)),
    "compaction of what": raises(lambda: _core.Compaction().piece()),
    "compaction with arguments": raises(lambda: _core.Compaction(1, 0, 0, 1)),
    "folding": folded,
    "folding refused": raises(lambda: _core.Compaction().fold(SERVER, "p", 0, 9)),
    **{
        f"{name}, {store.__name__}, {on_refusal}": partial(synced, store, request, on_refusal)
        for name, request in REQUESTS.items()
        for store in STORES
        for on_refusal in ("raise", "skip")
    },
    **{
        f"text {text!r}": raises(lambda text=text: _core.check_text("name", text))
        for text in ("", "\0", "\ud800", 7)
    },
    **{
        f"setting {setting}": raises(lambda setting=setting: Mobync(Store(), **setting))
        for setting in SETTINGS
    },
    **{f"limit {limit}": partial(synced_within, limit) for limit in LIMITS},
    **{
        f"arguments {i}": raises(lambda given=given: server_of(Store).apply(*given))
        for i, given in enumerate(ARGUMENTS)
    },
    **{
        f"page {page}": raises(lambda page=page: server_of(Store).apply(0, [], "o", **page))
        for page in PAGES
    },
    **{
        f"bad diff {i}": raises(lambda bad=bad: server_of(Store).apply(0, [bad], "o"))
        for i, bad in enumerate(BAD_DIFFS)
    },
    **{
        f"bad diff {i} to check": raises(lambda bad=bad: _core.check_diff(bad, "diffs"))
        for i, bad in enumerate(BAD_DIFFS)
    },
    **{f"bad diff {i} is skipped": partial(skipped, bad) for i, bad in enumerate(BAD_DIFFS)},
    **{
        f"bad rows {i}": raises(lambda bad=bad: _core.merge(bad, CLIENT))
        for i, bad in enumerate(BAD_ROWS)
    },
    **{
        f"bad body {i}": raises(lambda bad=bad: server_of(Store).apply_json(bad, "o"))
        for i, bad in enumerate(BAD_BODIES)
    },
    "apply": apply_and_retry,
    "apply in parts": apply_in_parts,
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
