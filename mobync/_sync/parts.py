"""A request in parts: docs/protocol.md, "A request in parts".

Each part before the last is stored in the database, in a transaction of the owner. When the last
part arrives, all parts become the body of one request, which is handled like any other. The diffs
are not read before that.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from io import BytesIO
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import (
    InvalidDiffError,
    NoPartsError,
    PartsMissingError,
    RequestTooLargeError,
)
from ..synchronizer import Synchronizer
from .attempts import OwnerLog, in_transaction, plain_answer
from .device_limit import names_to_forget
from .devices import Asked, Device, check_is_here, keeps_devices, read_states, refuse
from .owner_state import OWNER, OwnerState
from .uploads import Size, Upload, size_of

if TYPE_CHECKING:
    from .._core import Mobync

logger = logging.getLogger("mobync")

PIECE_CHARACTERS = 200_000  # characters of a part in one row: below MariaDB's max_allowed_packet
OWNERS_SHARE = 4  # times max_request_bytes: what the parts of an owner's devices may have

HOLDS: ContextVar[Callable[[int], None]] = ContextVar("mobync_holds", default=lambda size: None)
"""Is told how many bytes a request will have that is put together now, before they are read: what
answers requests makes sure that there is room for them, or raises."""

States = Mapping[str, str]


class Part(NamedTuple):
    """The members of a part.

    Attributes:
        device: the name of the device; None: the store does not store devices.
        number, mark, clock: those of the request.
        limit, cursor: those of its page, as they came; only those of the last part count.
        part: its number, from 1.
        has_more: whether other parts follow.
        upload: the device's name for all parts together; None: there is none.
        diffs: the text of the JSON array.
    """

    device: str | None
    number: int
    mark: str | None
    clock: int
    limit: Any
    cursor: Any
    part: int
    has_more: bool
    upload: str | None
    diffs: str


def take_part(server: Mobync, owner_id: str, *said: Any) -> tuple[bytes | None, bytes | None]:
    """Store a part; when it is the last one, join all parts.

    Args:
        server: the Mobync with the settings.
        owner_id: the owner of the device.
        said: a ``Part``.

    Returns:
        The reply to a part before the last, and None; for the last part None, and the body of the
        whole request.

    Raises:
        NoPartsError: the store cannot store parts.
        PartsMissingError: this is the last part, and others before it are missing.
        RequestTooLargeError: all parts together are too long.
        UnknownDeviceError, DeviceRevokedError, OwnerMovedError, OtherOwnerError: as for a whole
            request.
        BusyError: another sync of this owner took too long.
    """
    sent = Part(*said)
    if sent.device is None:
        raise no_parts(server.synchronizer)
    size = size_of(sent.diffs)
    check_size(server, size[0])
    if sent.has_more:
        in_transaction(server, owner_id, partial(_keep, server, sent, size))
        server._note_part(is_last=False)  # type: ignore[attr-defined]  # of mobync.Mobync
        logger.info("part owner=%a part=%d bytes=%d", owner_id, sent.part, size[0])
        plain = {"success": True, "message": "", "logical_clock": sent.clock, "diffs": []}
        return json.dumps({**plain, "part": sent.part}).encode(), None
    if sent.part == 1:
        whole = _whole(sent, [sent.diffs])
    else:
        whole = in_transaction(server, owner_id, partial(_put_together, server, sent, size))
    server._note_part(is_last=True)  # type: ignore[attr-defined]  # of mobync.Mobync
    return None, whole


def apply_part(server: Mobync, owner_id: str, clock: Any, diffs: Any, *said: Any) -> dict[str, Any]:
    """Handle a part of apply(): as JSON, because parts are stored as JSON.

    Raises:
        InvalidDiffError: there is no device, or the diffs are not JSON.
        Exception: what else apply_json() raises.
    """
    names = "limit", "cursor", "device", "request", "mark", "part", "more_diffs", "upload"
    given = dict(zip(names, said, strict=True))
    if given["device"] is None:
        raise InvalidDiffError("part is for a device that names itself")
    if not isinstance(diffs, list | tuple):
        raise InvalidDiffError(f"diffs must be a list, not {type(diffs).__name__}")
    body = {"logical_clock": clock, "diffs": diffs}
    body |= {name: value for name, value in given.items() if value is not None}
    try:
        text = json.dumps(body, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidDiffError(f"a part must be JSON: {error}") from error
    reply: dict[str, Any] = json.loads(server.apply_json(text, owner_id))
    return reply


def no_parts(store: Synchronizer) -> NoPartsError:
    """The error if parts cannot be stored."""
    why = "the database has no table for parts (docs/databases.md)"
    if not keeps_devices(store):
        why = f"{type(store).__name__} does not store devices"
    return NoPartsError(f"this server takes no request in parts: {why}; send fewer diffs at a time")


def check_size(server: Mobync, size: int) -> None:
    """Check how long the parts of a request are together.

    Raises:
        RequestTooLargeError: too long.
    """
    if size > server.max_request_bytes:
        raise RequestTooLargeError(
            f"the parts of a request must not have more than {server.max_request_bytes} bytes in "
            "all (max_request_bytes)"
        )


# ---- in a transaction ---------------------------------------------------------------------------


def _keep(server: Mobync, sent: Part, size: Size, log: OwnerLog) -> None:
    states, device = _admitted(sent, log)
    upload = _upload_of(sent, device)
    if upload.sizes.get(sent.part) == size:
        return
    assert sent.device is not None
    if not upload.sizes or sent.part in upload.sizes:  # or it was cut again under the same name
        drop_parts(log.store, log.owner_id, sent.device)
        upload.sizes.clear()
    check_size(server, upload.bytes + size[0])
    upload.sizes[sent.part] = size
    upload.kept_ms = device.seen_ms = server._now_ms()
    device.first_ms = device.first_ms or device.seen_ms
    device.upload = upload.to_text()
    others = {name: text for name, text in states.items() if name not in (OWNER, sent.device)}
    gone: list[str] = []
    if sent.device not in states:
        gone = names_to_forget(server, {n: Device.of_text(text) for n, text in others.items()})
    for name in gone:
        del others[name]
        drop_parts(log.store, log.owner_id, name)
    room = _make_room(server, upload, others, log)
    written = {sent.device: device.to_text(), **room, **dict.fromkeys(gone)}
    pieces = list(_pieces(sent.diffs))
    kept = log.store.write_part(log.owner_id, sent.device, sent.part, pieces)
    plain_answer("write_part", kept)
    plain_answer("write_devices", log.store.write_devices(log.owner_id, written))


def _put_together(server: Mobync, sent: Part, size: Size, log: OwnerLog) -> bytes:
    _, device = _admitted(sent, log)
    upload = _upload_of(sent, device)
    check_size(server, upload.bytes + size[0])
    missing = upload.missing_before(sent.part)
    if missing:
        raise PartsMissingError(missing)
    HOLDS.get()(upload.bytes + size[0])
    read = log.store.read_parts(log.owner_id, sent.device or "")
    pieces = plain_answer("read_parts", read)
    return _whole(sent, chain(_before(sent.part, pieces), [sent.diffs]))


def _before(last: int, pieces: Iterable[tuple[int, str]]) -> Iterator[str]:
    """The parts before the last one; each is read when the one before it was taken."""
    came = 0
    for part, text in _parts_of(pieces):
        if part != came + 1 or part == last:
            break
        came = part
        yield text
    if came + 1 < last:  # the rows went by another way than drop_parts()
        raise PartsMissingError(list(range(came + 1, last)))


def _admitted(sent: Part, log: OwnerLog) -> tuple[States, Device]:
    """The stored texts of the owner's devices, and the device that sends, if it may."""
    states = read_states(log.store, log.owner_id)
    if states is None or not plain_answer("keeps_parts", log.store.keeps_parts()):
        raise no_parts(log.store)
    text = states.get(sent.device or "")
    device = Device(answered=False) if text is None else Device.of_text(text)
    check_is_here(sent.device or "", device)
    asked = Asked(sent.number, sent.mark, sent.clock, 0, 1, -2, sent.clock, 0)
    if not device.expects(asked, is_known=device.answered) and not device.may_repeat(asked):
        owner = OwnerState.of_text(states[OWNER]) if OWNER in states else OwnerState()
        refuse(sent.device or "", sent.mark, log.owner_id, device, owner)
    return states, device


