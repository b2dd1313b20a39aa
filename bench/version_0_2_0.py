"""mobync 0.2.0 beside this one, in the same process."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

TARGET = Path(__file__).parents[1] / "build" / "bench" / "mobync-0.2.0"


def load() -> ModuleType:
    """Install it where it is missing, and import it without touching the name ``mobync``."""
    if not (TARGET / "mobync").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*command, "--target", str(TARGET), "mobync==0.2.0"], check=True)
    ours = _take_out()
    sys.path.insert(0, str(TARGET))
    try:
        old = importlib.import_module("mobync")
    finally:
        sys.path.remove(str(TARGET))
        _take_out()
        sys.modules.update(ours)
    if old.__version__ != "0.2.0":
        raise RuntimeError(f"{TARGET} holds mobync {old.__version__}")
    return old


def _take_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == "mobync" or name.startswith("mobync.")]
    return {name: sys.modules.pop(name) for name in names}
