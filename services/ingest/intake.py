"""Requests on their way in: headers, media types, query parameters, bodies; each bounded before it costs anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Container, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope

from gregor.core.errors import Problem
from gregor.core.jsontext import decode_json

from .parts import Parts
from .problems import Disconnected, of_document

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
MERGE_PATCH: Final = "application/merge-patch+json"

Model = TypeVar("Model", bound=BaseModel)


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers of a request by their small name; of a repeated one the last."""
    return dict(scope["headers"])


def check_query(raw: bytes, known: Container[str] = (), repeatable: Container[str] = ()) -> dict[str, str]:
    """The query parameters (of repeatable ones the last value). ``unknown_field`` for one not known, or given twice."""
    found: dict[str, str] = {}
    if not raw:
        return found
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        if name not in known:
            raise Problem("unknown_field", f"There is no query parameter {name[:64]!r} here.")
        if name in found and name not in repeatable:
            raise Problem("unknown_field", f"The query parameter {name} may be given once only.")
        found[name] = value
    return found


def media_type(headers: Mapping[bytes, bytes], *allowed: str) -> str:
    """The media type of the body, one of ``allowed``; JSON where none is named. ``unsupported_media_type``."""
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        raise Problem("unsupported_media_type", "Send the body as it is: no Content-Encoding is read here.")
    named, *parameters = headers.get(b"content-type", b"").decode("latin-1").lower().split(";")
    kind = named.strip() or JSON
    if kind not in allowed:
        raise Problem("unsupported_media_type", f"The Content-Type must be {' or '.join(allowed)}.")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise Problem("unsupported_media_type", "JSON is UTF-8; no other charset is read.")
    return kind


async def chunks(
    headers: Mapping[bytes, bytes], receive: Receive, most_bytes: int, too_large: Callable[[], Problem]
) -> AsyncIterator[bytes]:
    """The body as it comes in. Raises ``too_large()`` from Content-Length, before reading, or at the byte over."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most_bytes:
        raise too_large()
    read = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise Disconnected
        chunk: bytes = event.get("body", b"")
        read += len(chunk)
        if read > most_bytes:
            raise too_large()
        if chunk:
            yield chunk
        if not event.get("more_body", False):
            return


async def whole(
    headers: Mapping[bytes, bytes], receive: Receive, most_bytes: int, too_large: Callable[[], Problem]
) -> bytes:
    """The body in one piece; see ``chunks``."""
    return b"".join([chunk async for chunk in chunks(headers, receive, most_bytes, too_large)])


def message_too_large(most_bytes: int) -> Problem:
    """The body of one request is over ``most_bytes``."""
    return Problem("message_too_large", f"The body is over {most_bytes} bytes.")


async def read_json(request: Request, parts: Parts, *allowed: str, empty: Any = None) -> Any:
    """The body of an ordinary request, decoded strictly. ``empty``: what a body without a byte stands for."""
    headers = headers_of(request.scope)
    media_type(headers, *(allowed or (JSON,)))
    most = parts.limits.message_bytes
    raw = await whole(headers, request.receive, most, lambda: message_too_large(most))
    return empty if not raw and empty is not None else decode_json(raw, parts.limits)


async def read_document(request: Request, parts: Parts, model: type[Model], empty: Any = None) -> Model:
    """The body of an ordinary request as a ``model``; a problem with pointers where it does not fit."""
    return fit(model, await read_json(request, parts, empty=empty))


def fit(model: type[Model], document: Any) -> Model:
    """A decoded document as a ``model``; a problem with pointers where it does not fit."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise of_document(error) from None
