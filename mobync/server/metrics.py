"""The server's counts for Prometheus."""

from __future__ import annotations

import os
import threading
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from .. import Mobync, Reply, Synchronizer, SyncReport
from .lost import LostEdits

CONTENT_TYPE = CONTENT_TYPE_LATEST

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory in which workers share their counts; set before this module is imported."""

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The counts of one app.

    Attributes:
        apply_seconds: how long each sync took, including the wait for its owner's lock.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._syncs = self._counter("mobync_syncs", "Completed syncs")
        self._received = self._counter("mobync_diffs_received", "Diffs that devices sent")
        self._accepted = self._counter("mobync_diffs_accepted", "Diffs that were added to a log")
        self._sent = self._counter("mobync_diffs_sent", "Diffs that were sent to devices")
        self._conflicts = self._counter(
            "mobync_conflicts", "Fields set to different values, and objects deleted and edited"
        )
        self._named = self._counter("mobync_named_syncs", "Syncs of devices that name themselves")
        self._resets = self._counter("mobync_resets", "Devices that were told to start over")
        self._retries = self._counter(
            "mobync_retries", "Requests of named devices that had been done already"
        )
        self._parts = self._counter("mobync_parts_received", "Parts of requests that were accepted")
        self._joined = self._counter(
            "mobync_requests_joined", "Requests that were put together from parts"
        )
        self._revoked = self._counter("mobync_devices_revoked", "Devices that were revoked")
        self._client_requests = self._counter(
            "mobync_client_requests",
            "Requests in the protocols of clients that were answered",
            "client",
            "route",
            "device",
        )
        self._refusals = self._counter("mobync_refusals", "Requests that were refused", "code")
        self._database_errors = self._counter(
            "mobync_database_errors", "Errors of the database, retried ones included", "kind"
        )
        self.apply_seconds = Histogram(
            "mobync_apply_seconds",
            "Seconds that a sync took, refused ones included",
            registry=self._registry,
            buckets=_SECONDS,
        )

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, registry=self._registry)

    def count_sync(self, report: SyncReport) -> None:
        """Count a sync, or devices that were revoked; a listener for ``Mobync.listen``."""
        self._revoked.inc(len(report.revoked))
        if report.revoked:
            return
        self._syncs.inc()
        self._received.inc(report.pushed)
        self._accepted.inc(report.accepted)
        self._sent.inc(report.sent)
        self._conflicts.inc(report.conflicts)
        self._named.inc(report.device is not None)
        self._resets.inc(report.reset)
        self._retries.inc(report.retry)

    def count_part(self, *, is_last: bool) -> None:
        """Count a part of a request; with the last one also the request."""
        self._parts.inc()
        self._joined.inc(is_last)

    def count_client(self, path: str, is_named: bool) -> None:
        """Count a request to a client's route of ``mobync.http.ROUTES``."""
        _, _, client, route = path.split("/")
        self._client_requests.labels(client, route, "named" if is_named else "anonymous").inc()

    def count_refusal(self, code: str) -> None:
        """Count a request that was refused, by the ``code`` of its response's body."""
        self._refusals.labels(code).inc()

    def count_database_error(self, kind: str) -> None:
        """Count an error of the database by its kind."""
        self._database_errors.labels(kind).inc()

    def text(self) -> bytes:
        """All counts, of all workers, in the text format of Prometheus."""
        registry = self._registry
        if DIRECTORY_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class MeasuredMobync(Mobync):
    """The Mobync of the server. It skips refused diffs, and measures the time of its syncs.

    Args:
        synchronizer: as in Mobync.
        metrics: gets the times.
        lost: stores edits that lost; None: they are not stored.
        limits: as in Mobync.
    """

    def __init__(
        self,
        synchronizer: Synchronizer,
        metrics: Metrics,
        lost: LostEdits | None = None,
        **limits: int,
    ) -> None:
        super().__init__(synchronizer, on_refusal="skip", **limits)  # type: ignore[arg-type]
        self._metrics = metrics
        self._lost = lost
        self._reported = threading.local()  # of the current sync of this thread
        self.listen(lambda report: setattr(self._reported, "last", report))

    def apply_json(self, body: bytes | str, owner_id: str) -> bytes:
        self._reported.last = None
        with self._metrics.apply_seconds.time():
            reply = super().apply_json(body, owner_id)
        if self._something_lost():
            self._keep_lost(owner_id, body, reply)
        return reply

    def apply(self, *request: Any, **page: Any) -> Reply:
        self._reported.last = None
        with self._metrics.apply_seconds.time():
            reply = super().apply(*request, **page)
        if self._something_lost():  # the clients' protocols call it with these three
            clock, diffs, owner_id = request
            sent = {"logical_clock": clock, "diffs": diffs, "device": page.get("device")}
            self._keep_lost(owner_id, sent, reply)
        return reply

    def _note_part(self, *, is_last: bool) -> None:
        self._metrics.count_part(is_last=is_last)

    def _something_lost(self) -> bool:
        report: SyncReport | None = self._reported.last
        return (
            self._lost is not None
            and report is not None
            and bool(report.conflicts or report.refused)
        )

    def _keep_lost(self, owner_id: str, request: Any, reply: Any) -> None:
        assert self._lost is not None
        self._lost.record(owner_id, request, reply)
