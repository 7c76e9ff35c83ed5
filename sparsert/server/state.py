"""What all routes of an application share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from flask import current_app, g

from sparsert.server.batching import Admission
from sparsert.server.endpoints import Registry
from sparsert.server.metrics import Metrics

__all__ = ["State", "deadline", "state"]


@dataclass
class State:
    """What the routes of an application share."""

    registry: Registry
    metrics: Metrics
    admission: Admission
    changing: threading.Lock = field(default_factory=threading.Lock)


def state() -> State:
    """That of the application that answers the current request."""
    found: State = current_app.extensions["sparsert"]
    return found


def deadline() -> float:
    """When the request's time is over: counted from its arrival, and no longer than the server allows."""
    limit = state().registry.config.limits.deadline_s
    start: float = g.start
    return start + limit
