"""The OpenAPI document of a server, from its endpoints' schemas."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from apispec import APISpec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from sparsert import __version__
from sparsert.server import openai_routes, tei_bodies, tei_routes, tensors
from sparsert.server.config import EndpointConfig, ServerConfig
from sparsert.server.dialects import EMBEDDING, RANKING
from sparsert.server.endpoints import Endpoint

if TYPE_CHECKING:
    from sparsert.server.endpoints import Registry

__all__ = ["OPEN_PROBES", "document"]


class Problem(BaseModel):
    """One thing that does not fit."""

    loc: list[str | int]
    msg: str
    type: str


class Error(BaseModel):
    """Why there is no answer."""

    detail: str | list[Problem]
    error: str = Field(description="The same in one line, as the Open Inference Protocol has it")
    request_id: str | None


class OpenAIProblem(BaseModel):
    """Why there is no answer, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error of the routes under /v1."""

    error: OpenAIProblem


class TeiError(BaseModel):
    """An error of the routes of text-embeddings-inference."""

    error: str
    error_type: str


class Tensor(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class TensorAnswer(BaseModel):
    """Answers as tensors of the Open Inference Protocol."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


class RequestedOutput(BaseModel):
    """An output that is wanted."""

    name: str


class TensorQuestion(BaseModel):
    """Requests as tensors of the Open Inference Protocol."""

    id: str | None = Field(default=None, max_length=256)
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = None


class Health(BaseModel):
    """A state."""

    status: str


class RemovedEndpoint(BaseModel):
    """The endpoint to remove, by route or name."""

    route: str | None = None
    name: str | None = None


_ERRORS = {
    400: "The body is not JSON",
    401: "The API key is missing or wrong",
    403: "Not allowed",
    404: "There is no such endpoint",
    408: "The body did not arrive in time",
    409: "There is such an endpoint already",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "A field is missing or does not fit",
    424: "The server has no model for this route",
    429: "Too many requests wait; Retry-After says when to come back",
    503: "The endpoint is not ready",
    504: "The answer did not come in time",
}
# Probes, which an API key does not protect.
OPEN_PROBES = re.compile(r"/(ping|health|healthcheck|status|v2/health/\w+|v2/models/.+/ready)")

_OBJECT: dict[str, Any] = {"type": "object"}
_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}}
_OBJECTS: dict[str, Any] = {"type": "array", "items": _OBJECT}


def _list_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


_PREDICTIONS = {"anyOf": [_OBJECTS, _list_of(_OBJECTS)]}

DIALECTS: tuple[tuple[str, str, type[BaseModel], tuple[str, ...], dict[str, Any]], ...] = (
    ("/v1/embeddings", "Vectors of texts", openai_routes.EmbeddingsBody, EMBEDDING, _OBJECT),
    ("/v1/rerank", "Documents in the order of relevance", openai_routes.RerankBody, RANKING, _OBJECT),
    ("/embed", "Vectors of texts", tei_bodies.EmbedBody, EMBEDDING, _list_of(_NUMBERS)),
    ("/embed_all", "Vectors of tokens", tei_bodies.EmbedAllBody, EMBEDDING, _list_of(_list_of(_NUMBERS))),
    ("/similarity", "Cosine of a sentence with others", tei_bodies.SimilarityBody, EMBEDDING, _NUMBERS),
    ("/rerank", "Texts in the order of relevance", tei_bodies.RerankBody, RANKING, _OBJECTS),
    ("/predict", "Labels of texts or pairs", tei_bodies.PredictBody, tei_routes.CLASSIFYING, _PREDICTIONS),
    ("/tokenize", "Tokens of texts", tei_bodies.TokenizeBody, tei_routes.READING, _list_of(_OBJECTS)),
    ("/decode", "Texts of token ids", tei_bodies.DecodeBody, tei_routes.READING, _list_of({"type": "string"})),
)
"""Routes of other servers: path, summary, body, tasks of which the server has a model, and the answer."""
_INFERENCE_ERRORS = (400, 408, 413, 415, 422, 429, 503, 504)
_OPENAI_ERRORS = (400, 404, 408, 413, 415, 429, 503, 504)
_TEI_ERRORS = (400, 408, 413, 415, 422, 424, 429, 503, 504)


