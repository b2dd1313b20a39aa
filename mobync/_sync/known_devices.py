"""An owner's devices as a person sees them, and what a person can do with one."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from .. import _core
from ..synchronizer import Synchronizer
from ..types import Diff, KnownDevice
from .attempts import OwnerLog, in_transaction, plain_answer
from .client_state import clock_of_client
from .devices import Device, keeps_devices, read_states, refusal
from .owner_state import OWNER
from .parts import drop_parts

LONGEST_LABEL = 255
LONGEST_NAME = 255


def known_devices(server: _core.Mobync, owner_id: str) -> list[KnownDevice]:
    """The devices that a store knows of an owner, the last seen first.

    Raises:
        NotImplementedError: the store keeps no devices.
        BusyError: another transaction of this owner took too long.
    """
    _check_keeps(server.synchronizer)
    return in_transaction(server, owner_id, partial(_known, server))


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
    return KnownDevice(
        name,
        device.label,
        device.first_ms,
        device.seen_ms,
        clock,
        max(0, end - clock),
        holds,
        device.revoked,
    )


def is_name(given: str) -> bool:
    """Whether a device may call itself so."""
    return 0 < len(given) <= LONGEST_NAME and _is_text(given)


def _is_text(given: str) -> bool:
    return "\0" not in given and re.search("[\ud800-\udfff]", given) is None


def revoke(server: _core.Mobync, owner_id: str, name: str) -> None:
    """Refuse a device from now on; its name is kept for that, and nothing else of it."""
    _change(server, owner_id, name, lambda device: revoked(device).to_text())


def clock_of_listener(server: _core.Mobync, owner_id: str, name: str) -> int:
    """The owner's clock, for a device that listens; read outside of a transaction.

    Raises:
        DeviceRevokedError: it was revoked.
    """
    store = server.synchronizer
    if not keeps_devices(store):
        return server.logical_clock(owner_id)
    known = store._poll(owner_id, name)
    highest, kept = known if known is not None else (-1, read_states(store, owner_id, name))
    if kept is not None and name in kept and Device.of_text(kept[name]).revoked:
        raise refusal(name)
    return server.logical_clock(owner_id) if known is None or kept is None else highest + 1


def revoked(device: Device) -> Device:
    """What is kept of a device that is refused."""
    return Device(
        label=device.label, first_ms=device.first_ms, seen_ms=device.seen_ms, revoked=True
    )


def forget(server: _core.Mobync, owner_id: str, name: str) -> None:
    """Keep nothing of a device: it takes a new name when it comes again."""
    _change(server, owner_id, name, lambda device: None)


def label(server: _core.Mobync, owner_id: str, name: str, given: str) -> None:
    """Give a device a name that a person knows it by."""
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
    """What a store keeps of an owner's devices; of all, if none is named.

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
