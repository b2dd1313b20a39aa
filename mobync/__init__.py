"""Offline-first sync for apps whose backend is Python."""

from .errors import (
    BusyError,
    InvalidDiffError,
    LogicalClockError,
    MobyncError,
    PageError,
    UnauthorizedError,
)
from .sync import Mobync, merge
from .synchronizer import Synchronizer
from .types import (
    CompactResult,
    Diff,
    DiffDict,
    FilterType,
    MergeResult,
    OperationType,
    ReadFilter,
    Refusal,
    Reply,
    SyncReport,
)

__version__ = "1.0.0"

__all__ = [
    "BusyError",
    "CompactResult",
    "Diff",
    "DiffDict",
    "FilterType",
    "InvalidDiffError",
    "LogicalClockError",
    "MergeResult",
    "Mobync",
    "MobyncError",
    "OperationType",
    "PageError",
    "ReadFilter",
    "Refusal",
    "Reply",
    "SyncReport",
    "Synchronizer",
    "UnauthorizedError",
    "__version__",
    "merge",
]
