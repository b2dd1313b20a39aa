"""Makes every allocation of a call fail once: the 1st, the 2nd, ... until the call is through.

    python out_of_memory.py          all calls
    python out_of_memory.py NAME     one of them
    python out_of_memory.py --names  what there is

Each failure must be a MemoryError, leave no block and no reference behind, and leave what was
called in a state in which the same call, repeated with enough memory, gives what it always gives.

Left out is sent() of a diff from JSON that has keys of its own: it calls json.loads, and CPython
3.13 crashes when a dict of that runs out of memory.

Python's allocators fail through _testcapi.set_nomemory, cJSON's through its hooks.  Run alone, in
a process of its own: the whole process runs out of memory.  On a debug build of Python
(run_refcounts.sh) every reference is counted, not only the blocks.
"""

from __future__ import annotations

import _testcapi
import ctypes
import gc
import json
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from mobync import Diff, InvalidDiffError, OperationType, _core, merge

THROUGH = 40  # calls in a row that do not fail: the allocation to refuse lies behind their end
SPENT = 120  # small pieces of an arena's memory, more than its first two blocks have
ROUNDS = 8  # of each failure, to see what stays of each
DOUBLINGS = 6  # of such rounds, to tell a leak from a cache that fills
WARM_UP = 1100 if sys.version_info < (3, 11) else 1  # calls; see warm_up()


def diff(diff_id: str, kind: str, json_data: str, at: int = 10, clock: int = 0) -> dict[str, Any]:
    return {
        "id": diff_id,
        "owner": "o",
        "logical_clock": clock,
        "utc_timestamp": at,
        "type": kind,
        "model": "tasks",
        "json_data": json_data,
    }


SERVER = [
    diff("s1", "create", '{"id":"x","a":1,"b":2}', clock=3),
    diff("s2", "update", '{"id":"y","a":1,"b":2}', at=50, clock=4),
    diff("s3", "delete", '{"id":"z"}', clock=5),
    diff("l9", "create", '{"id":"k\\u00e9","\\u0061":1}', clock=6),
]
CLIENT = [
    diff("l1", "create", '{"id":"n","a":1}'),
    diff("l2", "update", '{"id":"n","b":"\\u00e9"}'),
    diff("l3", "update", '{"id":"y","a":2,"c":3}'),
    diff("l4", "update", '{"id":"z","a":2}'),
    diff("l9", "create", '{"id":"k\\u00e9","\\u0061":1}'),
]
LOG = [
    diff("g1", "create", '{"id":"x","a":1}', clock=0),
    diff("g2", "update", '{"id":"x","a":2,"b":"\\u00e9"}', clock=1),
    diff("g3", "update", '{"id":"x","a":3}', clock=2),
    diff("g4", "update", '{"id":"x","a":4}', clock=3),
]
LONG_LOG = [diff(f"g{i}", "create", json.dumps({"id": f"x{i}"}), clock=i) for i in range(500)]
SERVER_JSON = json.dumps(SERVER)
SERVER_BYTES = SERVER_JSON.encode()
BODY = json.dumps({"logical_clock": 3, "limit": 9, "cursor": "\u00e9", "diffs": CLIENT}).encode()
BAD = [*CLIENT, diff("l10", "create", '{"id":"x","\\u0061": tru}')]
ON_THE_LOG = [diff("l11", "create", '{"id":"x"}') | {"model": "diffs"}]
LOG_BODY = json.dumps({"logical_clock": 3, "diffs": ON_THE_LOG})
BAD_BODY = json.dumps({"logical_clock": 3, "diffs": BAD})

RULES = (partial(partial, bool),) * 3  # C code that takes any arguments and is true


def first(_: object, result: object) -> object:
    return result


def both_lists(exchange: Any, _: object) -> object:
    return exchange.upstream(), exchange.downstream()


def both_lists_merged(exchange: Any, _: object) -> object:
    exchange.merge()
    return both_lists(exchange, _)


@dataclass
class Case:
    """A call that is to fail, on something that is made anew for each failure.

    Attributes:
        subject: makes what is called, with so many small pieces of its memory spent.
        call: picks what to call, without arguments: C code, so that no frame of Python's own is
            between the failure and who looks at it.
        look: what came of it, to compare with what comes without a failure.
        raises: what it raises with enough memory.
        in_python: the call runs Python code all the same.
        spent: a failure leaves nothing that gives the same again; the call may refuse, then.
    """

    subject: Callable[[int], Any]
    call: Callable[[Any], Callable[[], Any]]
    look: Callable[[Any, Any], Any] = first
    raises: type[BaseException] | None = None
    in_python: bool = False
    spent: bool = False


