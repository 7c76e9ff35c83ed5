"""Embeddings, cross-encoder and reranker for LangChain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from sparsert.cross_encoder import CrossEncoder
from sparsert.sentence_transformer import SentenceTransformer

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import Document
    from langchain_core.documents.compressor import BaseDocumentCompressor
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise ImportError(f"{__name__} needs langchain-core 1.3 or newer: pip install 'sparsert[langchain]'") from error

__all__ = ["SparsertCrossEncoder", "SparsertEmbeddings", "SparsertReranker"]


class SparsertEmbeddings(Embeddings):
    """Embeddings for vector stores: documents and queries each after the prompt that the model's folder has for them.

    Parameters
    ----------
    model : str or Path
        As for :class:`sparsert.SentenceTransformer`.
    **options
        Its other arguments, such as ``prompts``, ``truncate_dim`` and ``num_cores``.

    Attributes
    ----------
    client : sparsert.SentenceTransformer
        The model.
    """

    def __init__(self, model: str | Path, **options: Any) -> None:
        self.client = SentenceTransformer(model, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        return self.client.encode_document(texts).tolist()  # type: ignore[no-any-return]

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return self.client.encode_query(text).tolist()  # type: ignore[no-any-return]


class SparsertCrossEncoder(BaseCrossEncoder):
    """Scores of pairs, as LangChain's ``CrossEncoderReranker`` takes them.

    Parameters
    ----------
    model, **options
        As for :class:`sparsert.CrossEncoder`.

    Attributes
    ----------
    client : sparsert.CrossEncoder
        The model.
    """

    def __init__(self, model: str | Path, **options: Any) -> None:
        self.client = CrossEncoder(model, **options)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """The score of each pair."""
        return self.client.predict(text_pairs).tolist()  # type: ignore[no-any-return]


class SparsertReranker(BaseDocumentCompressor):
    """Put retrieved documents into the order of their relevance for the query.

    Parameters
    ----------
    model : BaseCrossEncoder
        Gives the scores, such as :class:`SparsertCrossEncoder`.
    top_n : int, optional
        Keep the first so many; None keeps all.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: BaseCrossEncoder
    top_n: int | None = Field(default=3, ge=1)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents, best first, as copies with ``relevance_score`` in their metadata."""
        scores = self.model.score([(query, document.page_content) for document in documents])
        places = sorted(range(len(scores)), key=lambda place: -scores[place])[: self.top_n]
        return [
            documents[place].model_copy(
                update={"metadata": documents[place].metadata | {"relevance_score": scores[place]}}
            )
            for place in places
        ]
