"""Makes every allocation of a call fail once: the 1st, the 2nd, ... until the call is through.

    python out_of_memory.py          all calls
    python out_of_memory.py NAME     one of them
    python out_of_memory.py --names  what there is

Each failure must be a MemoryError, leave no block and no reference behind, and leave what was
called in a state in which the same call, repeated with enough memory, gives what it always gives.
Here are the plain functions of the extension; a sync is in apply_out_of_memory.py.

Python's allocators fail through _testcapi.set_nomemory, those of arenas through an allocator of
ours in the raw domain, cJSON's through its hooks.  Run alone, in a process of its own: the whole
process runs out of memory.  On a debug build of Python (run_refcounts.sh) every reference is
counted, not only the blocks.
"""

from __future__ import annotations

import _testcapi
import ctypes
import gc
import json
import re
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
NEVER = 1 << 30  # an allocation that no call gets to
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
FOLDED = [
    {**diff("g1", "create", '{"id":"x","a":1}', at=10, clock=0), "field_times": '{"a":5}'},
    diff("g2", "update", '{"id":"x","b":"\\u00e9"}', at=20, clock=1),
    diff("g3", "delete", '{"id":"y"}', clock=2),
]
LONG_LOG = [diff(f"g{i}", "create", json.dumps({"id": f"x{i}"}), clock=i) for i in range(500)]
SERVER_JSON = json.dumps(SERVER)
SERVER_BYTES = SERVER_JSON.encode()
BODY = json.dumps({"logical_clock": 3, "limit": 9, "cursor": "\u00e9", "diffs": CLIENT}).encode()
BAD = [*CLIENT, diff("l10", "create", '{"id":"x","\\u0061": tru}')]
ON_THE_LOG = [diff("l11", "create", '{"id":"x"}') | {"model": "diffs"}]
TWICE = [CLIENT[0], {**CLIENT[1], "id": "l1"}]


def pieces(spent: int) -> list[dict[str, Any]]:
    """A diff in front of the others for which an arena gives away so many small pieces."""
    fields = {f"f{i}": i for i in range(spent)}
    return [diff("l0", "create", json.dumps({"id": "spent", **fields}))] if spent else []


def first(_: object, result: object) -> object:
    return result


