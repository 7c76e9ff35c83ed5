"""Loggers of pipelines: what a call took, and what went in and came out, to Python's logging or to Prometheus.

A configuration is a mapping (or YAML) as DeepSparse has it::

    loggers:                      # where to; a logger of one's own is a class in a file
      python: {}
      prometheus: {port: 6100}
      mine: {path: loggers.py:MyLogger}
    system_logging:               # how long, how much
      prediction_latency: {enable: true}
      inference_details: {enable: true, target_loggers: [prometheus]}
    data_logging:                 # nothing of a request is logged unless it stands here
      pipeline_inputs.question:
        - {func: string_length, frequency: 10}
      predefined:
        - {func: question_answering}

Targets of data are ``pipeline_inputs``, ``engine_inputs``, ``engine_outputs`` and ``pipeline_outputs``, each with
``.field`` for one of its fields, or ``re:`` and a regular expression that such a name must match. A function is one of
:data:`FUNCTIONS`, a function of NumPy (``np.mean``), or ``path.py:name``.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sparsert.errors import InputError
from sparsert.pipelines.imports import load_object

__all__ = ["FUNCTIONS", "LoggingConfig", "MetricLogger", "PipelineLogging", "PrometheusLogger", "PythonLogger"]

_log = logging.getLogger(__name__)

SYSTEM, DATA = "system", "data"

FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "identity": lambda value: value,
    "string_length": len,
    "answer_found": lambda output: bool(output.answer),
    "answer_length": lambda output: len(output.answer),
    "answer_score": lambda output: output.score,
}
"""Functions of data that have a name of their own."""


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
    """Count values with ``prometheus_client`` (the extra ``server``).

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
        try:
            import prometheus_client
        except ImportError as error:
            raise InputError(
                "the prometheus logger needs prometheus_client, which is not installed: pip install 'sparsert[server]'"
            ) from error
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


class _Function(BaseModel):
    model_config = ConfigDict(extra="forbid")

    func: str
    frequency: int = Field(default=1, ge=1, description="Apply it to every so many-th request only")
    target_loggers: list[str] = Field(default_factory=list, description="Names of loggers; empty for all")


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enable: bool = True
    target_loggers: list[str] = Field(default_factory=list)


