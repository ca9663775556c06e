"""An HTTP server in place of ingest: it answers as a test scripted it and records the requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ScriptedIngest(ThreadingHTTPServer):
    """Answers `status` and `answer`, or what `next` holds for the next requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path with query, and JSON content of each request."""
        self.authorization: str | None = None
        self.durabilities: list[str | None] = []
        """The header `Gregor-Durability` of each request."""
        self.encodings: list[str | None] = []
        """The header `Accept-Encoding` of each request."""
        self.status = 200
        self.answer: Any = {}
        self.headers: Mapping[str, str] = {}
        self.next: list[tuple[int, Any]] = []
        """Status and content of the next responses, before `status` and `answer` apply."""
        self.links: list[str] = []
        """The `rel="next"` link of each of the next responses."""
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedIngest

    def _respond(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, _parse(raw)))
        self.server.authorization = self.headers["Authorization"]
        self.server.durabilities.append(self.headers["Gregor-Durability"])
        self.server.encodings.append(self.headers["Accept-Encoding"])
        status, answer = self.server.next.pop(0) if self.server.next else (self.server.status, self.server.answer)
        content = answer if isinstance(answer, bytes) else b"" if status == 204 else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        if self.server.links:
            self.send_header("Link", f'<{self.server.links.pop(0)}>; rel="next"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _respond

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the tests read what was asked."""


def _parse(raw: bytes) -> Any:
    lines = [json.loads(line) for line in raw.splitlines()] if raw else []
    return lines if len(lines) > 1 else lines[0] if lines else None


@contextmanager
def scripted_ingest() -> Iterator[ScriptedIngest]:
    """A running server."""
    with ScriptedIngest() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
