"""What a server serves and how: a YAML file or a mapping, checked key by key."""

from __future__ import annotations

import difflib
import inspect
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from sparsert.errors import InputError
from sparsert.pipelines import Pipeline
from sparsert.pipelines.logging_config import NO_EFFECT, DataFunction, LoggingGroup, StrictModel, SystemLogging
from sparsert.pipelines.registry import IMPORT
from sparsert.server.yaml_lines import dotted, line_of, read_yaml

__all__ = [
    "BucketingConfig",
    "EndpointConfig",
    "EndpointLogging",
    "Limits",
    "LoggersConfig",
    "ServerConfig",
    "describe_problems",
    "load_config",
]

_log = logging.getLogger(__name__)

# Routes of the server itself, which no endpoint may take.
_RESERVED = re.compile(
    r"^/(v2(/.*)?|ping|health|healthcheck|status|config|endpoints|metrics|docs(/.*)?|static(/.*)?|openapi\.json"
    r"|invocations(/.*)?)?$"
)
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_TARGET = re.compile(r"predefined|(pipeline|engine)_(inputs|outputs)(\.\w+)?")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")

# Options of DeepSparse's pipelines that those here do not have, and need not.
_OLD_OPTIONS = {
    "alias": "logs name the endpoint",
    "benchmark": "/metrics has the latencies",
    "continuous_batch_sizes": "every endpoint batches what comes together, see limits",
    "input_shapes": "sequence_length and bucketing say it",
    "trust_remote_code": "no code that comes with a model is run",
}

# Keys that DeepSparse's files may have and that change nothing here; why not.
_NO_EFFECT = {
    "pytorch_num_threads": "nothing here uses torch",
    "loggers.prometheus.text_log_save_dir": "/metrics has all of it",
    "loggers.prometheus.text_log_save_frequency": "/metrics has all of it",
    "loggers.prometheus.text_log_file_name": "/metrics has all of it",
    "system_logging.request_details": "the log has a line for each request, and /metrics counts them",
    "system_logging.resource_utilization": "the machine's own monitoring knows it for all processes",
    "system_logging.deployment_details": "/config has them",
    "endpoints.middlewares": "pipelines have none here",
    "endpoints.scheduler": "kwargs.scheduler chooses one",
} | {f"endpoints.kwargs.{option}": reason for option, reason in _OLD_OPTIONS.items()}


class BucketingConfig(StrictModel):
    """Sequence lengths that the pipeline's engine is used at; a request takes the least one that holds it."""

    sequence_lengths: list[int]

    @field_validator("sequence_lengths")
    @classmethod
    def _not_empty(cls, lengths: list[int]) -> list[int]:
        if not lengths:
            raise ValueError("Must specify at least one sequence length under bucketing")
        return lengths


class EndpointLogging(StrictModel):
    """What an endpoint logs of how requests ran, where that differs from ``system_logging``."""

    enable: bool | None = None
    target_loggers: list[str] = Field(default_factory=list, description="For the groups that name none")
    prediction_latency: LoggingGroup | None = None
    inference_details: LoggingGroup | None = None


