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

from sparsert.pipelines.heads import sigmoid, top_k
from sparsert.server.bodies import read_json
from sparsert.server.dialects import (
    EMBEDDING,
    RANKING,
    Body,
    Texts,
    check_number,
    check_text,
    endpoint_of,
    join_numbers,
    no_model,
    parse,
    raw_scores,
    vectors,
)
from sparsert.server.endpoints import Endpoint
from sparsert.server.state import state

__all__ = ["EmbeddingsBody", "RerankBody", "blueprint"]

blueprint = Blueprint("openai", __name__)


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
    check_number("input", body.input)
    served = endpoint_of(EMBEDDING, body.model, 404)
    found, answers = vectors(served, body.input, lambda row: ("input", row), dimensions=body.dimensions, normalize=True)
    write = _as_base64 if body.encoding_format == "base64" else join_numbers
    rows = [
        f'{{"object":"embedding","index":{index},"embedding":{write(vector)}}}' for index, vector in enumerate(found)
    ]
    usage = json.dumps({"prompt_tokens": answers.tokens, "total_tokens": answers.tokens})
    text = f'{{"object":"list","data":[{",".join(rows)}],"model":{json.dumps(served.endpoint.name)},"usage":{usage}}}'
    return Response(text, mimetype="application/json")


def _as_base64(vector: np.ndarray) -> str:
    return f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"'


@blueprint.post("/v1/rerank")
def rerank() -> Response:
    """Documents in the order of their relevance to a query, with scores from 0 to 1."""
    body = parse(RerankBody, read_json(request))
    check_number("documents", body.documents)
    served = endpoint_of(RANKING, body.model, 404)
    logits, answers = raw_scores(served, body.query, body.documents, lambda row: ("documents", row))
    scores = sigmoid(logits).tolist()
    results = []
    for place in top_k(logits, body.top_n).tolist():
        result: dict[str, Any] = {"index": place, "relevance_score": scores[place]}
        if body.return_documents:
            result["document"] = {"text": body.documents[place]}
        results.append(result)
    return jsonify(model=served.endpoint.name, results=results, usage={"total_tokens": answers.tokens})


@blueprint.get("/v1/models")
def models() -> Response:
    """What stands behind the routes of this dialect, by the names that ``model`` may have."""
    return jsonify(object="list", data=[_described(item) for item in state().registry.endpoints])


@blueprint.get("/v1/models/<path:name>")
def model(name: str) -> Response:
    """One of them."""
    endpoint = state().registry.named(name)
    if endpoint is None:
        raise no_model(name, [item.name for item in state().registry.endpoints])
    return jsonify(_described(endpoint))


def _described(endpoint: Endpoint) -> dict[str, Any]:
    return {"id": endpoint.name, "object": "model", "created": endpoint.began, "owned_by": "sparsert"}
