"""Embeddings: a vector for each text."""

from __future__ import annotations

from sparsert.pipelines.embedding_extraction.options import EmbeddingOptions
from sparsert.pipelines.embedding_extraction.pipeline import EmbeddingPipeline
from sparsert.pipelines.embedding_extraction.precision import quantize_embeddings
from sparsert.pipelines.embedding_extraction.schemas import EmbeddingInput, EmbeddingOutput

__all__ = ["EmbeddingInput", "EmbeddingOptions", "EmbeddingOutput", "EmbeddingPipeline", "quantize_embeddings"]