def _upload_of(sent: Part, device: Device) -> Upload:
    """The state of the request of a part; empty if no part of it has come before."""
    upload = Upload(sent.upload, sent.number, sent.mark, sent.clock)
    kept = Upload.of_text(device.upload) if device.upload else upload
    return kept if kept.is_of(upload) else upload


def _pieces(text: str) -> Iterator[str]:
    for begin in range(0, len(text), PIECE_CHARACTERS):
        yield text[begin : begin + PIECE_CHARACTERS]


def _parts_of(pieces: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for part, rows in groupby(pieces, key=itemgetter(0)):
        yield part, "".join(piece for _, piece in rows)


def _whole(sent: Part, arrays: Iterable[str]) -> bytes:
    """The body of the whole request."""
    head = {
        "logical_clock": sent.clock,
        "limit": sent.limit,
        "cursor": sent.cursor,
        "device": sent.device,
        "request": sent.number,
        "mark": sent.mark,
        "part": sent.part,
    }
    body = BytesIO()
    body.write(json.dumps(head)[:-1].encode())
    body.write(b', "diffs": [')
    separator = b""
    for array in arrays:
        elements = array[array.index("[") + 1 : array.rindex("]")].strip()
        if elements:
            body.write(separator)
            body.write(elements.encode())
            separator = b", "
    body.write(b"]}")
    return body.getvalue()


# ---- parts that nobody needs any more -----------------------------------------------------------


def _make_room(server: Mobync, upload: Upload, others: States, log: OwnerLog) -> dict[str, str]:
    """Drop parts of an owner's other devices: those that are too old, and the oldest if the owner
    has too many. These devices send them again. Returns the new states of these devices.
    """
    found = [(name, Device.of_text(text)) for name, text in others.items()]
    uploads = [(Upload.of_text(each.upload), name, each) for name, each in found if each.upload]
    uploads.sort(key=lambda one: one[0].kept_ms)
    room = OWNERS_SHARE * server.max_request_bytes - upload.bytes
    left = sum(one.bytes for one, _, _ in uploads)
    gone: dict[str, str] = {}
    for one, name, device in uploads:
        if one.is_stale(upload.kept_ms) or left > room:
            drop_parts(log.store, log.owner_id, name)
            device.upload = ""
            gone[name] = device.to_text()
            left -= one.bytes
    return gone


def drop_stale_parts(server: Mobync, log: OwnerLog, states: States) -> States:
    """Drop the parts that are too old, of all devices; return the states of the devices then."""
    now_ms, gone = server._now_ms(), {}
    for name, text in states.items():
        device = None if name == OWNER else Device.of_text(text)
        if device is not None and device.upload and Upload.of_text(device.upload).is_stale(now_ms):
            drop_parts(log.store, log.owner_id, name)
            device.upload = ""
            gone[name] = device.to_text()
    if gone:
        plain_answer("write_devices", log.store.write_devices(log.owner_id, gone))
    return {**states, **gone}


def drop_parts(store: Synchronizer, owner_id: str, device: str | None) -> None:
    """Drop the parts of one device, or of all devices of an owner."""
    plain_answer("drop_parts", store.drop_parts(owner_id, device))
