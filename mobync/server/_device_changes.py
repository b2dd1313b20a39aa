"""An owner's devices for the inspector: lists them, and makes the changes that a person asks for.

All other pages of the inspector only read. So a change has its own conditions: ``may_change``
decides who may make one, and a change is a POST with JSON, which no other site's page can make a
browser send.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from .. import KnownDevice, Mobync

MOST_BYTES = 16 * 1024  # of a change
_CHANGES = ("revoke", "forget", "name")

logger = logging.getLogger("mobync.server")


class ChangeError(Exception):
    """A change was refused.

    Attributes:
        status: of the HTTP answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Devices:
    """The devices of the owners of one Mobync.

    Args:
        mobync: the Mobync that has them; None: no devices are shown.
        may_change: whether the sender of a request may change them; None: nobody may.
    """

    def __init__(self, mobync: Mobync | None, may_change: Callable[[Request], bool] | None) -> None:
        self._mobync = mobync
        self._may_change = may_change

    @property
    def are_shown(self) -> bool:
        """Whether devices are shown."""
        return self._mobync is not None

    def listed(self, owner_id: str, request: Request) -> dict[str, Any]:
        """The devices of an owner, the last seen first.

        Raises:
            BusyError: a sync of this owner took too long.
        """
        known: list[KnownDevice] = []
        keeps = self._mobync is not None
        if self._mobync is not None:
            try:
                known = self._mobync.devices(owner_id)
            except NotImplementedError:  # a store without devices, or tables of 1.0
                keeps = False
        may = self._may_change is not None and self._may_change(request)
        return {
            "keeps": keeps,
            "may_change": keeps and may,
            "devices": [device._asdict() for device in known],
        }

    async def change(self, request: Request) -> dict[str, Any]:
        """Make the change that a request asks for.

        Raises:
            ChangeError: it may not, or the change is impossible.
            BusyError: a sync of this owner took too long.
        """
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise ChangeError(415, "a change must be of the type application/json")
        asked = _asked(await _body(request))
        return await run_in_threadpool(self._do, request, asked)

    def _do(self, request: Request, asked: dict[str, str]) -> dict[str, Any]:
        if self._mobync is None or self._may_change is None or not self._may_change(request):
            raise ChangeError(403, "devices can be changed with an administrator's token only")
        owner, device, change = asked["owner"], asked["device"], asked["change"]
        try:
            if change == "revoke":
                self._mobync.revoke_device(owner, device)
            elif change == "forget":
                self._mobync.forget_device(owner, device)
            else:
                self._mobync.name_device(owner, device, asked["label"])
        except (ValueError, NotImplementedError) as error:  # forgotten meanwhile, for example
            raise ChangeError(400, str(error)) from error
        fields = {"owner": owner, "device": device, "change": change}
        logger.info("device changed in the inspector", extra={"fields": fields})
        return {"done": change}


def asked_by_own_page(request: Request) -> bool:
    """Whether a browser says that a page of this server sent a request.

    Browsers say so with ``Sec-Fetch-Site``, to servers on this machine or with HTTPS; to others
    with the ``Origin`` that they send with each POST.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("origin", ""))
    return origin.netloc != "" and origin.netloc == request.headers.get("host")


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise ChangeError(413, f"a change has at most {MOST_BYTES} bytes")
    return body


def _asked(body: bytes) -> dict[str, str]:
    """The texts of a change: ``change``, ``owner``, ``device``, and for a name ``label``."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict) or asked.get("change") not in _CHANGES:
        raise ChangeError(400, f"change must be one of {', '.join(_CHANGES)}")
    needed = ["owner", "device"] + (["label"] if asked["change"] == "name" else [])
    for name in needed:
        text = asked.get(name)
        if not isinstance(text, str) or (name != "label" and not text) or "\0" in text:
            raise ChangeError(400, f"{name} must be a text")
    return asked
