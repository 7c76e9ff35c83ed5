"""Extractive question answering: the piece of a context that answers a question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import EngineError, InputError, InputRangeError, ModelFormatError
from sparsert.model_config import read_config
from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.engines import Padding, SequenceEngine, load_engines
from sparsert.pipelines.executors import OrderedPool
from sparsert.pipelines.question_answering.dump import PredictionFiles
from sparsert.pipelines.question_answering.options import QuestionAnsweringOptions
from sparsert.pipelines.question_answering.probabilities import SpanProbabilities
from sparsert.pipelines.question_answering.schemas import (
    QuestionAnsweringInput,
    QuestionAnsweringOutput,
    QuestionAnsweringProbabilityOutput,
)
from sparsert.pipelines.question_answering.spans import LogitSums, Ranking
from sparsert.pipelines.question_answering.windows import (
    PackedWindows,
    Reading,
    context_budget,
    default_overlap,
    pack_windows,
)
from sparsert.pipelines.tokenization import TokenizedText, load_tokenizer
from sparsert.pipelines.windows import window_ranges

__all__ = ["PreparedQuestion", "QuestionAnsweringPipeline", "WindowLogits", "start_and_end"]

# Tokens per engine call unless batch_size says otherwise: enough to keep all tiles of all cores busy, few enough that a
# context of any length takes bounded memory.
MAX_TOKENS = 16384

_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class PreparedQuestion:
    """A question as tokens, and the windows through which its context is read.

    Attributes
    ----------
    inputs : QuestionAnsweringInput
        The request.
    question, context : TokenizedText
        Both as tokens; the question already truncated.
    ranges : int64 array, shape (W, 2)
        Context tokens of each window.
    bucket : int
        Sequence length of the engine that runs it.
    """

    inputs: QuestionAnsweringInput
    question: TokenizedText
    context: TokenizedText
    ranges: np.ndarray
    bucket: int


@dataclass(frozen=True)
class WindowLogits:
    """What the model says about some windows of ``N`` tokens: their start and end logits, shape (N,)."""

    windows: PackedWindows
    start: np.ndarray
    end: np.ndarray

    @property
    def engine_inputs(self) -> dict[str, np.ndarray]:
        """What went into the engine, by name."""
        return self.windows.arrays

    @property
    def engine_outputs(self) -> dict[str, np.ndarray]:
        """What came out of it, by name."""
        return {"start_logits": self.start, "end_logits": self.end}


@Pipeline.register("question_answering", task_aliases=["qa"], default_model_path="default")
class QuestionAnsweringPipeline(Pipeline):
    """Answer questions with pieces of a context.

    A context that does not fit beside the question is read through overlapping windows, and the best span of all
    windows wins. All windows of all requests of a batch run together, without padding where the engine allows that.

    Parameters
    ----------
    model_path, **options
        Fields of :class:`QuestionAnsweringOptions`. ``batch_size`` is the number of windows that the engine runs at
        once. With ``scoring="huggingface"`` the defaults are ``sequence_length=384`` (or what model and tokenizer
        take) and ``doc_stride=128`` (at most half of it), and ``n_best_size`` is not used.

    Raises
    ------
    ModelError
        The model cannot be found, read or run, or is not for question answering.
    InputError
        An option makes no sense.
    """

    options: QuestionAnsweringOptions
    options_type = QuestionAnsweringOptions
    input_schema = QuestionAnsweringInput
    output_schema: type[QuestionAnsweringOutput] = QuestionAnsweringOutput
    example = {
        "question": "What is DeepSparse?",
        "context": "DeepSparse is sparsity-aware inference runtime offering GPU-class performance on CPUs and APIs to "
        "integrate ML into your application",
    }
    batch_fields = ("question", "context", "id")
    scorer = "sparsert.pipelines.question_answering.evaluation:SquadScorer"
    metric_functions = {
        "pipeline_inputs.question": {"string_length": len},
        "pipeline_inputs.context": {"string_length": len},
        "pipeline_outputs": {
            "answer_found": lambda output: bool(output.answer),
            "answer_length": lambda output: len(output.answer),
            "answer_score": lambda output: output.score,
        },
    }

    def __init__(self, model_path: str | Path | None = None, **options: Any) -> None:
        super().__init__(model_path, **options)
        chosen = self.options
        self.align_to_words = chosen.scoring == "huggingface" and chosen.align_to_words is not False
        if chosen.return_probability:
            self.output_schema = QuestionAnsweringProbabilityOutput
        self._files = None if chosen.output_dir is None else PredictionFiles(chosen.output_dir)
        model = self.resolve_model()
        self.tokenizer = load_tokenizer(model.directory)
        self._set_windows(model.directory)
        self._engines = load_engines(model, chosen, self.sequence_lengths, start_and_end)
        self._pool = OrderedPool(chosen.executor, self._engines[self.sequence_lengths[0]].engine.num_streams)

    def _set_windows(self, directory: Path) -> None:
        """Choose what is left to the model of ``sequence_length`` and ``doc_stride``, and check the latter."""
        like_transformers = self.options.scoring == "huggingface"
        length: int | Sequence[int] | None = self.options.sequence_length
        if length is None:
            limits = (384, self.tokenizer.max_length, read_config(directory).positions) if like_transformers else (128,)
            length = min(limit for limit in limits if limit is not None)
        self.sequence_length = length
        self.sequence_lengths = [length] if isinstance(length, int) else list(length)
        longest, template = self.sequence_lengths[-1], self.tokenizer.template  # refuses a tokenizer without pairs
        if self.options.doc_stride is None:
            self.doc_stride = min(longest // 2, 128) if like_transformers else 64
            return
        self.doc_stride = self.options.doc_stride
        budget = context_budget(longest, 0, template)
        if self.doc_stride and self.doc_stride >= budget:
            raise _no_room_to_advance(self.doc_stride, budget)

    @property
    def engines(self) -> dict[int, SequenceEngine]:
        """The engine of each sequence length."""
        return dict(self._engines)

    # ---- a batch -----------------------------------------------------------------------------------------------------

    def preprocess(self, inputs: Sequence[QuestionAnsweringInput]) -> list[PreparedQuestion | InputError]:
        """Tokenize questions and contexts, each different text once, and place the windows."""
        contexts = self._tokenize([item.context for item in inputs], words=self.align_to_words)
        questions = self._tokenize([item.question for item in inputs])
        prepared: list[PreparedQuestion | InputError] = []
        for item in inputs:
            question = self.tokenizer.shortened(questions[item.question], self.options.max_question_length)
            try:
                prepared.append(self._place_windows(item, question, contexts[item.context]))
            except InputError as error:
                prepared.append(error)
        return prepared

    def _tokenize(self, texts: list[str], words: bool = False) -> dict[str, TokenizedText]:
        different = list(dict.fromkeys(texts))
        return dict(zip(different, self.tokenizer.encode_batch(different, words), strict=True))

    def _place_windows(
        self, item: QuestionAnsweringInput, question: TokenizedText, context: TokenizedText
    ) -> PreparedQuestion:
        template = self.tokenizer.template
        bucket = self.bucket_for(template.special_tokens + len(question) + len(context))
        budget = context_budget(bucket, len(question), template)
        if budget < min(1, len(context)):
            raise InputRangeError(
                f"the question leaves no room for the context: its {len(question)} tokens and "
                f"{template.special_tokens} special tokens against a sequence_length of {bucket}; shorten the "
                f"question, lower max_question_length (now {self.options.max_question_length}), or raise "
                "sequence_length"
            )
        ranges = window_ranges(
            len(context), budget, self._overlap(budget, len(context)), self.tokenizer.truncation_side
        )
        return PreparedQuestion(item, question, context, ranges[: self.options.num_spans], bucket)

    def _overlap(self, budget: int, tokens: int) -> int:
        """Tokens that windows of so many context tokens share."""
        if self.options.doc_stride is None:
            return default_overlap(self.doc_stride, budget)
        if self.doc_stride >= budget and tokens > budget:
            raise _no_room_to_advance(self.doc_stride, budget)
        return self.doc_stride

    def bucket_for(self, tokens: int) -> int:
        """The least sequence length that holds a pair of so many tokens, else the greatest."""
        return next((length for length in self.sequence_lengths if length >= tokens), self.sequence_lengths[-1])

    def tokens(self, prepared: PreparedQuestion) -> int:
        """Tokens of all windows, which overlap and have the question each."""
        ranges = prepared.ranges
        fixed = self.tokenizer.template.special_tokens + len(prepared.question)
        return int((ranges[:, 1] - ranges[:, 0]).sum()) + len(ranges) * fixed

    def forward(self, prepared: Sequence[PreparedQuestion]) -> Iterator[WindowLogits]:
        """Run all windows of all questions, a slice of them at a time, in order."""
        return self._pool.map(self._run, self._slices(prepared))

    def _run(self, part: tuple[int, list[Reading]]) -> WindowLogits:
        bucket, readings = part
        windows = pack_windows(readings, self.tokenizer)
        outputs = self._engines[bucket].run_packed(windows.arrays, windows.lengths, self._padding(bucket))
        expected = windows.arrays["input_ids"].shape
        for role, logits in outputs.items():
            if logits.shape != expected:
                raise EngineError(
                    f"the model's {role} have shape {logits.shape}, expected one number for each token, {expected}"
                )
        return WindowLogits(windows, outputs["start logits"], outputs["end logits"])

    def _padding(self, bucket: int) -> Padding:
        """How windows become rows, for an engine that needs them."""
        full = self.options.pad_to_max_length or not self._engines[bucket].any_length
        return Padding(
            bucket if full else 0,
            self.tokenizer.padding_side == "left",
            {"input_ids": self.tokenizer.pad_id, "attention_mask": 0, "token_type_ids": self.tokenizer.pad_type},
        )

    def _slices(self, prepared: Sequence[PreparedQuestion]) -> Iterator[tuple[int, list[Reading]]]:
        """Windows to run at once: of one engine, ``batch_size`` of them or as many as ``MAX_TOKENS`` hold."""
        readings: list[Reading] = []
        bucket, used = 0, 0
        rows = self.options.batch_size
        for item, question in enumerate(prepared):
            if readings and self._engines[question.bucket] is not self._engines[bucket]:
                yield bucket, readings
                readings, used = [], 0
            bucket = question.bucket
            fixed = self.tokenizer.template.special_tokens + len(question.question)
            padded = self._padding(bucket).columns if self._engines[bucket].pads else 0
            begin = 0
            while begin < len(question.ranges):
                first, last = question.ranges[begin].tolist()
                size, limit = (1, rows) if rows else (max(fixed + last - first, padded), MAX_TOKENS)
                if readings and used + size > limit:
                    yield bucket, readings
                    readings, used = [], 0
                stop = min(begin + max((limit - used) // size, 1), len(question.ranges))
                ranges = question.ranges[begin:stop]
                complete = stop == len(question.ranges)
                readings.append(
                    Reading(item, question.inputs.context, question.question, question.context, ranges, complete)
                )
                used += size * len(ranges)
                begin = stop
                if not complete:  # its next window may be short enough to fit, but a request is in a slice once
                    yield bucket, readings
                    readings, used = [], 0
        if readings:
            yield bucket, readings

    def postprocess(self, prepared: Sequence[PreparedQuestion], outputs: Iterator[WindowLogits]) -> list[Any]:
        """Choose the best spans of each question: an output, or a list of them if ``top_k`` is not 1."""
        results: list[Any] = []
        for ranking in self.rank(outputs):
            inputs = prepared[ranking.item].inputs
            answers = self._answers(inputs, ranking)
            if self._files is not None:
                self._write(self._files, inputs, ranking, answers)
            results.append(answers[0] if self.options.top_k == 1 else answers)
        return results

    def rank(self, outputs: Iterator[WindowLogits]) -> Iterator[Ranking]:
        """The best spans of each question, in order, each as soon as its windows are complete."""
        scoring: LogitSums | SpanProbabilities
        if self.options.scoring == "huggingface":
            scoring = SpanProbabilities(self.options.top_k, self.options.max_answer_length, self.align_to_words)
        else:
            scoring = LogitSums(max(self.options.n_best_size, self.options.top_k), self.options.max_answer_length)
        for part in outputs:
            yield from scoring.rank(part.windows, part.start, part.end)

    def _answers(self, inputs: QuestionAnsweringInput, ranking: Ranking) -> list[QuestionAnsweringOutput]:
        """The ``top_k`` best answers, at least one: a context without text has only "no answer"."""
        spans, context = ranking.spans[: self.options.top_k], inputs.context
        rows = list(zip(spans.scores.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True))
        with_null = self.options.version_2_with_negative or not rows
        if with_null:
            # Before the first span that it beats by more than the threshold.
            place = np.searchsorted(-spans.scores, self.options.null_score_diff_threshold - ranking.null, side="right")
            rows.insert(int(place), (ranking.null, 0, 0))
        rows = rows[: self.options.top_k]
        extra: Iterator[dict[str, float]] = repeat({})
        if self.options.return_probability:
            extra = iter([{"probability": value} for value in self._probabilities(rows, ranking, with_null)])
        output: type[QuestionAnsweringOutput] = self.output_schema
        return [
            output(score=score, answer=context[start:end], start=start, end=end, **more).in_context(context)
            for (score, start, end), more in zip(rows, extra, strict=False)
        ]

    def _probabilities(self, rows: list[tuple[float, int, int]], ranking: Ranking, with_null: bool) -> list[float]:
        """Share of each row among the n-best spans, and "no answer" where it may win."""
        if self.options.scoring == "huggingface":  # scores are probabilities already, but sums of several may exceed 1
            return [min(score, 1.0) for score, _, _ in rows]
        scores = np.append(ranking.spans.scores, [ranking.null] if with_null else []).astype(np.float64)
        if not len(scores):
            return []
        highest = min(scores.max(), _LARGEST)  # infinity less infinity is no number
        total = np.exp(np.minimum(scores, _LARGEST) - highest).sum()
        return [float(np.exp(min(score, _LARGEST) - highest) / total) for score, _, _ in rows]

    def _write(
        self,
        files: PredictionFiles,
        inputs: QuestionAnsweringInput,
        ranking: Ranking,
        answers: list[QuestionAnsweringOutput],
    ) -> None:
        """Append a question's answer, its n-best list and the lead of "no answer" to the files of predictions."""
        spans = ranking.spans[: self.options.n_best_size]
        rows = list(zip(spans.scores.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True))
        nbest = [
            {"text": inputs.context[start:end], "probability": probability}
            for (_, start, end), probability in zip(
                rows, self._probabilities(rows, ranking, self.options.version_2_with_negative), strict=True
            )
        ]
        if self.options.scoring == "deepsparse":
            logits = zip(spans.start_logits.tolist(), spans.end_logits.tolist(), strict=True)
            nbest = [
                {"start_logit": start, "end_logit": end} | entry
                for (start, end), entry in zip(logits, nbest, strict=True)
            ]
        files.append("predictions.json", [(inputs.id, answers[0].answer)])
        files.append("nbest_predictions.json", [(inputs.id, nbest)])
        if self.options.version_2_with_negative and rows:
            files.append("null_odds.json", [(inputs.id, ranking.null - rows[0][0])])


def start_and_end(outputs: Iterable[str]) -> dict[str, str]:
    """Which of a model's outputs are start and end logits: by name, or the first two where there are just two."""
    names = list(outputs)
    starts = [name for name in names if "start" in name.lower()]
    ends = [name for name in names if "end" in name.lower()]
    if "start_logits" in names and "end_logits" in names:
        return {"start logits": "start_logits", "end logits": "end_logits"}
    if len(starts) == 1 and len(ends) == 1 and starts != ends:
        return {"start logits": starts[0], "end logits": ends[0]}
    if len(names) == 2:
        return {"start logits": names[0], "end logits": names[1]}
    raise ModelFormatError(
        "`engine_outputs` should be a list with two elements [start_logits, end_logits]. "
        f"The model's outputs are {names}; export it with a question-answering head"
    )


def _no_room_to_advance(doc_stride: int, budget: int) -> InputRangeError:
    return InputRangeError(
        f"doc_stride {doc_stride} leaves windows of {budget} context tokens no room to advance; lower doc_stride or "
        "max_question_length, raise sequence_length, or leave doc_stride out"
    )
