"""The OpenAPI document of a server, from its endpoints' schemas."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from apispec import APISpec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from sparsert import __version__
from sparsert.server import tensors
from sparsert.server.config import EndpointConfig
from sparsert.server.endpoints import Endpoint

if TYPE_CHECKING:
    from sparsert.server.endpoints import Registry

__all__ = ["document"]


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
    429: "Too many requests wait; Retry-After says when to come back",
    503: "The endpoint is not ready",
    504: "The answer did not come in time",
}
_INFERENCE_ERRORS = (400, 408, 413, 415, 422, 429, 503, 504)


def document(registry: Registry) -> dict[str, Any]:
    """Describe every route of a server, as OpenAPI 3.1."""
    secured = registry.config.api_key_file is not None
    spec = APISpec(
        title="sparsert",
        version=__version__,
        openapi_version="3.1.0",
        info={"description": "Answers of sparse transformer models. Every error has the form of Error."},
    )
    schemas: list[type[BaseModel]] = [Error, Health, TensorQuestion, TensorAnswer]
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

    def add(path: str, method: str, summary: str, answer: Any, **operation: Any) -> None:
        errors = operation.pop("errors", ())
        is_open = operation.pop("is_open", False)
        name = f"{method}_{re.sub('[^A-Za-z0-9]+', '_', path).strip('_')}"
        taken[name] += 1  # routes may differ in nothing but what is left out here
        operation["operationId"] = name if taken[name] == 1 else f"{name}_{taken[name]}"
        operation["summary"] = summary
        operation["responses"] = {"200": answer}
        if secured and not is_open:
            operation["security"] = [{"key": []}]
            errors = (401, *errors)
        for status in errors:
            operation["responses"][str(status)] = {"description": _ERRORS[status]} | _json(_reference("Error"))
        paths.setdefault(path, {})[method] = operation

    def called(schema: type[BaseModel]) -> dict[str, Any]:
        return references[schema, "validation"]

    paths: dict[str, dict[str, Any]] = {}
    taken: Counter[str] = Counter()
    for endpoint in registry.endpoints:
        _describe_endpoint(endpoint, add, called)
    _describe_server(registry, add, called)
    for path, operations in paths.items():
        spec.path(path=path, operations=operations)
    return spec.to_dict()


def _describe_endpoint(endpoint: Endpoint, add: Any, called: Any) -> None:
    question, answer = called(endpoint.input_schema), called(endpoint.output_schema)
    example = endpoint.config.kind.example
    columns = [column for column in tensors.describe(endpoint.input_schema) if column["name"] in (example or {})]
    plain: dict[str, Any] = {} if example is None else {"example": example}
    both: dict[str, Any] = {}
    if example is not None:
        both["examples"] = {"plain": {"value": example}}
        if not any(isinstance(example[column["name"]], (list, dict)) for column in columns):
            inputs = [column | {"shape": [1], "data": [example[column["name"]]]} for column in columns]
            both["examples"]["tensors"] = {"value": {"inputs": inputs}}
    tags = [endpoint.name]
    if endpoint.config.route:
        add(
            endpoint.config.route,
            "post",
            f"Answer a request ({endpoint.config.public_task})",
            _answer(answer),
            requestBody={"required": True} | _json(question, **plain),
            errors=_INFERENCE_ERRORS,
            tags=tags,
        )
    base = f"/v2/models/{endpoint.name}"
    add(
        f"{base}/infer",
        "post",
        "Answer a request, or a batch of them as tensors of the Open Inference Protocol",
        _answer({"anyOf": [answer, _reference("TensorAnswer")]}),
        requestBody={"required": True}
        | _json(
            {"anyOf": [question, _reference("TensorQuestion")]},
            **both,
        ),
        errors=_INFERENCE_ERRORS,
        tags=tags,
    )
    add(base, "get", "What goes in and what comes out", _answer({"type": "object"}), tags=tags)
    add(
        f"{base}/ready",
        "get",
        "Whether it can answer",
        _answer(_reference("Health")),
        errors=(503,),
        tags=tags,
        is_open=True,
    )


def _describe_server(registry: Registry, add: Any, called: Any) -> None:
    tags = ["server"]
    for path, text in (("live", "the server answers"), ("ready", "every endpoint can answer")):
        add(
            f"/v2/health/{path}",
            "get",
            f"Whether {text}",
            _answer(_reference("Health")),
            errors=(503,) if path == "ready" else (),
            tags=tags,
            is_open=True,
        )
    add("/v2", "get", "Name and version", _answer({"type": "object"}), tags=tags)
    ping: dict[str, Any] = {"type": "boolean"}
    errors: tuple[int, ...] = ()
    if registry.config.integration == "sagemaker":
        ping, errors = _reference("Health"), (503,)
        if registry.endpoints:
            first = registry.endpoints[0]
            add(
                "/invocations",
                "post",
                "Answer a request",
                _answer(called(first.output_schema)),
                requestBody={"required": True} | _json(called(first.input_schema)),
                errors=_INFERENCE_ERRORS,
                tags=tags,
            )
    for path in ("/ping", "/health", "/healthcheck", "/status"):
        add(path, "get", "Whether the server answers", _answer(ping), errors=errors, tags=tags, is_open=True)
    add("/config", "get", "The configuration", _answer({"type": "object"}), tags=tags)
    metrics = {
        "description": "In the text format of Prometheus",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    add("/metrics", "get", "Metrics of all workers", metrics, tags=tags)
    if registry.config.allow_endpoint_changes:
        for method, verb, schema, status in (
            ("post", "Add", "EndpointConfig", 409),
            ("delete", "Remove", "RemovedEndpoint", 404),
        ):
            add(
                "/endpoints",
                method,
                f"{verb} an endpoint",
                _answer({"const": True}),
                requestBody={"required": True} | _json(_reference(schema)),
                errors=(400, 408, status, 413, 415, 422),
                tags=tags,
            )


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any], **media: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema} | media}}


def _answer(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "OK"} | _json(schema)
