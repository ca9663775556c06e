"""Refusals of documents: what pydantic found, in the words of the one table of errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from gregor.core.errors import FieldError, Problem
from gregor.core.jsontext import pointer_to

_CODES: Final = {"missing": "missing_field", "extra_forbidden": "unknown_field"}
_WORDS: Final = {"missing_field": "This field must be there.", "unknown_field": "This field is not known."}
_OWN_CODES: Final = frozenset(
    {"invalid_id", "too_many", "time_out_of_range", "number_out_of_range", "push_endpoint_not_allowed"}
)


def of_validation(errors: Iterable[Mapping[str, Any]], where: str | None = None) -> Problem:
    """The problem of what pydantic found. ``where``: ``query`` where the fields are query parameters."""
    found = [(_code_of(error), _field_error(error, where)) for error in errors]
    code, first = found[0]
    name = f"the query parameter {first.pointer[1:]}" if where else first.pointer or "the document"
    return Problem(code, f"{name}: {first.detail}", () if where else tuple(field for _, field in found))


def of_document(error: ValidationError) -> Problem:
    """The problem of a document that does not fit its model."""
    return of_validation(error.errors(include_url=False, include_context=False))


def _code_of(error: Mapping[str, Any]) -> str:
    kind = str(error["type"])
    return kind if kind in _OWN_CODES else _CODES.get(kind, "invalid")


def _field_error(error: Mapping[str, Any], where: str | None) -> FieldError:
    path = error["loc"][1:] if where else error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    return FieldError(pointer_to(path), _WORDS.get(_code_of(error), message))
