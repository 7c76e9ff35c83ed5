"""Routes of OpenAI's API, for its clients: embeddings, models; and reranking as Jina, Cohere and vLLM have it.

https://platform.openai.com/docs/api-reference/embeddings. Clients ask for base64 unless told otherwise.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

import numpy as np
from flask import Blueprint, Response, jsonify, request
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sparsert.server.bodies import read_json
from sparsert.server.dialects import Body, Texts, check_text, endpoint_of, join_numbers, parse
from sparsert.server.endpoints import Endpoint
from sparsert.server.errors import RequestError
from sparsert.server.state import deadline, state

__all__ = ["EmbeddingsBody", "RerankBody", "blueprint"]

blueprint = Blueprint("openai", __name__)

EMBEDDING = ("embedding_extraction",)
RANKING = ("text_ranking",)


class EmbeddingsBody(Body):
    """Texts of which vectors of length one are wanted."""

    input: Texts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, description="First so many numbers, made length one again")
    user: str | None = None


def _documents(value: Any) -> list[str]:
    """Texts, or objects with ``text``."""
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("list_type", "must be a list of at least one document")
    texts: list[Any] = [item.get("text") if isinstance(item, dict) else item for item in value]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise PydanticCustomError(
                "string_type", "element {index} must be a string or an object with text", {"index": index}
            )
        check_text(text, index)
    return texts


class RerankBody(Body):
    """Documents to be ordered by how well they answer a query."""

    query: str
    documents: Annotated[
        list[str],
        BeforeValidator(_documents),
        WithJsonSchema({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}, "minItems": 1}),
    ]
    model: str | None = None
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False


@blueprint.post("/v1/embeddings")
@blueprint.post("/embeddings")
def embeddings() -> Response:
    """Vectors of texts."""
    body = parse(EmbeddingsBody, read_json(request))
    endpoint = endpoint_of(EMBEDDING, body.model, 404)
    fields = {"normalize": True, "truncate_dim": body.dimensions}
    # A request each, so that those of other clients may come between.
    requests = [endpoint.parse({"inputs": [text], **fields}) for text in body.input]
    with state().admission.enter():
        answers = endpoint.answer(requests, deadline())
    write = _as_base64 if body.encoding_format == "base64" else join_numbers
    rows = [
        f'{{"object":"embedding","index":{index},"embedding":{write(result.vectors[0])}}}'
        for index, result in enumerate(answers.results)
    ]
    usage = json.dumps({"prompt_tokens": answers.tokens, "total_tokens": answers.tokens})
    text = f'{{"object":"list","data":[{",".join(rows)}],"model":{json.dumps(endpoint.name)},"usage":{usage}}}'
    return Response(text, mimetype="application/json")


def _as_base64(vector: np.ndarray) -> str:
    return f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"'


@blueprint.post("/v1/rerank")
def rerank() -> Response:
    """Documents in the order of their relevance to a query."""
    body = parse(RerankBody, read_json(request))
    endpoint = endpoint_of(RANKING, body.model, 404)
    content = {"query": body.query, "documents": body.documents, "top_k": body.top_n}
    with state().admission.enter():
        answers = endpoint.answer([endpoint.parse(content)], deadline())
    results = []
    for item in answers.results[0].results:
        result: dict[str, Any] = {"index": item.index, "relevance_score": item.score}
        if body.return_documents:
            result["document"] = {"text": body.documents[item.index]}
        results.append(result)
    return jsonify(model=endpoint.name, results=results, usage={"total_tokens": answers.tokens})


@blueprint.get("/v1/models")
def models() -> Response:
    """What stands behind the routes of this dialect, by the names that ``model`` may have."""
    return jsonify(object="list", data=[_described(item) for item in state().registry.endpoints])


@blueprint.get("/v1/models/<path:name>")
def model(name: str) -> Response:
    """One of them."""
    endpoint = state().registry.named(name)
    if endpoint is None:
        raise RequestError(404, f"the model {name[:200]!r} does not exist")
    return jsonify(_described(endpoint))


def _described(endpoint: Endpoint) -> dict[str, Any]:
    return {"id": endpoint.name, "object": "model", "created": endpoint.began, "owned_by": "sparsert"}
