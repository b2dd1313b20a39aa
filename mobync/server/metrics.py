"""What the server counts, for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from .. import Mobync, Synchronizer, SyncReport

CONTENT_TYPE = CONTENT_TYPE_LATEST

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory in which workers share their counts; set before this module is imported."""

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The counts of one app.

    Attributes:
        apply_seconds: how long each sync took, waiting for its owner's lock included.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._syncs = self._counter("mobync_syncs", "Syncs that were done")
        self._received = self._counter("mobync_diffs_received", "Diffs that devices sent")
        self._accepted = self._counter("mobync_diffs_accepted", "Diffs that went to a log")
        self._sent = self._counter("mobync_diffs_sent", "Diffs that devices were sent")
        self._conflicts = self._counter(
            "mobync_conflicts", "Fields that two sides had written differently"
        )
        self._refusals = self._counter("mobync_refusals", "Requests that were refused", "code")
        self.apply_seconds = Histogram(
            "mobync_apply_seconds",
            "Seconds that a sync took, refused ones included",
            registry=self._registry,
            buckets=_SECONDS,
        )

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, registry=self._registry)

    def count_sync(self, report: SyncReport) -> None:
        """Count a sync; a listener for ``Mobync.listen``."""
        self._syncs.inc()
        self._received.inc(report.pushed)
        self._accepted.inc(report.accepted)
        self._sent.inc(report.sent)
        self._conflicts.inc(report.conflicts)

    def count_refusal(self, code: str) -> None:
        """Count a request that was refused, by the ``code`` of its response's body."""
        self._refusals.labels(code).inc()

    def text(self) -> bytes:
        """All counts, of all workers, in the text format of Prometheus."""
        registry = self._registry
        if DIRECTORY_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class MeasuredMobync(Mobync):
    """A Mobync whose syncs are timed.

    Args:
        synchronizer: as of Mobync.
        metrics: where the times go.
    """

    def __init__(self, synchronizer: Synchronizer, metrics: Metrics) -> None:
        super().__init__(synchronizer)
        self._metrics = metrics

    def apply_json(self, body: bytes | str, owner_id: str) -> bytes:
        with self._metrics.apply_seconds.time():
            return super().apply_json(body, owner_id)
