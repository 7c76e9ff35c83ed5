"""What a server serves and how: a YAML file or a mapping, checked key by key."""

from __future__ import annotations

import difflib
import inspect
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sparsert.errors import InputError
from sparsert.pipelines import Pipeline

__all__ = [
    "BucketingConfig",
    "EndpointConfig",
    "Limits",
    "LoggersConfig",
    "ServerConfig",
    "describe_problems",
    "load_config",
]

# Routes of the server itself, which no endpoint may take.
_RESERVED = re.compile(
    r"^/(v2(/.*)?|ping|health|healthcheck|status|config|endpoints|metrics|docs(/.*)?|static(/.*)?|openapi\.json"
    r"|invocations(/.*)?)?$"
)
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class BucketingConfig(_Strict):
    """Sequence lengths that the pipeline's engine is used at; a request takes the least one that holds it."""

    sequence_lengths: list[int]

    @field_validator("sequence_lengths")
    @classmethod
    def _not_empty(cls, lengths: list[int]) -> list[int]:
        if not lengths:
            raise ValueError("Must specify at least one sequence length under bucketing")
        return lengths


class EndpointConfig(_Strict):
    """One pipeline, and where it is served."""

    task: str = Field(description="Such as question-answering")
    model: str = Field(default="default", description="A model reference; default is the task's own model")
    name: str | None = Field(default=None, pattern=_NAME, description="Name under /v2/models/; <task>-<index> if none")
    route: str | None = Field(
        default=None, max_length=200, description="Path of its own; /predict if there is but one endpoint"
    )
    batch_size: int = Field(default=1, ge=1, description="Rows of an engine compiled for fixed shapes")
    bucketing: BucketingConfig | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Options of the pipeline")

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        if _normalised(task) not in Pipeline.supported_tasks():
            raise ValueError(
                f"Unknown Pipeline task {task}. Currently supported tasks are {Pipeline.supported_tasks()}"
            )
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
        known = _pipeline_options(self.task)
        for option in self.kwargs:
            if option not in known:
                raise ValueError(f"kwargs.{option}: unknown option of {self.task}{_hint(option, known)}")
        if self.bucketing is not None and "sequence_length" in self.kwargs:
            raise ValueError("give either bucketing.sequence_lengths or kwargs.sequence_length, not both")
        return self

    def pipeline_options(self) -> dict[str, Any]:
        """Keyword arguments for :meth:`sparsert.Pipeline.create`."""
        options: dict[str, Any] = {"task": self.task, "model_path": self.model}
        if self.batch_size > 1:
            options["batch_size"] = self.batch_size
        if self.bucketing is not None:
            lengths = self.bucketing.sequence_lengths
            options["sequence_length"] = lengths[0] if len(lengths) == 1 else lengths
        return options | self.kwargs


class Limits(_Strict):
    """What protects the server from its clients; the numbers hold for each worker."""

    max_batch_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of a micro-batch; by default 1024 for each core of the worker"
    )
    max_delay_ms: float = Field(default=2.0, ge=0, le=1000, description="Longest wait for more requests to batch")
    max_queue: int = Field(default=256, ge=1, le=4096, description="Requests waiting or running; beyond: 429")
    deadline_s: float = Field(default=30.0, gt=0, le=3600, description="Time for a request, then: 504")
    max_body_bytes: int = Field(default=4 << 20, ge=1024, description="Size of a request's body; beyond: 413")
    max_rows: int = Field(default=256, ge=1, description="Questions in one v2 tensor request; beyond: 422")
    read_timeout_s: float = Field(default=20.0, gt=0, le=600, description="Time to send a whole request; then: 408")
    drain_s: int = Field(default=30, ge=1, le=3600, description="Time for running requests when the server stops")


class PythonLogger(_Strict):
    """Log the timings of every request."""


class PrometheusLogger(_Strict):
    """Serve the metrics on a port of their own, besides /metrics."""

    port: int = Field(default=6100, ge=0, le=65535)


class LoggersConfig(_Strict):
    """Loggers by name, as DeepSparse has them."""

    python: PythonLogger | None = None
    prometheus: PrometheusLogger | None = None

    @field_validator("python", "prometheus", mode="before")
    @classmethod
    def _bare_key(cls, value: Any) -> Any:
        return {} if value is None else value  # "python:" without a value