def nothing(_: int) -> None:
    return None


def request(spent: int) -> Any:
    exchange = _core.Exchange(CLIENT, "diffs")
    for _ in range(spent):
        exchange.meet("[]")
    return exchange


def met(spent: int) -> Any:
    exchange = request(spent)
    exchange.meet(SERVER)
    return exchange


def merged(spent: int) -> Any:
    exchange = met(spent)
    exchange.merge()
    return exchange


def met_json(spent: int) -> Any:
    exchange = _core.Exchange.from_json(BODY)
    for _ in range(spent):
        exchange.meet("[]")
    exchange.meet(SERVER_BYTES)
    return exchange


def merged_json(spent: int) -> Any:
    exchange = met_json(spent)
    exchange.merge()
    return exchange


class Text(str):
    """A str of which the binding makes an exact one."""

    __slots__ = ()


class Row(dict[str, Any]):
    """A mapping of which the binding makes an exact dict."""

    __slots__ = ()


def fresh_texts(_: int) -> Any:
    """A diff whose texts have no UTF-8 yet."""
    return [{n: Text(f"\u00e9{v}") if n in ("id", "owner") else v for n, v in CLIENT[0].items()}]


def compacted_once(_: int) -> Any:
    compaction = _core.Compaction()
    compaction.piece(SERVER, "o", 0, 99)
    return compaction


def merged_with_dicts(_: int) -> tuple[Any, list[dict[str, Any]]]:
    dicts = [dict(d) for d in CLIENT]
    exchange = _core.Exchange(dicts)
    exchange.meet(SERVER)
    exchange.merge()
    return exchange, dicts


CASES: dict[str, Case] = {
    "Exchange": Case(
        nothing, lambda _: partial(_core.Exchange, CLIENT, "diffs"), lambda _, made: len(made)
    ),
    "Exchange, fresh texts": Case(
        fresh_texts, lambda d: partial(_core.Exchange, d), lambda _, made: len(made)
    ),
    "Exchange, an OperationType": Case(
        nothing,
        lambda _: partial(_core.Exchange, [{**CLIENT[0], "type": OperationType.create}]),
        lambda _, made: len(made),
        in_python=True,
    ),
    "Exchange, a bad diff": Case(
        nothing, lambda _: partial(_core.Exchange, BAD, "diffs"), raises=InvalidDiffError
    ),
    "Exchange, the log": Case(
        nothing, lambda _: partial(_core.Exchange, ON_THE_LOG, "diffs"), raises=InvalidDiffError
    ),
    "from_json": Case(
        nothing, lambda _: partial(_core.Exchange.from_json, BODY), lambda _, made: len(made)
    ),
    "from_json, a bad diff": Case(
        nothing, lambda _: partial(_core.Exchange.from_json, BAD_BODY), raises=InvalidDiffError
    ),
    "from_json, the log": Case(
        nothing,
        lambda _: partial(_core.Exchange.from_json, LOG_BODY, "diffs"),
        raises=InvalidDiffError,
    ),
    "meet dicts": Case(request, lambda e: partial(e.meet, SERVER), both_lists_merged),
    "meet subclasses of dict": Case(
        request, lambda e: partial(e.meet, [Row(d) for d in SERVER]), both_lists_merged
    ),
    "meet str": Case(request, lambda e: partial(e.meet, SERVER_JSON), both_lists_merged),
    "meet bytes": Case(request, lambda e: partial(e.meet, SERVER_BYTES, "o", 3), both_lists_merged),
    "meet again": Case(met, lambda e: partial(e.meet, SERVER), both_lists_merged),
    "meet a bad row": Case(request, lambda e: partial(e.meet, BAD), raises=InvalidDiffError),
    "meet an iterator": Case(request, lambda e: partial(e.meet, iter(SERVER)), spent=True),
    "news": Case(met, lambda e: e.news),
    "news of what is written": Case(merged, lambda e: e.news),
    "news of written objects": Case(merged, lambda e: partial(e.news, True)),
    "ask": Case(met, lambda e: lambda: e.ask(RULES, "o", iter((0, 1, 2)))),
    "ask of JSON": Case(met_json, lambda e: lambda: e.ask(RULES, "o", iter((0, 1, 2)))),
    "sent": Case(met, lambda e: partial(e.sent, 2)),
    "sent as JSON": Case(met_json, lambda e: partial(e.sent, 2)),
    "diff": Case(met, lambda e: partial(e.diff, 2)),
    "page_end": Case(met, lambda e: partial(e.page_end, 1)),
    "leave_out_dead": Case(met, lambda e: e.leave_out_dead, both_lists_merged),
    "select": Case(met, lambda e: partial(e.select, True, True, 0, 9), both_lists_merged),
    "log_values": Case(
        merged, lambda exchange: partial(_core.log_values, exchange.operations("o", 1)[3])
    ),
    "text_member": Case(nothing, lambda _: partial(_core.text_member, BODY, "cursor")),
    "merge": Case(met, lambda e: partial(e.merge, 100, 5), both_lists),
    "upstream": Case(merged, lambda e: e.upstream),
    "downstream": Case(merged, lambda e: e.downstream),
    "downstream of JSON": Case(merged_json, lambda e: e.downstream),
    "reply_json": Case(merged_json, lambda e: partial(e.reply_json, 9)),
    "operations": Case(merged, lambda e: partial(e.operations, "owner\u00e9", 7)),
    "operations of JSON": Case(merged_json, lambda e: partial(e.operations, "o", 7)),
    "acknowledge": Case(
        merged_with_dicts, lambda made: partial(made[0].acknowledge, 2**40), lambda made, _: made[1]
    ),
    "Compaction": Case(nothing, lambda _: _core.Compaction, lambda *_: None),
    "compaction.piece": Case(
        lambda _: _core.Compaction(), lambda c: partial(c.piece, SERVER, "o", 0, 99), spent=True
    ),
    "compaction.piece, long": Case(
        lambda _: _core.Compaction(), lambda c: partial(c.piece, LONG_LOG, "o", 0, 999), spent=True
    ),
    "compaction.piece, trimmed": Case(
        compacted_once, lambda c: partial(c.piece, LOG, "o", 0, 99), spent=True
    ),
    "mobync.merge": Case(nothing, lambda _: partial(merge, SERVER, CLIENT), in_python=True),
    "Diff.validate": Case(nothing, lambda _: partial(Diff.validate, CLIENT[-1]), in_python=True),
}


