"""The server: pipelines over HTTP, with Flask under Gunicorn.

>>> from sparsert.server import create_app
>>> app = create_app({"endpoints": [{"task": "question-answering"}]})

``python -m sparsert.server --task question-answering`` is the command line.
"""

from __future__ import annotations

from sparsert.server.app import create_app
from sparsert.server.config import EndpointConfig, ServerConfig, load_config

__all__ = ["EndpointConfig", "ServerConfig", "create_app", "load_config"]
