"""Running one model, or the same model on two engines, over a dataset."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError, SparsertError
from sparsert.evaluate.dataset import Example, read_dataset
from sparsert.evaluate.metrics import squad_v1, squad_v2

__all__ = ["SQUAD_OPTIONS", "Comparison", "EngineScores", "Evaluation", "evaluate"]

SQUAD_OPTIONS: dict[str, Any] = {
    "sequence_length": 384,
    "doc_stride": 128,
    "max_answer_length": 30,
    "pad_to_max_length": False,
}
"""Pipeline options with which results on SQuAD are usually published: those of BERT's ``run_squad.py``.

The last one changes no answer; it spares an engine that computes padding most of it.
"""

# Questions that are prepared and answered together: engines that are compared take turns this often, so that a drift of
# the machine hits both alike, and no more than their logits are kept.
_CHUNK = 64

# What the numbers depend on, beside sparsert itself.
_PACKAGES = ("sparsert", "numpy", "numba", "tokenizers", "onnxruntime")


@dataclass(frozen=True)
class EngineScores:
    """How one engine did.

    Attributes
    ----------
    engine : str
        ``sparsert`` or ``onnxruntime``.
    metrics : dict
        As of :func:`sparsert.evaluate.squad_v1` or :func:`sparsert.evaluate.squad_v2`, in percent.
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
        """Share of questions whose answer is one of the given ones, in percent."""
        return self.metrics["exact" if "exact" in self.metrics else "exact_match"]

    @property
    def f1(self) -> float:
        """Mean F1 of the answers, in percent."""
        return self.metrics["f1"]

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
    f1_difference : float
        F1 less that of the other engine, in percent.
    largest_logit_difference : float
        Of all start and end logits of all windows.
    mean_logit_difference : float
        Mean of the absolute differences.
    """

    scores: EngineScores
    equal_answers: float
    f1_difference: float
    largest_logit_difference: float
    mean_logit_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"scores": self.scores.to_dict()}


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and throughput of a model on a dataset.

    Attributes
    ----------
    model, dataset : str
        As given; ``dataset`` is empty if it was not a file.
    questions, windows, tokens : int
        How many there were; tokens are those of all windows, questions repeated.
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
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        content["scores"] = self.scores.to_dict()
        if self.comparison is not None:
            content["comparison"] = self.comparison.to_dict()
        return content

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)


def evaluate(
    model: str | Path,
    dataset: str | Path | Sequence[Example],
    *,
    engine: str = "sparsert",
    compare: str | None = None,
    max_samples: int | None = None,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
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
    engine : {"sparsert", "onnxruntime"}
        What runs the model.
    compare : str, optional
        Another engine, which runs on the same windows in turns with the first.
    max_samples : int, optional
        Take the first so many questions only.
    version_2_with_negative : bool, default False
        Score by version 2.0 of SQuAD, where a question may have no answer, instead of version 1.1.
    null_score_diff_threshold : float, default 0.0
        With version 2.0: how much the score of "no answer" must exceed that of the best answer to win.
    progress : callable, optional
        Called after every few questions with the number of those done and of all.
    **options
        Further options of the question-answering pipeline, over :data:`SQUAD_OPTIONS`.

    Raises
    ------
    InputError
        The dataset, an option, or a question makes no sense.
    ModelError
        The model cannot be found, read or run.
    EngineError
        An engine is not installed or fails.
    """
    from sparsert.pipelines import Pipeline

    if isinstance(dataset, (str, Path)):
        examples, name = read_dataset(dataset, max_samples), str(dataset)
    else:
        examples, name = list(dataset)[:max_samples], ""
    truths = {example.id: example.answers for example in examples}
    if len(truths) < len(examples):
        raise InputError("two questions of the dataset have the same id; give each its own")
    if not version_2_with_negative:
        squad_v1(truths, {})  # refuses what it cannot score, before the work rather than after it

    chosen: dict[str, Any] = SQUAD_OPTIONS | {
        "version_2_with_negative": version_2_with_negative,
        "null_score_diff_threshold": null_score_diff_threshold,
    }
    chosen |= {key: value for key, value in options.items() if value is not None}
    runs = [
        _Run(Pipeline.create("question-answering", model, engine_type=kind, **chosen))
        for kind in (engine, *([] if compare is None else [compare]))
    ]
    difference = _Difference()
    windows = tokens = 0
    for begin in range(0, len(examples), _CHUNK):
        chunk = examples[begin : begin + _CHUNK]
        prepared, seconds = _prepare(runs[0].pipeline, chunk)
        if begin == 0:
            for run in runs:
                run.warm_up(prepared)
        parts = [run.answer(chunk, prepared, seconds) for run in runs]
        windows += sum(len(part.windows.lengths) for part in parts[0])
        tokens += sum(len(part.start) for part in parts[0])
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
        windows=windows,
        tokens=tokens,
        scores=scores,
        comparison=_comparison(scores, others[0], difference) if others else None,
        settings=settings | {"max_samples": max_samples, "compare": compare},
        versions=_versions(),
    )


