"""A client of the server, on the standard library alone.

>>> from sparsert.client import Client
>>> with Client("http://127.0.0.1:5543") as client:  # doctest: +SKIP
...     client.ask("Who keeps bees?", "Ada keeps bees.")["answer"]
'Ada'
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

from sparsert.errors import InputError, SparsertError

__all__ = ["Client", "ServerError"]

# Statuses that say "not now": the request has not been answered, and asking again is right.
_RETRIED = (429, 502, 503)


class ServerError(SparsertError, RuntimeError):
    """The server did not answer as asked.

    Attributes
    ----------
    status : int or None
        HTTP status; None if there was no answer at all.
    content : object
        What the server said, parsed if it was JSON.
    """

    def __init__(self, message: str, status: int | None = None, content: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.content = content


class Client:
    """Ask a server, over one connection that is kept open. Not for several threads at once: give each its own.

    Parameters
    ----------
    url : str
        Such as ``"http://127.0.0.1:5543"``.
    api_key : str, optional
        Sent with every request.
    timeout : float
        Seconds to wait for the server, each time it is asked.
    retries : int
        How often to ask again when the connection breaks or the server says "not now" (429, 502, 503). Between two
        tries the client waits as long as ``Retry-After`` says, else half a second, doubled each time.
    most_seconds : float
        Longest wait between two tries; if the server wants a longer one, that is an error.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:5543",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        most_seconds: float = 60.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"the server's url must be http://host:port or https://host:port, got {url!r}")
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = connect(parts.hostname, parts.port, timeout=timeout)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._retries = retries
        self._most_seconds = most_seconds

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def predict(self, request: Mapping[str, Any], model: str | None = None) -> Any:
        """Answer one request.

        Parameters
        ----------
        request : mapping
            The fields of the endpoint's schema.
        model : str, optional
            Name of the endpoint; by default ``/predict`` is asked.

        Raises
        ------
        ServerError
            There was no answer.
        """
        return self.post("/predict" if model is None else f"/v2/models/{quote(model, safe='')}/infer", request)

    def ask(self, question: str, context: str, model: str | None = None) -> dict[str, Any]:
        """:meth:`predict` for questions: ``score``, ``answer``, ``start`` and ``end``."""
        answer: dict[str, Any] = self.predict({"question": question, "context": context}, model)
        return answer

    def ready(self) -> bool:
        """Whether the server can answer now; False as well if there is none."""
        try:
            return self._once("GET", "/v2/health/ready", None)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def post(self, route: str, content: Any) -> Any:
        """Send JSON to a route and return the JSON that comes back, for routes with a schema of their own.

        Raises
        ------
        ServerError
            There was no answer, or one other than 200.
        """
        body = json.dumps(content).encode()
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            wait = 0.5 * 2**attempt * random.uniform(0.5, 1.0)  # apart from each other, if many clients were refused
            try:
                status, headers, data = self._once("POST", route, body)
            except (OSError, http.client.HTTPException) as error:
                if last:
                    raise ServerError(f"no answer after {attempt + 1} tries: {error}") from error
            else:
                if status == 200:
                    return json.loads(data)
                wait = _retry_after(headers) or wait
                if last or status not in _RETRIED or wait > self._most_seconds:
                    raise _refusal(status, data)
            time.sleep(min(wait, self._most_seconds))
        raise AssertionError  # the last try returns or raises

    def _once(self, method: str, route: str, body: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            self._connection.request(method, self._prefix + route, body, headers)
            response = self._connection.getresponse()
            return response.status, response.headers, response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # it may be in the middle of a request
            raise


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header asks for, which may be a number or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal() and len(value) < 10:
        return float(value)
    date = email.utils.parsedate_tz(value)
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _refusal(status: int, data: bytes) -> ServerError:
    try:
        content = json.loads(data)
    except ValueError:
        content = data.decode(errors="replace")
    reason = content.get("error", content) if isinstance(content, dict) else content
    return ServerError(f"the server answered {status}: {str(reason)[:500]}", status, content)
