"""Embedders and ranker for Haystack."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from sparsert.cross_encoder import CrossEncoder
from sparsert.errors import InputTypeError
from sparsert.sentence_transformer import SentenceTransformer

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise ImportError(f"{__name__} needs haystack-ai: pip install 'sparsert[haystack]'") from error

__all__ = ["SparsertDocumentEmbedder", "SparsertRanker", "SparsertTextEmbedder"]


class _Component:
    """A component whose model is loaded when it is needed, and which is written as its constructor's arguments."""

    _load: ClassVar[Callable[..., Any]]

    model: str
    options: dict[str, Any]
    _client: Any = None

    def warm_up(self) -> None:
        """Load the model, if that has not been done; ``run`` does it as well."""
        if self._client is None:
            self._client = self._load(self.model, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that ``from_dict`` takes."""
        _, *names = inspect.signature(type(self).__init__).parameters
        return default_to_dict(self, **{name: getattr(self, name) for name in names})  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """The component that ``to_dict`` described."""
        return default_from_dict(cls, data)


@component
class SparsertTextEmbedder(_Component):
    """Embed a query, after the prompt that the model's folder has for queries.

    Parameters
    ----------
    model : str
        As for :class:`sparsert.SentenceTransformer`.
    options : dict, optional
        Its other arguments, such as ``prompts``, ``truncate_dim`` and ``num_cores``.
    """

    _load = SentenceTransformer

    def __init__(self, model: str, options: dict[str, Any] | None = None) -> None:
        self.model = str(model)
        self.options = dict(options or {})

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Give ``embedding``, the vector of a text."""
        if not isinstance(text, str):
            raise InputTypeError(
                f"text must be a str, got {type(text).__name__}; documents go to SparsertDocumentEmbedder"
            )
        self.warm_up()
        return {"embedding": self._client.encode_query(text).tolist()}


@component
class SparsertDocumentEmbedder(_Component):
    """Embed documents, after the prompt that the model's folder has for them.

    Parameters
    ----------
    model : str
        As for :class:`sparsert.SentenceTransformer`.
    meta_fields_to_embed : list of str, optional
        Metadata that stand before a document's content.
    embedding_separator : str
        What stands between them.
    options : dict, optional
        Other arguments of the model, such as ``prompts``, ``truncate_dim`` and ``num_cores``.
    """

    _load = SentenceTransformer

    def __init__(
        self,
        model: str,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = str(model)
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator
        self.options = dict(options or {})

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Give ``documents``, copies that have their ``embedding``."""
        texts = _texts(documents, self.meta_fields_to_embed, self.embedding_separator)
        self.warm_up()
        vectors = self._client.encode_document(texts).tolist()
        return {"documents": [replace(item, embedding=vector) for item, vector in zip(documents, vectors, strict=True)]}


@component
class SparsertRanker(_Component):
    """Put documents into the order of their relevance for a query, with a cross-encoder's scores.

    Parameters
    ----------
    model : str
        As for :class:`sparsert.CrossEncoder`.
    top_k : int, optional
        Keep the first so many; None keeps all.
    meta_fields_to_embed, embedding_separator
        As for :class:`SparsertDocumentEmbedder`.
    options : dict, optional
        Other arguments of the model, such as ``num_cores``.
    """

    _load = CrossEncoder

    def __init__(
        self,
        model: str,
        top_k: int | None = 10,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = str(model)
        self.top_k = top_k
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator
        self.options = dict(options or {})

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """Give ``documents``, the best ones, best first, as copies that have their ``score``."""
        texts = _texts(documents, self.meta_fields_to_embed, self.embedding_separator)
        self.warm_up()
        ranked = self._client.rank(query, texts, self.top_k if top_k is None else top_k)
        return {"documents": [replace(documents[item["corpus_id"]], score=item["score"]) for item in ranked]}


def _texts(documents: Sequence[Document], fields: Sequence[str], separator: str) -> list[str]:
    """What is read of documents: the metadata that are asked for, and the content."""
    if isinstance(documents, str) or not all(isinstance(item, Document) for item in documents):
        raise InputTypeError("documents must be a list of Document; a text goes to SparsertTextEmbedder")
    return [
        separator.join(
            [*(str(item.meta[name]) for name in fields if item.meta.get(name) is not None), item.content or ""]
        )
        for item in documents
    ]
