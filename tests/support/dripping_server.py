"""A server that never ends a response: it sends a few bytes of it now and then."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count, repeat

PERIOD_S = 0.05
LIMIT_S = 4.0
"""After this time the server gives up, so that a client without a deadline fails a test instead of blocking it."""
OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"Content-Type: application/json\r\n"
KINDS = ("status line", "headers", "1xx", "body", "chunks", "chunk size", "refusal", "connection")
"""What the server drips. `connection`: it closes after a part of the head, and drips again for the next attempt."""


def _parts(kind: str) -> Iterator[bytes]:
    match kind:
        case "status line":
            return (bytes([byte]) for byte in b"HTTP/1.1 200 " + b"O" * 1_000)
        case "headers":
            return chain([OK], (b"X-%d: a\r\n" % n for n in count()))
        case "1xx":
            return repeat(b"HTTP/1.1 103 Early Hints\r\nX: a\r\n\r\n")
        case "body":
            return chain([JSON + b"Content-Length: 10000\r\n\r\n{"], repeat(b" "))
        case "chunks":
            return chain([JSON + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"], repeat(b"1\r\n \r\n"))
        case "chunk size":
            return chain([JSON + b"Transfer-Encoding: chunked\r\n\r\n1;"], repeat(b"x"))
        case "refusal":
            return chain([b"HTTP/1.1 503 x\r\nRetry-After: 0\r\nContent-Length: 10000\r\n\r\n{"], repeat(b" "))
        case "lines":  # this one ends
            return chain([OK + b"Content-Length: 320\r\n\r\n"], repeat(b'{"kind":"item"}\n', 20))
        case _:
            return iter([OK, b"X: a\r\n", b"X: a\r\n"])


class _Handler(socketserver.BaseRequestHandler):
    server: DrippingServer

    def handle(self) -> None:
        try:
            self.request.recv(65_536)
            for part in _parts(self.server.kind):
                self.request.sendall(part)
                if self.server.is_stopped.wait(PERIOD_S):
                    return
        except OSError:
            return  # the client has gone


class DrippingServer(socketserver.ThreadingTCPServer):
    """Drips responses of one kind."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kind = kind
        self.is_stopped = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def dripping_server(kind: str) -> Iterator[DrippingServer]:
    """A running server."""
    with DrippingServer(kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        limit = threading.Timer(LIMIT_S, server.is_stopped.set)
        thread.start()
        limit.start()
        try:
            yield server
        finally:
            limit.cancel()
            server.is_stopped.set()
            server.shutdown()
            thread.join()
