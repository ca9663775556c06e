"""PURE: the little of HTTP/1.1 that the WebSocket port speaks: one request head in, one answer out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from gregor.core.errors import Problem
from gregor_gateway.protocol.server_frames import encode

MOST_HEAD_BYTES: Final = 16_384
"""The largest request head: a token of 8 KiB and a browser's cookies fit."""
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request head. Names of ``headers`` are in small letters; values that were repeated are joined by commas."""

    method: str
    path: str
    headers: Mapping[str, str]
    is_old: bool = False
    """Whether it is of HTTP/1.0, which knows no upgrade."""

    def header(self, name: str) -> str:
        """The value of a header, or nothing."""
        return self.headers.get(name, "")

    def listed(self, name: str) -> list[str]:
        """The members of a comma-separated header."""
        return [part.strip() for part in self.header(name).split(",") if part.strip()]


def parse_head(head: bytes) -> RequestHead:
    """The request that ``head`` (without its empty line) asks for. ``ValueError``: it is no HTTP/1 request."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not target.startswith(("/", "http://", "https://")):
        raise ValueError("no HTTP/1 request")
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None or (found[1].lower() == "host" and "host" in headers):
            raise ValueError("no header")
        key, value = found[1].lower(), found[2].strip(" \t")
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    is_old = version == "HTTP/1.0"
    if not is_old and "host" not in headers:
        raise ValueError("no host")
    return RequestHead(method, urlsplit(target).path, headers, is_old)


def answer(
    status: int, body: bytes, media_type: str, extra: Mapping[str, str] | None = None, *, is_head: bool = False
) -> bytes:
    """A whole answer, after which the connection ends."""
    fields = {
        "Content-Type": media_type,
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        **(extra or {}),
    }
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    return head.encode("latin-1") + (b"" if is_head else body)


def refusal(
    identity: str,
    problem: Problem,
    extra: Mapping[str, str] | None = None,
    status: int | None = None,
    *,
    is_head: bool = False,
) -> bytes:
    """The answer to the request of that id that is a problem; ``status`` where it is not that of its code (426)."""
    document = problem.document(identity)
    if status is not None:
        document["status"] = status
    headers = {"X-Request-Id": identity, **(extra or {})}
    return answer(document["status"], encode(document), "application/problem+json", headers, is_head=is_head)


def upgrade(accept: str, subprotocol: str | None) -> bytes:
    """The answer that makes the connection a WebSocket."""
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
    ).encode("latin-1")
