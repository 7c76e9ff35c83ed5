"""What the routes of text-embeddings-inference take, see :mod:`sparsert.server.tei_routes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sparsert.server.dialects import EMPTY, Body, Texts, check_text

__all__ = [
    "DecodeBody",
    "EmbedAllBody",
    "EmbedBody",
    "PredictBody",
    "RerankBody",
    "SimilarityBody",
    "SimilarityParameters",
    "TokenizeBody",
    "Truncated",
]

_Side = Annotated[
    Literal["left", "right"], BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
]


class Truncated(Body):
    """Whether longer texts are cut."""

    truncate: bool | None = Field(default=None, description="Cut longer texts, as is the default; false refuses them")
    truncation_direction: _Side = "right"


class EmbedAllBody(Truncated):
    """Texts of which the vectors of all tokens are wanted."""

    inputs: Texts
    prompt_name: str | None = None


class EmbedBody(EmbedAllBody):
    """Texts of which vectors are wanted."""

    normalize: bool = True
    dimensions: int | None = Field(default=None, ge=1)


class RerankBody(Truncated):
    """Texts to be ordered by how well they answer a query."""

    query: str
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False


class SimilarityInputs(Body):
    """A sentence, and others to compare it with."""

    source_sentence: str
    sentences: Texts


class SimilarityParameters(Truncated):
    """How the sentences are embedded."""

    prompt_name: str | None = None


class SimilarityBody(Body):
    """Sentences to compare."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TokenizeBody(Body):
    """Texts to be seen as tokens."""

    inputs: Texts
    add_special_tokens: bool = True
    prompt_name: str | None = None


# The tokenizers library has unsigned numbers of 32 bits.
_MOST = (1 << 32) - 1
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": _MOST}, "minItems": 1}


def _id_lists(value: Any) -> list[list[int]]:
    lists = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    if not all(
        isinstance(ids, list) and all(type(item) is int and 0 <= item <= _MOST for item in ids) for ids in lists
    ):
        raise PydanticCustomError("list_type", "must be a list of token ids, or a list of such lists")
    if not all(lists):
        raise PydanticCustomError(EMPTY, "holds no token ids")
    return lists


class DecodeBody(Body):
    """Token ids to be turned into text."""

    ids: Annotated[
        list[list[int]],
        BeforeValidator(_id_lists),
        WithJsonSchema({"anyOf": [_IDS, {"type": "array", "items": _IDS, "minItems": 1}]}),
    ]
    skip_special_tokens: bool = True


_STRING = {"type": "string"}


def _strings(least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": _STRING, "minItems": least, "maxItems": most}


def _texts_and_pairs(value: Any) -> list[list[str]]:
    """A text, a pair of texts, or a list of lists of one or two."""
    if isinstance(value, str):
        rows: Any = [[value]]
    elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        rows = [value]
    else:
        rows = value
    if not isinstance(rows, list):
        raise PydanticCustomError("string_type", "must be a string, a pair of strings, or a list of lists of these")
    if not rows:
        raise PydanticCustomError(EMPTY, "holds no text")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) not in (1, 2) or not all(isinstance(text, str) for text in row):
            raise PydanticCustomError(
                "list_type", "element {index} must be a list of one or two strings", {"index": index}
            )
        for text in row:
            check_text(text, index)
    return rows


class PredictParameters(Body):
    """What clients of the Hugging Face hub say."""

    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    top_k: int | None = Field(default=None, ge=1)


class PredictBody(Truncated):
    """Texts or pairs to be classified."""

    inputs: Annotated[
        list[list[str]],
        BeforeValidator(_texts_and_pairs),
        WithJsonSchema({"anyOf": [_STRING, _strings(1, 2), {"type": "array", "items": _strings(1, 2), "minItems": 1}]}),
    ]
    raw_scores: bool = False
    parameters: PredictParameters | None = None
