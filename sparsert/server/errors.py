"""What a request can fail of, each with the status that the client gets."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from sparsert.errors import SparsertError

__all__ = ["BodyError", "DeadlineError", "NotReadyError", "QueueFullError", "RequestError", "SchemaError"]


class RequestError(SparsertError):
    """A request is not answered, with an HTTP status and a reason that holds nothing but what the client may know."""

    def __init__(self, status: int, detail: str | list[dict[str, Any]], headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class BodyError(RequestError):
    """The body is not JSON (400), did not arrive (408), or is too large (413) or of another type (415)."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(status, detail)


class SchemaError(RequestError):
    """A field is missing or does not fit; ``detail`` lists each with its place (422)."""

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        super().__init__(422, problems)

    @classmethod
    def of(cls, error: ValidationError) -> SchemaError:
        """All that pydantic found, without the values that the client sent."""
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        return cls([{"loc": ["body", *item["loc"]], "msg": item["msg"], "type": item["type"]} for item in problems])

    @classmethod
    def at(cls, place: tuple[str | int, ...], message: str, kind: str = "value_error") -> SchemaError:
        """One problem at one place of the body."""
        return cls([{"loc": ["body", *place], "msg": message, "type": kind}])


class QueueFullError(RequestError):
    """More requests than the server takes on (429)."""

    def __init__(self, limit: int, retry_after: int) -> None:
        headers = {"Retry-After": str(retry_after)}
        super().__init__(429, f"{limit} requests wait already; try again later", headers)


class NotReadyError(RequestError):
    """The endpoint cannot answer now (503)."""

    def __init__(self, detail: str) -> None:
        super().__init__(503, detail, {"Retry-After": "1"})


class DeadlineError(RequestError):
    """The answer did not come in time (504)."""

    def __init__(self) -> None:
        super().__init__(504, "the answer did not come in time")
