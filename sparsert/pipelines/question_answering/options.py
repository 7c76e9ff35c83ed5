"""The options of question answering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsert.errors import InputError
from sparsert.pipelines.options import PipelineOptions, at_least, option

__all__ = ["QuestionAnsweringOptions"]

SCORINGS = ("deepsparse", "huggingface")


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOptions(PipelineOptions):
    """The options of question answering, checked as far as they do not depend on the model.

    Raises
    ------
    InputError
        An option makes no sense.
    """

    sequence_length: int | Sequence[int] | None = option(
        None,
        "tokens that the model reads at once: question, context and special tokens. A list makes buckets: a question "
        "runs at the least that holds its whole context, else at the greatest",
        shown="128",
    )
    max_question_length: int = option(64, "tokens of the question that are used; the rest is cut off")
    doc_stride: int | None = option(None, "tokens that consecutive windows share; see below", shown="64")
    max_answer_length: int = option(15, "most tokens of an answer")
    n_best_size: int = option(20, "best starts and best ends that are combined in each window, and spans that are kept")
    num_spans: int | None = option(None, "read only the first so many windows", shown="all")
    pad_to_max_length: bool = option(
        True,
        "pad rows to `sequence_length` where padding is computed: by ONNX Runtime, and for models of fixed shape, "
        "which need it. False pads as little as possible. No effect on `sparsert`'s own engine",
    )
    top_k: int = option(1, "number of answers; more than one come as a list, best first, perhaps fewer")
    return_probability: bool = option(False, "outputs have a `probability` too")
    version_2_with_negative: bool = option(
        False, '"no answer" may win (SQuAD 2.0); its answer is empty, its score the least null score of all windows'
    )
    handle_impossible_answer: bool = option(False, "another name of `version_2_with_negative`", config=None)
    null_score_diff_threshold: float = option(
        0.0, '"no answer" wins if its score exceeds the best span\'s by more than this'
    )
    output_dir: str | Path | None = option(None, "append predictions to files in this directory")
    scoring: str = option("deepsparse", 'or `"huggingface"`; see below')
    align_to_words: bool | None = option(None, "widen answers to whole words", shown='with `"huggingface"`')

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scoring not in SCORINGS:
            raise InputError(f"scoring must be one of {list(SCORINGS)}, got {self.scoring!r}")
        if self.align_to_words and self.scoring != "huggingface":
            raise InputError("align_to_words belongs to scoring='huggingface'; leave it out")
        for name in ("max_question_length", "max_answer_length", "n_best_size", "num_spans", "top_k"):
            if name != "num_spans" or self.num_spans is not None:
                at_least(name, getattr(self, name), 1)
        if self.doc_stride is not None:
            at_least("doc_stride", self.doc_stride, 0)
        threshold = self.null_score_diff_threshold
        if not isinstance(threshold, (int, float)) or math.isnan(threshold):
            raise InputError(f"null_score_diff_threshold must be a number, got {threshold!r}")
        self._set(
            sequence_length=_sequence_length(self.sequence_length),
            pad_to_max_length=bool(self.pad_to_max_length),
            return_probability=bool(self.return_probability),
            version_2_with_negative=bool(self.version_2_with_negative or self.handle_impossible_answer),
            null_score_diff_threshold=float(threshold),
        )


def _sequence_length(value: int | Sequence[int] | None) -> int | list[int] | None:
    """Check ``sequence_length``, and sort a list of several."""
    if value is None:
        return None
    values = [value] if isinstance(value, int) else value
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"sequence_length must be an int or a list of ints, got {value!r}")
    if not values:
        raise InputError(f"Expected a non empty List of pipeline objects but got {list(values)}")
    lengths = sorted({at_least("sequence_length", length, 1) for length in values})
    return lengths[0] if isinstance(value, int) else lengths
