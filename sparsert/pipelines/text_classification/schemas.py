"""Requests and results of text classification as pydantic models: checked, JSON-able, and describable over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, StrictBool, field_validator, model_validator

from sparsert.errors import InputError

__all__ = ["TextClassificationInput", "TextClassificationOutput"]


class TextClassificationInput(BaseModel):
    """Texts, or pairs of texts, each of which gets its labels. Fields that are not listed here are ignored.

    A text may also be an object ``{"text": ...}``, a pair ``{"text": ..., "text_pair": ...}``; a request with one of
    them alone may be such an object itself.
    """

    sequences: str | list[str] | list[list[str]] = Field(
        description="A text, a list of texts, or a list of lists, where two strings are a pair and one is a text"
    )
    return_all_scores: StrictBool = Field(
        default=False, description="Give all labels of each text; else as many as the pipeline was told"
    )
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        default=None, description="What makes scores of logits; by default as the pipeline was told, or the model says"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_object(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "text" in values and "sequences" not in values:
            return {**values, "sequences": [_listed(values)]}
        return values

    @field_validator("sequences", mode="before")
    @classmethod
    def _from_objects(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, (list, tuple)):
            return value
        items = [_listed(item) if isinstance(item, Mapping) else item for item in value]
        for index, item in enumerate(items):
            texts = item if isinstance(item, (list, tuple)) else [item]
            for text in texts:
                if not isinstance(text, str):
                    raise ValueError(f"[{index}] must be a string, or a list of two for a pair; got {text!r:.80}")
        # Texts beside pairs: each a list
        nested = any(not isinstance(item, str) for item in items)
        return [[item] if isinstance(item, str) else list(item) for item in items] if nested else items

    def texts(self) -> list[tuple[str, str | None]]:
        """Each text, and what stands beside it in a pair.

        Raises
        ------
        InputError
            There are none, or one is neither a text nor a pair.
        """
        items = [self.sequences] if isinstance(self.sequences, str) else self.sequences
        if not items:
            raise InputError("sequences is empty: expected a text, or a list of at least one")
        return [_text_and_pair(index, [item] if isinstance(item, str) else item) for index, item in enumerate(items)]


class TextClassificationOutput(BaseModel):
    """The labels of each text with their scores, in the order of the texts.

    Where more than one is asked for each text, it has a list of them, best first.
    """

    labels: list[str] | list[list[str]] = Field(description="For each text its label, or a list of labels, best first")
    scores: list[float] | list[list[float]] = Field(
        description="For each label its probability, or what a model for regression says"
    )


def _listed(item: Mapping[str, Any]) -> list[Any]:
    """A text or pair from ``{"text", "text_pair"}``."""
    if "text" not in item:
        raise ValueError(f'expected an object with "text" and perhaps "text_pair"; its keys are {sorted(item)}')
    return [item["text"]] if item.get("text_pair") is None else [item["text"], item["text_pair"]]


def _text_and_pair(index: int, texts: Sequence[str]) -> tuple[str, str | None]:
    if len(texts) not in (1, 2):
        raise InputError(f"sequences[{index}] must be one text, or two for a pair; got a list of {len(texts)}")
    return texts[0], texts[1] if len(texts) == 2 else None
