"""An owner's devices as people see them, and what people can do with a device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

from .. import _core
from ..synchronizer import Synchronizer
from ..types import Diff, KnownDevice
from .attempts import OwnerLog, in_transaction, plain_answer, without_lock
from .client_state import clock_of_client
from .devices import Device, keeps_devices, read_states, refusal
from .noted_edits import log_noted_now
from .owner_state import OWNER
from .parts import drop_parts
from .uploads import Upload

LONGEST_LABEL = 255
LONGEST_NAME = 255
_LEAST_BEGINNING = 4  # characters of a device's name that are enough to find it


def known_devices(server: _core.Mobync, owner_id: str) -> list[KnownDevice]:
    """The stored devices of an owner, the most recently seen first.

    Raises:
        NotImplementedError: the store keeps no devices.
        BusyError: only a transaction can read, and another one of this owner took too long.
    """
    _check_keeps(server.synchronizer)
    reading = without_lock(server, owner_id)
    if reading is None:
        return in_transaction(server, owner_id, partial(_known, server))
    with reading as log:
        return _known(server, log)


def _known(server: _core.Mobync, log: OwnerLog) -> list[KnownDevice]:
    kept = {n: Device.of_text(t) for n, t in states_of(log).items() if n != OWNER}
    devices = {name: device for name, device in kept.items() if not device.left}
    highest = log.highest_clock()
    if highest is None:
        highest = max((int(row[Diff.LOGICAL_CLOCK]) for row in log.rows(0)), default=-1)
    now_ms, end = server._now_ms(), highest + 1
    needs = {name: device for name, device in devices.items() if device.holds(server, now_ms)}
    holds = {name: device.hold for name, device in needs.items() if device.hold is not None}
    lowest = min(holds.values(), default=end)
    holding = {name for name, hold in holds.items() if hold == lowest < end}
    known = [_described(n, device, end, n in holding) for n, device in devices.items()]
    return sorted(known, key=lambda each: (-each.last_seen_ms, each.name))


def _described(name: str, device: Device, end: int, holds: bool) -> KnownDevice:
    clock = clock_of_client(device.client)
    if device.marks:
        clock = device.marks[-1][1] + (device.moved or 0)
    upload = Upload.of_text(device.upload) if device.upload else None
    parts = () if upload is None else (len(upload.sizes), upload.bytes, upload.kept_ms)
    return KnownDevice(
        name,
        device.label,
        device.first_ms,
        device.seen_ms,
        clock,
        max(0, end - clock),
        holds,
        device.revoked,
        *parts,
    )


def device_meant(known: Iterable[KnownDevice], owner_id: str, said: str) -> str:
    """The name of the device that a person means: by its name, its label, or the beginning of its
    name.

    Args:
        known: the devices of the owner.
        owner_id: the owner, for the message.
        said: what the person said.

    Raises:
        ValueError: no device matches, or several do.
    """
    devices = list(known)
    means = [
        [each.name for each in devices if each.name == said],
        [each.name for each in devices if each.label == said],
        [each.name for each in devices if each.name.startswith(said)],
    ]
    if len(said) < _LEAST_BEGINNING:
        means.pop()
    found = next((names for names in means if names), [])
    if len(found) == 1:
        return found[0]
    many = "has no device" if not found else "has several devices"
    raise ValueError(f"owner {owner_id!r:.100} {many} {said!r:.100}")


def is_name(given: str) -> bool:
    """Whether this may be the name of a device."""
    return 0 < len(given) <= LONGEST_NAME and _is_text(given)


def _is_text(given: str) -> bool:
    return "\0" not in given and re.search("[\ud800-\udfff]", given) is None


def revoke(server: _core.Mobync, owner_id: str, name: str) -> None:
    """Refuse a device from now on; only its name stays stored."""
    _change(server, owner_id, name, lambda device: revoked(device).to_text())


def clock_of_listener(server: _core.Mobync, owner_id: str, name: str | None) -> int:
    """The owner's clock, for a device that listens; read outside of a transaction.

    Args:
        server: with the synchronizer.
        owner_id: whose clock.
        name: of the device; None: it has none.

    Raises:
        DeviceRevokedError: it was revoked.
    """
    log_noted_now(server, owner_id)
    store = server.synchronizer
    if name is None or not keeps_devices(store):
        return server.logical_clock(owner_id)
    known = store._poll(owner_id, name)
    highest, kept = known if known is not None else (-1, read_states(store, owner_id, name))
    if kept is not None and name in kept and Device.of_text(kept[name]).revoked:
        raise refusal(name)
    return server.logical_clock(owner_id) if known is None or kept is None else highest + 1


def revoked(device: Device) -> Device:
    """The stored state of a revoked device."""
    return Device(
        label=device.label, first_ms=device.first_ms, seen_ms=device.seen_ms, revoked=True
    )


def forget(server: _core.Mobync, owner_id: str, name: str) -> None:
    """Delete the state of a device; it takes a new name when it comes again."""
    _change(server, owner_id, name, lambda device: None)


def label(server: _core.Mobync, owner_id: str, name: str, given: str) -> None:
    """Give a device a label for people."""
    if not isinstance(given, str):
        raise TypeError(f"label must be a str, not {type(given).__name__}")
    if len(given) > LONGEST_LABEL or not _is_text(given):
        raise ValueError(f"label must be a text of at most {LONGEST_LABEL} characters")

    def labelled(device: Device) -> str:
        device.label = given
        return device.to_text()

    _change(server, owner_id, name, labelled)


def _change(
    server: _core.Mobync, owner_id: str, name: str, change: Callable[[Device], str | None]
) -> None:
    _core.check_text("device", name)
    _check_keeps(server.synchronizer)
    in_transaction(server, owner_id, partial(_changed, name, change))


def _changed(name: str, change: Callable[[Device], str | None], log: OwnerLog) -> None:
    text = states_of(log, name).get(name)
    if text is None:
        raise ValueError(f"owner {log.owner_id!r:.100} has no device {name!r:.100}")
    changed = change(Device.of_text(text))
    states = {name: changed}
    if Device.of_text(text).upload and (changed is None or not Device.of_text(changed).upload):
        drop_parts(log.store, log.owner_id, name)
    plain_answer("write_devices", log.store.write_devices(log.owner_id, states))


def states_of(log: OwnerLog, *names: str) -> dict[str, str]:
    """The stored texts of an owner's devices; of all of them if none is named.

    Raises:
        NotImplementedError: its database keeps none.
    """
    read = log.store.read_devices(log.owner_id, list(names) if names else None)
    kept = plain_answer("read_devices", read)
    if kept is None:
        raise NotImplementedError(
            "the database does not store devices yet: update its tables with "
            "mobync.sqlalchemy.create_tables(engine, metadata) or a migration"
        )
    return dict(kept)


def _check_keeps(store: Synchronizer) -> None:
    if not keeps_devices(store):
        raise NotImplementedError(
            f"{type(store).__name__} does not store devices: it has no read_devices and "
            "write_devices"
        )
