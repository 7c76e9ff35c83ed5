"""Token classification: the pieces of a text that are names, places or whatever else a model has labels for."""

from __future__ import annotations

from sparsert.pipelines.token_classification.options import TokenClassificationOptions
from sparsert.pipelines.token_classification.pipeline import TokenClassificationPipeline
from sparsert.pipelines.token_classification.schemas import (
    TokenClassificationInput,
    TokenClassificationOutput,
    TokenClassificationResult,
)

__all__ = [
    "TokenClassificationInput",
    "TokenClassificationOptions",
    "TokenClassificationOutput",
    "TokenClassificationPipeline",
    "TokenClassificationResult",
]
