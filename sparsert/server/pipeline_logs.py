"""What pipelines log in a server: the loggers of :mod:`sparsert.pipelines.loggers`, fed from batches."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from sparsert.context import Context
from sparsert.errors import InputError
from sparsert.pipelines import Pipeline
from sparsert.pipelines.imports import load_object
from sparsert.pipelines.loggers import LoggingConfig, MetricLogger, PipelineLogging
from sparsert.pipelines.timing import ENGINE_FORWARD, POST_PROCESS, PRE_PROCESS, TOTAL_INFERENCE
from sparsert.server.config import CustomLogger, EndpointConfig, LoggingGroup, ServerConfig
from sparsert.server.metrics import Metrics

__all__ = ["EndpointLog", "LineLogger", "PipelineLogs"]


class LineLogger(MetricLogger):
    """The ``python`` logger of a server: one line for a request, with all its values in ``values``.

    A line for each value, as pipelines log them elsewhere, would cost more than reading the request.
    """

    def __init__(self) -> None:
        self._waiting = threading.local()

    def log(self, identifier: str, value: Any, category: str, pipeline_name: str) -> None:
        """Take one value; one that there is already belongs to the next question of the request."""
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
        self._lines = None if config.loggers.python is None else LineLogger()
        self._loggers: dict[str, MetricLogger] = {}
        if self._lines is not None:
            self._loggers["python"] = self._lines
        if config.loggers.prometheus is not None:
            self._loggers["prometheus"] = metrics.pipeline_logger()
        for name, options in config.loggers.custom().items():
            self._loggers[name] = _custom(name, options)

    def of(self, endpoint: EndpointConfig, pipeline: Pipeline, context: Context) -> EndpointLog | None:
        """What logs the requests of an endpoint; None if there is nothing to log.

        Raises
        ------
        InputError
            A function of ``data_logging`` does not exist.
        """
        system, own = self._system, endpoint.logging_config
        groups = {
            "prediction_latency": own.prediction_latency or system.prediction_latency,
            "inference_details": own.inference_details or system.inference_details,
        }
        enable = system.enable if own.enable is None else own.enable
        enable = enable and any(group.enable for group in groups.values())
        if not self._loggers or not (enable or endpoint.data_logging):
            return None
        targets = own.target_loggers or system.target_loggers
        config = LoggingConfig.model_validate(
            {
                "loggers": dict.fromkeys(self._loggers),
                "system_logging": {"enable": enable} | {name: _group(group, targets) for name, group in groups.items()},
                "data_logging": {
                    target: [function.model_dump() for function in functions]
                    for target, functions in endpoint.data_logging.items()
                },
            }
        )
        predefined = {pipeline.task: pipeline.metric_functions}
        cores = pipeline.options.num_cores or context.num_cores
        return EndpointLog(PipelineLogging(config, str(endpoint.name), predefined, self._loggers), self._lines, cores)


def _group(group: LoggingGroup, targets: list[str]) -> dict[str, Any]:
    return {"enable": group.enable, "target_loggers": group.target_loggers or targets}


def _custom(name: str, options: CustomLogger) -> MetricLogger:
    kind = load_object(options.path)
    try:
        logger = kind(**options.options())
    except Exception as error:  # whatever code of one's own does
        raise InputError(f"loggers.{name}: {options.path} cannot be made: {error}") from error
    if not isinstance(logger, MetricLogger):
        raise InputError(f"loggers.{name}: {options.path} must be a subclass of MetricLogger, got {type(logger)}")
    return logger


class _Answered(NamedTuple):
    """A result and the times of the batch that it was in."""

    output: Any
    times: dict[str, float]


class EndpointLog:
    """Logs the requests of one endpoint, each in the thread that answers it, so that its line has its id."""

    def __init__(self, logging: PipelineLogging, lines: LineLogger | None, num_cores: int) -> None:
        self._logging = logging
        self._lines = lines
        self._num_cores = num_cores

    def watched(
        self, run: Callable[[list[Any]], Any], finish: Callable[[list[Any], Any], Sequence[Any]]
    ) -> tuple[Callable[[list[Any]], Any], Callable[[list[Any], Any], Sequence[Any]]]:
        """Both functions of a :class:`~sparsert.server.batching.Batcher`, so that they time themselves."""

        def watched_run(prepared: list[Any]) -> tuple[Any, float]:
            start = time.perf_counter()
            outputs = run(prepared)
            return outputs, time.perf_counter() - start

        def watched_finish(prepared: list[Any], outcome: tuple[Any, float]) -> list[_Answered]:
            outputs, forward = outcome
            for part in outputs:
                self._logging.engine(part)
                self._flush()
            start = time.perf_counter()
            results = finish(prepared, outputs)
            times = {ENGINE_FORWARD: forward, POST_PROCESS: time.perf_counter() - start}
            return [_Answered(result, times) for result in results]

        return watched_run, watched_finish

    def answered(
        self, inputs: Sequence[BaseModel], results: Sequence[_Answered], start: float, preprocessed: float
    ) -> list[Any]:
        """Log a request whose answers are there, and return them.

        Parameters
        ----------
        inputs, results
            Its questions, and what the watched functions gave for them.
        start, preprocessed
            When it began and was ready for a batch, on the clock of ``time.perf_counter``.
        """
        outputs = [result.output for result in results]
        batches = {id(result.times): result.times for result in results}.values()
        times = {PRE_PROCESS: preprocessed - start}
        for stage in (ENGINE_FORWARD, POST_PROCESS):
            times[stage] = sum(batch[stage] for batch in batches)
        times[TOTAL_INFERENCE] = time.perf_counter() - start
        self._logging.call(inputs, outputs, times, self._num_cores)
        self._flush()
        return outputs

    def _flush(self) -> None:
        if self._lines is not None:
            self._lines.flush(self._logging.pipeline_name)