def document(registry: Registry) -> dict[str, Any]:
    """Describe every route of a server, as OpenAPI 3.1."""
    secured = registry.config.api_key_file is not None
    spec = APISpec(
        title="sparsert",
        version=__version__,
        openapi_version="3.1.0",
        info={"description": "Answers of sparse transformer models."},
    )
    schemas: list[type[BaseModel]] = [Error, OpenAIError, TeiError, Health, TensorQuestion, TensorAnswer]
    schemas += [body for _, _, body, *_ in DIALECTS]
    if registry.config.allow_endpoint_changes:
        schemas += [EndpointConfig, RemovedEndpoint]
    for endpoint in registry.endpoints:
        schemas += [endpoint.input_schema, endpoint.output_schema]
    # Schemas of one name are told apart by their modules, so this says what each is called.
    references, definitions = models_json_schema(
        [(schema, "validation") for schema in dict.fromkeys(schemas)], ref_template="#/components/schemas/{model}"
    )
    for name, schema in definitions["$defs"].items():
        spec.components.schema(name, schema)
    if secured:
        spec.components.security_scheme("key", {"type": "http", "scheme": "bearer"})

    def add(
        path: str,
        method: str,
        summary: str,
        answer: Any,
        tag: str,
        *errors: int,
        body: Any = None,
        error: type[BaseModel] = Error,
    ) -> None:
        name = f"{method}_{re.sub('[^A-Za-z0-9]+', '_', path).strip('_')}"
        taken[name] += 1  # routes may differ in nothing but what is left out here
        operation: dict[str, Any] = {
            "operationId": name if taken[name] == 1 else f"{name}_{taken[name]}",
            "summary": summary,
            "tags": [tag],
            "responses": {"200": {"description": "OK"} | (answer if "content" in answer else _json(answer))},
        }
        if body is not None:
            operation["requestBody"] = {"required": True} | body
        if secured and not OPEN_PROBES.fullmatch(path):
            operation["security"] = [{"key": []}]
            errors = (401, *errors)
        for status in errors:
            operation["responses"][str(status)] = {"description": _ERRORS[status]} | _json(_reference(error.__name__))
        paths.setdefault(path, {})[method] = operation

    def called(schema: type[BaseModel]) -> dict[str, Any]:
        return references[schema, "validation"]

    paths: dict[str, dict[str, Any]] = {}
    taken: Counter[str] = Counter()
    for endpoint in registry.endpoints:
        _describe_endpoint(endpoint, add, called(endpoint.input_schema), called(endpoint.output_schema))
    if registry.config.integration == "sagemaker":
        for first in registry.endpoints[:1]:
            body = _json(called(first.input_schema))
            summary, answer = "Answer a request", called(first.output_schema)
            add("/invocations", "post", summary, answer, "server", *_INFERENCE_ERRORS, body=body)
    tasks = {endpoint.config.kind.task for endpoint in registry.endpoints}
    for path, summary, schema, wanted, answer in DIALECTS:
        if tasks & set(wanted) and path not in paths:
            of_openai = path.startswith("/v1/")
            tag, error, errors = (
                ("OpenAI", OpenAIError, _OPENAI_ERRORS) if of_openai else ("TEI", TeiError, _TEI_ERRORS)
            )
            add(path, "post", summary, answer, tag, *errors, body=_json(called(schema)), error=error)
    add("/v1/models", "get", "What the routes under /v1 may name as model", _OBJECT, "OpenAI", error=OpenAIError)
    if tasks & set(tei_routes.READING):
        add("/info", "get", "The first model, and the limits", _OBJECT, "TEI", 503, 504, error=TeiError)
    _describe_server(registry.config, add)
    for path, operations in paths.items():
        spec.path(path=path, operations=operations)
    return spec.to_dict()


def _describe_endpoint(endpoint: Endpoint, add: Any, question: dict[str, Any], answer: dict[str, Any]) -> None:
    task, name, base = endpoint.config.public_task, endpoint.name, f"/v2/models/{endpoint.name}"
    example = endpoint.config.kind.example
    plain: dict[str, Any] = {}
    both: dict[str, Any] = {}
    if example is not None:
        plain["example"] = example
        both["examples"] = {"plain": {"value": example}}
        columns = [column for column in tensors.describe(endpoint.input_schema) if column["name"] in example]
        if not any(isinstance(example[column["name"]], (list, dict)) for column in columns):
            inputs = [column | {"shape": [1], "data": [example[column["name"]]]} for column in columns]
            both["examples"]["tensors"] = {"value": {"inputs": inputs}}
    if endpoint.config.route:
        body = _json(question, **plain)
        add(endpoint.config.route, "post", f"Answer a request ({task})", answer, name, *_INFERENCE_ERRORS, body=body)
    summary = "Answer a request, or a batch of them as tensors of the Open Inference Protocol"
    body = _json({"anyOf": [question, _reference("TensorQuestion")]}, **both)
    either = {"anyOf": [answer, _reference("TensorAnswer")]}
    add(f"{base}/infer", "post", summary, either, name, *_INFERENCE_ERRORS, body=body)
    add(base, "get", "What goes in and what comes out", _OBJECT, name)
    add(f"{base}/ready", "get", "Whether it can answer", _reference("Health"), name, 503)


def _describe_server(config: ServerConfig, add: Any) -> None:
    health, tag = _reference("Health"), "server"
    add("/v2/health/live", "get", "Whether the server answers", health, tag)
    add("/v2/health/ready", "get", "Whether every endpoint can answer", health, tag, 503)
    add("/v2", "get", "Name and version", _OBJECT, tag)
    ping = (health, tag, 503) if config.integration == "sagemaker" else ({"type": "boolean"}, tag)
    for path in ("/ping", "/health", "/healthcheck", "/status"):
        add(path, "get", "Whether the server answers", *ping)
    add("/config", "get", "The configuration", _OBJECT, tag)
    text = {"text/plain": {"schema": {"type": "string"}}}
    metrics = {"description": "In the text format of Prometheus", "content": text}
    add("/metrics", "get", "Metrics of all workers", metrics, tag)
    if config.allow_endpoint_changes:
        done, errors = {"const": True}, (400, 408, 413, 415, 422)
        added, removed = _json(_reference("EndpointConfig")), _json(_reference("RemovedEndpoint"))
        add("/endpoints", "post", "Add an endpoint", done, tag, *errors, 409, body=added)
        add("/endpoints", "delete", "Remove an endpoint", done, tag, *errors, 404, body=removed)


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any], **media: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema} | media}}
