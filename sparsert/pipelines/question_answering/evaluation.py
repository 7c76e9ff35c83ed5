"""How ``sparsert.evaluate`` scores question answering: by the published metrics of SQuAD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sparsert.pipelines.question_answering.dataset import Example, read_dataset
from sparsert.pipelines.question_answering.metrics import squad_v1, squad_v2
from sparsert.pipelines.question_answering.pipeline import QuestionAnsweringPipeline, WindowLogits
from sparsert.pipelines.question_answering.schemas import QuestionAnsweringInput

__all__ = ["SQUAD_OPTIONS", "SquadScorer"]

SQUAD_OPTIONS: dict[str, Any] = {
    "sequence_length": 384,
    "doc_stride": 128,
    "max_answer_length": 30,
    "pad_to_max_length": False,
}
"""Pipeline options with which results on SQuAD are usually published: those of BERT's ``run_squad.py``.

The last one changes no answer; it spares an engine that computes padding most of it.
"""


class SquadScorer:
    """What one pipeline answered so far; see :class:`sparsert.evaluate.evaluation.Scorer`."""

    options: ClassVar[Mapping[str, Any]] = SQUAD_OPTIONS
    flags: ClassVar[Mapping[str, tuple[type, str]]] = {
        "version_2_with_negative": (bool, "SQuAD 2.0: questions may have no answer"),
        "null_score_diff_threshold": (
            float,
            'with that: by how much the score of "no answer" must exceed the best answer\'s (default: 0)',
        ),
        "batch_size": (int, "most windows in one call of the engine (default: as many as keep the cores busy)"),
        "num_cores": (int, "cores of either engine (default: all)"),
        "sequence_length": (int, f"tokens of a window (default: {SQUAD_OPTIONS['sequence_length']})"),
        "doc_stride": (int, f"tokens that consecutive windows share (default: {SQUAD_OPTIONS['doc_stride']})"),
        "max_question_length": (int, "most tokens of a question, the rest is cut off (default: 64)"),
        "max_answer_length": (int, f"most tokens of an answer (default: {SQUAD_OPTIONS['max_answer_length']})"),
        "n_best_size": (int, "starts and ends considered in each window (default: 20)"),
        "scoring": (str, "deepsparse or huggingface, see docs/pipelines.md (default: deepsparse)"),
    }
    datasets: ClassVar[str] = """\
Datasets are SQuAD files (1.1 or 2.0), lists of flat records {"id", "question", "context", "answers"}, or JSON lines of
either. Metrics are those of the published scripts: exact match and F1 after taking away case, punctuation and articles,
the best over a question's answers."""
    main: ClassVar[str] = "f1"
    read = staticmethod(read_dataset)

    def __init__(self, pipeline: QuestionAnsweringPipeline) -> None:
        self._pipeline = pipeline
        self._answers: dict[str, str] = {}
        self._null_odds: dict[str, float] = {}

    @staticmethod
    def check(truths: Mapping[str, Sequence[str]], options: Mapping[str, Any]) -> None:
        """Refuse a dataset that cannot be scored."""
        if not options.get("version_2_with_negative"):
            squad_v1(truths, {})

    @staticmethod
    def request(example: Example) -> QuestionAnsweringInput:
        """What the pipeline is asked."""
        return QuestionAnsweringInput(id=example.id, question=example.question, context=example.context)

    def add(self, examples: Sequence[Example], parts: Sequence[WindowLogits]) -> tuple[int, int]:
        """Note the answers to some questions; the numbers of windows and of tokens that were read for them."""
        for ranking in self._pipeline.rank(iter(parts)):
            example, spans = examples[ranking.item], ranking.spans
            # Without a span, in a context without text, the answer is empty whatever the odds are.
            found = len(spans) > 0
            self._answers[example.id] = example.context[spans.starts[0] : spans.ends[0]] if found else ""
            self._null_odds[example.id] = float(ranking.null) - float(spans.scores[0]) if found else 0.0
        return sum(len(part.windows.lengths) for part in parts), sum(len(part.start) for part in parts)

    def scores(
        self, truths: Mapping[str, Sequence[str]]
    ) -> tuple[dict[str, float], dict[str, str], dict[str, float] | None]:
        """Metrics, predictions, and by version 2.0 the odds of "no answer", once everything is answered."""
        answers, odds, options = self._answers, self._null_odds, self._pipeline.options
        if not options.version_2_with_negative:
            return squad_v1(truths, answers), answers, None
        threshold = options.null_score_diff_threshold
        predictions = {name: "" if odds[name] > threshold else answer for name, answer in answers.items()}
        return squad_v2(truths, answers, odds, threshold), predictions, odds
