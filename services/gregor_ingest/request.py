"""Incoming requests: query parameters, JSON bodies and merge patches, validated strictly."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, ValidationError

from gregor.core.errors import Problem
from gregor.core.json_text import decode_json
from gregor.web.request import JSON, headers_of, media_type, message_too_large, read_body

from .context import IngestContext
from .problems import document_problem

NDJSON: Final = "application/x-ndjson"
MERGE_PATCH: Final = "application/merge-patch+json"
SMALL_BODY_BYTES: Final = 16_384
"""Limit of a body that describes one thing, such as a device. 256 KiB of brackets would take 60 ms to decode."""
MAX_ETAGS: Final = 100
BODY_ERRORS: Final = ("malformed_json", "message_too_large", "unsupported_media_type")
"""Error codes of every operation with a JSON body."""

Model = TypeVar("Model", bound=BaseModel)


def parse_query(raw: bytes, known: Collection[str] = (), repeatable: Container[str] = ()) -> dict[str, str]:
    """Return the query parameters. Raise ``unknown_field`` if one is unknown, or repeated and not ``repeatable``."""
    parameters: dict[str, str] = {}
    if not raw:
        return parameters
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        # Unknown names are errors, so a typo never silently changes the result.
        if name not in known:
            hint = f"The known ones are {', '.join(sorted(known))}." if known else "This request has none."
            raise Problem("unknown_field", f"Unknown query parameter {name[:64]!r}. {hint}")
        if name in parameters and name not in repeatable:
            raise Problem("unknown_field", f"The query parameter {name} may be given only once.")
        parameters[name] = value
    return parameters


async def read_json(
    request: Request, context: IngestContext, *allowed: str, empty: Any = None, max_bytes: int | None = None
) -> Any:
    """Return the decoded body of a request.

    ``allowed``: media types (default: JSON). ``empty``: the value of an empty body, if one is allowed. ``max_bytes``:
    the size limit (default: that of one message). A device is charged for the length of the body.
    """
    headers = headers_of(request.scope)
    media_type(headers, *(allowed or (JSON,)))
    limit = max_bytes or context.limits.message_bytes
    raw = await read_body(headers, request.receive, limit, lambda: message_too_large(limit))
    await context.authorizer.confirm(request.scope)
    await context.rate_limiter.check_body(request.state.actor, request.scope, len(raw))
    return empty if not raw and empty is not None else decode_json(raw, context.limits)


async def read_model(
    request: Request, context: IngestContext, model: type[Model], empty: Any = None, max_bytes: int | None = None
) -> Model:
    """Return the body of a request as a ``model``; see ``read_json`` and ``validate_model``."""
    return validate_model(model, await read_json(request, context, empty=empty, max_bytes=max_bytes))


def validate_model(model: type[Model], document: Any) -> Model:
    """Return a decoded document as a ``model``. Raise ``Problem`` with a pointer to each error if it is invalid."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise document_problem(error, document, model.model_fields) from None


def matches_etag(values: Sequence[str], etag: str) -> bool:
    """Return whether one of the first ``MAX_ETAGS`` tags of ``If-None-Match`` is the ETag, or a ``*``.

    The comparison is weak (RFC 9110, section 13.1.2): proxies may have made a strong tag weak.
    """
    opaque = etag.removeprefix("W/")
    tags = map(str.strip, ",".join(values).split(",", MAX_ETAGS)[:MAX_ETAGS])
    return any(tag == "*" or tag.removeprefix("W/") == opaque for tag in tags)


def apply_merge_patch(target: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7396) to a document; null removes a member."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = apply_merge_patch(result.get(name), value)
    return result