class EndpointConfig(StrictModel):
    """One pipeline, and where it is served."""

    task: str = Field(description="Such as question-answering; import: and a file or module for one of your own")
    model: str = Field(default="default", description="A model reference; default is the task's own model")
    name: str | None = Field(default=None, pattern=_NAME, description="Name under /v2/models/; <task>-<index> if none")
    route: str | None = Field(
        default=None, max_length=200, description="Path of its own; /predict if there is but one endpoint"
    )
    batch_size: int = Field(default=1, ge=1, description="Rows of an engine compiled for fixed shapes")
    bucketing: BucketingConfig | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Options of the pipeline")
    logging_config: EndpointLogging = Field(default_factory=EndpointLogging)
    data_logging: dict[str, list[DataFunction]] = Field(
        default_factory=dict, description="Functions of pipeline_inputs.question and the like; nothing by default"
    )
    middlewares: Any = Field(default=None, description=NO_EFFECT)
    scheduler: Any = Field(default=None, description=NO_EFFECT)

    @field_validator("data_logging")
    @classmethod
    def _known_targets(cls, functions: dict[str, list[DataFunction]]) -> dict[str, list[DataFunction]]:
        for target in functions:
            if target.startswith("re:"):
                try:
                    re.compile(target[3:])
                except re.error as error:
                    raise ValueError(f"{target}: not a regular expression: {error}") from None
            elif not _TARGET.fullmatch(target):
                raise ValueError(
                    f"{target}: a target is pipeline_inputs, engine_inputs, engine_outputs or pipeline_outputs, with "
                    ".field for one of its fields; re: and a regular expression; or predefined"
                )
        return functions

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        Pipeline.class_of(task)  # refuses one that there is not
        return task

    @field_validator("route")
    @classmethod
    def _usable_route(cls, route: str | None) -> str | None:
        if route is None:
            return None
        route = "/" + route.strip("/")
        if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", route):
            raise ValueError(f"a route is a path of letters, digits and . _ ~ - between slashes, got {route!r}")
        if _RESERVED.match(route):
            raise ValueError(f"{route} is a route of the server itself; choose another")
        return route

    @model_validator(mode="after")
    def _known_options(self) -> EndpointConfig:
        own = ("model_path", "context", "batch_size", "logger")  # which are said elsewhere, or not at all
        known = [option.name for option in fields(self.kind.options_type) if option.name not in own]
        for option in self.kwargs:
            if option == "logger":
                raise ValueError("kwargs.logger: a server has loggers, and its endpoints logging_config, data_logging")
            if option not in known and option not in _OLD_OPTIONS:
                raise ValueError(f"kwargs.{option}: unknown option of {self.task}{_hint(option, known)}")
        if self.bucketing is not None and "sequence_length" not in known:
            raise ValueError(f"bucketing: {self.task} has no sequence_length to choose; leave it out")
        if self.bucketing is not None and "sequence_length" in self.kwargs:
            raise ValueError("give either bucketing.sequence_lengths or kwargs.sequence_length, not both")
        return self

    @property
    def kind(self) -> type[Pipeline]:
        """The class of the task."""
        return Pipeline.class_of(self.task)

    @property
    def public_task(self) -> str:
        """The task as clients may see it: of one from a file, the name alone."""
        return self.kind.task if self.task.startswith(IMPORT) else self.task

    def pipeline_options(self) -> dict[str, Any]:
        """Keyword arguments for :meth:`sparsert.Pipeline.create`."""
        options: dict[str, Any] = {"task": self.task, "model_path": self.model}
        if self.batch_size > 1:
            options["batch_size"] = self.batch_size
        if self.bucketing is not None:
            lengths = self.bucketing.sequence_lengths
            options["sequence_length"] = lengths[0] if len(lengths) == 1 else lengths
        return options | {option: value for option, value in self.kwargs.items() if option not in _OLD_OPTIONS}


class Limits(StrictModel):
    """What protects the server from its clients; the numbers hold for each worker."""

    max_batch_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of a micro-batch; by default 1024 for each core of the worker"
    )
    max_delay_ms: float = Field(default=2.0, ge=0, le=1000, description="Longest wait for more requests to batch")
    max_queue: int = Field(default=256, ge=1, le=4096, description="Requests waiting or running; beyond: 429")
    deadline_s: float = Field(default=30.0, gt=0, le=3600, description="Time for a request, then: 504")
    max_body_bytes: int = Field(default=4 << 20, ge=1024, description="Size of a request's body; beyond: 413")
    max_request_tokens: int = Field(
        default=65_536, ge=1, description="Tokens in all windows of one request; beyond: 413"
    )
    max_rows: int = Field(default=256, ge=1, description="Requests in one v2 tensor request; beyond: 422")
    max_texts: int = Field(
        default=2048,
        ge=1,
        description="Texts in one request of OpenAI's or text-embeddings-inference's routes; beyond: 422",
    )
    read_timeout_s: float = Field(default=20.0, gt=0, le=600, description="Time to send a whole request; then: 408")
    drain_s: int = Field(default=30, ge=1, le=3600, description="Time for running requests when the server stops")


