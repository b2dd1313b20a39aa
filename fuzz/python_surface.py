"""Wrong types everywhere: what Python code can do to mobync from the outside and from within.

Each input, a few bytes, becomes a call with hostile arguments on a store whose methods misbehave.
Whatever happens, it must be an exception: the store is then as it was, no lock is held, and a good
request works.  Two more targets compare: a json_data is accepted just where Python's own parser,
made strict, accepts it; and apply_json does to a body what apply does to its parsed form.

    python fuzz/python_surface.py [SECONDS [SEED]]

With atheris the inputs are guided by coverage, without it they are random bytes.  A broken
promise ends the run, and prints the input; a crash leaves it in build/fuzz/python.last.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hostile
from hostile import Decisions

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None:
    with atheris.instrument_imports(include=["mobync"]):
        import mobync
        from mobync import _core, memory
else:
    import mobync
    from mobync import _core, memory

LAST = Path(__file__).parent.parent / "build" / "fuzz" / "python.last"

GOOD = {
    "id": "good",
    "owner": "ann",
    "logical_clock": 0,
    "utc_timestamp": 5,
    "type": "create",
    "model": "good",
    "json_data": '{"id": "g", "n": 1.0}',
}


class Store(memory.MemorySynchronizer):
    """A memory store of which one call, the ``when``-th, does something else."""

    def __init__(self) -> None:
        super().__init__()
        self.plan: dict[str, Any] = {"when": -1, "mischief": None}

    def turn(self, honest: Callable[[], Any]) -> Any:
        self.plan["when"] -= 1
        if self.plan["when"] == 0 and self.plan["mischief"] is not None:
            return self.plan["mischief"](honest)
        return honest()

    def read(self, where: str, filters: Any = ()) -> Any:
        return self.turn(lambda: super(Store, self).read(where, filters))

    def create(self, where: str, data_json: str) -> Any:
        return self.turn(lambda: super(Store, self).create(where, data_json))

    def update(self, where: str, data_json: str) -> Any:
        return self.turn(lambda: super(Store, self).update(where, data_json))

    def delete(self, where: str, data_json: str) -> Any:
        return self.turn(lambda: super(Store, self).delete(where, data_json))

    def validate_create(self, owner_id: str, **kwargs: Any) -> Any:
        return self.turn(lambda: True)

    def validate_update(self, owner_id: str, **kwargs: Any) -> Any:
        return self.turn(lambda: True)

    def validate_delete(self, owner_id: str, **kwargs: Any) -> Any:
        return self.turn(lambda: True)

    def highest_logical_clock(self, owner_id: str) -> Any:
        return self.turn(lambda: None)

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[Any]:
        with super().transaction(owner_id) as inside:
            yield self.turn(lambda: inside)

    def rows_of(self, owner: str) -> dict[str, Any]:
        """Every row but what other owners have."""
        tables = {name: table.rows for name, table in self._database.tables.items()}
        other = {"bobs"}
        return {
            name: {
                without_new_id(k): {**row, "id": without_new_id(row["id"])}
                for k, row in rows.items()
                if row.get("owner", owner) == owner
            }
            for name, rows in copy.deepcopy(tables).items()
            if rows and name not in other and not name.startswith("\0")  # of the store's own
        }


def without_new_id(key: Any) -> Any:
    """A key in which an id that mobync made, for a diff whose own the log has, is not random."""
    if isinstance(key, tuple):
        return tuple(map(without_new_id, key))
    return (
        "new" if isinstance(key, str) and re.fullmatch("[0-9a-f]{8}(-[0-9a-f-]{27})", key) else key
    )


def choose_mischief(d: Decisions, server: mobync.Mobync, request: Any) -> Callable[..., Any]:
    """What a callback does in place of its work, or before it."""

    def raises(_: Callable[[], Any]) -> Any:
        raise d.one_of(hostile.ERRORS)

    def returns_garbage(honest: Callable[[], Any]) -> Any:
        found = honest()
        return hostile.rows(found, d) if isinstance(found, list) else hostile.strange(d)

    def applies_again(honest: Callable[[], Any]) -> Any:
        server.apply(0, [], "ann")
        return honest()

    def applies_for_another(honest: Callable[[], Any]) -> Any:
        server.apply(0, [{**GOOD, "id": f"b{d.below(9)}", "model": "bobs"}], "bob")
        return honest()

    def changes_the_request(honest: Callable[[], Any]) -> Any:
        for sent in list(request) if isinstance(request, (list, tuple)) else []:
            if isinstance(sent, dict):
                dict.clear(sent) if d.below(2) else dict.update(sent, id=hostile.strange(d))
        if isinstance(request, list):
            list.clear(request) if d.below(2) else list.append(request, hostile.strange(d))
        return honest()

    def puts_attributes(honest: Callable[[], Any]) -> Any:
        vars(server)[d.one_of(("_now_ms", "synchronizer", "more"))] = hostile.strange(d)
        return honest()

    def makes_it_again(honest: Callable[[], Any]) -> Any:
        other = memory.MemorySynchronizer("".join(("another", " log")))
        with suppress(Exception):
            mobync.Mobync.__init__(server, d.one_of((other, hostile.strange(d))), "another log")
        return honest()

    return d.one_of(
        (
            raises,
            returns_garbage,
            applies_again,
            applies_for_another,
            changes_the_request,
            puts_attributes,
            makes_it_again,
        )
    )


def call(d: Decisions, server: mobync.Mobync, request: Any) -> Any:
    """One call of the public surface."""
    owner = hostile.strange(d) if d.rarely() else "ann"
    clock = hostile.strange(d) if d.rarely() else d.one_of((0, 0, 1, "0", "1"))
    calls: Sequence[Callable[[], Any]] = (
        lambda: server.apply(clock, request, owner),
        lambda: server.apply(clock, request, owner),
        lambda: server.apply(clock, request, owner, limit=1),
        lambda: server.apply(clock, request, owner, limit=hostile.strange(d)),
        lambda: server.apply(clock, request, owner, cursor=hostile.strange(d)),
        lambda: server.push(owner, [(hostile.diff(d, 1), "t", x) for x in request]),
        lambda: server.push(owner, [("create", "pushed", hostile.diff(d, 1))]),
        lambda: server.adopt(owner, "tasks", request),
        lambda: server.compact(owner),
        lambda: server.validate(hostile.diff(d, 1), owner),
        lambda: mobync.merge(request, hostile.diffs(d)),
        lambda: mobync.Diff.validate(hostile.strange(d)),
        lambda: server.apply_json(hostile.strange(d), owner),
        lambda: plain_functions(d, request),
        lambda: mobync.Mobync(hostile.strange(d)),
        lambda: mobync.Mobync(Store(), max_depth=hostile.strange(d), max_diffs=hostile.strange(d)),
        lambda: mobync.Mobync(Store(), hostile.strange(d), lock_timeout_s=hostile.strange(d)),
    )
    return d.one_of(calls)()


def plain_functions(d: Decisions, request: Any) -> None:
    """What the rest of the package calls in the extension, in any order with any arguments."""
    compaction = _core.Compaction()
    unmade = mobync.Mobync.__new__(mobync.Mobync)
    for _ in range(d.below(8)):
        owner = hostile.strange(d) if d.rarely() else "ann"
        arguments = [hostile.strange(d) if d.rarely() else d.below(9) for _ in range(d.below(3))]
        rows: Callable[[], Any] = d.one_of(
            (
                lambda: hostile.diffs(d),
                lambda: hostile.rows([hostile.diff(d, 1)], d),
                lambda: hostile.stumbling([hostile.diff(d, 1)], d),
            )
        )
        steps: Sequence[Callable[[], Any]] = (
            lambda: _core.check_diff(hostile.diff(d, 1)),
            lambda: _core.check_diff(hostile.strange(d), hostile.strange(d)),
            lambda rows=rows, owner=owner, a=arguments: _core.check_log(rows(), owner, *a),
            lambda: _core.check_text(hostile.strange(d), hostile.strange(d)),
            lambda: _core.text_member(hostile.strange(d), hostile.strange(d)),
            lambda rows=rows: _core.merge(rows(), request),
            lambda rows=rows: _core.merge(rows(), hostile.strange(d)),
            lambda rows=rows, owner=owner, a=arguments: compaction.piece(rows(), owner, *a),
            lambda rows=rows, owner=owner: compaction.piece(rows(), owner, 0, 9),
            lambda rows=rows: compaction.piece(again(compaction, rows()), "ann", 0, 9),
            lambda owner=owner: unmade.apply(0, request, owner),
            lambda owner=owner: unmade.logical_clock(owner),
        )
        try:
            d.one_of(steps)()
        except hostile.Abort:
            raise
        except Exception:
            continue


def again(compaction: Any, rows: Any) -> Iterator[Any]:
    """Rows in the middle of which the same compaction gets a piece."""
    for row in rows:
        compaction.piece([], "ann", 0, 9)
        yield row


def hostile_call(d: Decisions) -> None:
    store = Store()
    server = mobync.Mobync(store, lock_timeout_s=0, on_refusal=d.one_of(("raise", "skip")))
    server.apply(0, [{**GOOD, "id": "first", "model": "tasks"}], "ann")
    request = hostile.diffs(d)
    sound = all(type(key) is str for sent in plain(request) for key in plain_keys(sent))
    before = store.rows_of("ann")
    store.plan = {"when": d.below(8), "mischief": choose_mischief(d, server, request)}
    failed: BaseException | None = None
    try:
        call(d, server, request)
    except BaseException as error:
        failed = error
    store.plan = {"when": -1, "mischief": None}

    assert len(store._mobync_owner_locks) == 0, "a lock is left"
    if failed is not None and sound:
        assert store.rows_of("ann") == before, f"written in spite of {failed!r:.200}"
    good = dict(GOOD)
    reply = mobync.Mobync(store).apply(0, [good], "ann")
    assert good["logical_clock"] == reply["logical_clock"] - 1
    assert store.read("good", [])[0] == {"id": "g", "n": 1.0}


def plain(request: Any) -> list[Any]:
    """What a list really holds, whatever it says."""
    if isinstance(request, list):
        return list.__getitem__(request, slice(None))
    return list(tuple.__getitem__(request, slice(None))) if isinstance(request, tuple) else []


def plain_keys(sent: Any) -> list[Any]:
    return list(dict.__iter__(sent)) if isinstance(sent, dict) else []


def strict_object(text: str) -> dict[str, Any]:
    """Parse as RFC 8259 wants it, and refuse what mobync refuses too.

    Raises:
        ValueError: it is not that.
    """

    def no_constant(name: str) -> Any:
        raise ValueError(name)

    def check(value: Any) -> None:
        if isinstance(value, str):
            value.encode()
            if "\0" in value:
                raise ValueError("U+0000")
        elif isinstance(value, (list, tuple)):
            for part in value:
                check(part)

    text.encode()
    pairs = json.loads(text, parse_constant=no_constant, object_pairs_hook=tuple, parse_int=float)
    check(pairs)
    if not text.lstrip(" \t\r\n").startswith("{"):
        raise ValueError("not an object")
    return dict(pairs)


JSON_PIECES = (
    *'{}[]:,"\\/bfnrtu0123456789+-.eE ',
    "\t",
    "\n",
    "\x00",
    "\x1f",
    "\x7f",
    "\u2028",
    "é",
    "\U0001f600",
    "\ud800",
    "\\u0000",
    "\\u001f",
    "\\ud83d",
    "\\ude00",
    "true",
    "false",
    "null",
    "NaN",
    "Infinity",
    '"id"',
    '"id":"x"',
    '"\\u0069d"',
    "\ufeff",
    "0x1",
    "'",
)


def written_json(d: Decisions, begin: str) -> str:
    """A sound text in which a few pieces were put in, taken out or changed."""
    text = begin
    for _ in range(d.below(5)):
        at = d.below(len(text) + 1)
        text = text[:at] + d.one_of(("", *JSON_PIECES)) + text[at + d.below(3) :]
    return text


def same_verdict_as_python(d: Decisions) -> None:
    text = written_json(d, d.one_of(hostile.JSON_DATAS[:-1]))
    try:
        found = strict_object(text)
        expected = isinstance(found.get("id"), str) and found["id"] != ""
    except (ValueError, RecursionError):
        expected = False
    given = {**GOOD, "json_data": text}
    assert mobync.Diff.validate(given) is expected, f"{text!r}: Python says {expected}"
    row = json.dumps([given])
    try:
        _core.merge(row, [])
        as_row = True
    except mobync.InvalidDiffError:
        as_row = False
    assert as_row is expected, f"{text!r} in a row: Python says {expected}"


def outcome(attempt: Callable[[], Any]) -> Any:
    try:
        return attempt()
    except Exception as error:
        return type(error)


def same_from_json(d: Decisions) -> None:
    """apply_json of a body, and apply of what Python reads in it, on two stores that are alike."""
    request = {
        "logical_clock": d.one_of((0, "1", 1, True, -1, 1.0, "x")),
        "diffs": hostile.diffs(d),
        **d.one_of(({}, {}, {"limit": d.one_of((1, "2", 0, None, 1.5))}, {"cursor": "1.0.0"})),
    }
    try:
        text = json.dumps(request)
    except (TypeError, ValueError, hostile.Surprise, RecursionError):
        text = json.dumps({"logical_clock": 0, "diffs": [GOOD]})
    text = written_json(d, text) if d.below(2) else text
    stores = [Store(), Store()]
    for store in stores:
        mobync.Mobync(store).apply(0, [{**GOOD, "id": "d0", "model": "tasks"}], "ann")
    by_json = outcome(lambda: json.loads(mobync.Mobync(stores[0]).apply_json(text, "ann")))
    try:
        strict_object(text)
        body = json.loads(text)
        clock, sent = body["logical_clock"], body["diffs"]
        page = {name: body.get(name) for name in ("limit", "cursor")}
    except (ValueError, KeyError):
        assert by_json is mobync.InvalidDiffError, f"{text!r}: {by_json}"
        return
    by_dict = outcome(lambda: mobync.Mobync(stores[1]).apply(clock, sent, "ann", **page))
    if isinstance(by_dict, type) and isinstance(by_json, type):
        return
    assert by_json == by_dict, f"{text!r}: {by_json} but {by_dict}"
    assert stores[0].rows_of("ann") == stores[1].rows_of("ann"), text


def one_input(source: bytes) -> None:
    d = Decisions(source)
    d.one_of((hostile_call, hostile_call, same_verdict_as_python, same_from_json))(d)


def run_random(seconds: float, seed: int) -> None:
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    count = 0
    LAST.parent.mkdir(parents=True, exist_ok=True)
    with LAST.open("wb", buffering=0) as last:
        while time.monotonic() < until:
            source = rng.randbytes(rng.randrange(200))
            os.pwrite(last.fileno(), source.ljust(200, b"\0"), 0)
            try:
                one_input(source)
            except BaseException:
                print(f"input: {source.hex()}", file=sys.stderr)
                raise
            count += 1
    print(f"{count} random inputs from seed {seed}, {count} passed, 0 failed")


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--input":
        one_input(bytes.fromhex(sys.argv[2]))
        return
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    if atheris is None:
        run_random(seconds, seed)
        return
    crashes = f"-artifact_prefix={LAST.parent}/python."
    limits = [f"-max_total_time={seconds:.0f}", "-timeout=60", "-max_len=400", "-rss_limit_mb=4096"]
    sizes = ["-len_control=0", "-verbosity=0", "-print_final_stats=1"]
    found = str(LAST.parent / "python")
    atheris.Setup(
        [sys.argv[0], *limits, *sizes, crashes, f"-seed={seed % 2**32}", found], one_input
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
