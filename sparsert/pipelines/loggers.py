"""Loggers of pipelines: somewhere to write metrics to, Python's logging, Prometheus, or one's own."""

from __future__ import annotations

import itertools
import logging
import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.imports import load_object

__all__ = ["FUNCTIONS", "MetricLogger", "PrometheusLogger", "PythonLogger", "make_logger"]

FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "identity": lambda value: value,
    "string_length": len,
}
"""Functions of data that have a name of their own, whatever the task."""


class MetricLogger(ABC):
    """Somewhere to write metrics to."""

    @abstractmethod
    def log(self, identifier: str, value: Any, category: str, pipeline_name: str) -> None:
        """Take one value.

        Parameters
        ----------
        identifier : str
            What it is, such as ``prediction_latency/engine_forward_seconds``.
        value
            A number, or whatever the configured function gives.
        category : {"system", "data"}
            Whether the pipeline measured it or a request said it.
        pipeline_name : str
            The pipeline's alias, or its task.
        """

    def flush(self, pipeline_name: str) -> None:  # noqa: B027 - not every logger gathers
        """Take note that all values of a call, or of a run of the engine, were given, by the thread that gave them."""


class PythonLogger(MetricLogger):
    """Write one line a value to the logger ``sparsert.metrics`` at level INFO (``logging.basicConfig`` shows it)."""

    def log(self, identifier: str, value: Any, category: str, pipeline_name: str) -> None:
        """Take one value; see :meth:`MetricLogger.log`."""
        logging.getLogger("sparsert.metrics").info(
            "Identifier: %s/%s | Category: %s | Logged Data: %s | Additional Info: %s",
            pipeline_name,
            identifier,
            category,
            value,
            {"pipeline_name": pipeline_name},
        )


class PrometheusLogger(MetricLogger):
    """Count values with ``prometheus_client``.

    Latencies are histograms, everything else summaries. A metric is called ``sparsert_`` and the identifier with ``__``
    for every other character than letters, digits and underscores, and has the label ``pipeline_name``.

    Parameters
    ----------
    port : int, optional
        Serve the metrics on this port. Without it they are only in the registry.
    text_log_save_dir : str or Path, optional
        Write all metrics to a file in this directory, once every ``text_log_save_frequency`` values.
    text_log_save_frequency : int, default 10
        See above.
    text_log_file_name : str, default "prometheus_logs.prom"
        Name of that file.
    registry : prometheus_client.CollectorRegistry, optional
        Where metrics are registered; by default that of the library.
    """

    _metrics: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
    _served: set[tuple[int, int]] = set()
    _lock = threading.Lock()

    def __init__(
        self,
        port: int | None = None,
        text_log_save_dir: str | Path | None = None,
        text_log_save_frequency: int = 10,
        text_log_file_name: str = "prometheus_logs.prom",
        registry: Any = None,
    ) -> None:
        # Not at the top: it reads a variable of the environment when it is imported, which a server's workers set.
        import prometheus_client

        self._client = prometheus_client
        self._registry = prometheus_client.REGISTRY if registry is None else registry
        self._file = None if text_log_save_dir is None else Path(text_log_save_dir) / text_log_file_name
        if self._file is not None and not self._file.parent.is_dir():
            raise InputError(f"text_log_save_dir {self._file.parent} is no directory; make it first")
        if text_log_save_frequency < 1:
            raise InputError(f"text_log_save_frequency must be at least 1, got {text_log_save_frequency}")
        self._frequency = text_log_save_frequency
        self._count = itertools.count(1)
        if port is not None:
            with self._lock:
                if (port, id(self._registry)) not in self._served:
                    prometheus_client.start_http_server(port, registry=self._registry)
                    self._served.add((port, id(self._registry)))

    def log(self, identifier: str, value: Any, category: str, pipeline_name: str) -> None:
        """Take one number; see :meth:`MetricLogger.log`."""
        if not isinstance(value, (int, float, np.number, np.bool_)):
            raise InputError(f"Prometheus takes numbers only, got a {type(value).__name__} for {identifier}")
        self._metric(identifier, category).labels(pipeline_name=pipeline_name).observe(float(value))
        if self._file is not None and next(self._count) % self._frequency == 0:
            self._client.write_to_textfile(str(self._file), self._registry)

    def _metric(self, identifier: str, category: str) -> Any:
        name = "sparsert_" + re.sub(r"[^a-zA-Z0-9_]", "__", identifier).lower()
        with self._lock:
            metrics = self._metrics.setdefault(self._registry, {})
            if name not in metrics:
                kind = self._client.Histogram if identifier.startswith("prediction_latency") else self._client.Summary
                metrics[name] = kind(name, f"{category}: {identifier}", ["pipeline_name"], registry=self._registry)
            return metrics[name]


def make_logger(name: str, options: Mapping[str, Any]) -> MetricLogger:
    """Build a logger from its name and options; ``path`` among them names a class of one's own.

    Raises
    ------
    InputError
        There is no such logger, or it cannot be made.
    """
    kinds: dict[str, Callable[..., MetricLogger]] = {"python": PythonLogger, "prometheus": PrometheusLogger}
    path = options.get("path")
    if path is None:
        if name not in kinds:
            raise InputError(f"Unknown logger name: {name}. supported logger names: {list(kinds)}")
        return kinds[name](**options)
    try:
        logger = load_object(path)(**{key: value for key, value in options.items() if key != "path"})
    except InputError:
        raise
    except Exception as error:  # whatever code of one's own does
        raise InputError(f"logger {name}: {path} cannot be made: {error}") from error
    if not isinstance(logger, MetricLogger):
        raise InputError(f"Custom logger must be a subclass of MetricLogger. Got {type(logger)} instead.")
    return logger