class _SystemLogging(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enable: bool = True
    prediction_latency: _Group = Field(default_factory=_Group)
    inference_details: _Group = Field(default_factory=lambda: _Group(enable=False))


class LoggingConfig(BaseModel):
    """What is logged and where to; the module says how it reads as YAML."""

    model_config = ConfigDict(extra="forbid")

    loggers: dict[str, dict[str, Any] | None] = {"python": None}
    system_logging: _SystemLogging = Field(default_factory=_SystemLogging)
    data_logging: dict[str, list[_Function]] | None = None

    @staticmethod
    def parse(source: LoggingConfig | Mapping[str, Any] | str | Path) -> LoggingConfig:
        """Read a mapping, YAML, or the path of a YAML file."""
        import yaml

        if isinstance(source, LoggingConfig):
            return source
        if isinstance(source, (str, Path)):
            is_file = "\n" not in str(source) and Path(source).is_file()
            source = yaml.safe_load(Path(source).read_text(encoding="utf-8") if is_file else str(source))
        if not isinstance(source, Mapping):
            raise InputError(
                "logger must be a MetricLogger, or a mapping, YAML or YAML file with the keys loggers, system_logging "
                f"and data_logging, got {source!r}"
            )
        return LoggingConfig.model_validate(source)


class _Rule:
    """One function on one target, every so many-th request."""

    def __init__(self, target: str, config: _Function, loggers: Sequence[MetricLogger]) -> None:
        self._pattern = re.compile(target[3:] if target.startswith("re:") else re.escape(target))
        self._name = config.func
        self._function = _function(config.func)
        self._frequency = config.frequency
        self._loggers = loggers
        self._count = itertools.count()

    def apply(self, values: Mapping[str, Any], pipeline_name: str) -> None:
        """Log the function of each value whose name matches."""
        chosen = {name: value for name, value in values.items() if self._pattern.fullmatch(name)}
        if chosen and next(self._count) % self._frequency == 0:
            for name, value in chosen.items():
                result = self._function(value)
                for logger in self._loggers:
                    logger.log(f"{name}__{self._name}", result, DATA, pipeline_name)


class PipelineLogging:
    """Log the calls of one pipeline. A logger that fails is reported once and never spoils an answer.

    Parameters
    ----------
    source : MetricLogger, LoggingConfig, mapping, str or Path
        A logger, which then gets what is logged by default, or a configuration.
    pipeline_name : str
        The pipeline's alias, or its task.
    predefined : mapping
        For ``predefined``: names of functions for each target.
    loggers : mapping, optional
        Loggers by name that several pipelines share, in place of those of the configuration.
    """

    def __init__(
        self,
        source: MetricLogger | LoggingConfig | Mapping[str, Any] | str | Path,
        pipeline_name: str,
        predefined: Mapping[str, Mapping[str, Sequence[str]]],
        loggers: Mapping[str, MetricLogger] | None = None,
    ) -> None:
        self.pipeline_name = pipeline_name
        self._failed = False
        if isinstance(source, MetricLogger):
            config, self._loggers = LoggingConfig(), {"logger": source}
        else:
            config = LoggingConfig.parse(source)
            self._loggers = dict(
                loggers
                if loggers is not None
                else {name: _logger(name, dict(options or {})) for name, options in config.loggers.items()}
            )
        system = config.system_logging
        groups = {name: getattr(system, name) for name in ("prediction_latency", "inference_details")}
        self._groups = {
            name: self._targets(group.target_loggers)
            for name, group in groups.items()
            if system.enable and group.enable
        }
        self._rules = [
            _Rule(target, function, self._targets(function.target_loggers))
            for target, function in _functions(config.data_logging or {}, predefined)
        ]

    def call(
        self, inputs: Sequence[BaseModel], outputs: Sequence[Any], times: Mapping[str, float], num_cores: int | None
    ) -> None:
        """Log a finished call: its times and sizes, and the data of each of its requests."""
        details = {"input_batch_size_total": len(inputs)} | (
            {} if num_cores is None else {"num_cores_total": num_cores}
        )
        latency = {f"{stage}_seconds": seconds for stage, seconds in times.items()}
        with _Guard(self):
            for group, values in (("prediction_latency", latency), ("inference_details", details)):
                for logger in self._groups.get(group, ()):
                    for name, value in values.items():
                        logger.log(f"{group}/{name}", value, SYSTEM, self.pipeline_name)
        if self._rules:
            for item, output in zip(inputs, outputs, strict=True):
                best = output[0] if isinstance(output, list) else output
                self._data({**_named("pipeline_inputs", item), **_named("pipeline_outputs", best)})

    def engine(self, part: Any) -> None:
        """Log a run of the engine, if its result says what went in and came out (``engine_inputs, engine_outputs``)."""
        if self._rules:
            values = {}
            for target in ("engine_inputs", "engine_outputs"):
                for name, array in getattr(part, target, {}).items():
                    values[f"{target}.{name}"] = array
            self._data(values)

    def _data(self, values: Mapping[str, Any]) -> None:
        for rule in self._rules:
            with _Guard(self):
                rule.apply(values, self.pipeline_name)

    def _targets(self, names: Sequence[str]) -> list[MetricLogger]:
        unknown = sorted(set(names) - set(self._loggers))
        if unknown:
            raise InputError(f"target_loggers names {unknown}, which are not among the loggers {list(self._loggers)}")
        return [logger for name, logger in self._loggers.items() if not names or name in names]

    def report(self, error: Exception) -> None:
        """Say once that a logger failed."""
        if not self._failed:
            self._failed = True
            _log.warning(
                "a logger of pipeline %s fails: %s; further failures are not reported", self.pipeline_name, error
            )


class _Guard:
    """Keeps the failure of a logger from the pipeline."""

    def __init__(self, owner: PipelineLogging) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            self._owner.report(error)
            return True
        return False


def _named(target: str, value: BaseModel) -> dict[str, Any]:
    fields = {f"{target}.{name}": getattr(value, name) for name in type(value).model_fields}
    return {target: value} | fields


def _functions(
    config: Mapping[str, list[_Function]], predefined: Mapping[str, Mapping[str, Sequence[str]]]
) -> Iterator[tuple[str, _Function]]:
    """Targets and functions, those of ``predefined`` spelled out."""
    for target, functions in config.items():
        for function in functions:
            if target != "predefined":
                yield target, function
                continue
            task = function.func.replace("-", "_").lower()
            if task not in predefined:
                raise InputError(f"predefined functions exist for {list(predefined)}, got {function.func!r}")
            for field, names in predefined[task].items():
                for name in names:
                    yield field, function.model_copy(update={"func": name})


def _logger(name: str, options: dict[str, Any]) -> MetricLogger:
    """Build a logger from its name and options."""
    path = options.pop("path", None)
    if path is not None:
        logger = load_object(path)(**options)
        if not isinstance(logger, MetricLogger):
            raise InputError(f"Custom logger must be a subclass of MetricLogger. Got {type(logger)} instead.")
        return logger
    kinds: dict[str, Callable[..., MetricLogger]] = {"python": PythonLogger, "prometheus": PrometheusLogger}
    if name not in kinds:
        raise InputError(f"Unknown logger name: {name}. supported logger names: {list(kinds)}")
    return kinds[name](**options)


def _function(name: str) -> Callable[[Any], Any]:
    """A function by its name in a configuration."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if name.startswith(("np.", "numpy.")):
        found: Any = np
        for part in name.split(".")[1:]:
            found = getattr(found, part, None)
        if callable(found):
            return found
    elif ".py:" in name:
        return load_object(name)
    raise InputError(
        f"func must be one of {list(FUNCTIONS)}, a function of NumPy such as np.mean, or path.py:name; got {name!r}"
    )
