"""Extractive question answering: the piece of a context that answers a question."""

from __future__ import annotations

from sparsert.pipelines.question_answering.options import QuestionAnsweringOptions
from sparsert.pipelines.question_answering.pipeline import QuestionAnsweringPipeline
from sparsert.pipelines.question_answering.schemas import (
    QuestionAnsweringInput,
    QuestionAnsweringOutput,
    QuestionAnsweringProbabilityOutput,
)

__all__ = [
    "QuestionAnsweringInput",
    "QuestionAnsweringOptions",
    "QuestionAnsweringOutput",
    "QuestionAnsweringPipeline",
    "QuestionAnsweringProbabilityOutput",
]
