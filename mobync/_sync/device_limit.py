"""How many devices an owner may have, and which are forgotten for a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import TooManyDevicesError

if TYPE_CHECKING:
    from .._core import Mobync
    from .devices import Device


def names_to_forget(server: Mobync, devices: Mapping[str, Device]) -> list[str]:
    """Which devices of an owner to forget, so that one more has room.

    These are devices that were silent for longer than the retention, the one seen longest ago
    first. They hold nothing any more, and start over when they come again. Revoked devices do not
    count, and are not forgotten, because they must stay refused.

    Args:
        server: whose settings.
        devices: all devices of the owner, by their names.

    Raises:
        TooManyDevicesError: there are ``max_devices``, and too few can be forgotten.
    """
    counted = {name: device for name, device in devices.items() if not device.revoked}
    excess = len(counted) + 1 - server.max_devices
    if excess <= 0:
        return []
    now_ms = server._now_ms()
    silent = [name for name, device in counted.items() if device.is_silent(server, now_ms)]
    if len(silent) < excess:
        raise TooManyDevicesError(
            f"this owner has {len(counted)} devices, and max_devices={server.max_devices} allows "
            "no more: revoke or forget one that is not used"
        )
    return sorted(silent, key=lambda name: counted[name].seen_ms)[:excess]
