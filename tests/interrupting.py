"""A signal handler that raises at any bytecode that a test wants."""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

AFTER_A_RAISE = "PUSH_EXC_INFO"  # belongs to the raise before it: nothing ever comes between


class Interrupted(BaseException):
    """What a signal handler raises."""


def interrupted_at(place: int, work: Callable[[], object]) -> bool:
    """Run ``work``, raise at its bytecode number ``place``; say whether it has that many."""
    passed = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal passed
        frame.f_trace_opcodes = True
        code = frame.f_code.co_code
        if event == "opcode" and dis.opname[code[frame.f_lasti]] != AFTER_A_RAISE:
            passed += 1
            if passed == place:
                sys.settrace(None)
                raise Interrupted
        return trace

    before, collecting = sys.gettrace(), gc.isenabled()
    gc.disable()  # callbacks of a collection are nobody's work: what they raise is only printed
    sys._getframe().f_trace_opcodes = True  # 3.12 looks for it when tracing begins
    try:
        sys.settrace(trace)  # for the frames that begin from here on
        work()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()
    return passed >= place
