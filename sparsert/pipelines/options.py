"""The options of a pipeline: one list, from which its keywords, its config, the server's keys and the documents follow.

A task of one's own extends :class:`PipelineOptions`::

    @dataclass(frozen=True, kw_only=True)
    class ShoutOptions(PipelineOptions):
        times: int = option(1, "how often it is said")
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from sparsert.context import Context, Scheduler
from sparsert.errors import InputError, InputRangeError
from sparsert.pipelines.executors import workers_of
from sparsert.pipelines.loggers import MetricLogger
from sparsert.pipelines.logging_config import LoggingConfig

__all__ = ["PipelineConfig", "PipelineOptions", "at_least", "option"]

ENGINE_TYPES = ("sparsert", "onnxruntime")


def option(default: Any, doc: str, *, shown: str | None = None, config: Any = ...) -> Any:
    """A field of a class of options.

    Parameters
    ----------
    default
        Its value where none is given.
    doc : str
        What it means, as the documents say it.
    shown : str, optional
        Its default as the documents say it, where ``default`` does not say what happens.
    config : type, optional
        Its type in a config, where that is not the field's own; None if configs do not have it.
    """
    return field(default=default, metadata={"doc": doc, "shown": shown, "config": config})


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """The options of every pipeline, checked; each field's ``metadata["doc"]`` says what it means."""

    model_path: str | Path | None = option(
        None, "a model reference ([models.md](models.md)); `model` is another name for it", shown="the task's default"
    )
    model_file: str | None = option(
        None,
        "which of the model's ONNX files: its path, its name, or `quantized`",
        shown="[`model.onnx`](models.md#which-file)",
    )
    engine_type: str = option("sparsert", 'or `"onnxruntime"`, for comparing')
    batch_size: int | None = option(None, "most rows in one call of the engine", shown="dynamic")
    num_cores: int | None = option(None, "cores to use", shown="as for the engine")
    num_streams: int | None = option(None, "requests that run side by side", shown="as for the engine")
    scheduler: Scheduler | str | None = option(
        None, "how they share the cores", shown="as for the engine", config=str | None
    )
    context: Context | None = option(
        None, "a `sparsert.Context`: cores and streams shared with other engines", config=None
    )
    executor: ThreadPoolExecutor | int | None = option(
        None,
        "a number of threads, or a `ThreadPoolExecutor` that does not call the pipeline itself, to run the parts of a "
        "large batch side by side",
        shown="one thread a stream",
        config=int | None,
    )
    benchmark: bool = option(False, "keep the times of all calls")
    alias: str | None = option(None, "name in logs", shown="the task")
    logger: MetricLogger | LoggingConfig | Mapping[str, Any] | str | Path | None = option(
        None, "see below", config=dict[str, Any] | str | None
    )

    def __post_init__(self) -> None:
        kind = self.engine_type.lower() if isinstance(self.engine_type, str) else self.engine_type
        kind = "sparsert" if kind == "deepsparse" else kind
        if kind not in ENGINE_TYPES:
            raise InputError(f"Unknown engine_type {self.engine_type}. Supported values include: {list(ENGINE_TYPES)}")
        if self.batch_size is not None and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise InputError(f"batch_size must be None or an int of at least 1, got {self.batch_size!r}")
        context, cores = self.context, self.num_cores
        if context is not None and cores is not None and cores != context.num_cores:
            raise InputError(
                f"num_cores mismatch. Expected {context.num_cores} from passed context, but got {cores} while "
                "instantiating Pipeline"
            )
        workers_of(self.executor)  # refuses what cannot run anything
        self._set(engine_type=kind, benchmark=bool(self.benchmark))

    def _set(self, **values: Any) -> None:
        """Bring options into their final form; for ``__post_init__`` alone."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def as_data(self) -> dict[str, Any]:
        """All options that a config has, JSON-able.

        A context becomes the cores and streams that it has, a pool its number of threads; a logger that was given as an
        object is left out.
        """
        names = [item.name for item in fields(self) if item.metadata.get("config", ...) is not None]
        shared = {} if self.context is None else dict.fromkeys(("num_cores", "num_streams", "scheduler"), self.context)
        return {name: _as_data(getattr(shared.get(name, self), name)) for name in names}


def _as_data(value: Any) -> Any:
    if isinstance(value, LoggingConfig):
        return value.model_dump()
    if isinstance(value, ThreadPoolExecutor):
        return value._max_workers
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, MetricLogger):
        return None
    return str(value) if isinstance(value, Path) else value


def at_least(name: str, value: int, least: int) -> int:
    """Check an option that is a number.

    Raises
    ------
    InputRangeError
        It is no int, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputRangeError(f"{name} must be an int of at least {least}, got {value!r}")
    return value


def _config_types() -> dict[str, Any]:
    """Types of the options of every pipeline as a config has them."""
    kinds = {item.name: item.metadata["config"] for item in fields(PipelineOptions)}
    types = get_type_hints(PipelineOptions)
    return {name: types[name] if kind is ... else kind for name, kind in kinds.items() if kind is not None}


if TYPE_CHECKING:
    _CommonFields = BaseModel
else:
    # Fields are called model_path; pydantic reserves the prefix "model_" for itself unless told otherwise.
    _CommonFields = create_model(
        "_CommonFields",
        __config__=ConfigDict(protected_namespaces=(), extra="forbid"),
        task=(str, ...),
        **{name: (kind, getattr(PipelineOptions, name)) for name, kind in _config_types().items()},
    )


class PipelineConfig(_CommonFields):
    """A pipeline as data: ``Pipeline.from_config(config)`` builds it, ``pipeline.to_config()`` gives it back."""

    task: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Options of the task, such as ``sequence_length`` and ``doc_stride`` for question answering."""
