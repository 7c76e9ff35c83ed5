"""Extractive question answering: the piece of a context that answers a question."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError, InputRangeError
from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.engines import SequenceEngine, load_engines
from sparsert.pipelines.schemas import QuestionAnsweringInput, QuestionAnsweringOutput
from sparsert.pipelines.spans import Span, best_spans, null_score, window_spans
from sparsert.pipelines.tokenization import TokenizedText, load_tokenizer
from sparsert.pipelines.windows import context_budget, layout_windows, window_overlap, window_ranges
from sparsert.zoo import resolve

__all__ = ["PreparedQuestion", "QuestionAnsweringPipeline", "WindowLogits"]

_log = logging.getLogger(__name__)

# Rows per engine call unless batch_size says otherwise: enough to fill every tile of tokens, few enough that a context
# of any length takes bounded memory.
MAX_ROWS = 64


@dataclass(frozen=True)
class PreparedQuestion:
    """A question as tokens, and the windows through which its context is read.

    Attributes
    ----------
    text : str
        The context.
    question, context : TokenizedText
        Both as tokens; the question already truncated.
    ranges : int64 array, shape (W, 2)
        Context tokens of each window.
    bucket : int
        Sequence length of the engine that runs it.
    row_length : int
        Columns of each row; less than ``bucket`` only without padding to it.
    """

    text: str
    question: TokenizedText
    context: TokenizedText
    ranges: np.ndarray
    bucket: int
    row_length: int


@dataclass(frozen=True)
class WindowLogits:
    """What the model says about every window: logits of shape (W, S), and the columns to read them at, shape (W,)."""

    start: np.ndarray
    end: np.ndarray
    context_columns: np.ndarray
    null_columns: np.ndarray


@Pipeline.register("question_answering", task_aliases=["qa"], default_model_path="default")
class QuestionAnsweringPipeline(Pipeline):
    """Answer questions with pieces of a context.

    A context that does not fit beside the question is read through overlapping windows, and the best span of all
    windows wins. The score is the sum of its raw start and end logits: not a probability, and not comparable between
    models.

    Parameters
    ----------
    model_path, **options
        As for :class:`Pipeline`. ``batch_size`` is the number of windows that the engine runs at once.
    sequence_length : int or list of int, default 128
        Tokens of a row of model input. With a list, a question runs at the least of them that holds its whole context,
        else at the greatest.
    max_question_length : int, default 64
        Tokens of the question that are used; the rest is cut off.
    doc_stride : int, default 64
        Tokens that consecutive windows share. Where that is no less than what a window holds, half a window.
    max_answer_length : int, default 15
        Most tokens of an answer.
    n_best_size : int, default 20
        Number of best starts and ends that are considered in each window.
    version_2_with_negative : bool, default False
        Whether "no answer" may win (SQuAD 2.0): the answer is then empty, and its score the least null score of all
        windows.
    num_spans : int, optional
        Read no more than the first ``num_spans`` windows.
    pad_to_max_length : bool, default True
        Pad rows to ``sequence_length``; otherwise only to the longest window, where the model takes any length.
    """

    input_schema = QuestionAnsweringInput
    output_schema = QuestionAnsweringOutput
    batch_fields = ("question", "context", "id")

    def __init__(
        self,
        model_path: str | Path | None = None,
        *,
        sequence_length: int | Sequence[int] = 128,
        max_question_length: int = 64,
        doc_stride: int = 64,
        max_answer_length: int = 15,
        n_best_size: int = 20,
        version_2_with_negative: bool = False,
        num_spans: int | None = None,
        pad_to_max_length: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(model_path, **options)
        self.sequence_lengths = _sequence_lengths(sequence_length)
        self.sequence_length = sequence_length if isinstance(sequence_length, int) else self.sequence_lengths
        self.max_question_length = _at_least("max_question_length", max_question_length, 1)
        self.doc_stride = _at_least("doc_stride", doc_stride, 0)
        self.max_answer_length = _at_least("max_answer_length", max_answer_length, 1)
        self.n_best_size = _at_least("n_best_size", n_best_size, 1)
        self.num_spans = None if num_spans is None else _at_least("num_spans", num_spans, 1)
        self.version_2_with_negative = bool(version_2_with_negative)
        self.pad_to_max_length = bool(pad_to_max_length)
        model = resolve(self.model_path, purpose="pipeline")
        self.tokenizer = load_tokenizer(model.directory)
        self._engines = load_engines(model, self, self.sequence_lengths)

    def task_options(self) -> dict[str, Any]:
        """Options of question answering, by name."""
        names = (
            "sequence_length",
            "max_question_length",
            "doc_stride",
            "max_answer_length",
            "n_best_size",
            "version_2_with_negative",
            "num_spans",
            "pad_to_max_length",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def engines(self) -> dict[int, SequenceEngine]:
        """The engine of each sequence length."""
        return dict(self._engines)

    def preprocess(self, inputs: QuestionAnsweringInput) -> PreparedQuestion:
        """Tokenize question and context and place the windows."""
        question = self.tokenizer.encode(inputs.question)
        limit = self.max_question_length
        question = TokenizedText(question.ids[:limit], question.offsets[:limit])
        context = self.tokenizer.encode(inputs.context)
        template = self.tokenizer.template
        bucket = self.bucket_for(template.special_tokens + len(question) + len(context))
        budget = context_budget(bucket, len(question), template)
        if budget < min(1, len(context)):
            raise InputRangeError(
                f"the question leaves no room for the context: its {len(question)} tokens and "
                f"{template.special_tokens} special tokens against a sequence_length of {bucket}; "
                f"shorten the question, lower max_question_length (now {limit}), or raise sequence_length"
            )
        overlap = window_overlap(self.doc_stride, budget)
        if len(context) > budget and overlap != self.doc_stride:
            _log.warning(
                "doc_stride %d leaves windows of %d context tokens no room to advance; they overlap by %d instead",
                self.doc_stride,
                budget,
                overlap,
            )
        ranges = window_ranges(len(context), budget, overlap)[: self.num_spans]
        row_length = bucket
        if not self.pad_to_max_length and self._engines[bucket].any_length:
            row_length = template.special_tokens + len(question) + int((ranges[:, 1] - ranges[:, 0]).max())
        return PreparedQuestion(inputs.context, question, context, ranges, bucket, row_length)

    def bucket_for(self, tokens: int) -> int:
        """The least sequence length that holds a pair of so many tokens, else the greatest."""
        return next((length for length in self.sequence_lengths if length >= tokens), self.sequence_lengths[-1])

    def forward(self, prepared: PreparedQuestion) -> WindowLogits:
        """Run all windows of a question, a slice of them at a time."""
        engine = self._engines[prepared.bucket]
        rows = self.batch_size or MAX_ROWS
        parts = []
        for begin in range(0, len(prepared.ranges), rows):
            batch = layout_windows(
                prepared.question,
                prepared.context,
                prepared.ranges[begin : begin + rows],
                prepared.row_length,
                self.tokenizer,
            )
            start, end = engine.logits(batch.arrays)
            parts.append(WindowLogits(start, end, batch.context_columns, batch.null_columns))
        return WindowLogits(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.end for part in parts]),
            np.concatenate([part.context_columns for part in parts]),
            np.concatenate([part.null_columns for part in parts]),
        )

    def postprocess(self, prepared: PreparedQuestion, outputs: WindowLogits) -> QuestionAnsweringOutput:
        """Choose the best span of all windows."""
        spans = self.spans(prepared, outputs)
        if not spans or self.version_2_with_negative:
            null = null_score(outputs.start, outputs.end, outputs.null_columns)
            if not spans or null > spans[0].score:
                return QuestionAnsweringOutput(score=null, answer="", start=0, end=0)
        best = spans[0]
        return QuestionAnsweringOutput(
            score=best.score, answer=prepared.text[best.start : best.end], start=best.start, end=best.end
        )

    def spans(self, prepared: PreparedQuestion, outputs: WindowLogits) -> list[Span]:
        """The ``n_best_size`` best spans of all windows, best first; none if the context has no text."""
        candidates: list[Span] = []
        for row, (first, last) in enumerate(prepared.ranges):
            begin = outputs.context_columns[row]
            columns = slice(begin, begin + last - first)
            candidates += window_spans(
                outputs.start[row, columns],
                outputs.end[row, columns],
                prepared.context.offsets[first:last],
                self.n_best_size,
                self.max_answer_length,
            )
        return best_spans(candidates, self.n_best_size)


def _sequence_lengths(value: int | Sequence[int]) -> list[int]:
    """Check ``sequence_length`` and sort it."""
    values = [value] if isinstance(value, int) else value
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"sequence_length must be an int or a list of ints, got {value!r}")
    if not values:
        raise InputError(f"Expected a non empty List of pipeline objects but got {list(values)}")
    return sorted({_at_least("sequence_length", length, 1) for length in values})


def _at_least(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputRangeError(f"{name} must be an int of at least {least}, got {value!r}")
    return value
