"""The subset of HTTP/1.1 that the WebSocket port and the admin port need: one request head in, one response out. Pure.

Requests with a body are never read here, so uvicorn and its parser would only add a task and buffers a connection. The
fakes of ``gregor.dev`` parse bodies with httptools instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from gregor.core.errors import Problem
from gregor.telemetry import request_id
from gregor.web.http_limits import MAX_FIELDS
from gregor.web.middleware import SECURITY_HEADERS
from gregor_gateway.protocol.server_frames import encode

MAX_HEAD_BYTES: Final = 16_384
"""Largest request head: it holds a token of 8 KiB and the cookies of a browser."""
# A token, and visible ASCII (RFC 9112, 3): fuzzing found that a NUL in the target was accepted.
_REQUEST_LINE: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ((?:/|https?://)[\x21-\x7e]*) HTTP/1\.([01])")
# Visible ASCII and obs-text (RFC 9110, 5.5): control characters could split the response or the log.
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request head. Header names are lower case; the values of a repeated header are joined by commas."""

    method: str
    path: str
    headers: Mapping[str, str]
    is_http10: bool = False

    @property
    def request_id(self) -> str:
        """The id of the request: the one of its header ``X-Request-Id`` if that is valid, else a new one."""
        return request_id(self.header("x-request-id"))

    @property
    def has_body(self) -> bool:
        """Whether a body follows the head."""
        return bool(self.header("transfer-encoding")) or self.header("content-length") not in ("", "0")

    def header(self, name: str) -> str:
        """Return the value of a header; empty if absent."""
        return self.headers.get(name, "")

    def listed(self, name: str) -> list[str]:
        """Return the members of a comma-separated header."""
        return [part.strip() for part in self.header(name).split(",") if part.strip()]


class RequestRefused(Exception):
    """The request that begins with ``head`` cannot be parsed. ``response`` is the answer to send."""

    def __init__(self, status: int, detail: str, head: bytes) -> None:
        super().__init__(detail)
        is_head = head.startswith(b"HEAD ")
        self.response = problem_response(request_id(), Problem("invalid", detail), status=status, is_head=is_head)


def split_head(received: bytes) -> tuple[RequestHead, bytes] | None:
    """Return the request head and the bytes behind it; ``None`` if it is incomplete. Raises ``RequestRefused``.

    Empty lines before the request line are ignored (RFC 9112, 2.2).
    """
    head, found, rest = received.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if len(received) - len(rest) > MAX_HEAD_BYTES + 4:
        raise RequestRefused(431, f"The request head is larger than {MAX_HEAD_BYTES} bytes.", head)
    if not found:
        return None
    if head.count(b"\r\n") > MAX_FIELDS:
        raise RequestRefused(431, f"The request has more than {MAX_FIELDS} header fields.", head)
    try:
        return parse_head(head), rest
    except ValueError as error:
        raise RequestRefused(400, f"Not a valid HTTP/1.1 request: {error}.", head) from error


def parse_head(head: bytes) -> RequestHead:
    """Parse a request head without its final empty line. Raises ``ValueError`` if it is not valid HTTP/1."""
    first, *lines = head.decode("latin-1").split("\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise ValueError("invalid request line")
    method, target, minor = request.groups()
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise ValueError("invalid header line")
        key, value = found[1].lower(), found[2].strip(" \t")
        if key == "host" and key in headers:
            raise ValueError("more than one Host header")
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    is_http10 = minor == "0"
    if not is_http10 and "host" not in headers:
        raise ValueError("missing Host header")
    return RequestHead(method, urlsplit(target).path, headers, is_http10)


_SECURITY_HEADERS: Final = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}


def response(
    status: int, body: bytes, media_type: str, extra: Mapping[str, str] | None = None, *, is_head: bool = False
) -> bytes:
    """Return a complete response; the connection closes after it."""
    fields = {
        "Content-Type": media_type,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **_SECURITY_HEADERS,
        **(extra or {}),
    }
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    return head.encode("latin-1") + (b"" if is_head else body)


def problem_response(
    identity: str,
    problem: Problem,
    extra: Mapping[str, str] | None = None,
    status: int | None = None,
    *,
    is_head: bool = False,
) -> bytes:
    """Return a problem as the response to the request with that id. ``status`` replaces the one of its code (426)."""
    document = problem.document(identity)
    if status is not None:
        document["status"] = status
    headers = {"X-Request-Id": identity, **(extra or {})}
    return response(document["status"], encode(document), "application/problem+json", headers, is_head=is_head)


def upgrade_response(accept: str, subprotocol: str | None) -> bytes:
    """Return the response that switches the connection to WebSocket."""
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
    ).encode("latin-1")