class PythonOptions(StrictModel):
    """Log the values of every request as a line of JSON."""


class PrometheusOptions(StrictModel):
    """Add the values to the metrics, and serve all metrics on a port of their own, besides /metrics."""

    port: int = Field(default=6100, ge=0, le=65535)
    text_log_save_dir: str | None = Field(default=None, description=NO_EFFECT)
    text_log_save_frequency: int | None = Field(default=None, description=NO_EFFECT)
    text_log_file_name: str | None = Field(default=None, description=NO_EFFECT)


class CustomOptions(BaseModel):
    """A logger of one's own; keys besides ``path`` are the arguments of its class."""

    model_config = ConfigDict(extra="allow")

    path: str = Field(pattern=r"^.+:\w+$", description="file.py:Class or package.module:Class, a MetricLogger")


class LoggersConfig(BaseModel):
    """Loggers by name, as DeepSparse has them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, CustomOptions] = Field(init=False)

    python: PythonOptions | None = None
    prometheus: PrometheusOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        for name, options in content.items():
            if name not in cls.model_fields and not (isinstance(options, Mapping) and "path" in options):
                raise ValueError(
                    f"{name}: Unknown logger name: {name}. There are {', '.join(cls.model_fields)}; a logger of your "
                    "own has any name and path: file.py:Class"
                )
        return {name: {} if options is None else options for name, options in content.items()}  # "python:" is enough

    def custom(self) -> dict[str, CustomOptions]:
        """Loggers of one's own by name."""
        return dict(self.__pydantic_extra__ or {})

    def names(self) -> list[str]:
        """Names of all loggers that there are."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None] + list(self.custom())


class ServerConfig(StrictModel):
    """A whole server. The keys up to ``endpoints`` are DeepSparse's."""

    num_cores: int | None = Field(
        default=None, ge=1, description="Cores for all workers together; as Engine by default"
    )
    num_workers: int | None = Field(
        default=None, ge=1, le=256, description="Processes, which divide the cores; see default_workers"
    )
    integration: Literal["local", "sagemaker"] = "local"
    engine_thread_pinning: Literal["core", "numa", "none"] = "core"
    pytorch_num_threads: int | None = Field(default=None, description=NO_EFFECT)
    loggers: LoggersConfig = Field(default_factory=LoggersConfig)
    system_logging: SystemLogging = Field(default_factory=SystemLogging)
    endpoints: list[EndpointConfig]

    limits: Limits = Field(default_factory=Limits)
    api_key_file: str | None = Field(default=None, description="File with the key that requests must bring")
    cors_origins: list[str] = Field(default_factory=list, description="Origins whose pages may call this server")
    allow_endpoint_changes: bool = Field(default=False, description="Whether POST and DELETE /endpoints work")

    @field_validator("cors_origins")
    @classmethod
    def _usable_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"an origin is such as https://example.org, without a path, or *; got {origin!r}")
        return origins

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> ServerConfig:
        """Fill in names and the route of a lone endpoint, and refuse duplicates."""
        if not self.endpoints and not self.allow_endpoint_changes:
            raise ValueError(
                "endpoints: there must be one at least, unless allow_endpoint_changes lets them come later"
            )
        self.endpoints = [endpoint.model_copy() for endpoint in self.endpoints]  # the caller's stay as they are
        names = {endpoint.name for endpoint in self.endpoints}
        counts: dict[str, Iterator[int]] = {}
        for endpoint in self.endpoints:
            task = endpoint.public_task
            numbers = counts.setdefault(task, itertools.count())
            if endpoint.name is None:
                free = (f"{task}-{number}" for number in numbers)
                endpoint.name = next(name for name in free if name not in names)
        # Not when endpoints change at run time: one that is left alone must not take another's route.
        if len(self.endpoints) == 1 and self.endpoints[0].route is None and not (info.context or {}).get("complete"):
            self.endpoints[0].route = "/predict"
        for name, count in Counter(endpoint.name for endpoint in self.endpoints).items():
            if count > 1:
                raise ValueError(f"Endpoint names must be unique if specified, found {name!r} {count} times")
        for route, count in Counter(endpoint.route for endpoint in self.endpoints if endpoint.route).items():
            if count > 1:
                raise ValueError(f"{route} specified {count} times for multiple EndpointConfig.route")
        self._check_target_loggers()
        return self

    def _check_target_loggers(self) -> None:
        known = self.loggers.names()
        for path, targets in _walk(self.model_dump(include={"system_logging", "endpoints"})):
            if path[-1:] != ("target_loggers",) or "kwargs" in path:
                continue
            for name in targets:
                if name not in known:
                    raise ValueError(f"{dotted(path)}: there is no logger {name!r} among loggers{_hint(name, known)}")


