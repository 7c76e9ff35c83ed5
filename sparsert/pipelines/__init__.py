"""Pipelines: text in, answer out.

>>> from sparsert.pipelines import Pipeline
>>> pipeline = Pipeline.create(task="question-answering")
>>> pipeline(question="Who keeps bees?", context="Ada keeps bees.").answer
'Ada'
"""

from __future__ import annotations

from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.embedding_extraction import EmbeddingInput, EmbeddingOutput
from sparsert.pipelines.options import PipelineConfig
from sparsert.pipelines.question_answering import (
    QuestionAnsweringInput,
    QuestionAnsweringOutput,
    QuestionAnsweringProbabilityOutput,
)
from sparsert.pipelines.text_classification import TextClassificationInput, TextClassificationOutput
from sparsert.pipelines.text_ranking import TextRankingInput, TextRankingOutput
from sparsert.pipelines.token_classification import (
    TokenClassificationInput,
    TokenClassificationOutput,
    TokenClassificationResult,
)
from sparsert.pipelines.zero_shot_text_classification import ZeroShotInput, ZeroShotOutput

__all__ = [
    "EmbeddingInput",
    "EmbeddingOutput",
    "Pipeline",
    "PipelineConfig",
    "QuestionAnsweringInput",
    "QuestionAnsweringOutput",
    "QuestionAnsweringProbabilityOutput",
    "TextClassificationInput",
    "TextClassificationOutput",
    "TextRankingInput",
    "TextRankingOutput",
    "ZeroShotInput",
    "ZeroShotOutput",
    "TokenClassificationInput",
    "TokenClassificationOutput",
    "TokenClassificationResult",
]
