"""All routes of the server."""

from __future__ import annotations

import itertools
from typing import Any

from flask import Blueprint, Response, abort, current_app, g, jsonify, request
from pydantic import ValidationError
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.routing import PathConverter

from sparsert import __version__
from sparsert.errors import InputError
from sparsert.pipelines.registry import IMPORT
from sparsert.server import tei_routes, tensors
from sparsert.server.bodies import parse_json, read_body, read_json
from sparsert.server.config import EndpointConfig
from sparsert.server.endpoints import Endpoint, Registry, public_reference
from sparsert.server.errors import NotReadyError, RequestError, SchemaError
from sparsert.server.openapi import document
from sparsert.server.state import deadline, state

__all__ = ["ModelConverter", "blueprint"]

blueprint = Blueprint("server", __name__)


class ModelConverter(PathConverter):
    """``model`` in a rule: a name or a route, whose last part is none of those that a model's own routes end with."""

    regex = "[^/](?:.*[^/])?(?<!/infer)(?<!/ready)"


def _endpoint(name: str) -> Endpoint:
    """The endpoint of a name, or of a route; every endpoint has the version 1 alone."""
    registry = state().registry
    endpoint = registry.named(name) or registry.named(name.removesuffix("/versions/1"))
    if endpoint is None:
        abort(404)
    return endpoint


# ---- inference -------------------------------------------------------------------------------------------------------


def _answer_plain(endpoint: Endpoint, content: Any) -> Response:
    """One request in the pipeline's own schema."""
    inputs = endpoint.parse(content)
    with state().admission.enter():
        (output,) = endpoint.answer([inputs], deadline()).results
    # With top_k the pipeline gives a list of answers.
    text = (
        f"[{','.join(item.model_dump_json() for item in output)}]"
        if isinstance(output, list)
        else output.model_dump_json()
    )
    return Response(text, mimetype="application/json")


def _answer_tensors(endpoint: Endpoint, content: Any, binary: bytes) -> Response:
    """A batch of requests as tensors of the Open Inference Protocol."""
    limit = state().registry.config.limits.max_rows
    batch = tensors.read_request(content, binary, endpoint.input_schema, endpoint.output_schema, limit)
    inputs = [endpoint.parse(row) for row in batch.rows]
    with state().admission.enter(len(inputs)):
        outputs = endpoint.answer(inputs, deadline()).results
    if isinstance(outputs[0], list):
        raise SchemaError.at((), "tensors hold one answer each, but this endpoint gives several (top_k); ask in JSON")
    return tensors.write_response(batch, endpoint.name, outputs)


@blueprint.before_app_request
def predict() -> Response | None:
    """The routes of the endpoints, which may change while the server runs, and so stand in no table."""
    endpoint = state().registry.at(request.path.removesuffix("/"))
    if endpoint is None:
        return None
    g.own_route = True  # even where another server has one of that name
    if request.method == "OPTIONS":
        return Response(status=204, headers={"Allow": "OPTIONS, POST"})
    if request.method != "POST":
        raise MethodNotAllowed(["POST"])
    g.endpoint = endpoint.name
    content = read_json(request)
    if tei_routes.is_predict(endpoint, content):
        return tei_routes.answer_predict(endpoint, content)
    return _answer_plain(endpoint, content)


@blueprint.post("/v2/models/<model:name>/infer")
def infer(name: str) -> Response:
    """Both forms: the pipeline's own schema, and tensors of the Open Inference Protocol."""
    endpoint = _endpoint(name)
    g.endpoint = endpoint.name
    header_length = request.headers.get("Inference-Header-Content-Length")
    if header_length is not None:
        body = read_body(request)
        if not header_length.isdecimal() or len(header_length) > 12 or int(header_length) > len(body):
            raise SchemaError.at((), "Inference-Header-Content-Length must be a length within the body")
        content = parse_json(body[: int(header_length)])
        return _answer_tensors(endpoint, content, body[int(header_length) :])
    content = read_json(request)
    if tensors.is_request(content, endpoint.input_schema):
        return _answer_tensors(endpoint, content, b"")
    return _answer_plain(endpoint, content)


@blueprint.post("/invocations")
@blueprint.post("/invocations/<model:name>/infer")
def invocations(name: str | None = None) -> Response:
    """SageMaker's routes, with ``integration: sagemaker``."""
    registry = state().registry
    if registry.config.integration != "sagemaker" or not registry.endpoints:
        abort(404)
    endpoint = registry.endpoints[0] if name is None else _endpoint(name)
    g.endpoint = endpoint.name
    return _answer_plain(endpoint, read_json(request))


# ---- health and information ------------------------------------------------------------------------------------------


@blueprint.get("/ping")
@blueprint.get("/health")
@blueprint.get("/healthcheck")
@blueprint.get("/status")
def ping() -> Response:
    """Whether the server answers at all; with SageMaker, whether it can answer requests."""
    if state().registry.config.integration == "sagemaker":
        return ready()
    return jsonify(True)


