"""Prometheus metrics, right with several workers.

Workers write their numbers to files in ``PROMETHEUS_MULTIPROC_DIR``, and whichever worker answers ``/metrics`` adds up
those of all. ``prometheus_client`` reads that variable when it is imported, so that is left to the worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsert.pipelines.loggers import PrometheusLogger

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All that the server counts. Labels have few values: endpoints, statuses, reasons; never what clients sent."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        # One registry each, so that a process may have several apps.
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "sparsert_requests", "HTTP requests answered", ["endpoint", "status"], registry=registry
        )
        self._errors = Counter(
            "sparsert_errors", "Requests that failed, by reason", ["endpoint", "reason"], registry=registry
        )
        self._latency = Histogram(
            "sparsert_request_seconds",
            "Time from the request's arrival to its answer, requests that were refused left out",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "sparsert_batch_size", "Requests run together", ["endpoint"], buckets=_SIZES, registry=registry
        )
        self._model = Histogram(
            "sparsert_batch_seconds", "Time of the model for a batch", ["endpoint"], buckets=_SECONDS, registry=registry
        )
        self._tokens = Counter("sparsert_tokens", "Tokens of the requests", ["endpoint"], registry=registry)
        self._queue = Gauge(
            "sparsert_queue_depth",
            "Requests waiting for a batch",
            ["endpoint"],
            multiprocess_mode="livesum",
            registry=registry,
        )

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answered request of an endpoint, and its time unless it was refused.

        A refusal (4xx, 503) is quick: under overload it would make the latencies look good.
        """
        self._requests.labels(endpoint, str(status)).inc()
        if not (400 <= status < 500 or status == 503):
            self._latency.labels(endpoint).observe(seconds)

    def error(self, endpoint: str, reason: str) -> None:
        """Count a failure by the name of its exception."""
        self._errors.labels(endpoint, reason).inc()

    def tokens(self, endpoint: str, count: int) -> None:
        """Count the tokens of a request."""
        self._tokens.labels(endpoint).inc(count)

    def batch_observer(self, endpoint: str) -> Callable[[int, int, float], None]:
        """What a batcher calls after a batch, with its (requests, tokens, seconds)."""
        sizes, seconds = self._batch_size.labels(endpoint), self._model.labels(endpoint)

        def observe(requests: int, tokens: int, elapsed: float) -> None:
            sizes.observe(requests)
            seconds.observe(elapsed)

        return observe

    def queue_observer(self, endpoint: str) -> Callable[[int], None]:
        """What a batcher calls with the length of its queue."""
        return self._queue.labels(endpoint).set

    def pipeline_logger(self) -> PrometheusLogger:
        """A logger of pipelines that adds its values to these metrics."""
        from sparsert.pipelines.loggers import PrometheusLogger

        return PrometheusLogger(registry=self._registry)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics, of every worker, in the text format of Prometheus; and the content type of that."""
        from prometheus_client import CollectorRegistry, exposition, multiprocess

        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return exposition.generate_latest(registry), exposition.CONTENT_TYPE_LATEST
