"""Answers of ordinary routes, and how each is documented: statuses, headers, problems, examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import Response

from gregor.core.errors import ERRORS, Problem

_encode: Final = msgspec.json.Encoder().encode

EVERYWHERE: Final = ("rate_limited", "internal", "unavailable")
GUARDED: Final = ("unauthorised", "forbidden", "origin_not_allowed")


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer; ``body`` may be bytes that are JSON already."""
    raw = body if isinstance(body, bytes) else _encode(body)
    return Response(raw, status, headers, media_type="application/json")


def documented(status: int, description: str, example: Any = None, *codes: str) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: the good answer, and a problem for each status of ``codes`` and of every route."""
    good: dict[str, Any] = {"description": description}
    if example is not None:
        kind = "array" if isinstance(example, list) else "object"
        good["content"] = {"application/json": {"schema": {"type": kind}, "example": example}}
    return {status: good, **problems(*GUARDED, "unknown_field", "invalid", "invalid_id", *codes, *EVERYWHERE)}


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The documented problems of these codes, one response a status, one example a code."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(ERRORS[code].status, []).append(code)
    return {status: _problem(names) for status, names in sorted(by_status.items())}


def _problem(codes: list[str]) -> dict[str, Any]:
    examples = {
        code: {"summary": ERRORS[code].title, "value": Problem(code, ERRORS[code].meaning).document("5d44d2ad9aabab30")}
        for code in codes
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": " · ".join(ERRORS[code].title for code in codes),
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    }


def body_of(schema: Mapping[str, Any], example: Any, *, is_required: bool = True) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads its own body; ``schema`` may have definitions under ``$defs``."""
    # A reference to #/$defs would be looked for at the root of the document, where nothing is.
    whole = {name: _whole(part, schema.get("$defs", {})) for name, part in schema.items() if name != "$defs"}
    content = {"application/json": {"schema": whole, "example": example}}
    return {"requestBody": {"required": is_required, "content": content}}


def _whole(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with each of its references replaced by what it names."""
    if isinstance(schema, list):
        return [_whole(part, definitions) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        return _whole(definitions[str(schema["$ref"]).removeprefix("#/$defs/")], definitions)
    return {name: _whole(part, definitions) for name, part in schema.items()}