class Fault:
    """The refusal of one allocation, while a call runs."""

    def __init__(self, begin: Callable[[int], None], end: Callable[[], None]) -> None:
        self.begin = begin
        self.end = end


def refuse_python(nth: int) -> None:
    _testcapi.set_nomemory(nth, nth + 1)


def cjson_path() -> str:
    """The libcjson that the extension has loaded: another copy has hooks of its own."""
    with open("/proc/self/maps") as maps:
        return next(line.split()[-1] for line in maps if "cjson" in line)


class CjsonHooks(ctypes.Structure):
    """What cJSON_InitHooks takes."""

    ALLOCATE = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)
    RELEASE = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
    _fields_ = (("malloc_fn", ALLOCATE), ("free_fn", RELEASE))


class ScarceCjson:
    """cJSON on an allocator that refuses the n-th block."""

    def __init__(self) -> None:
        libc = ctypes.PyDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        self.left = -1
        self.live = 0
        self.libc = libc
        self.hooks = CjsonHooks(
            CjsonHooks.ALLOCATE(self.allocate), CjsonHooks.RELEASE(self.release)
        )
        self.library = ctypes.PyDLL(cjson_path())

    def allocate(self, size: int) -> int | None:
        self.left -= 1
        if self.left == -1:
            return None
        self.live += 1
        return int(self.libc.malloc(size))

    def release(self, block: int | None) -> None:
        self.live -= block is not None
        self.libc.free(block)

    def refuse(self, nth: int) -> None:
        self.left = nth
        self.library.cJSON_InitHooks(ctypes.byref(self.hooks))

    def rest(self) -> None:
        self.library.cJSON_InitHooks(None)
        assert self.live == 0, f"cJSON holds {self.live} blocks"


def attempt(call: Callable[[], Any], fault: Fault, nth: int) -> tuple[Any, BaseException | None]:
    """One call with the nth allocation refused.

    The error comes without its traceback: what holds on to MemoryErrors uses up CPython's store of
    them, and the one that then serves again and again collects the frames of all.
    """
    error = None
    result = None
    fault.begin(nth)
    try:
        result = call()
    except BaseException as raised:
        error = raised.with_traceback(None)
    finally:
        fault.end()
    return result, error


def expect_memory_error(error: BaseException, in_python: bool = False) -> None:
    """Fail unless the error says that memory was out.

    CPython has two ways of its own to say it, where Python code runs: a Lock that cannot be made is
    a RuntimeError, and 3.11 forgets an exception when it lacks the memory for a frame object of its
    traceback (take_ownership in Python/frame.c).
    """
    if in_python and type(error) is RuntimeError:
        assert str(error) == "can't allocate lock", repr(error)
    elif in_python and type(error) is SystemError and sys.version_info[:2] == (3, 11):
        assert "without exception set" in str(error), repr(error)
    else:
        assert type(error) is MemoryError, f"{error!r} and not a MemoryError"


