"""What pipelines log in a server: the loggers of :mod:`sparsert.pipelines.loggers`, fed from batches."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import numpy as np
from pydantic import BaseModel

from sparsert.context import Context
from sparsert.pipelines import Pipeline
from sparsert.pipelines.loggers import MetricLogger, make_logger
from sparsert.pipelines.logging_config import LoggingConfig
from sparsert.pipelines.logs import PipelineLogging
from sparsert.server.config import EndpointConfig, ServerConfig
from sparsert.server.metrics import Metrics

__all__ = ["LineLogger", "PipelineLogs"]


class LineLogger(MetricLogger):
    """The ``python`` logger of a server: one line for a request, with all its values in ``values``.

    A line for each value, as pipelines log them elsewhere, would cost more than reading the request.
    """

    def __init__(self) -> None:
        self._waiting = threading.local()

    def log(self, identifier: str, value: Any, category: str, pipeline_name: str) -> None:
        """Take one value; one that there is already belongs to the next part of the request."""
        values: dict[str, Any] = self._waiting.__dict__.setdefault("values", {})
        if identifier in values:
            self.flush(pipeline_name)
            values = self._waiting.__dict__.setdefault("values", {})
        values[identifier] = _plain(value)

    def flush(self, pipeline_name: str) -> None:
        """Write the values that this thread has gathered."""
        values = self._waiting.__dict__.pop("values", None)
        if values:
            fields = {"endpoint": pipeline_name, "values": values}
            logging.getLogger("sparsert.metrics").info("values", extra={"fields": fields})


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class PipelineLogs:
    """The loggers of a worker, which its endpoints share.

    Raises
    ------
    InputError
        A logger cannot be made.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._system = config.system_logging
        own: dict[str, MetricLogger | None] = {
            "python": None if config.loggers.python is None else LineLogger(),
            "prometheus": None if config.loggers.prometheus is None else metrics.pipeline_logger(),
        }
        self._loggers = {name: logger for name, logger in own.items() if logger is not None} | {
            name: make_logger(name, options.model_dump()) for name, options in config.loggers.custom().items()
        }

    def of(self, endpoint: EndpointConfig, pipeline: Pipeline, context: Context) -> PipelineLogging | None:
        """What logs the requests of an endpoint; None if there is nothing to log.

        Raises
        ------
        InputError
            A function of ``data_logging`` does not exist.
        """
        own = endpoint.logging_config
        system = self._system.model_copy(update={name: value for name, value in own if value not in (None, [])})
        system.enable &= system.prediction_latency.enable or system.inference_details.enable
        if not self._loggers or not (system.enable or endpoint.data_logging):
            return None
        config = LoggingConfig(system_logging=system, data_logging=endpoint.data_logging)
        cores = pipeline.options.num_cores or context.num_cores
        functions = pipeline.metric_functions
        return PipelineLogging(config, str(endpoint.name), pipeline.task, functions, cores, self._loggers)