@dataclass
class Case:
    """A call that is to fail, on something that is made again for each failure.

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


class Text(str):
    """A str of which the binding makes an exact one."""

    __slots__ = ()


class Row(dict[str, Any]):
    """A mapping of which the binding makes an exact dict."""

    __slots__ = ()


def fresh_texts(_: int) -> Any:
    """A diff whose texts have no UTF-8 yet."""
    return {n: Text(f"\u00e9{v}") if n in ("id", "owner") else v for n, v in CLIENT[0].items()}


def compacted_once(_: int) -> Any:
    compaction = _core.Compaction()
    compaction.piece(SERVER, "o", 0, 99)
    return compaction


def folding(_: int) -> Any:
    compaction = _core.Compaction(9, keeps_times=True)
    compaction.piece(FOLDED, "o", 0, 99)
    return compaction


def folds(*arguments: Any) -> Callable[[Any], Callable[[], Any]]:
    return lambda compaction: partial(compaction.fold, *arguments)


def checked(row: Any, *model: str) -> Callable[[Any], Callable[[], Any]]:
    return lambda _: partial(_core.check_diff, row, *model)


def merged(server: Any, client: Any = CLIENT) -> Callable[[Any], Callable[[], Any]]:
    return lambda spent: partial(_core.merge, server, [*pieces(spent), *client])


def pieced(*arguments: Any) -> Callable[[Any], Callable[[], Any]]:
    return lambda compaction: partial(compaction.piece, *arguments)


def as_it_is(spent: int) -> int:
    return spent


CASES: dict[str, Case] = {
    "check_diff": Case(nothing, checked(CLIENT[-1], "diffs")),
    "check_diff, fresh texts": Case(fresh_texts, lambda d: partial(_core.check_diff, d)),
    "check_diff, an OperationType": Case(
        nothing, checked({**CLIENT[0], "type": OperationType.create}), in_python=True
    ),
    "check_diff, malformed": Case(nothing, checked(BAD[-1]), raises=InvalidDiffError),
    "check_diff, no dict": Case(nothing, checked(7), raises=InvalidDiffError),
    "check_diff, a strange key": Case(
        nothing, checked({**CLIENT[0], 7: 1}), raises=InvalidDiffError, in_python=True
    ),
    "check_diff, the log": Case(nothing, checked(ON_THE_LOG[0], "diffs"), raises=InvalidDiffError),
    "check_log of dicts": Case(nothing, lambda _: partial(_core.check_log, SERVER, "o", 3)),
    "check_log of str": Case(nothing, lambda _: partial(_core.check_log, SERVER_JSON, "o")),
    "check_log, another owner": Case(
        nothing, lambda _: partial(_core.check_log, SERVER, "p"), raises=ValueError
    ),
    "check_log, an early row": Case(
        nothing, lambda _: partial(_core.check_log, SERVER, "o", 4), raises=ValueError
    ),
    "check_log of no rows": Case(
        nothing, lambda _: partial(_core.check_log, 7, "o"), raises=TypeError
    ),
    "check_text": Case(nothing, lambda _: partial(_core.check_text, "name", "\u00e9")),
    "check_text, empty": Case(
        nothing, lambda _: partial(_core.check_text, "name", ""), raises=ValueError
    ),
    "text_member": Case(nothing, lambda _: partial(_core.text_member, BODY, "cursor")),
    "merge of dicts": Case(as_it_is, merged(SERVER)),
    "merge of subclasses of dict": Case(as_it_is, merged([Row(d) for d in SERVER])),
    "merge of str": Case(as_it_is, merged(SERVER_JSON)),
    "merge of bytes": Case(as_it_is, merged(SERVER_BYTES)),
    "merge of an iterator": Case(
        lambda _: iter(SERVER), lambda rows: partial(_core.merge, rows, CLIENT), spent=True
    ),
    "merge with a bad row": Case(lambda _: 0, merged(BAD, []), raises=InvalidDiffError),
    "merge with a bad row in JSON": Case(
        lambda _: 0, merged(json.dumps(BAD), []), raises=InvalidDiffError
    ),
    "merge of a bad diff": Case(lambda _: 0, merged([], BAD), raises=InvalidDiffError),
    "merge of an id twice": Case(lambda _: 0, merged([], TWICE), raises=InvalidDiffError),
    "Compaction": Case(nothing, lambda _: _core.Compaction, lambda *_: None),
    "compaction.piece": Case(lambda _: _core.Compaction(), pieced(SERVER, "o", 0, 99), spent=True),
    "compaction.piece, long": Case(
        lambda _: _core.Compaction(), pieced(LONG_LOG, "o", 0, 999), spent=True
    ),
    "compaction.piece, trimmed": Case(compacted_once, pieced(LOG, "o", 0, 99), spent=True),
    "compaction.piece to be folded": Case(
        lambda _: _core.Compaction(9, keeps_times=True), pieced(FOLDED, "o", 0, 99), spent=True
    ),
    "compaction.fold": Case(folding, folds(FOLDED, "o", 0, 9), spent=True),
    "compaction.fold of JSON": Case(folding, folds(json.dumps(FOLDED), "o", 0, 9), spent=True),
    "mobync.merge": Case(nothing, lambda _: partial(merge, SERVER, CLIENT), in_python=True),
    "Diff.validate": Case(nothing, lambda _: partial(Diff.validate, CLIENT[-1]), in_python=True),
}


# ---- faults --------------------------------------------------------------------------------------


class PythonMemory:
    """Python's allocators refuse the n-th block."""

    def begin(self, nth: int) -> None:
        _testcapi.set_nomemory(nth, nth + 1)

    def end(self) -> None:
        _testcapi.remove_mem_hooks()