def outcome(case: Case, subject: Any) -> Any:
    """What a call comes to with enough memory."""
    try:
        return case.look(subject, case.call(subject)())
    except BaseException as error:
        if case.raises is None or type(error) is not case.raises:
            raise
        return str(error)


def fail_once(case: Case, fault: Fault, nth: int, expected: Any, spent: int = 0) -> bool:
    """Refuse one allocation; whether the call failed."""
    alone = _core.Exchange([])  # takes the memory that is kept between calls: the subject's is new
    subject = case.subject(spent)
    del alone
    result, error = attempt(case.call(subject), fault, nth)
    if error is None:
        assert case.look(subject, result) == expected, "another result in spite of success"
        return False
    if type(error) is case.raises:
        assert str(error) == expected
        return False
    expect_memory_error(error, case.in_python)
    if case.spent:
        with suppress(RuntimeError):
            case.call(subject)()
    else:
        assert outcome(case, subject) == expected, "another result after a failure"
    return True


COUNTERS: list[Callable[[], int]] = [sys.getallocatedblocks]
if hasattr(sys, "gettotalrefcount"):
    COUNTERS.append(sys.gettotalrefcount)


def leaks(work: Callable[[], object], rounds: int) -> int:
    """Blocks or references that rounds of work left; 0 if that is no leak.

    What fills a cache comes to an end: what seems to leak is done twice as often, again and again.
    """
    grown = 0
    for longer in (rounds << doubled for doubled in range(DOUBLINGS)):
        gc.collect()
        before = array("q", [count() for count in COUNTERS])
        for _ in range(longer):
            work()
        gc.collect()
        now = array("q", [count() for count in COUNTERS])
        grown = max(after - held for after, held in zip(now, before, strict=True))
        if grown < longer / 2:
            return 0
    return grown


def references() -> list[int]:
    """Those of what is the tests' own; others share the small numbers and the names."""
    return [sys.getrefcount(d[name]) for d in [*SERVER, *BAD] for name in ("id", "json_data")]


def expect_no_leak(case: Case, fault: Fault, nth: int, expected: Any) -> None:
    left = leaks(lambda: fail_once(case, fault, nth, expected), ROUNDS)
    assert left == 0, f"{left} blocks or references stay after failures of allocation {nth}"


def fail_at_each(case: Case, fault: Fault, expected: Any) -> int:
    """Fail a call at each of its allocations; how many there were."""
    failures = through = nth = 0
    while through < THROUGH:
        if fail_once(case, fault, nth, expected):
            failures, through = failures + 1, 0
            expect_no_leak(case, fault, nth, expected)
        else:
            through += 1
        nth += 1
    return failures


def fail_at_each_block(case: Case, fault: Fault, expected: Any) -> None:
    """Let the arena, which asks for memory in blocks, need one at each of its pieces."""
    for spent in range(SPENT):
        for nth in range(3):
            fail_once(case, fault, nth, expected, spent)


def warm_up(case: Case) -> None:
    """Fill the caches that a call fills.

    CPython 3.10 makes one at the 1024th call of a piece of Python code, and where it lacks the
    memory for it, it fails without setting an exception (_PyCode_InitOpcache in Python/ceval.c).
    """
    for _ in range(WARM_UP):
        outcome(case, case.subject(0))


def run(name: str, faults: dict[str, Fault]) -> None:
    case = CASES[name]
    expected = outcome(case, case.subject(0))
    warm_up(case)
    held = references()
    told = {}
    for allocator, fault in faults.items():
        try:
            told[allocator] = fail_at_each(case, fault, expected)
            fail_at_each_block(case, fault, expected)
        except AssertionError as broken:
            raise AssertionError(f"{name}, {allocator}: {broken}") from broken
    gc.collect()
    assert references() == held, f"{name}: references changed"
    print(f"{name}: allocations {told}")


def main() -> int:
    names = sys.argv[1:]
    if names == ["--names"]:
        print("\n".join(CASES))
        return 0
    scarce = ScarceCjson()
    faults = {
        "Python": Fault(refuse_python, _testcapi.remove_mem_hooks),
        "cJSON": Fault(scarce.refuse, scarce.rest),
    }
    for name in names or CASES:
        run(name, faults)
    return 0


if __name__ == "__main__":
    sys.exit(main())
