"""The interface of a client's protocol to the code that serves it."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

from .._sync.devices import keeps_devices
from ..sync import Mobync
from ..types import DiffDict, Reply
from ._devices import End, Visit
from ._documents import Documents


class Client(abc.ABC):
    """One protocol, with the settings of an app.

    One object serves any number of threads.

    Attributes:
        name: the path below ``/sync``.
        routes: the paths below that; each takes a POST of JSON.
    """

    name: ClassVar[str]
    routes: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def answer(
        self, route: str, mobync: Mobync, owner_id: str, body: bytes, device: str | None = None
    ) -> bytes:
        """Answer a request.

        Args:
            route: one of ``routes``.
            mobync: the Mobync that merges.
            owner_id: the authenticated owner.
            body: the body as it was sent, decompressed; it may be anything.
            device: the name of the device; None: it has none.

        Returns:
            The reply, as JSON.

        Raises:
            MobyncError: the request is refused. An InvalidDiffError without an index means that the
                request itself is malformed.
            Exception: what else the Synchronizer raises.
        """


class Replication(abc.ABC):
    """Serves one ``Mobync`` to clients that pull and push documents.

    Args:
        mobync: the Mobync that merges.
        client: the name of their protocol.
    """

    client: ClassVar[str]

    def __init__(self, mobync: Mobync) -> None:
        self._mobync = mobync
        self._merging = skipping(mobync)
        self._documents = Documents(mobync)

    @abc.abstractmethod
    def pull(self, body: bytes, owner_id: str, device: str | None = None) -> bytes:
        """Answer a pull."""

    @abc.abstractmethod
    def push(self, body: bytes, owner_id: str, device: str | None = None) -> bytes:
        """Answer a push."""

    def _visit(
        self,
        owner_id: str,
        device: str | None,
        key: str,
        at: End | None = None,
        *,
        begins: bool = False,
    ) -> Visit | None:
        """The visit of a named device; None: it has no name, or names are ignored."""
        if device is None or not keeps_devices(self._mobync.synchronizer):
            return None
        return Visit(self._mobync, owner_id, self.client, device, key, at, begins=begins)

    def _merge(
        self,
        clock: int,
        diffs: Sequence[DiffDict],
        owner_id: str,
        visit: Visit | None,
        *,
        are_edits: bool = True,
    ) -> Reply:
        """Merge the edits of a device that had seen the log up to a clock."""
        if visit is None or not visit.counts:
            return self._merging.apply(clock, diffs, owner_id)
        return visit.merge(self._merging, clock, diffs, are_edits=are_edits)


class ReplicatingClient(Client):
    """A protocol with pulls and pushes."""

    routes = ("pull", "push")

    def __init__(self) -> None:
        self._served: dict[Mobync, Replication] = {}  # one, the endpoint's

    @abc.abstractmethod
    def replicate(self, mobync: Mobync) -> Replication:
        """Make the Replication of a ``Mobync``."""

    def answer(
        self, route: str, mobync: Mobync, owner_id: str, body: bytes, device: str | None = None
    ) -> bytes:
        served = self._served.get(mobync)
        if served is None:
            served = self._served.setdefault(mobync, self.replicate(mobync))
        return (served.pull if route == "pull" else served.push)(body, owner_id, device)


def skipping(mobync: Mobync) -> Mobync:
    """The same server, but it skips refused diffs."""
    if mobync.on_refusal == "skip":
        return mobync
    made = Mobync(
        mobync.synchronizer,
        mobync.diffs_model_name,
        max_clock_skew_ms=mobync.max_clock_skew_ms,
        lock_timeout_s=mobync.lock_timeout_s,
        max_diffs=mobync.max_diffs,
        max_json_data_bytes=mobync.max_json_data_bytes,
        max_depth=mobync.max_depth,
        max_fields=mobync.max_fields,
        max_reply_bytes=mobync.max_reply_bytes,
        max_pull_diffs=mobync.max_pull_diffs,
        device_retention_s=mobync.device_retention_s,
        first_pull_retention_s=mobync.first_pull_retention_s,
        anonymous_devices=mobync.anonymous_devices,
        max_devices=mobync.max_devices,
        on_refusal="skip",
    )
    made.listen(lambda report: [listener(report) for listener in mobync._listeners])
    return made