class ServerConfig(_Strict):
    """A whole server. The keys up to ``endpoints`` are DeepSparse's."""

    num_cores: int | None = Field(default=None, ge=1, description="Cores for all workers together; all by default")
    num_workers: int | None = Field(
        default=None, ge=1, le=256, description="Processes, which divide the cores; see default_workers"
    )
    integration: Literal["local", "sagemaker"] = "local"
    engine_thread_pinning: Literal["core", "numa", "none"] = "core"
    pytorch_num_threads: int | None = Field(default=None, description="Accepted for old files; nothing here uses torch")
    loggers: LoggersConfig = Field(default_factory=LoggersConfig)
    endpoints: list[EndpointConfig]

    limits: Limits = Field(default_factory=Limits)
    api_key_file: str | None = Field(default=None, description="File with the key that requests must bring")
    cors_origins: list[str] = Field(default_factory=list, description="Origins whose pages may call this server")
    allow_endpoint_changes: bool = Field(default=False, description="Whether POST and DELETE /endpoints work")

    @model_validator(mode="after")
    def _complete(self) -> ServerConfig:
        """Fill in names and the route of a lone endpoint, and refuse duplicates."""
        counts: Counter[str] = Counter()
        self.endpoints = [endpoint.model_copy() for endpoint in self.endpoints]  # the caller's stay as they are
        for endpoint in self.endpoints:
            if endpoint.name is None:
                endpoint.name = f"{endpoint.task}-{counts[endpoint.task]}"
            counts[endpoint.task] += 1
        if len(self.endpoints) == 1 and self.endpoints[0].route is None:
            self.endpoints[0].route = "/predict"
        for name, count in Counter(endpoint.name for endpoint in self.endpoints).items():
            if count > 1:
                raise ValueError(f"Endpoint names must be unique if specified, found {name!r} {count} times")
        for route, count in Counter(endpoint.route for endpoint in self.endpoints if endpoint.route).items():
            if count > 1:
                raise ValueError(f"{route} specified {count} times for multiple EndpointConfig.route")
        return self


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
        content, lines = _read_yaml(Path(source))
    try:
        return ServerConfig.model_validate(content | dict(overrides or {}))
    except ValidationError as error:
        raise InputError(describe_problems(error, origin, lines)) from None


def describe_problems(error: ValidationError, origin: str, lines: Mapping[tuple[Any, ...], int] | None = None) -> str:
    """All problems that pydantic found, one a line: where, which key, what is wrong, which keys there are."""
    problems = []
    for item in error.errors(include_url=False, include_input=False):
        path = tuple(item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        inner = re.match(r"kwargs\.(\w+): ", message)
        line = _line_of(path + (("kwargs", inner[1]) if inner else ()), lines or {})
        if item["type"] == "extra_forbidden":
            known = _keys_at(path[:-1])
            message = f"unknown key{_hint(str(path[-1]), known)}"
        place = f"{origin}, line {line}" if line else origin
        problems.append(": ".join(part for part in (place, _dotted(path), message) if part))
    return "\n".join(problems)


def _dotted(path: tuple[Any, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _hint(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _line_of(path: tuple[Any, ...], lines: Mapping[tuple[Any, ...], int]) -> int | None:
    """Line of a key, or of the nearest thing around it."""
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


def _keys_at(path: tuple[Any, ...]) -> list[str]:
    """Keys that the model at a path of the configuration knows."""
    model: Any = ServerConfig
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        arguments = [annotation, *getattr(annotation, "__args__", ())]
        model = next((kind for kind in arguments if inspect.isclass(kind) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], int]]:
    """Content of a YAML file, and the line of each of its keys and items."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not a readable YAML file: {error}") from None
    lines: dict[tuple[Any, ...], int] = {}
    problems: list[str] = []
    _note_lines(node, (), lines, problems)
    if problems:
        raise InputError("\n".join(f"{path}, {problem}" for problem in problems))
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping with the key endpoints, got {type(content).__name__}")
    return content, lines


def _note_lines(
    node: yaml.Node | None, path: tuple[Any, ...], lines: dict[tuple[Any, ...], int], problems: list[str]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            here = (*path, key.value)
            if here in lines:
                problems.append(f"line {line}: {_dotted(here)}: given twice, first in line {lines[here]}")
            lines[here] = line
            _note_lines(value, here, lines, problems)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*path, index)
            lines[here] = value.start_mark.line + 1
            _note_lines(value, here, lines, problems)


def _normalised(task: str) -> str:
    return task.lower().replace("-", "_")


def _pipeline_options(task: str) -> list[str]:
    """Names of the options that the pipeline of a task takes."""
    Pipeline.supported_tasks()  # registers the package's own
    kind = next(cls for cls in Pipeline.__subclasses__() if _normalised(task) in (cls.task, *cls.task_aliases))
    names = [
        name
        for cls in kind.__mro__
        if issubclass(cls, Pipeline) and "__init__" in vars(cls)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    return [name for name in dict.fromkeys(names) if name not in ("self", "model_path", "context", "batch_size")]
