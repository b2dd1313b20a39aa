"""The settings of a Mobync, checked."""

from __future__ import annotations

import sys
import threading
from typing import NamedTuple

from ..errors import shown

MOST_MS = 2**53 - 1  # of a timestamp
MOST_JSON_DATA = 256 * 1024 * 1024  # what the core can read
MOST_DEPTH = 1000  # what cJSON is built for

# The least that a count may be, and the most.
COUNTS = {
    "max_clock_skew_ms": (0, MOST_MS),
    "max_diffs": (0, sys.maxsize),
    "max_json_data_bytes": (0, MOST_JSON_DATA),
    "max_depth": (0, MOST_DEPTH),
    "max_fields": (0, sys.maxsize),
    "max_reply_bytes": (0, sys.maxsize),
    "max_pull_diffs": (1, sys.maxsize),
    "max_request_bytes": (0, sys.maxsize),
    "max_devices": (1, sys.maxsize),
}
SECONDS = "lock_timeout_s", "device_retention_s", "first_pull_retention_s"
ON_REFUSAL = "raise", "skip"


class Settings(NamedTuple):
    """The settings, in the order in which ``csrc/python/mobync.c`` reads them."""

    max_clock_skew_ms: int
    lock_timeout_s: float
    max_diffs: int
    max_json_data_bytes: int
    max_depth: int
    max_fields: int
    max_reply_bytes: int
    max_pull_diffs: int
    skips: bool
    device_retention_s: float
    first_pull_retention_s: float
    anonymous_devices: bool
    max_request_bytes: int
    max_devices: int


def check_settings(given: Settings, on_refusal: object) -> None:
    """Check the settings of a new Mobync.

    Raises:
        TypeError: one has the wrong type.
        ValueError: one is too small or too large.
    """
    for name, (least, most) in COUNTS.items():
        _check_count(name, getattr(given, name), least, most)
    for name in SECONDS:
        _check_seconds(name, getattr(given, name))
    if not isinstance(given.anonymous_devices, bool):
        raise TypeError(
            f"anonymous_devices must be True or False, not {shown(given.anonymous_devices)}"
        )
    if on_refusal not in ON_REFUSAL:
        raise ValueError(f"on_refusal must be 'raise' or 'skip', not {shown(on_refusal)}")


def _check_count(name: str, count: object, least: int, most: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{name} must be an int, not {type(count).__name__:.100}")
    if not least <= count <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {shown(count)}")


def _check_seconds(name: str, seconds: object) -> None:
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"{name} must be a number (seconds), not {type(seconds).__name__:.100}")
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        most = f"{threading.TIMEOUT_MAX:.0f}"
        raise ValueError(f"{name} must be from 0 to {most} seconds, not {shown(seconds)}")
