"""Logging the calls of a pipeline as a configuration says."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from sparsert.errors import InputError
from sparsert.pipelines.imports import load_object
from sparsert.pipelines.loggers import FUNCTIONS, MetricLogger, make_logger
from sparsert.pipelines.logging_config import DataFunction, LoggingConfig
from sparsert.pipelines.registry import normalised

__all__ = ["PipelineLogging", "TaskFunctions"]

_log = logging.getLogger(__name__)

SYSTEM, DATA = "system", "data"

TaskFunctions = Mapping[str, Mapping[str, Callable[[Any], Any]]]
"""A task's functions of data by target and name: on its target each may be chosen by name, ``predefined`` means all."""


class _Rule:
    """One function on one target, every so many-th request."""

    def __init__(
        self, target: str, config: DataFunction, functions: TaskFunctions, loggers: Sequence[MetricLogger]
    ) -> None:
        self._pattern = re.compile(target[3:] if target.startswith("re:") else re.escape(target))
        self._name = config.func
        own = (named.items() for place, named in functions.items() if self.matches(place))
        self._function = _function(config.func, dict(itertools.chain(FUNCTIONS.items(), *own)))
        self._frequency = config.frequency
        self._loggers = loggers
        self._count = itertools.count()

    def matches(self, name: str) -> bool:
        """Whether a value of this name is one to log."""
        return self._pattern.fullmatch(name) is not None

    def apply(self, values: Mapping[str, Any], pipeline_name: str) -> None:
        """Log the function of each value whose name matches."""
        chosen = {name: value for name, value in values.items() if self.matches(name)}
        if chosen and next(self._count) % self._frequency == 0:
            for name, value in chosen.items():
                result = self._function(value)
                for logger in self._loggers:
                    logger.log(f"{name}__{self._name}", result, DATA, pipeline_name)


class PipelineLogging:
    """Log the calls of one pipeline. What fails there is reported once and never spoils an answer.

    Parameters
    ----------
    source : MetricLogger, LoggingConfig, mapping, str or Path
        A logger, which then gets what is logged by default, or a configuration.
    pipeline_name : str
        The pipeline's alias, or its task.
    task : str
        The task, normalised.
    functions : TaskFunctions
        Those of the task.
    num_cores : int, optional
        Cores that the pipeline has, if they were chosen.
    loggers : mapping, optional
        Loggers by name that several pipelines share, in place of those of the configuration.
    """

    def __init__(
        self,
        source: MetricLogger | LoggingConfig | Mapping[str, Any] | str | Path,
        pipeline_name: str,
        task: str,
        functions: TaskFunctions,
        num_cores: int | None = None,
        loggers: Mapping[str, MetricLogger] | None = None,
    ) -> None:
        self.pipeline_name = pipeline_name
        self._num_cores = num_cores
        self._failed = False
        config = LoggingConfig() if isinstance(source, MetricLogger) else LoggingConfig.parse(source)
        if isinstance(source, MetricLogger):
            loggers = {"logger": source}
        elif loggers is None:
            loggers = {name: make_logger(name, options or {}) for name, options in config.loggers.items()}
        self._loggers = dict(loggers)
        system = config.system_logging
        groups = {name: getattr(system, name) for name in ("prediction_latency", "inference_details")}
        self._groups = {
            name: self._targets(group.target_loggers or system.target_loggers)
            for name, group in groups.items()
            if system.enable and group.enable
        }
        self._rules = [
            _Rule(target, function, functions, self._targets(function.target_loggers))
            for target, function in _spelled_out(config.data_logging, task, functions)
        ]

    def call(self, inputs: Sequence[BaseModel], outputs: Sequence[Any], times: Mapping[str, float]) -> None:
        """Log a finished call: its times and sizes, and the data of each of its requests."""
        details = {"input_batch_size_total": len(inputs)}
        if self._num_cores is not None:
            details["num_cores_total"] = self._num_cores
        latency = {f"{stage}_seconds": seconds for stage, seconds in times.items()}
        with self._guarded():
            for group, values in (("prediction_latency", latency), ("inference_details", details)):
                for logger in self._groups.get(group, ()):
                    for name, value in values.items():
                        logger.log(f"{group}/{name}", value, SYSTEM, self.pipeline_name)
        if self._rules:
            for item, output in zip(inputs, outputs, strict=True):
                with self._guarded():
                    best = output[0] if isinstance(output, list) else output
                    self._data({**_named("pipeline_inputs", item), **_named("pipeline_outputs", best)})
        self._flush()

    def engine_values(self, part: Any) -> dict[str, Any]:
        """What is to be logged of a run of the engine, whose result may say what went in and came out.

        That is in ``engine_inputs`` and ``engine_outputs``. The other arrays of the part are not kept by this.
        """
        values: dict[str, Any] = {}
        with self._guarded():
            for target in ("engine_inputs", "engine_outputs") if self._rules else ():
                values |= {f"{target}.{name}": array for name, array in getattr(part, target, {}).items()}
        return {name: value for name, value in values.items() if any(rule.matches(name) for rule in self._rules)}

    def engine(self, values: Mapping[str, Any]) -> None:
        """Log what :meth:`engine_values` gave."""
        if values:
            self._data(values)
            self._flush()

    def _data(self, values: Mapping[str, Any]) -> None:
        for rule in self._rules:
            with self._guarded():
                rule.apply(values, self.pipeline_name)

    def _flush(self) -> None:
        for logger in self._loggers.values():
            with self._guarded():
                logger.flush(self.pipeline_name)

    def _targets(self, names: Sequence[str]) -> list[MetricLogger]:
        unknown = sorted(set(names) - set(self._loggers))
        if unknown:
            raise InputError(f"target_loggers names {unknown}, which are not among the loggers {list(self._loggers)}")
        return [logger for name, logger in self._loggers.items() if not names or name in names]

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep the failure of a logger from the pipeline; say once that it failed."""
        try:
            yield
        except Exception as error:
            if not self._failed:
                _log.warning(
                    "a logger of pipeline %s fails: %s; further failures are not reported", self.pipeline_name, error
                )
            self._failed = True


def _named(target: str, value: BaseModel) -> dict[str, Any]:
    fields = {f"{target}.{name}": getattr(value, name) for name in type(value).model_fields}
    return {target: value} | fields


def _spelled_out(
    config: Mapping[str, list[DataFunction]], task: str, functions: TaskFunctions
) -> Iterator[tuple[str, DataFunction]]:
    """Targets and functions, with those of the task in place of ``predefined``."""
    for target, wanted in config.items():
        for function in wanted:
            if target != "predefined":
                yield target, function
                continue
            if normalised(function.func) != task:
                raise InputError(f"predefined functions exist for {[task]}, got {function.func!r}")
            for field, names in functions.items():
                for name in names:
                    yield field, function.model_copy(update={"func": name})


def _function(name: str, known: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """A function by its name in a configuration."""
    if name in known:
        return known[name]
    if name.startswith(("np.", "numpy.")):
        found: Any = np
        for part in name.split(".")[1:]:
            found = getattr(found, part, None)
        if callable(found):
            return found
    elif ".py:" in name:
        return load_object(name)
    raise InputError(
        f"func must be one of {list(known)}, a function of NumPy such as np.mean, or path.py:name; got {name!r}"
    )
