"""Embeddings and reranker for LlamaIndex."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field, PrivateAttr

from sparsert.cross_encoder import CrossEncoder
from sparsert.sentence_transformer import SentenceTransformer

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise ImportError(f"{__name__} needs llama-index-core: pip install 'sparsert[llama-index]'") from error

__all__ = ["SparsertEmbedding", "SparsertRerank"]


class SparsertEmbedding(BaseEmbedding):
    """Embeddings for an index: texts and queries each after the prompt that the model's folder has for them.

    Parameters
    ----------
    model_name : str
        As for :class:`sparsert.SentenceTransformer`.
    options : dict, optional
        Its other arguments, such as ``prompts``, ``truncate_dim`` and ``num_cores``.
    """

    model_name: str = Field(description="A model reference")
    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts that are embedded in one call")
    options: dict[str, Any] = Field(default_factory=dict, description="Other arguments of the model")
    _client: SentenceTransformer = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model."""
        self._client = SentenceTransformer(self.model_name, **self.options)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex writes it."""
        return cls.__name__

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._client.encode_query(query).tolist()  # type: ignore[no-any-return]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._client.encode_document(text).tolist()  # type: ignore[no-any-return]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._client.encode_document(texts).tolist()  # type: ignore[no-any-return]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class SparsertRerank(BaseNodePostprocessor):
    """Put retrieved nodes into the order of their relevance for the query, with the cross-encoder's scores.

    Parameters
    ----------
    model : str
        As for :class:`sparsert.CrossEncoder`.
    top_n : int, optional
        Keep the first so many; None keeps all.
    options : dict, optional
        Its other arguments, such as ``num_cores``.
    """

    model: str = Field(description="A model reference")
    top_n: int | None = Field(default=2, ge=1, description="Nodes that are kept")
    options: dict[str, Any] = Field(default_factory=dict, description="Other arguments of the model")
    _client: CrossEncoder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the model."""
        self._client = CrossEncoder(self.model, **self.options)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex writes it."""
        return cls.__name__

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("SparsertRerank needs the query: give query_bundle or query_str")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        ranked = self._client.rank(query_bundle.query_str, texts, self.top_n)
        return [NodeWithScore(node=nodes[item["corpus_id"]].node, score=item["score"]) for item in ranked]
