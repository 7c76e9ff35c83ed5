"""The base of all pipelines: a registry of tasks, the options they share, and the way of a request through one.

A pipeline is ``preprocess`` (text to arrays), ``forward`` (arrays through the engine) and ``postprocess`` (arrays to an
answer); a task overrides these three and names its schemas. Pipelines hold no state of a request, so one pipeline
may serve several threads, and they pickle as their options, so that another process can build its own.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from pydantic import BaseModel

from sparsert.errors import InputError
from sparsert.pipelines import registry
from sparsert.pipelines.logs import PipelineLogging, TaskFunctions
from sparsert.pipelines.options import PipelineConfig, PipelineOptions
from sparsert.pipelines.runner import Runner
from sparsert.pipelines.timing import StageTimer, TimerManager
from sparsert.pipelines.tokenization import estimated_tokens
from sparsert.zoo import ResolvedModel, resolve

__all__ = ["Pipeline"]

_P = TypeVar("_P", bound="type[Pipeline]")


class Pipeline(ABC):
    """Text in, answer out. Build one with :meth:`create`.

    Parameters
    ----------
    model_path : str or Path, optional
        A model reference, see :mod:`sparsert.zoo`: a directory with ``model.onnx``, an ``.onnx`` file, or a stub. None
        or ``"default"`` is the task's default model.
    **options
        The fields of the task's ``options_type``.

    Attributes
    ----------
    task, task_aliases, default_model_path
        As they were registered.
    options_type : type of PipelineOptions
        The options that the task takes.
    input_schema, output_schema : type of pydantic.BaseModel
        What a request and a result are.
    example : mapping, optional
        Fields of a request, to show in documents and to warm up with.
    batch_fields : tuple of str
        Fields of a request that may be lists, which make it a batch.
    main_field : str, optional
        The field that arguments without a name are for.
    metric_functions : mapping
        The task's functions of data that loggers may be told, by target and name.
    scorer : str, optional
        ``package.module:Class`` of a :class:`sparsert.evaluate.Scorer`.
    options : PipelineOptions
        The options as they were given, checked; each is an attribute of the pipeline as well.
    timer_manager : TimerManager
        Seconds of the stages of finished calls: ``pre_process, engine_forward, post_process, total_inference``.
    """

    task: ClassVar[str] = ""
    task_aliases: ClassVar[tuple[str, ...]] = ()
    default_model_path: ClassVar[str | None] = None
    options_type: ClassVar[type[PipelineOptions]] = PipelineOptions
    input_schema: ClassVar[type[BaseModel]]
    output_schema: type[BaseModel]
    example: ClassVar[Mapping[str, Any] | None] = None
    batch_fields: ClassVar[tuple[str, ...]] = ()
    main_field: ClassVar[str | None] = None
    metric_functions: ClassVar[TaskFunctions] = {}
    scorer: ClassVar[str | None] = None
    options: PipelineOptions
    model_path: str
    model_file: str | None

    def __init__(self, model_path: str | Path | None = None, **options: Any) -> None:
        if model_path is None or model_path == "default":
            model_path = self.default_model_path
        self.options = self.options_type(model_path=model_path, **options)
        if model_path is None:
            raise InputError(f"No model_path provided for pipeline {type(self)}. Must provide a model path")
        self.__dict__ |= vars(self.options) | {"model_path": str(model_path)}
        self.timer_manager = TimerManager(multi=self.options.benchmark)
        self._logging = None
        if self.options.logger is not None:
            name = self.options.alias or self.task
            cores = (self.options.context or self.options).num_cores
            self._logging = PipelineLogging(self.options.logger, name, self.task, self.metric_functions, cores)
        self._reference: str | None = None

    # ---- what a task defines -----------------------------------------------------------------------------------------

    @abstractmethod
    def preprocess(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Turn requests, instances of ``input_schema``, into what :meth:`forward` takes.

        One thing for each request; an InputError stands for one that cannot be answered, and goes no further.
        """

    @abstractmethod
    def forward(self, prepared: Sequence[Any]) -> Any:
        """Run the engine on the prepared requests of a batch, at least one.

        The result may be an iterator that runs it in parts.
        """

    @abstractmethod
    def postprocess(self, prepared: Sequence[Any], outputs: Any) -> Sequence[Any]:
        """Turn what :meth:`forward` gives into one result for each prepared request."""

    def tokens(self, prepared: Any) -> int:
        """Tokens that the model sees for one prepared request, which a server's batches and limits count.

        By default an estimate, see :func:`~sparsert.pipelines.tokenization.estimated_tokens`.
        """
        return estimated_tokens(prepared)

    def resolve_model(self) -> ResolvedModel:
        """The files of the pipeline's model; for one of the closed zoo, those of the task's default model.

        Raises
        ------
        ModelNotFoundError
            There is no such model.
        """
        return resolve(self.model_path, purpose="pipeline", stand_in=self.default_model_path, file=self.model_file)

    def task_options(self) -> dict[str, Any]:
        """Options of the task alone, JSON-able, by the names under which the constructor takes them."""
        shared = {item.name for item in fields(PipelineOptions)}
        return {name: value for name, value in self.options.as_data().items() if name not in shared}

    # ---- a request ---------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer one request, or a batch of them.

        One request is an instance of ``input_schema``, a mapping of its fields, or its fields by name, and gives one
        result. A list of instances or mappings, or lists for some of the fields in ``batch_fields``, is a batch and
        gives a list of results; a field that is no list then holds for every request.

        A task with a ``main_field`` also takes its value alone, a text or a list of texts, or several texts one after
        another: all of this is one request.

        Raises
        ------
        pydantic.ValidationError
            A field is missing or of the wrong type. Fields that the schema does not know are ignored.
        InputError
            Lists of different lengths, or arguments in no such form.
        """
        inputs, batch = self.parse_inputs(*args, **kwargs)
        results = self.run_many(inputs)
        return results if batch else results[0]

    def run_many(self, inputs: Sequence[Any], return_exceptions: bool = False) -> list[Any]:
        """Answer independent requests together, which costs less than one after another.

        Parameters
        ----------
        inputs : sequence of ``input_schema``
            The requests; may be empty.
        return_exceptions : bool
            Give an InputError that belongs to one request as this request's result, so that the others get theirs;
            otherwise the first one is raised.

        Returns
        -------
        list
            One result for each request, in order.
        """
        if not inputs:
            return []
        runner, timer = Runner(self, self._logging), StageTimer()
        prepared = runner.preprocess(inputs, timer)
        failed = [item for item in prepared if isinstance(item, InputError)]
        if failed and not return_exceptions:
            raise failed[0]
        ready = [item for item in prepared if not isinstance(item, InputError)]
        results = runner.postprocess(ready, runner.forward(ready, timer), timer) if ready else []
        answered = [item for item, found in zip(inputs, prepared, strict=True) if not isinstance(found, InputError)]
        runner.finish(answered, results, timer)
        self.timer_manager.add(timer)
        if not failed:
            return results
        remaining = iter(results)
        return [item if isinstance(item, InputError) else next(remaining) for item in prepared]

    def parse_inputs(self, *args: Any, **kwargs: Any) -> tuple[list[Any], bool]:
        """Check the arguments of a call against ``input_schema``: the requests, and whether they came as a batch."""
        if not args:
            return self._parse_fields(kwargs)
        schema, main = self.input_schema, self.main_field
        if not kwargs and (len(args) == 1 or main is not None):
            value = args[0] if len(args) == 1 else args
            if isinstance(value, schema):
                return [value], False
            if isinstance(value, Mapping):
                return self._parse_fields(value)
            if isinstance(value, (list, tuple)) and (main is None or _are_requests(value, schema)):
                return [item if isinstance(item, schema) else schema.model_validate(item) for item in value], True
            if main is not None:
                return self._parse_fields({main: value})
        raise InputError(
            f"pipeline {type(self)} only supports either only a {self.input_schema} object. or keyword arguments to be "
            f"construct one. Found {len(args)} args and {len(kwargs)} kwargs"
        )

    def _parse_fields(self, fields: Mapping[str, Any]) -> tuple[list[Any], bool]:
        """Requests from their fields, some of which may be lists."""
        lists = ((name, _as_list(fields.get(name))) for name in self.batch_fields)
        columns = {name: column for name, column in lists if column is not None}
        if not columns:
            return [self.input_schema(**fields)], False
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"lists given together must be equally long, got {lengths}")
        rows = zip(*columns.values(), strict=True)
        shared = {name: value for name, value in fields.items() if name not in columns}
        return [self.input_schema(**shared, **dict(zip(columns, row, strict=True))) for row in rows], True

    # ---- options as data ---------------------------------------------------------------------------------------------

    def to_config(self) -> PipelineConfig:
        """This pipeline's options as data, see :meth:`PipelineOptions.as_data`."""
        options = self.options.as_data()
        shared = {item.name: options[item.name] for item in fields(PipelineOptions) if item.name in options}
        return PipelineConfig(task=self._reference or self.task, **shared, kwargs=self.task_options())

    def __reduce__(self) -> tuple[Any, ...]:
        options = self.to_config().model_dump(exclude={"task", "kwargs"}) | self.task_options()
        # A task from a file is a class that another process must load first.
        return _rebuild, (self._reference or type(self), options)

    @staticmethod
    def from_config(
        config: PipelineConfig | Mapping[str, Any] | str | Path, context: Any = None, **overrides: Any
    ) -> Pipeline:
        """Build a pipeline from a :class:`PipelineConfig`, a mapping, a JSON string, or the path of a JSON file.

        ``overrides`` replace or add options. With a ``context``, the config's cores, streams and scheduler are ignored.
        """
        if isinstance(config, Path) or (isinstance(config, str) and not config.lstrip().startswith("{")):
            config = Path(config).read_text(encoding="utf-8")
        if isinstance(config, str):
            config = json.loads(config)
        if not isinstance(config, PipelineConfig):
            config = PipelineConfig.model_validate(config)
        options = config.model_dump(exclude={"kwargs"}) | config.kwargs
        if context is not None:
            options |= {"num_cores": None, "num_streams": None, "scheduler": None, "context": context}
        return Pipeline.create(**(options | overrides))

    # ---- the registry ------------------------------------------------------------------------------------------------

    @staticmethod
    def create(
        task: str, model_path: str | Path | None = None, *, model: str | Path | None = None, **kwargs: Any
    ) -> Pipeline:
        """Build the pipeline of a task.

        Parameters
        ----------
        task : str
            Such as ``"question-answering"``; case and ``-`` or ``_`` do not matter, and aliases (``"qa"``) do as well.
            ``"import:package.module"`` or ``"import:path.py"`` imports code that registers a task of its own, and takes
            the one that its ``TASK`` names.
        model_path : str or Path, optional
            A model reference; ``model`` is another name for it.
        **kwargs
            Options of :class:`Pipeline` and of the task's own class.

        Raises
        ------
        InputError
            The task or an option's value is unknown (also a ValueError).
        TypeError
            An option is unknown.
        """
        if model is not None:
            if model_path is not None:
                raise InputError(
                    f"Only one of model and model_path may be supplied, found {model} and {model_path} respectively"
                )
            model_path = model
        pipeline = Pipeline.class_of(task)(model_path, **kwargs)
        pipeline._reference = task if task.startswith(registry.IMPORT) else None
        return pipeline

    @staticmethod
    def class_of(task: str) -> type[Pipeline]:
        """The class that :meth:`create` builds for a task."""
        kind: type[Pipeline] = registry.find(task)
        return kind

    @staticmethod
    def supported_tasks() -> list[str]:
        """Names and aliases of all registered tasks, sorted."""
        return registry.names()

    @staticmethod
    def register(
        task: str, task_aliases: Iterable[str] | None = None, default_model_path: str | None = None
    ) -> Callable[[_P], _P]:
        """Class decorator that makes a subclass the pipeline of ``task`` and of its aliases.

        Raises
        ------
        InputError
            The class is no pipeline, or has no schemas, or a name does not do.
        RuntimeError
            A name is taken.
        """
        names = tuple(dict.fromkeys(registry.normalised(name) for name in (task, *(task_aliases or ()))))

        def decorate(cls: _P) -> _P:
            if not (isinstance(cls, type) and issubclass(cls, Pipeline)):
                raise InputError(f"only a subclass of Pipeline can be registered as task {task}, got {cls!r}")
            for schema in ("input_schema", "output_schema"):
                found = getattr(cls, schema, None)
                if not (isinstance(found, type) and issubclass(found, BaseModel)):
                    raise InputError(f"task {task}: {schema} of {cls.__name__} must be a pydantic model, got {found!r}")
            registry.add(names, cls)
            cls.task, cls.task_aliases, cls.default_model_path = names[0], names[1:], default_model_path
            return cls

        return decorate


def _are_requests(values: Sequence[Any], schema: type[BaseModel]) -> bool:
    """Whether a list holds requests, rather than the texts of one."""
    return bool(values) and all(isinstance(value, (schema, Mapping)) for value in values)


def _as_list(value: Any) -> list[Any] | None:
    """A list, tuple or array as a list; None for anything else, such as a str."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return list(value) if isinstance(value, (list, tuple)) else None


def _rebuild(source: type[Pipeline] | str, options: dict[str, Any]) -> Pipeline:
    return Pipeline.create(source, **options) if isinstance(source, str) else source(**options)
