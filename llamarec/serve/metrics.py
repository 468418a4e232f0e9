"""Metrics of a service in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one application, separate from those of others in the same process.

    Attributes:
        requests: Number of requests, by path and status.
        seconds: Seconds from a request to its answer, by path.
        batches: Requests in one forward pass.
        waiting: Requests in the queue.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "llamarec_requests", "Number of requests by path and status.", ["path", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "llamarec_request_seconds",
            "Seconds until the answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batches = Histogram(
            "llamarec_batch_size", "Requests in one forward pass.", buckets=_SIZES, registry=self._registry
        )
        self.waiting = Gauge("llamarec_waiting", "Requests in the queue.", registry=self._registry)

    def text(self) -> bytes:
        """The body of GET /metrics."""
        return generate_latest(self._registry)
