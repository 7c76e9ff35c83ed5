"""Texts and their embeddings as pydantic models: checked, JSON-able, and describable over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    StrictBool,
    WithJsonSchema,
    field_validator,
)

__all__ = ["EmbeddingInput", "EmbeddingOutput"]


def _as_lists(value: Sequence[Any] | np.ndarray) -> list[Any]:
    if isinstance(value, np.ndarray):
        return value.tolist()  # type: ignore[no-any-return]
    return [item.tolist() if isinstance(item, np.ndarray) else item for item in value]


_NUMBERS = {"type": "array", "items": {"type": "number"}}
_TOKENS = {"type": "array", "items": _NUMBERS}


class EmbeddingInput(BaseModel):
    """One text or several. Fields that are not listed here are ignored."""

    inputs: str | list[str] = Field(description="The text, or a list of texts")
    prompt_name: str | None = Field(default=None, description="Name of the prompt that is put before each text")
    prompt: str | None = Field(default=None, description="The prompt itself; goes before prompt_name")
    normalize: StrictBool | None = Field(
        default=None, description="Whether vectors get length 1; by default as the pipeline was told"
    )
    truncate_dim: int | None = Field(default=None, ge=1, description="Keep the first so many numbers of a vector")
    pooling: Literal["none"] | None = Field(
        default=None, description='"none": the vectors of all tokens instead of one for each text'
    )

    @field_validator("inputs", mode="before")
    @classmethod
    def _only_texts(cls, value: Any) -> Any:
        """One message that says which is wrong, instead of one for each type that it might have."""
        if isinstance(value, str):
            return value
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"must be a string or a list of strings; got {value!r:.80}")
        for index, text in enumerate(value):
            if not isinstance(text, str):
                raise ValueError(f"[{index}] must be a string; got {text!r:.80}")
        return list(value)


class EmbeddingOutput(BaseModel):
    """The embeddings of a request's texts, in their order."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    embeddings: Annotated[
        Any,
        PlainSerializer(_as_lists, when_used="json"),
        WithJsonSchema({"type": "array", "items": {"anyOf": [_NUMBERS, _TOKENS]}}),
    ] = Field(
        description="A vector for each text, or, where nothing is pooled, one for each of its tokens",
        json_schema_extra={"x-datatype": "FP32"},
    )

    _vectors: Any = PrivateAttr(default=None)

    @classmethod
    def of(cls, vectors: np.ndarray | list[np.ndarray], as_arrays: bool) -> EmbeddingOutput:
        """The output that holds these vectors, as lists or as they are."""
        output = cls(embeddings=vectors if as_arrays else _as_lists(vectors))
        output._vectors = vectors
        return output

    @property
    def vectors(self) -> np.ndarray | list[np.ndarray]:
        """The embeddings as an array, shape (n, D), whatever ``embeddings`` is; unpooled, a list of arrays (T, H)."""
        return self._vectors if self._vectors is not None else np.asarray(self.embeddings)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _as_lists(self.embeddings) == _as_lists(other.embeddings)  # type: ignore[attr-defined]
