"""An owner as a file of JSON lines: the log, which contains the documents.

The first line has the owner and the highest clock. Then each line has a diff. The last line has the
number of diffs, and the state of the named devices. So a truncated file is recognized. Devices
continue with an imported log as with the old one; those that have synced since the export start
over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, count, groupby, islice
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NamedTuple

from sqlalchemy.exc import IntegrityError

from .. import _core
from .._sync.devices import Device, without_upload
from .._sync.known_devices import revoked
from .._sync.marks import fingerprint
from .._sync.owner_state import OWNER, OwnerState, first_state
from ..errors import InvalidDiffError
from ..sqlalchemy import DocumentSynchronizer, SQLAlchemySynchronizer
from ..sqlalchemy._tables import KEY_LENGTH
from ..types import FIELD_TIMES, LOG_FIELDS, Diff
from .owners import check_owner_id, is_storable
from .replay import horizon_of, log_pieces

FORMAT = 1
MAX_END_CLOCK = 2**52  # half of all clocks; the other half is for later edits
PIECE_LINES = 1000
FIRST_DIFF_LINE = 2
SPOOL_CHARACTERS = 16 * 1024 * 1024  # of a file that is kept in memory
LOG = "diffs"

Row = dict[str, Any]


class TransferError(Exception):
    """A file cannot be imported. Nothing of it was imported."""


def exported(
    store: SQLAlchemySynchronizer,
    owner_id: str,
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[str]:
    """The lines of an owner's file, as of one moment; syncs continue meanwhile.

    Args:
        store: where the log is.
        owner_id: whose.
        progress: called with the clock up to which the log has been read, and its end.

    Raises:
        TypeError: the store has a session, whose transaction may have read before.
    """
    with store.snapshot() as then:
        clock = then.highest_logical_clock(owner_id) + 1
        yield _line({"mobync": "log", "format": FORMAT, "owner": owner_id, "logical_clock": clock})
        diffs = 0
        for piece in log_pieces(then, owner_id):
            for row in piece:
                yield _line(_log_row(row))
            diffs += len(piece)
            if progress is not None:
                progress(int(piece[-1][Diff.LOGICAL_CLOCK]) + 1, clock)
        devices = _without_uploads(then.read_devices(owner_id, None) or {})
        yield _line({"mobync": "end", "diffs": diffs} | ({"devices": devices} if devices else {}))


def _log_row(row: Row) -> Row:
    """A diff as the file has it."""
    return {name: row[name] for name in (*LOG_FIELDS, FIELD_TIMES) if name in row}


def _line(members: Row) -> str:
    return json.dumps(members, ensure_ascii=False) + "\n"


def import_lines(
    store: DocumentSynchronizer,
    owner_id: str,
    lines: Iterable[str],
    progress: Callable[[int, int], object] | None = None,
) -> int:
    """Import a log and make its documents: everything or nothing.

    All lines are read and checked before anything is locked, into a temporary file if they are
    many. So nobody waits for that.

    Args:
        store: the store to import into.
        owner_id: the owner of the imported data; this owner must have no data yet.
        lines: the lines of a file that ``exported`` made, of this owner or of another one.
        progress: called with the clock up to which the log has been read, and its end; then again
            from the start while the log is written.

    Returns:
        How many diffs were imported.

    Raises:
        OwnerError: the server cannot keep data of this owner; a ValueError.
        TransferError: the owner has something already, or a line is malformed or missing.
        BusyError: a sync of this owner took too long.
    """
    check_owner_id(owner_id)
    _check_has_nothing(store, owner_id)
    with SpooledTemporaryFile(SPOOL_CHARACTERS, "w+", encoding="utf-8", newline="\n") as kept:
        checked = _check_file(store, owner_id, _numbered(lines), kept, progress)
        try:
            with store.transaction(owner_id) as inside:
                _check_has_nothing(inside, owner_id)
                for piece in _pieces(kept):
                    _write(inside, piece)
                    if progress is not None:
                        progress(int(piece[-1][Diff.LOGICAL_CLOCK]) + 1, checked.end_clock)
                inside._move_head_to(checked.end_clock - 1)  # the last diffs may be folded away
                devices = _still_revoked(inside, owner_id, checked)
                devices |= _with_predecessor(inside, owner_id, checked)
                if devices:
                    inside.write_devices(owner_id, devices)
        except (InvalidDiffError, IntegrityError) as error:
            _check_no_doubles(kept)
            if isinstance(error, InvalidDiffError):
                raise TransferError(f"the file cannot be imported: {error.reason}") from error
            raise
    return checked.diffs


def _still_revoked(
    inside: DocumentSynchronizer, owner_id: str, checked: _Checked
) -> dict[str, str]:
    """The states of the devices from the file; a device that was revoked here stays revoked."""
    devices = _without_uploads(checked.devices)
    for name, text in (inside.read_devices(owner_id, None) or {}).items():
        if name != OWNER and name in devices and Device.of_text(text).revoked:
            devices[name] = revoked(Device.of_text(devices[name])).to_text()
    return devices


def _with_predecessor(
    inside: DocumentSynchronizer, owner_id: str, checked: _Checked
) -> dict[str, str]:
    """The owner's state, if the file is of another owner: devices of that owner that the file does
    not have, because they are newer, are not refused.
    """
    if checked.owner == owner_id or inside.read_devices(owner_id, None) is None:
        return {}
    owner = first_state(time.time_ns() // 1_000_000, log_is_empty=not checked.end_clock)
    if OWNER in checked.devices:
        owner = OwnerState.of_text(checked.devices[OWNER])
    owner.succeed(fingerprint(checked.owner))
    return {OWNER: owner.to_text()}


def _without_uploads(devices: Mapping[str, str]) -> dict[str, str]:
    """The devices without unfinished requests in parts, which a file does not have."""
    return {name: text if name == OWNER else without_upload(text) for name, text in devices.items()}


class _Checked(NamedTuple):
    """The content of a file."""

    owner: str
    diffs: int
    end_clock: int
    devices: dict[str, str]


def _check_has_nothing(store: DocumentSynchronizer, owner_id: str) -> None:
    if (
        store.highest_logical_clock(owner_id) >= 0
        or next(store.documents(owner_id), None) is not None
    ):
        raise TransferError(f"owner {owner_id!r:.100} has data already")


def _check_file(
    store: DocumentSynchronizer,
    owner_id: str,
    numbered: Iterator[tuple[int, Row]],
    kept: IO[str],
    progress: Callable[[int, int], object] | None,
) -> _Checked:
    """Check all lines, and store the diffs as the log will have them, one in each line."""
    owner, end_clock = _read_header(numbered)
    last_lines: list[tuple[int, Row]] = []
    remaining = _diffs(numbered, last_lines)
    diffs, clock = 0, 0
    while piece := list(islice(remaining, PIECE_LINES)):
        clock = _check(store, piece, owner_id, clock)
        kept.writelines(json.dumps(_log_row(row)) + "\n" for _, row in piece)
        diffs += len(piece)
        if progress is not None:
            progress(clock, end_clock)
    if not last_lines:
        raise TransferError("the file ends before its last line: it was cut short")
    devices = _check_end(*last_lines[0], numbered, diffs)
    if clock != end_clock and not clock < end_clock <= horizon_of(devices):
        raise TransferError(
            f"the log ends at logical clock {clock}, not at {end_clock} as line 1 says"
        )
    return _Checked(owner, diffs, end_clock, devices)


def _pieces(kept: IO[str]) -> Iterator[list[Row]]:
    """The diffs of a checked file, from the start."""
    kept.seek(0)
    while texts := list(islice(kept, PIECE_LINES)):
        yield [json.loads(text) for text in texts]


def _diffs(
    numbered: Iterator[tuple[int, Row]], last_lines: list[tuple[int, Row]]
) -> Iterator[tuple[int, Row]]:
    """The lines before the last one, which is put into ``last_lines`` when it comes."""
    for number, members in numbered:
        if "mobync" in members:
            last_lines.append((number, members))
            return
        yield number, members


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    """The lines' objects with their numbers."""
    remaining = iter(lines)
    for number in count(1):
        try:
            line = next(remaining, None)
            if line is None:
                return
            members = json.loads(line)
        except (ValueError, RecursionError) as error:  # also an error of the text's encoding
            raise TransferError(f"line {number} is not JSON: {error}") from None
        if not isinstance(members, dict):
            raise TransferError(f"line {number} is not a JSON object")
        yield number, members


