"""What the routes of other servers share: their requests checked, an endpoint of the right task, errors in their form.

Clients of OpenAI's API and of Hugging Face's text-embeddings-inference read other fields than DeepSparse's do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from flask import g, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from sparsert.server.endpoints import Endpoint, public_reference
from sparsert.server.errors import RequestError, SchemaError
from sparsert.server.state import state

__all__ = ["Body", "Texts", "endpoint_of", "error_body", "join_numbers", "parse", "refuse_cut"]

EMPTY = "empty"
"""Type of the problem that a list of texts holds none."""

_OPENAI_PATHS = re.compile(r"/v1/.*")

_TEI_KINDS = {400: "Validation", 404: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}

_B = TypeVar("_B", bound=BaseModel)


class Body(BaseModel):
    """The body of a request: a field that it does not know is an error that names it."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


def _texts(value: Any) -> list[str]:
    """One text or a list of them, as a list."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise PydanticCustomError("string_type", "must be a string or a list of strings")
    if not texts:
        raise PydanticCustomError(EMPTY, "holds no text")
    if all(isinstance(item, int) for item in texts) or any(isinstance(item, list) for item in texts):
        raise PydanticCustomError(
            "string_type",
            "holds token ids, perhaps of another model's tokenizer; send text (LangChain: "
            "check_embedding_ctx_length=False)",
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise PydanticCustomError(
                "string_type", "element {index} must be a string, got {kind}", {"index": index, "kind": _kind(text)}
            )
        check_text(text, index)
    return texts


def check_text(text: str, index: int) -> None:
    """Refuse a text that cannot be written as UTF-8; JSON's escapes can make some."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError(
            "string_unicode",
            "element {index} must not hold lone surrogates, which are no characters",
            {"index": index},
        ) from None


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


Texts = Annotated[
    list[str],
    BeforeValidator(_texts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""A field that holds one text or several."""


def parse(schema: type[_B], content: Any) -> _B:
    """Check a body.

    Raises
    ------
    SchemaError
        With every field that does not fit.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise SchemaError.of(error) from None


def endpoint_of(tasks: Sequence[str], model: str | None, missing: int) -> Endpoint:
    """The endpoint of one of the tasks: the one that ``model`` names, or without a name the first.

    Raises
    ------
    RequestError
        There is none of these tasks (status ``missing``), or none of that name (404).
    """
    found = [item for item in state().registry.endpoints if item.config.kind.task in tasks]
    if not found:
        wanted = " or ".join(task.replace("_", "-") for task in tasks)
        raise RequestError(missing, f"this server has no model for {wanted}")
    named = [item for item in found if model in (None, item.name, public_reference(item.config.model))]
    if not named:
        names = ", ".join(item.name for item in found)
        raise RequestError(404, f"the model {str(model)[:200]!r} does not exist; there is {names}")
    g.endpoint = named[0].name
    return named[0]


def refuse_cut(field: str, limit: int) -> Callable[[Any], None]:
    """A check of prepared rows that refuses one which truncation has cut."""

    def check(prepared: Any) -> None:
        for row in prepared.rows:
            if row.cut:
                raise SchemaError.at((field,), f"must have at most {limit} tokens, got {row.cut} more; or truncate it")

    return check


def join_numbers(values: np.ndarray) -> str:
    """A vector of float32 as JSON, with the nine digits that give each number back exactly.

    Raises
    ------
    RequestError
        One is not finite, which JSON cannot say.
    """
    if not np.isfinite(values).all():
        raise RequestError(500, "the model gave numbers that are not finite")
    return f"[{','.join([format(value, '.9g') for value in values.tolist()])}]"


def error_body(status: int, detail: str | list[dict[str, Any]], message: str) -> tuple[int, dict[str, Any]] | None:
    """Status and body of an error as the client of the current request reads it; None in the server's own form."""
    problems = detail if isinstance(detail, list) else []
    if request.blueprint == "openai" or _OPENAI_PATHS.fullmatch(request.path):
        return (400 if status == 422 else status), {"error": _openai_error(status, problems, message)}
    # /predict may also be the route of any endpoint.
    if (request.blueprint == "tei" and request.endpoint != "tei.predict") or g.get("tei"):
        empty = any(problem["type"] == EMPTY for problem in problems)
        kind = "Empty" if empty else _TEI_KINDS.get(status, "Backend" if status >= 500 else "Validation")
        return (400 if empty else status), {"error": message, "error_type": kind}
    return None


def _openai_error(status: int, problems: Sequence[Mapping[str, Any]], message: str) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    codes = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
    place = [str(part) for problem in problems[:1] for part in problem["loc"][1:]]
    return {"message": message, "type": kind, "param": ".".join(place) or None, "code": codes.get(status)}
