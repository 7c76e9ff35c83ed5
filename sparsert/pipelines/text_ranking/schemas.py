"""Queries and ranked documents as pydantic models: checked, JSON-able, and describable over HTTP."""

from __future__ import annotations

from pydantic import BaseModel, Field, StrictBool

__all__ = ["RankedDocument", "TextRankingInput", "TextRankingOutput"]


class TextRankingInput(BaseModel):
    """A query, and the documents to be ranked for it. Fields that are not listed here are ignored."""

    query: str = Field(description="What the documents are to be relevant for")
    documents: list[str] = Field(min_length=1, description="The documents, in any order")
    top_k: int | None = Field(default=None, ge=1, description="Give the first so many only; all by default")
    return_documents: StrictBool = Field(default=False, description="Give the documents' texts as well")
    raw_scores: StrictBool = Field(
        default=False, description="Give the model's logits, without an activation, as scores"
    )


class RankedDocument(BaseModel):
    """A document's place in the request and its score."""

    index: int = Field(description="Index of the document in the request")
    score: float = Field(description="The higher, the more relevant; its range depends on the model's activation")
    text: str | None = Field(default=None, description="The document, if return_documents asked for it")


class TextRankingOutput(BaseModel):
    """The documents of a request, the most relevant one first; of equal scores, the one that came first."""

    results: list[RankedDocument] = Field(description="The documents, best first")
