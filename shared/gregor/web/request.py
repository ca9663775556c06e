"""Parses requests: headers, paths, media types and bodies, with limits that apply before memory is used."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final
from urllib.parse import unquote

from starlette.types import Receive, Scope

from gregor.core.errors import Problem

from .problems import ClientDisconnected, HttpProblem

JSON: Final = "application/json"
CONFIRM_AFTER_S: Final = 0.2
"""Time after which a caller is authorized again, before its request acts: a body may arrive for minutes."""
_IDENTITY_ONLY: Final = ((b"accept-encoding", b"identity"),)
_SLASH: Final = re.compile(rb"%2[fF]")
_MAX_SLASHES: Final = 16
"""Most escaped slashes of a path that is decoded. No valid name has one, and 2,000 take 0.7 ms to decode again."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by their lower-case name. Repeated headers are joined to a list (RFC 9110 §5.3).

    Two tokens thereby make an invalid one. Otherwise a proxy and this server could each check a different token.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if len(headers) != len(scope["headers"]):
        # Thousands of values are collected and joined once: joining each to the rest takes quadratic time.
        values: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            values.setdefault(name, []).append(value)
        headers = {name: (b"; " if name == b"cookie" else b", ").join(given) for name, given in values.items()}
    return headers


def path_of(scope: Scope) -> str:
    """Return the decoded path. Escaped slashes stay escaped, because they do not separate path segments.

    A path with more than 16 is returned undecoded: its names are invalid anyway.
    """
    raw: bytes = scope.get("raw_path") or b""
    path: str = scope["path"]
    escaped, slashes = _SLASH.subn(b"%252F", raw)
    if not slashes:
        return path
    return unquote(escaped) if slashes <= _MAX_SLASHES else raw.decode("latin-1")


def media_type(headers: Mapping[bytes, bytes], *allowed: str) -> str:
    """Return the media type of the body, one of ``allowed`` (default: JSON). Raises ``unsupported_media_type``."""
    if headers.get(b"content-encoding", b"").strip():
        raise HttpProblem(
            "unsupported_media_type",
            "Content-Encoding is not supported. Send the body uncompressed.",
            headers=_IDENTITY_ONLY,
        )
    named, *parameters = headers.get(b"content-type", b"").decode("latin-1").lower().split(";")
    kind = named.strip() or JSON
    if kind not in allowed:
        accepted = ((b"accept", ", ".join(allowed).encode()),)
        detail = f"The Content-Type must be {' or '.join(allowed)}."
        raise HttpProblem("unsupported_media_type", detail, headers=accepted)
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise Problem("unsupported_media_type", "The charset must be utf-8.")
    return kind


async def body_chunks(
    headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int, too_large: Callable[[], Problem]
) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield the chunks of the body, each with whether it is the last one.

    Raises ``too_large()`` before reading if Content-Length exceeds ``max_bytes``, else at the first byte beyond it.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large()
    read = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = event.get("body", b"")
        read += len(chunk)
        if read > max_bytes:
            raise too_large()
        is_last = not event.get("more_body", False)
        if chunk or is_last:
            yield chunk, is_last
        if is_last:
            return


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int, too_large: Callable[[], Problem]
) -> bytes:
    """Return the whole body; see ``body_chunks``."""
    return b"".join([chunk async for chunk, _ in body_chunks(headers, receive, max_bytes, too_large)])


def message_too_large(max_bytes: int) -> Problem:
    """Return the problem of a body over ``max_bytes``."""
    return Problem("message_too_large", f"The body is larger than {max_bytes} bytes.")
