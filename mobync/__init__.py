"""Offline-first sync for apps whose backend is Python."""

try:
    import mobync._core  # noqa: F401
except ImportError as error:
    if isinstance(error, ModuleNotFoundError) and error.name != "mobync._core":
        raise
    fault = "is not built" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
    raise ImportError(
        f"mobync's C extension {fault} in {__path__[0]} for this Python. Run `pip install -e .` in "
        "the directory above to build it, or, if mobync is installed, start Python in a directory "
        "that has no `mobync` of its own (docs/install.md)"
    ) from error

from .errors import (
    BusyError,
    DeviceRevokedError,
    IdTakenError,
    InvalidDiffError,
    LogicalClockError,
    MobyncError,
    NoPartsError,
    OtherOwnerError,
    OwnerMovedError,
    PageError,
    PartsMissingError,
    RequestTooLargeError,
    SameIdError,
    TooManyDevicesError,
    TooManyListenersError,
    UnauthorizedError,
    UnavailableError,
    UnknownDeviceError,
)
from .sync import Mobync, merge
from .synchronizer import Synchronizer
from .types import (
    CompactResult,
    Diff,
    DiffDict,
    Difference,
    EraseReceipt,
    FilledModel,
    FilterType,
    KnownDevice,
    MergeResult,
    MoveResult,
    OperationType,
    ReadFilter,
    ReconcileResult,
    Refusal,
    Reply,
    SyncReport,
)

__version__ = "1.1.0"

__all__ = [
    "BusyError",
    "CompactResult",
    "DeviceRevokedError",
    "Diff",
    "DiffDict",
    "Difference",
    "EraseReceipt",
    "FilledModel",
    "FilterType",
    "IdTakenError",
    "InvalidDiffError",
    "KnownDevice",
    "LogicalClockError",
    "MergeResult",
    "Mobync",
    "MobyncError",
    "MoveResult",
    "NoPartsError",
    "OperationType",
    "OtherOwnerError",
    "OwnerMovedError",
    "PageError",
    "PartsMissingError",
    "ReadFilter",
    "ReconcileResult",
    "Refusal",
    "Reply",
    "RequestTooLargeError",
    "SameIdError",
    "SyncReport",
    "Synchronizer",
    "TooManyDevicesError",
    "TooManyListenersError",
    "UnauthorizedError",
    "UnavailableError",
    "UnknownDeviceError",
    "__version__",
    "merge",
]
