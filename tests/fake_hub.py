"""A hub with one repository, on this machine: the part of its API that ``huggingface_hub`` uses to fetch files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class FakeHub:
    """Serves the files below a folder as the repository ``org/model``; ``requests`` are the paths asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.url = ""

    @property
    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {
            path.partition("/resolve/")[2].partition("/")[2] for path in self.requests if path.startswith("GET /org")
        }

    def names(self) -> list[str]:
        """All files, as paths below the root."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())

    def info(self) -> dict:
        """What the hub says of the repository."""
        return {"id": "org/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.names()]}

    def tree(self) -> list[dict]:
        """What the hub says of its files."""
        sizes = {name: (self.root / name).stat().st_size for name in self.names()}
        return [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]


@contextmanager
def serving(root: Path) -> Iterator[FakeHub]:
    """A hub on a free port, as long as the block runs."""
    hub = FakeHub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if path.startswith("/api/models/org/model/tree/"):
                self.send(json.dumps(hub.tree()).encode())
            elif path.startswith("/api/models/org/model"):
                self.send(json.dumps(hub.info()).encode())
            elif path.startswith("/org/model/resolve/"):
                file = hub.root / path.removeprefix("/org/model/resolve/").partition("/")[2]
                self.send(file.read_bytes()) if file.is_file() else self.send(b"", 404, "EntryNotFound")
            else:
                self.send(b"", 404, "RepoNotFound")

        def send(self, body: bytes, status: int = 200, error: str = "") -> None:
            self.send_response(status)
            headers = {"Content-Length": str(len(body)), "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
            headers |= {"X-Repo-Commit": COMMIT} | ({"X-Error-Code": error} if error else {})
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
