"""Running one model, or the same model on two engines, over a dataset."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel

from sparsert.errors import InputError, SparsertError
from sparsert.pipelines import Pipeline
from sparsert.pipelines.imports import load_object

__all__ = ["Comparison", "EngineScores", "Evaluation", "Scorer", "evaluate", "scorer_of"]

# Questions that are prepared and answered together: engines that are compared take turns this often, so that a drift of
# the machine hits both alike, and no more than their logits are kept.
_CHUNK = 64

# What the numbers depend on, beside sparsert itself.
_PACKAGES = ("sparsert", "numpy", "numba", "tokenizers", "onnxruntime")


class Scorer(Protocol):
    """How a task is scored: its datasets, and what becomes of the engine's outputs. Each pipeline has its own.

    ``options`` are the pipeline's unless others are given, ``flags`` those that the command line takes, with type and
    help, and ``datasets`` tells there what ``read`` can read; ``main`` is the metric to look at first. Examples have an
    ``id`` and ``answers``; ``check`` refuses what cannot be scored, and ``request`` is what the pipeline is asked of an
    example.
    """

    options: ClassVar[Mapping[str, Any]]
    flags: ClassVar[Mapping[str, tuple[type, str]]]
    datasets: ClassVar[str]

    @property
    def main(self) -> str: ...
    def __init__(self, pipeline: Any) -> None: ...
    @staticmethod
    def read(path: str | Path, max_samples: int | None) -> Sequence[Any]: ...
    @staticmethod
    def check(truths: Mapping[str, Any], options: Mapping[str, Any]) -> None: ...
    @staticmethod
    def request(example: Any) -> BaseModel: ...
    def add(self, examples: Sequence[Any], parts: Sequence[Any]) -> tuple[int, int]:
        """Note what the engine gave for some examples; numbers of sequences and of tokens that it read for them."""
        ...

    def scores(self, truths: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str], dict[str, float] | None]:
        """Metrics, predictions, and perhaps the odds of "no answer", once everything is answered."""
        ...


@dataclass(frozen=True)
class EngineScores:
    """How one engine did.

    Attributes
    ----------
    engine : str
        ``sparsert`` or ``onnxruntime``.
    metrics : dict
        Those of the task's scorer: for question answering as of :func:`sparsert.evaluate.squad_v1` or
        :func:`sparsert.evaluate.squad_v2`, in percent.
    seconds : float
        For all questions, from text to answers.
    engine_seconds : float
        The part of it that the engine ran.
    predictions : dict
        By the question's id, the answer; empty for "no answer".
    null_odds : dict, optional
        By version 2.0: score of "no answer" less that of the best answer.
    """

    engine: str
    metrics: dict[str, float]
    seconds: float
    engine_seconds: float
    predictions: dict[str, str]
    null_odds: dict[str, float] | None = None

    @property
    def exact_match(self) -> float:
        """Share of questions whose answer is one of the given ones, in percent; InputError if a task has no such."""
        return _metric(self.metrics, "exact" if "exact" in self.metrics else "exact_match")

    @property
    def f1(self) -> float:
        """Mean F1 of the answers, in percent; InputError if a task has no such."""
        return _metric(self.metrics, "f1")

    @property
    def questions_per_second(self) -> float:
        """Throughput from text to answers."""
        return len(self.predictions) / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, ready for JSON."""
        names = ("engine", "metrics", "seconds", "engine_seconds", "questions_per_second")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Comparison:
    """The same windows on another engine.

    Attributes
    ----------
    scores : EngineScores
        How the other engine did.
    equal_answers : float
        Share of questions with the same answer, letter by letter, from 0 to 1.
    metric_differences : dict
        Each metric less that of the other engine.
    largest_logit_difference : float, optional
        Of all numbers that the engines gave; None if the task's outputs do not say them.
    mean_logit_difference : float, optional
        Mean of the absolute differences, likewise.
    """

    scores: EngineScores
    equal_answers: float
    metric_differences: dict[str, float]
    largest_logit_difference: float | None
    mean_logit_difference: float | None

    @property
    def f1_difference(self) -> float:
        """F1 less that of the other engine, in percent; InputError if a task has no such."""
        return _metric(self.metric_differences, "f1")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, ready for JSON."""
        content = vars(self) | {"scores": self.scores.to_dict()}
        return content | ({"f1_difference": self.f1_difference} if "f1" in self.metric_differences else {})


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and throughput of a model on a dataset.

    Attributes
    ----------
    model, dataset : str
        As given; ``dataset`` is empty if it was not a file.
    questions, windows, tokens : int
        How many there were; tokens are those of all windows, questions repeated.
    main_metric : str
        Name of the metric to look at first.
    scores : EngineScores
        How the engine did.
    comparison : Comparison, optional
        How another one did on the same windows.
    settings : dict
        Every option that the numbers depend on.
    versions : dict
        Of Python, the machine and the packages.
    """

    model: str
    dataset: str
    questions: int
    windows: int
    tokens: int
    main_metric: str
    scores: EngineScores
    comparison: Comparison | None
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def exact_match(self) -> float:
        """Share of questions whose answer is one of the given ones, in percent."""
        return self.scores.exact_match

    @property
    def f1(self) -> float:
        """Mean F1 of the answers, in percent."""
        return self.scores.f1

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, ready for JSON."""
        comparison = None if self.comparison is None else self.comparison.to_dict()
        return vars(self) | {"scores": self.scores.to_dict(), "comparison": comparison}

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)


def evaluate(
    model: str | Path,
    dataset: str | Path | Sequence[Any],
    *,
    task: str = "question_answering",
    engine: str = "sparsert",
    compare: str | None = None,
    max_samples: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Evaluation:
    """Answer all questions of a dataset and score the answers.

    Parameters
    ----------
    model : str or Path
        A model reference, see :mod:`sparsert.zoo`.
    dataset : str, Path or sequence of Example
        A file as of :func:`sparsert.evaluate.read_dataset`, or what that returned.
    task : str
        What the model is for.
    engine : {"sparsert", "onnxruntime"}
        What runs the model.
    compare : str, optional
        Another engine, which runs on the same windows in turns with the first.
    max_samples : int, optional
        Take the first so many questions only.
    progress : callable, optional
        Called after every few questions with the number of those done and of all.
    **options
        Options of the pipeline, over those of the task's evaluation, such as :data:`sparsert.evaluate.SQUAD_OPTIONS`;
        ``version_2_with_negative`` also scores by version 2.0 of SQuAD, where a question may have no answer.

    Raises
    ------
    InputError
        The dataset, an option, or a question makes no sense.
    ModelError
        The model cannot be found, read or run.
    EngineError
        An engine is not installed or fails.
    """
    scorer = scorer_of(task)
    if isinstance(dataset, (str, Path)):
        examples, name = scorer.read(dataset, max_samples), str(dataset)
    else:
        examples, name = list(dataset)[:max_samples], ""
    truths = {example.id: example.answers for example in examples}
    if len(truths) < len(examples):
        raise InputError("two questions of the dataset have the same id; give each its own")
    chosen = dict(scorer.options) | {key: value for key, value in options.items() if value is not None}
    scorer.check(truths, chosen)  # before the work rather than after it
    runs = [
        _Run(Pipeline.create(task, model, engine_type=kind, **chosen), scorer)
        for kind in (engine, *([] if compare is None else [compare]))
    ]
    difference = _Difference()
    for begin in range(0, len(examples), _CHUNK):
        chunk = examples[begin : begin + _CHUNK]
        prepared, seconds = runs[0].prepare(chunk)
        if begin == 0:
            for run in runs:
                run.warm_up(prepared)
        parts = [run.answer(chunk, prepared, seconds) for run in runs]
        if compare is not None:
            difference.add(*parts)
        if progress is not None:
            progress(begin + len(chunk), len(examples))

    scores, *others = (run.scores(truths) for run in runs)
    settings = runs[0].pipeline.to_config().model_dump(mode="json")
    return Evaluation(
        model=str(model),
        dataset=name,
        questions=len(examples),
        windows=runs[0].windows,
        tokens=runs[0].tokens,
        main_metric=runs[0].main_metric,
        scores=scores,
        comparison=_comparison(scores, others[0], difference) if others else None,
        settings=settings | {"max_samples": max_samples, "compare": compare},
        versions=_versions(),
    )


def scorer_of(task: str) -> type[Scorer]:
    """How a task is scored.

    Raises
    ------
    InputError
        There is no such task, or it cannot be scored.
    """
    kind = Pipeline.class_of(task)
    if kind.scorer is None:
        raise InputError(f"task {task} cannot be evaluated: its pipeline {kind.__name__} names no scorer")
    scorer: type[Scorer] = load_object(kind.scorer)
    return scorer


class _Run:
    """One pipeline, how long it took so far, and what it was worth."""

    def __init__(self, pipeline: Pipeline, scorer: type[Scorer]) -> None:
        self.pipeline = pipeline
        self._scorer = scorer(pipeline)
        self.windows = self.tokens = 0
        self._seconds = self._engine_seconds = 0.0

    def prepare(self, chunk: Sequence[Any]) -> tuple[Sequence[Any], float]:
        """The questions as tokens and windows, and how long that took."""
        inputs = [self._scorer.request(example) for example in chunk]
        start = time.perf_counter()
        prepared = self.pipeline.preprocess(inputs)
        seconds = time.perf_counter() - start
        for example, result in zip(chunk, prepared, strict=True):
            if isinstance(result, SparsertError):
                raise InputError(f"question {example.id!r} cannot be answered: {result}") from result
        return prepared, seconds

    def warm_up(self, prepared: Sequence[Any]) -> None:
        """Run one question, so that compiling and first allocations are not measured."""
        for _ in self.pipeline.forward(prepared[:1]):
            pass

    def answer(self, chunk: Sequence[Any], prepared: Sequence[Any], seconds: float) -> list[Any]:
        """Answer prepared questions, which took ``seconds`` to prepare; gives the outputs of the engine."""
        start = time.perf_counter()
        parts = list(self.pipeline.forward(prepared))
        ran = time.perf_counter()
        windows, tokens = self._scorer.add(chunk, parts)
        self.windows, self.tokens = self.windows + windows, self.tokens + tokens
        self._engine_seconds += ran - start
        self._seconds += seconds + time.perf_counter() - start
        return parts

    @property
    def main_metric(self) -> str:
        """Name of the metric to look at first."""
        return self._scorer.main

    def scores(self, truths: Mapping[str, Any]) -> EngineScores:
        """The metrics, once everything is answered."""
        metrics, predictions, null_odds = self._scorer.scores(truths)
        _metric(metrics, self.main_metric)  # refuses a scorer that names another
        engine = self.pipeline.options.engine_type
        return EngineScores(engine, metrics, self._seconds, self._engine_seconds, predictions, null_odds)


class _Difference:
    """Differences between the logits of two engines."""

    def __init__(self) -> None:
        self._largest = 0.0
        self._sum = 0.0
        self._count = 0

    def add(self, ours: Sequence[Any], theirs: Sequence[Any]) -> None:
        for values, others in zip(_logits(ours), _logits(theirs), strict=True):
            differences = np.abs(values.astype(np.float64) - others)
            self._largest = max(self._largest, float(differences.max()))
            self._sum += float(differences.sum())
            self._count += differences.size

    @property
    def largest(self) -> float | None:
        return self._largest if self._count else None

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None


def _logits(parts: Sequence[Any]) -> Iterator[np.ndarray]:
    for part in parts:
        yield from getattr(part, "engine_outputs", {}).values()


def _metric(metrics: Mapping[str, float], name: str) -> float:
    if name not in metrics:
        raise InputError(f"the task has no metric {name}; its scorer gives {', '.join(metrics)}")
    return metrics[name]


def _comparison(scores: EngineScores, other: EngineScores, difference: _Difference) -> Comparison:
    equal = sum(other.predictions[name] == answer for name, answer in scores.predictions.items())
    share = equal / len(scores.predictions)
    differences = {name: value - other.metrics[name] for name, value in scores.metrics.items()}
    return Comparison(other, share, differences, difference.largest, difference.mean)


def _versions() -> dict[str, str]:
    from sparsert import __version__, cpu

    versions = {"python": platform.python_version(), "machine": platform.machine(), "isa": cpu.isa()}
    for package in _PACKAGES:
        try:
            versions[package] = __version__ if package == "sparsert" else importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