def _prepare(pipeline: Any, chunk: Sequence[Example]) -> tuple[list[Any], float]:
    """The questions as tokens and windows, and how long that took."""
    from sparsert.pipelines import QuestionAnsweringInput

    inputs = [QuestionAnsweringInput(id=item.id, question=item.question, context=item.context) for item in chunk]
    start = time.perf_counter()
    prepared = pipeline.preprocess(inputs)
    seconds = time.perf_counter() - start
    for item, result in zip(chunk, prepared, strict=True):
        if isinstance(result, SparsertError):
            raise InputError(f"question {item.id!r} cannot be answered: {result}") from result
    return prepared, seconds


class _Run:
    """One pipeline, and what it answered so far."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._answers: dict[str, str] = {}
        self._null_odds: dict[str, float] = {}
        self._seconds = self._engine_seconds = 0.0

    def warm_up(self, prepared: list[Any]) -> None:
        """Run one question, so that compiling and first allocations are not measured."""
        for _ in self.pipeline.forward(prepared[:1]):
            pass

    def answer(self, chunk: Sequence[Example], prepared: list[Any], seconds: float) -> list[Any]:
        """Answer prepared questions, which took ``seconds`` to prepare; gives the logits of their windows."""
        start = time.perf_counter()
        parts = list(self.pipeline.forward(prepared))
        ran = time.perf_counter()
        for ranking in self.pipeline.rank(iter(parts)):
            example, spans = chunk[ranking.item], ranking.spans
            # Without a span, in a context without text, the answer is empty whatever the odds are.
            found = len(spans) > 0
            self._answers[example.id] = example.context[spans.starts[0] : spans.ends[0]] if found else ""
            self._null_odds[example.id] = float(ranking.null) - float(spans.scores[0]) if found else 0.0
        self._engine_seconds += ran - start
        self._seconds += seconds + time.perf_counter() - start
        return parts

    def scores(self, truths: dict[str, tuple[str, ...]]) -> EngineScores:
        """The metrics, once everything is answered."""
        kind, seconds, answers = self.pipeline.options.engine_type, (self._seconds, self._engine_seconds), self._answers
        if not self.pipeline.options.version_2_with_negative:
            return EngineScores(kind, squad_v1(truths, answers), *seconds, answers)
        odds, threshold = self._null_odds, self.pipeline.options.null_score_diff_threshold
        predictions = {name: "" if odds[name] > threshold else answer for name, answer in answers.items()}
        return EngineScores(kind, squad_v2(truths, answers, odds, threshold), *seconds, predictions, odds)


class _Difference:
    """Differences between the logits of two engines."""

    def __init__(self) -> None:
        self.largest = 0.0
        self._sum = 0.0
        self._count = 0

    def add(self, ours: Sequence[Any], theirs: Sequence[Any]) -> None:
        for values, others in zip(_logits(ours), _logits(theirs), strict=True):
            differences = np.abs(values.astype(np.float64) - others)
            self.largest = max(self.largest, float(differences.max()))
            self._sum += float(differences.sum())
            self._count += differences.size

    @property
    def mean(self) -> float:
        return self._sum / self._count


def _logits(parts: Sequence[Any]) -> Iterator[np.ndarray]:
    for part in parts:
        yield part.start
        yield part.end


def _comparison(scores: EngineScores, other: EngineScores, difference: _Difference) -> Comparison:
    equal = sum(other.predictions[name] == answer for name, answer in scores.predictions.items())
    return Comparison(
        scores=other,
        equal_answers=equal / len(scores.predictions),
        f1_difference=scores.f1 - other.f1,
        largest_logit_difference=difference.largest,
        mean_logit_difference=difference.mean,
    )


def _versions() -> dict[str, str]:
    from sparsert import __version__, cpu

    versions = {"python": platform.python_version(), "machine": platform.machine(), "isa": cpu.isa()}
    for package in _PACKAGES:
        try:
            versions[package] = __version__ if package == "sparsert" else importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