class RawAllocator(ctypes.Structure):
    """PyMemAllocatorEx."""

    MALLOC = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    _fields_ = (
        ("ctx", ctypes.c_void_p),
        ("malloc", MALLOC),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


class RawMemory:
    """Python's raw allocator, which gives the arenas their blocks, refuses the n-th block.

    What it is asked for without the GIL must not run meanwhile: bodies and merges that are large.
    """

    DOMAIN = 0  # PYMEM_DOMAIN_RAW

    def __init__(self) -> None:
        self.before = RawAllocator()
        self.left = -1
        ctypes.pythonapi.PyMem_GetAllocator(self.DOMAIN, ctypes.byref(self.before))
        self.scarce = RawAllocator()
        ctypes.pythonapi.PyMem_GetAllocator(self.DOMAIN, ctypes.byref(self.scarce))
        self.scarce.malloc = RawAllocator.MALLOC(self.allocate)

    def allocate(self, context: int | None, size: int) -> int | None:
        self.left -= 1
        if self.left == -1:
            return None
        block: int | None = self.before.malloc(context, size)
        return block

    def begin(self, nth: int) -> None:
        self.left = nth
        ctypes.pythonapi.PyMem_SetAllocator(self.DOMAIN, ctypes.byref(self.scarce))

    def end(self) -> None:
        ctypes.pythonapi.PyMem_SetAllocator(self.DOMAIN, ctypes.byref(self.before))


def cjson_path() -> str:
    """The libcjson that the extension has loaded: another copy has hooks of its own."""
    with open("/proc/self/maps") as maps:
        return next(line.split()[-1] for line in maps if "cjson" in line)


class CjsonHooks(ctypes.Structure):
    """What cJSON_InitHooks takes."""

    ALLOCATE = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)
    RELEASE = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
    _fields_ = (("malloc_fn", ALLOCATE), ("free_fn", RELEASE))


class CjsonMemory:
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

    def begin(self, nth: int) -> None:
        self.left = nth
        self.library.cJSON_InitHooks(ctypes.byref(self.hooks))

    def end(self) -> None:
        self.library.cJSON_InitHooks(None)
        assert self.live == 0, f"cJSON holds {self.live} blocks"


Fault = PythonMemory | RawMemory | CjsonMemory
FAULTS: dict[str, Callable[[], Fault]] = {
    "Python": PythonMemory,
    "arena": RawMemory,
    "cJSON": CjsonMemory,
}


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
    a RuntimeError, and it forgets an exception when it lacks the memory for what belongs to it, as
    from 3.11 on for a frame object of its traceback (take_ownership in Python/frame.c).
    """
    if in_python and type(error) is RuntimeError:
        assert str(error) == "can't allocate lock", repr(error)
    elif in_python and type(error) is SystemError:
        assert re.search("without (setting an )?exception", str(error)), repr(error)
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
    subject = case.subject(spent)
    call = case.call(subject)
    alone = _core.Compaction()  # takes the arena that is kept between calls: the call's is new
    result, error = attempt(call, fault, nth)
    del alone
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


def fail_at_each_block(case: Case, fault: Fault) -> int:
    """Let the arena, which asks for memory in blocks, need one at each of its pieces."""
    failures = 0
    for spent in range(1, SPENT):
        expected = outcome(case, case.subject(spent))
        nth = 0
        while fail_once(case, fault, nth, expected, spent):
            nth += 1
        failures += nth
    return failures


def warm_up(case: Case, fault: Fault, expected: Any) -> None:
    """Fill the caches that a call fills, and those of what makes it fail.

    CPython 3.10 makes one at the 1024th call of a piece of Python code, and where it lacks the
    memory for it, it fails without setting an exception (_PyCode_InitOpcache in Python/ceval.c).
    """
    for _ in range(WARM_UP):
        fail_once(case, fault, NEVER, expected)


def run(name: str, faults: dict[str, Fault]) -> None:
    case = CASES[name]
    expected = outcome(case, case.subject(0))
    for fault in faults.values():
        warm_up(case, fault, expected)
    held = references()
    told = {}
    for allocator, fault in faults.items():
        try:
            told[allocator] = fail_at_each(case, fault, expected)
            if case.subject is as_it_is and allocator == "arena":
                told["each block"] = fail_at_each_block(case, fault)
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
    faults = {name: fault() for name, fault in FAULTS.items()}
    for name in names or CASES:
        run(name, faults)
    return 0


if __name__ == "__main__":
    sys.exit(main())
