"""Reading the body of a request: JSON without the ambiguities that parsers disagree on."""

from __future__ import annotations

import json
import math
from typing import Any

from flask import Request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from sparsert.server.errors import BodyError

__all__ = ["parse_json", "read_body", "read_json"]


def read_body(request: Request) -> bytes:
    """The whole body.

    Raises
    ------
    BodyError
        It is larger than allowed (413), the client stopped sending it (408), or its chunks are malformed (400).
    """
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise BodyError(f"the body may have {request.max_content_length} bytes at most", 413) from None
    except (ClientDisconnected, OSError):
        raise BodyError("the body did not arrive", 408) from None
    except Exception as error:  # each WSGI server has its own for broken chunks
        raise BodyError("the body is not sent as HTTP has it") from error
    request.environ.get("sparsert.received", bool)()  # tells the worker that the client is done
    if request.content_length is not None and len(body) < request.content_length:
        raise BodyError("the body did not arrive as long as announced", 408)
    return body


def read_json(request: Request) -> Any:
    """The body as JSON; a body without a content type counts as JSON.

    Raises
    ------
    BodyError
        As for :func:`read_body`; or it is of another type (415), or malformed (400).
    """
    if request.mimetype and not request.is_json:
        raise BodyError(f"the body must be application/json, got {request.mimetype[:80]}", 415)
    return parse_json(read_body(request))


def parse_json(body: bytes) -> Any:
    """Parse strictly: UTF-8, no NaN or infinity, no key twice, no number beyond a double.

    Raises
    ------
    BodyError
        The body is malformed.
    """
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except UnicodeDecodeError as error:
        raise BodyError(f"the body is not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise BodyError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise BodyError("the body is nested too deeply") from None
    except ValueError as error:  # also an integer of thousands of digits
        raise BodyError(f"the body is not acceptable JSON: {str(error)[:200]}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key is given twice")
    return result


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value
