"""Requests on their way in: query parameters and documents, read strictly."""

from __future__ import annotations

from collections.abc import Container
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

Model = TypeVar("Model", bound=BaseModel)


def parse_query(raw: bytes, known: Container[str] = (), repeatable: Container[str] = ()) -> dict[str, str]:
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


async def read_json(
    request: Request, context: IngestContext, *allowed: str, empty: Any = None, most: int | None = None
) -> Any:
    """The body of an ordinary request, decoded strictly. ``empty``: what a body without a byte stands for.

    ``most``: bytes that are read; those of one message where it is not given.
    """
    headers = headers_of(request.scope)
    media_type(headers, *(allowed or (JSON,)))
    most = most or context.limits.message_bytes
    raw = await read_body(headers, request.receive, most, lambda: message_too_large(most))
    return empty if not raw and empty is not None else decode_json(raw, context.limits)


async def read_model(request: Request, context: IngestContext, model: type[Model], empty: Any = None) -> Model:
    """The body of an ordinary request as a ``model``; a problem with pointers where it does not fit."""
    return validate_model(model, await read_json(request, context, empty=empty))


def validate_model(model: type[Model], document: Any) -> Model:
    """A decoded document as a ``model``; a problem with pointers where it does not fit."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise document_problem(error, document, model.model_fields) from None
