"""Classification of texts and of pairs of texts: sentiment, topic, entailment, similarity."""

from __future__ import annotations

from sparsert.pipelines.text_classification.options import TextClassificationOptions
from sparsert.pipelines.text_classification.pipeline import TextClassificationPipeline
from sparsert.pipelines.text_classification.schemas import TextClassificationInput, TextClassificationOutput

__all__ = [
    "TextClassificationInput",
    "TextClassificationOptions",
    "TextClassificationOutput",
    "TextClassificationPipeline",
]