@blueprint.get("/v2/health/live")
def live() -> Response:
    """Whether the server answers at all."""
    return jsonify(status="OK", live=True)


@blueprint.get("/v2/health/ready")
def ready() -> Response:
    """Whether every endpoint can answer."""
    if not state().registry.ready:
        raise NotReadyError("not every endpoint is ready")
    return jsonify(status="OK", ready=True)


@blueprint.get("/v2")
def server_metadata() -> Response:
    """Name and version, as the Open Inference Protocol has it."""
    return jsonify(name="sparsert", version=__version__, extensions=["binary_tensor_data"])


@blueprint.get("/v2/models/<model:name>")
def model_metadata(name: str) -> Response:
    """What goes into an endpoint and what comes out."""
    endpoint = _endpoint(name)
    return jsonify(
        name=endpoint.name,
        versions=["1"],
        platform="sparsert",
        inputs=tensors.describe(endpoint.input_schema),
        outputs=tensors.describe(endpoint.output_schema),
        task=endpoint.config.public_task,
        model_path=public_reference(endpoint.config.model),
    )


@blueprint.get("/v2/models/<model:name>/ready")
def model_ready(name: str) -> Response:
    """Whether an endpoint can answer."""
    endpoint = _endpoint(name)
    if not endpoint.ready or state().registry.draining:
        raise NotReadyError(f"endpoint {endpoint.name} is not ready")
    return jsonify(status="OK", name=endpoint.name, ready=True)


@blueprint.get("/config")
def show_config() -> Response:
    """The configuration with all defaults, without paths of this machine."""
    config = state().registry.config
    content = config.model_dump(mode="json", exclude={"api_key_file"})
    loggers = config.loggers.names()
    for endpoint, given in zip(content["endpoints"], config.endpoints, strict=True):
        endpoint["task"] = given.public_task
        endpoint["model"] = public_reference(endpoint["model"])
        endpoint["kwargs"].pop("output_dir", None)
        for function in itertools.chain(*endpoint["data_logging"].values()):
            function["func"] = function["func"].rpartition("/")[2]
    # What a logger of one's own is made with may be secret.
    content["loggers"] = {name: {} if name in config.loggers.custom() else content["loggers"][name] for name in loggers}
    return jsonify(content)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Metrics of all workers, for Prometheus."""
    text, content_type = state().metrics.exposition()
    return Response(text, content_type=content_type)


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """This API as an OpenAPI document."""
    return jsonify(document(state().registry))


@blueprint.get("/docs")
def docs() -> Response:
    """The page to try the API on."""
    return Response(status=307, headers={"Location": "/docs/"})


@blueprint.get("/")
def page() -> Response:
    """A small page to try an endpoint on."""
    return current_app.send_static_file("index.html")


# ---- changing endpoints ----------------------------------------------------------------------------------------------


@blueprint.route("/endpoints", methods=["POST", "DELETE"])
def change_endpoints() -> Response:
    """Add an endpoint (POST), or remove the one of a name or route (DELETE)."""
    registry = state().registry
    if not registry.config.allow_endpoint_changes:
        raise RequestError(403, "endpoints cannot be changed: start the server with allow_endpoint_changes")
    content = read_json(request)
    with state().changing:  # two changes at once would each undo the other
        return _change_endpoints(registry, content)


def _change_endpoints(registry: Registry, content: Any) -> Response:
    endpoints = registry.config.endpoints
    if request.method == "POST":
        wanted = _parse_endpoint(content)
        if any(
            (wanted.name and item.name == wanted.name) or (wanted.route and item.route == wanted.route)
            for item in endpoints
        ):
            raise RequestError(409, "there is an endpoint of that name or route")
        changed = [*endpoints, wanted]
    else:
        if not isinstance(content, dict) or not {"name", "route"} & {key for key in content if content[key]}:
            raise SchemaError.at(("route",), "give the route or the name of the endpoint")
        route = "/" + str(content["route"]).strip("/") if content.get("route") else None
        changed = [
            item
            for item in endpoints
            if (route and item.route != route) or (content.get("name") and item.name != content["name"])
        ]
        if len(changed) == len(endpoints):
            abort(404)
    try:
        registry.change(changed)
    except InputError as error:
        raise SchemaError.at((), str(error)) from error
    return jsonify(True)


def _parse_endpoint(content: Any) -> EndpointConfig:
    if isinstance(content, dict) and str(content.get("task")).startswith(IMPORT):
        raise SchemaError.at(("task",), "code of one's own can only stand in the configuration file")
    try:
        endpoint = EndpointConfig.model_validate(content)
    except ValidationError as error:
        raise SchemaError.of(error) from None
    for function in itertools.chain(*endpoint.data_logging.values()):
        if ":" in function.func:
            raise SchemaError.at(("data_logging",), "functions of files can only stand in the configuration file")
    return endpoint