def load_config(
    source: ServerConfig | Mapping[str, Any] | str | Path, overrides: Mapping[str, Any] | None = None
) -> ServerConfig:
    """Read a configuration from a YAML file, a mapping, or another configuration, with some keys replaced.

    Raises
    ------
    InputError
        A key is unknown or a value does not fit (also ValueError). For a file, the message names the line.
    FileNotFoundError
        There is no such file.
    """
    content: dict[str, Any]
    lines: dict[tuple[Any, ...], int] = {}
    if isinstance(source, (Mapping, ServerConfig)):
        content, origin = dict(source), "configuration"
    else:
        origin = str(source)
        content, lines = read_yaml(Path(source))
    content |= dict(overrides or {})
    complete = isinstance(source, ServerConfig)
    try:
        config = ServerConfig.model_validate(content, context={"complete": complete})
    except ValidationError as error:
        raise InputError(describe_problems(error, origin, lines)) from None
    if not complete:  # else this has been said before
        for path, reason in _without_effect(content):
            line = line_of(path, lines)
            place = f"{origin}, line {line}" if line else origin
            _log.warning("%s: %s has no effect here: %s", place, dotted(path), reason)
    return config


def _without_effect(content: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Keys of a configuration that ask for something which there is not, and why."""
    for path, value in _walk(content):
        if not path or isinstance(path[-1], int):  # a list's items are not asked again
            continue
        reason = _NO_EFFECT.get(".".join(part for part in path if isinstance(part, str)))
        if reason is not None and value and not (isinstance(value, Mapping) and value.get("enable") is False):
            yield path, reason


def _walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All that is in mappings and lists, and where it stands."""
    yield path, value
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in inside:
        yield from _walk(inner, (*path, part))


def describe_problems(error: ValidationError, origin: str, lines: Mapping[tuple[Any, ...], int] | None = None) -> str:
    """All problems that pydantic found, one a line: where, which key, what is wrong, which keys there are."""
    problems = []
    for item in error.errors(include_url=False, include_input=False):
        path = tuple(item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        # A validator sees the whole of a key; its message begins with the place inside that is meant.
        inner = re.match(r"([\w.:\[\]-]+): ", message)
        within = () if inner is None else (inner[1],) if (*path, inner[1]) in (lines or {}) else _parts(inner[1])
        line = line_of(path + within, lines or {})
        if item["type"] == "extra_forbidden":
            known = _keys_at(path[:-1])
            message = f"unknown key{_hint(str(path[-1]), known)}"
        place = f"{origin}, line {line}" if line else origin
        problems.append(": ".join(part for part in (place, dotted(path), message) if part))
    return "\n".join(problems)


def _hint(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _parts(text: str) -> tuple[Any, ...]:
    """The path that :func:`dotted` wrote."""
    return tuple(int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", text))


def _keys_at(path: tuple[Any, ...]) -> list[str]:
    """Keys that the model at a path of the configuration knows."""
    model: type[BaseModel] = ServerConfig
    for part in path:
        if part in model.model_fields:  # else an index or a key of a mapping
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a type is, or has inside."""
    # list[int] is a class to Python 3.10
    if get_origin(annotation) is None and inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner)) is not None), None)
