"""What is logged of a pipeline, and where to: the one schema of it, for pipelines and for servers.

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
the task's own, of :data:`sparsert.pipelines.loggers.FUNCTIONS`, a function of NumPy (``np.mean``), or ``path.py:name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sparsert.errors import InputError

__all__ = ["NO_EFFECT", "DataFunction", "LoggingConfig", "LoggingGroup", "StrictModel", "SystemLogging"]

NO_EFFECT = "Accepted for files of DeepSparse, without effect here"


class StrictModel(BaseModel):
    """A part of a configuration: without unknown keys, and a key without a value is as if it were not there."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        return {key: value for key, value in content.items() if value is not None or key not in cls.model_fields}


class LoggingGroup(StrictModel):
    """Whether a group of values is logged, and by which loggers."""

    enable: bool = True
    target_loggers: list[str] = Field(default_factory=list, description="Names of loggers; empty for all")


class SystemLogging(StrictModel):
    """What is logged of how requests ran."""

    enable: bool = True
    target_loggers: list[str] = Field(default_factory=list, description="For the groups that name none")
    prediction_latency: LoggingGroup = Field(default_factory=LoggingGroup, description="Seconds of the stages")
    inference_details: LoggingGroup = Field(
        default_factory=lambda: LoggingGroup(enable=False), description="Numbers of cores and of requests"
    )
    request_details: LoggingGroup | None = Field(default=None, description=NO_EFFECT)
    resource_utilization: LoggingGroup | None = Field(default=None, description=NO_EFFECT)
    deployment_details: LoggingGroup | None = Field(default=None, description=NO_EFFECT)


class DataFunction(StrictModel):
    """A function of a request's data whose result is logged."""

    func: str = Field(description="A name of the task's or of loggers.FUNCTIONS, np.<name> or file.py:<name>")
    frequency: int = Field(default=1, ge=1, description="Of so many requests, one is logged")
    target_loggers: list[str] = Field(default_factory=list, description="Names of loggers; empty for all")


class LoggingConfig(StrictModel):
    """What is logged and where to; the module says how it reads as YAML."""

    loggers: dict[str, dict[str, Any] | None] = {"python": None}
    system_logging: SystemLogging = Field(default_factory=SystemLogging)
    data_logging: dict[str, list[DataFunction]] = Field(default_factory=dict)

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