def _read_header(numbered: Iterator[tuple[int, Row]]) -> tuple[str, int]:
    _, header = next(numbered, (0, {}))
    owner, clock = header.get("owner"), header.get("logical_clock")
    if header.get("mobync") != "log" or type(clock) is not int or type(owner) is not str:
        raise TransferError("line 1 does not belong to a file that `mobync export` made")
    if header.get("format") != FORMAT:
        raise TransferError(f"the file's format is {header.get('format')!r:.20}, not {FORMAT}")
    if clock > MAX_END_CLOCK:
        raise TransferError(
            f"line 1: logical_clock is above {MAX_END_CLOCK}, which leaves the owner's devices too "
            "few clocks for further edits; no log that mobync wrote has such a clock"
        )
    return owner, clock


def _check(
    store: DocumentSynchronizer, piece: list[tuple[int, Row]], owner_id: str, next_clock: int
) -> int:
    """Check the form and the order of diffs, and give them to the owner.

    Returns:
        The clock after the last one.
    """
    for number, row in piece:
        missing = [name for name in LOG_FIELDS if name not in row]
        if missing:
            raise TransferError(f"line {number} has no {missing[0]!r}")
        row[Diff.OWNER] = owner_id
    try:
        _core.check_log([row for _, row in piece], owner_id)
    except InvalidDiffError as damage:
        number = piece[damage.index or 0][0]
        raise TransferError(f"line {number}: {damage.reason}") from damage
    for number, row in piece:
        clock: int = row[Diff.LOGICAL_CLOCK]
        if clock < next_clock:
            raise TransferError(f"line {number}: logical_clock {clock} comes after a higher one")
        next_clock = clock + 1
        if row[Diff.MODEL] == LOG:
            raise TransferError(f"line {number}: model {LOG!r} is the log itself")
        try:
            store.check_keys(row[Diff.ID], row[Diff.MODEL], row[Diff.JSON_DATA])
        except InvalidDiffError as error:
            raise TransferError(f"line {number}: {error.reason}") from error
    return next_clock


