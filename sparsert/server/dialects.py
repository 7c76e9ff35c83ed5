"""What the routes of other servers share: their requests checked, an endpoint of the right task, errors in their form.

Clients of OpenAI's API and of Hugging Face's text-embeddings-inference read other fields than DeepSparse's do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from flask import g, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from sparsert.errors import InputError
from sparsert.pipelines.row_model import RowModel
from sparsert.server.endpoints import Answers, Endpoint, public_reference
from sparsert.server.errors import RequestError, SchemaError
from sparsert.server.state import deadline, state

__all__ = [
    "EMBEDDING",
    "RANKING",
    "Body",
    "Served",
    "Texts",
    "check_number",
    "endpoint_of",
    "error_body",
    "join_numbers",
    "no_model",
    "parse",
    "raw_scores",
    "serve",
    "vectors",
]

EMBEDDING = ("embedding_extraction",)
RANKING = ("text_ranking",)

EMPTY = "empty"
"""Type of the problem that a list of texts holds none."""

UNKNOWN_MODEL = "model_not_found"
"""Type of the problem that there is no endpoint of a name."""

# The field and place that a pipeline's message begins with: those of its own schema.
_PLACE = re.compile(r"^\w+(\[\d+\])?: ")

# By path, since a request of the wrong method has no rule. /predict may also be the route of any endpoint.
_OPENAI_PATHS = re.compile(r"/v1/.*|/embeddings")
_TEI_PATHS = re.compile(r"/(embed|embed_all|embed_sparse|similarity|rerank|tokenize|decode|info)?")

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
    if any(_are_ids(item) for item in (texts, *texts)):
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


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, int) for item in value)


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


@dataclass(frozen=True)
class Served:
    """An endpoint and the model behind its pipeline, for one request.

    Attributes
    ----------
    endpoint : Endpoint
        Answers requests.
    pipeline : Pipeline
        Its pipeline.
    model : RowModel
        Tokenizer, limit and configuration.
    """

    endpoint: Endpoint
    pipeline: Any
    model: RowModel

    def answer(
        self, contents: Sequence[Mapping[str, Any]], place: Callable[[int], tuple[str | int, ...]], uncut: str = ""
    ) -> Answers:
        """Answer requests of a text each, which may share batches with those of other clients.

        Parameters
        ----------
        contents
            Fields of the task's schema, for each text.
        place
            Takes the number of a request, and says where in the body its text stands.
        uncut
            Why none may be cut, as a sentence that says what to do; empty if they may.

        Raises
        ------
        RequestError
            As :meth:`Endpoint.answer`.
        """

        def check(row: int, prepared: Any) -> None:
            if isinstance(prepared, InputError):
                raise SchemaError.at(place(row), _PLACE.sub("", str(prepared))) from prepared
            cut = max(item.cut for item in prepared.rows)
            if cut and uncut:
                most = self.model.sequence_length
                raise SchemaError.at(place(row), f"has {cut} tokens more than the {most} that the model takes; {uncut}")

        requests = [self.endpoint.parse(content) for content in contents]
        with state().admission.enter():
            return self.endpoint.answer(requests, deadline(), check)


def endpoint_of(tasks: Sequence[str], model: str | None, missing: int) -> Served:
    """The endpoint of one of the tasks: the one that ``model`` names, or without a name the first of the first task.

    Raises
    ------
    RequestError
        There is none of these tasks (status ``missing``), none of that name (404), or it cannot answer now.
    """
    found = [item for item in state().registry.endpoints if item.config.kind.task in tasks]
    found.sort(key=lambda item: tasks.index(item.config.kind.task))
    if not found:
        wanted = " or ".join(task.replace("_", "-") for task in tasks)
        raise RequestError(missing, f"this server has no model for {wanted}")
    named = [item for item in found if model in (None, item.name, public_reference(item.config.model))]
    if not named:
        raise no_model(str(model), [item.name for item in found])
    return serve(named[0])


def serve(endpoint: Endpoint) -> Served:
    """An endpoint for the current request, once it is loaded.

    Raises
    ------
    RequestError
        It cannot answer now.
    """
    g.endpoint = endpoint.name
    pipeline: Any = endpoint.pipeline(deadline())
    return Served(endpoint, pipeline, pipeline.model)


def no_model(name: str, names: Sequence[str]) -> RequestError:
    """The error of a name that no endpoint has (404)."""
    message = f"there is no model {name[:200]!r}; there is {', '.join(names) or 'none'}"
    return RequestError(404, [{"loc": ["body", "model"], "msg": message, "type": UNKNOWN_MODEL}])


def check_number(field: str, texts: Sequence[Any]) -> None:
    """Refuse more texts than a request may have.

    Raises
    ------
    SchemaError
        There are more.
    """
    most = state().registry.config.limits.max_texts
    if len(texts) > most:
        raise SchemaError.at((field,), f"must have at most {most} elements, got {len(texts)}", "too_long")


def vectors(
    served: Served,
    texts: Sequence[str],
    place: Callable[[int], tuple[str | int, ...]],
    *,
    uncut: str = "",
    dimensions: int | None = None,
    prompt_name: str | None = None,
    **fields: Any,
) -> tuple[list[np.ndarray], Answers]:
    """A vector for each text; with ``pooling="none"`` one for each of its tokens.

    Raises
    ------
    SchemaError
        ``dimensions``, ``prompt_name`` or a text does not fit.
    RequestError
        The endpoint gives no such vectors, or as :meth:`Endpoint.answer`.
    """
    embedder, pooled = served.pipeline.embedder, "pooling" not in fields
    if pooled and not embedder.modes:
        raise RequestError(424, f"the endpoint {served.endpoint.name} gives vectors of tokens, since it does not pool")
    if not pooled:
        try:
            served.pipeline.token_embedder  # noqa: B018 - built here, since a model may have no vectors of tokens
        except InputError as error:
            raise RequestError(424, str(error)) from error
    if dimensions is not None and dimensions > embedder.dimension:
        raise SchemaError.at(("dimensions",), f"must be at most {embedder.dimension}, got {dimensions}")
    if prompt_name is not None and prompt_name not in embedder.prompts:
        raise SchemaError.at(("prompt_name",), f"must be one of {sorted(embedder.prompts)}, got {prompt_name[:200]!r}")
    shared = fields | {"truncate_dim": dimensions, "prompt_name": prompt_name}
    answers = served.answer([{"inputs": [text]} | shared for text in texts], place, uncut)
    return [result.vectors[0] for result in answers.results], answers


def raw_scores(
    served: Served,
    query: str,
    texts: Sequence[str],
    place: Callable[[int], tuple[str | int, ...]],
    uncut: str = "",
) -> tuple[np.ndarray, Answers]:
    """Logits of texts for a query, float32, shape (n,)."""
    contents = [{"query": query, "documents": [text], "raw_scores": True} for text in texts]
    answers = served.answer(contents, place, uncut)
    return np.array([result.results[0].score for result in answers.results], dtype=np.float32), answers


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
    if g.get("own_route") and not g.get("tei"):
        return None
    if _OPENAI_PATHS.fullmatch(request.path):
        return (400 if status in (422, 424) else status), {"error": _openai_error(status, problems, message)}
    if _TEI_PATHS.fullmatch(request.path) or g.get("tei"):
        empty = any(problem["type"] == EMPTY for problem in problems)
        kind = "Empty" if empty else _TEI_KINDS.get(status, "Backend" if status >= 500 else "Validation")
        return (400 if empty else status), {"error": message, "error_type": kind}
    return None


def _openai_error(status: int, problems: Sequence[Mapping[str, Any]], message: str) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(status)
    if any(problem["type"] == UNKNOWN_MODEL for problem in problems):
        code = UNKNOWN_MODEL
    place = [str(part) for problem in problems[:1] for part in problem["loc"][1:]]
    return {"message": message, "type": kind, "param": ".".join(place) or None, "code": code}
