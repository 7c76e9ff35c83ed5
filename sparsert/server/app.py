"""The Flask application: what happens around every request, whatever its route."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, jsonify, request
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from sparsert.errors import InputError
from sparsert.server import dialects, openai_routes, routes, tei_routes
from sparsert.server.batching import Admission
from sparsert.server.config import ServerConfig, load_config
from sparsert.server.endpoints import Registry
from sparsert.server.errors import RequestError
from sparsert.server.logs import request_id
from sparsert.server.metrics import Metrics
from sparsert.server.openapi import OPEN_PROBES
from sparsert.server.state import State

__all__ = ["create_app"]

_log = logging.getLogger(__name__)
_access = logging.getLogger("sparsert.server.access")

_PROBES = re.compile(rf"{OPEN_PROBES.pattern}|/metrics")
# What an API key does not protect: probes, and pages that only show how to ask.
_OPEN = re.compile(rf"/|{OPEN_PROBES.pattern}|/openapi\.json|/(docs|static)(/.*)?")

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Swagger UI has inline scripts and styles; all pages load from this server alone.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
}


def create_app(config: ServerConfig | Mapping[str, Any] | str | Path) -> Flask:
    """Make the WSGI application of a server; its endpoints begin to load at once, in the background.

    Parameters
    ----------
    config
        A configuration, or the path of its YAML file.

    Raises
    ------
    InputError
        The configuration is at fault (also ValueError).

    Notes
    -----
    Engines must be built after a fork, so call this in the worker: for Gunicorn, not with ``--preload``.
    """
    config = load_config(config)
    metrics = Metrics()
    registry = Registry(config, metrics)
    app = Flask(__name__, static_folder="static", static_url_path="/static")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = config.limits.max_body_bytes
    app.extensions["sparsert"] = State(registry, metrics, Admission(config.limits.max_queue))
    key = _read_key(config.api_key_file)

    @app.before_request
    def prepare() -> Response | None:
        g.start = time.monotonic()
        g.request_id = request_id(request.headers.get("X-Request-ID"))
        if request.method == "OPTIONS" and _origin_allowed(config):
            return Response(status=204)
        open_to_all = request.method in ("GET", "HEAD") and _OPEN.fullmatch(request.path)
        if key and not open_to_all and not _key_given(key):
            message = "this server wants an API key, as Authorization: Bearer or X-API-Key"
            raise RequestError(401, message, {"WWW-Authenticate": "Bearer"})
        return None

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        response.headers.update(_SECURITY_HEADERS)
        if config.cors_origins:
            response.headers["Vary"] = "Origin"  # also where the origin is refused, or caches would keep that
        if _origin_allowed(config):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            # Whatever the page asks for: clients send headers of their own, such as OpenAI's X-Stainless-Lang.
            response.headers["Access-Control-Allow-Headers"] = request.headers.get(
                "Access-Control-Request-Headers", "Authorization, Content-Type, X-API-Key, X-Request-ID"
            )
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
            response.headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-ID"
        _note(metrics, response.status_code)
        return response

    @app.errorhandler(RequestError)
    def refused(error: RequestError) -> Response:
        g.reason = type(error).__name__
        return _error(error.status, error.detail, error.headers)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        g.reason = type(error).__name__
        methods = error.valid_methods if isinstance(error, MethodNotAllowed) else None
        headers = {"Allow": ", ".join(methods)} if methods else {}
        return _error(error.code or 500, error.name, headers)

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        g.reason = type(error).__name__
        _log.error("request failed: %s", error, exc_info=error)
        return _error(500, "Internal Server Error")

    app.url_map.converters["model"] = routes.ModelConverter
    for blueprint in (routes.blueprint, openai_routes.blueprint, tei_routes.blueprint):
        app.register_blueprint(blueprint)
    app.register_blueprint(
        get_swaggerui_blueprint("/docs", "/openapi.json", {"app_name": "sparsert", "validatorUrl": None})
    )
    registry.start()
    return app


def _error(status: int, detail: str | list[dict[str, Any]], headers: Mapping[str, str] | None = None) -> Response:
    """An error as DeepSparse's clients (``detail``) and those of the Open Inference Protocol (``error``) expect it.

    Routes of other servers have a form of their own.
    """
    message = detail if isinstance(detail, str) else "; ".join(f"{_place(item)}: {item['msg']}" for item in detail)
    body = {"detail": detail, "error": message, "request_id": g.get("request_id")}
    status, body = dialects.error_body(status, detail, message) or (status, body)
    response = jsonify(body)
    response.status_code = status
    response.headers.update(headers or {})
    return response


def _place(item: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in item["loc"])


def _note(metrics: Metrics, status: int) -> None:
    """Count the request and log it."""
    seconds = time.monotonic() - g.start
    endpoint = g.get("endpoint")
    if endpoint is not None:
        metrics.request(endpoint, status, seconds)
    reason = g.get("reason")
    if reason is not None:
        metrics.error(endpoint or "", reason)
    # Probes come every few seconds, and Prometheus counts their failures.
    level = logging.DEBUG if _PROBES.fullmatch(request.path) else logging.INFO
    if _access.isEnabledFor(level):
        fields = {
            "method": request.method,
            "path": request.path[:200],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "endpoint": endpoint,
            "reason": reason,
            "remote": request.remote_addr,
            "traceparent": _traceparent(),
        }
        _access.log(
            level, "request", extra={"fields": {name: value for name, value in fields.items() if value is not None}}
        )


def _traceparent() -> str | None:
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else None


def _origin_allowed(config: ServerConfig) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and (origin in config.cors_origins or "*" in config.cors_origins)


def _read_key(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise InputError(f"api_key_file: cannot read {path}: {error.strerror}") from None
    if len(key) < 8:
        raise InputError(f"api_key_file: the key in {path} must have at least 8 characters")
    return key


def _key_given(key: bytes) -> bool:
    authorization = re.sub("^bearer +", "", request.headers.get("Authorization", ""), flags=re.IGNORECASE)
    given = request.headers.get("X-API-Key") or authorization
    return hmac.compare_digest(given.encode("utf-8", "replace"), key)
