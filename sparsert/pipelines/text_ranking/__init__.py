"""Text ranking: documents in the order of their relevance for a query, by a cross-encoder."""

from __future__ import annotations

from sparsert.pipelines.text_ranking.options import TextRankingOptions
from sparsert.pipelines.text_ranking.pipeline import TextRankingPipeline
from sparsert.pipelines.text_ranking.schemas import RankedDocument, TextRankingInput, TextRankingOutput

__all__ = [
    "RankedDocument",
    "TextRankingInput",
    "TextRankingOptions",
    "TextRankingOutput",
    "TextRankingPipeline",
]