def _write(store: DocumentSynchronizer, piece: list[Row]) -> None:
    """Apply the diffs, and log them."""
    for (kind, model), run in groupby(piece, key=lambda row: (row[Diff.TYPE], row[Diff.MODEL])):
        getattr(store, f"{kind}_many")(model, [row[Diff.JSON_DATA] for row in run])
    store.create_many(LOG, [json.dumps(row) for row in piece])


def _check_no_doubles(kept: IO[str]) -> None:
    """Find the line that the database refused; this needs memory for all ids."""
    diffs: set[str] = set()
    objects: set[tuple[str, str | None]] = set()
    for number, row in enumerate(chain.from_iterable(_pieces(kept)), FIRST_DIFF_LINE):
        if row[Diff.ID] in diffs:
            raise TransferError(f"line {number}: the id of the diff is also on an earlier line")
        diffs.add(row[Diff.ID])
        thing = row[Diff.MODEL], _core.text_member(row[Diff.JSON_DATA], Diff.ID)
        if row[Diff.TYPE] == "delete":
            objects.discard(thing)
        elif row[Diff.TYPE] == "create" and thing in objects:
            raise TransferError(f"line {number}: creates an object that exists already")
        elif row[Diff.TYPE] == "create":
            objects.add(thing)


def _check_end(
    number: int, members: Row, numbered: Iterator[tuple[int, Row]], diffs: int
) -> dict[str, str]:
    """Check the last line; return the states of the devices in it."""
    if members.get("mobync") != "end" or members.get("diffs") != diffs:
        raise TransferError(f"line {number} does not say that there are {diffs} diffs")
    if next(numbered, None) is not None:
        raise TransferError(f"line {number + 1} comes after the last one")
    devices = members.get("devices", {})
    if not isinstance(devices, dict) or not all(map(_is_device, devices, devices.values())):
        raise TransferError(f"line {number}: devices are not as `mobync export` writes them")
    try:
        horizon_of(devices)
    except ValueError as error:
        raise TransferError(f"line {number}: {error}") from error
    return devices


def _is_device(name: str, text: object) -> bool:
    """Whether a text is the valid state of a device."""
    if not isinstance(text, str) or len(name) > KEY_LENGTH or not is_storable(name + text):
        return False
    try:
        state = OwnerState.of_text(text) if name == OWNER else Device.of_text(text)
        return state.is_sound()
    except (AttributeError, TypeError, ValueError, RecursionError):
        return False
