"""JSON responses of ordinary routes, and the documentation of operations: responses, errors and request bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import Response
from pydantic import BaseModel

from gregor.core.errors import ERRORS, Problem
from gregor.web.http_limits import MAX_QUERY_BYTES

_encode: Final = msgspec.json.Encoder().encode

EVERYWHERE: Final = ("rate_limited", "internal", "unavailable")
"""Errors that every operation may return."""
GUARDED: Final = ("unauthorised", "forbidden", "origin_not_allowed")
"""Errors of every operation that needs a token."""

ResponseModel = type[msgspec.Struct] | str
"""The model of a response; a string names a composed component, such as a union."""


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response. ``body``: a struct, or bytes that are already JSON."""
    raw = body if isinstance(body, bytes) else _encode(body)
    return Response(raw, status, headers, media_type="application/json")


def component_name(model: type | str) -> str:
    """Return the name that a model has in the OpenAPI document."""
    name = model if isinstance(model, str) else model.__name__
    return name.removesuffix("Response").removesuffix("Schema")


def component_reference(model: type | str) -> dict[str, str]:
    """Return a reference to a component of the OpenAPI document."""
    return {"$ref": f"#/components/schemas/{component_name(model)}"}


def documented(
    status: int,
    description: str,
    model: ResponseModel | None = None,
    example: Any = None,
    *codes: str,
    location: str | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Return ``responses`` of a guarded route: the success, and one error response for each status of ``codes``.

    ``location``: the description of the header ``Location``, if the response has one.
    """
    success: dict[str, Any] = {"description": description}
    if model is not None:
        success["content"] = json_content(model, example)
    if location is not None:
        success["headers"] = {"Location": {"description": location, "schema": {"type": "string"}}}
    errors = problems(*GUARDED, "unknown_field", "invalid", "invalid_id", *codes, *EVERYWHERE)
    return {status: success, **errors, 414: _URL_TOO_LONG}


def json_content(model: ResponseModel, example: Any) -> dict[str, Any]:
    """Return the OpenAPI content of a JSON response."""
    return {"application/json": {"schema": component_reference(model), "example": example}}


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of these codes: one for each status, with an example for each code."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(ERRORS[code].status, []).append(code)
    return {status: _problem(names) for status, names in sorted(by_status.items())}


def _problem(codes: list[str]) -> dict[str, Any]:
    examples = {
        code: {"summary": ERRORS[code].title, "value": Problem(code, ERRORS[code].meaning).document("5d44d2ad9aabab30")}
        for code in codes
    }
    return _problem_content(" · ".join(ERRORS[code].title for code in codes), examples)


def _problem_content(description: str, examples: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": component_reference("Problem"), "examples": examples}},
    }


_LONG_QUERY: Final = Problem("invalid", f"The query of the URL is longer than {MAX_QUERY_BYTES} bytes.")
_URL_TOO_LONG: Final = _problem_content(
    "The URL is too long",
    {"invalid": {"summary": "URL too long", "value": {**_LONG_QUERY.document("5d44d2ad9aabab30"), "status": 414}}},
)
"""The refusal of a request target, before it is decoded (``http_limits``)."""


def request_body(
    model: type[BaseModel] | type[msgspec.Struct] | str,
    example: Any,
    *,
    is_required: bool = True,
    media_types: tuple[str, ...] = ("application/json",),
) -> dict[str, Any]:
    """Return ``openapi_extra`` of a route that reads its own body."""
    content = {kind: {"schema": component_reference(model), "example": example} for kind in media_types}
    return {"requestBody": {"required": is_required, "content": content}}
