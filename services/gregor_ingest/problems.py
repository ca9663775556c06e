"""Refusals of documents: what pydantic found, in the words of the one table of errors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from gregor.core.errors import FieldError, Problem
from gregor.core.json_text import pointer_to
from gregor.core.validation import MAX_ERRORS, unknown_field_detail

_CODES: Final = {
    "missing": "missing_field",
    "union_tag_not_found": "missing_field",
    "extra_forbidden": "unknown_field",
    "too_long": "too_many",
}
_OWN_CODES: Final = frozenset(
    {"invalid_id", "too_many", "time_out_of_range", "number_out_of_range", "push_endpoint_not_allowed"}
)
# What pydantic finds, as the mend: its own words speak of Python.
_WORDS: Final = {
    "missing": "This field must be there.",
    "extra_forbidden": "Unknown field.",
    "model_type": "An object is expected here.",
    "model_attributes_type": "An object is expected here.",
    "dict_type": "An object is expected here.",
    "list_type": "An array is expected here.",
    "string_type": "A string is expected here.",
    "bool_type": "true or false is expected here.",
    "bool_parsing": "true or false is expected here.",
    "float_type": "A number is expected here.",
    "int_type": "A whole number is expected here.",
    "int_parsing": "A whole number is expected here.",
    "int_from_float": "A whole number is expected here.",
    "greater_than": "This must be more than {gt:g}.",
    "greater_than_equal": "This must be at least {ge}.",
    "less_than_equal": "This must be at most {le:.0f}.",
    "too_short": "This may not be empty.",
    "too_long": "At most {max_length} are taken here.",
    "string_too_short": "This may not be empty.",
    "string_too_long": "At most {max_length} characters are taken here.",
    "literal_error": "One of {expected} is expected here.",
    "union_tag_not_found": "This field must be there.",
    "union_tag_invalid": "One of {expected_tags} is expected here.",
}
"""The words for each kind of fault; what has none here was refused by a check of ours, in words of its own."""


def query_problem(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """The problem of query parameters that FastAPI refused."""
    error = next(iter(errors))
    return Problem(_code_of(error), f"The query parameter {error['loc'][-1]}: {_detail_of(error)}")


def document_problem(error: ValidationError, document: Any, known: Collection[str]) -> Problem:
    """The problem of a document that does not fit its model, with a pointer to each fault. ``known``: its fields."""
    found = error.errors(include_url=False)
    faults = tuple(
        FieldError(pointer_to(_path(each, document)), _detail_of(each, known)) for each in found[:MAX_ERRORS]
    )
    return Problem(_code_of(found[0]), f"{faults[0].pointer or 'The document'}: {faults[0].detail}", faults)


def _code_of(error: Mapping[str, Any]) -> str:
    kind = str(error["type"])
    return kind if kind in _OWN_CODES else _CODES.get(kind, "invalid")


def _detail_of(error: Mapping[str, Any], known: Collection[str] = ()) -> str:
    kind, place = str(error["type"]), error["loc"]
    if kind == "extra_forbidden" and len(place) == 1 and known:
        return unknown_field_detail(str(place[0]), known)
    words = _WORDS.get(kind)
    return str(error["msg"]).removeprefix("Value error, ") if words is None else words.format(**error.get("ctx", {}))


def _path(error: Mapping[str, Any], document: Any) -> list[str | int]:
    """Where in the document a fault is. Of a union it is the member that says which model is meant."""
    path = _place(error["loc"], document)
    if str(error["type"]).startswith("union_tag_"):
        return [*path, str(error["ctx"]["discriminator"]).strip("'")]
    return path


def _place(steps: Sequence[str | int], document: Any) -> list[str | int]:
    """Where in the document a fault is: pydantic's path without the names of the models that it tried."""
    path: list[str | int] = []
    *inner, last = steps or ("",)
    for step in inner:
        is_element = isinstance(document, list) and isinstance(step, int)
        is_member = is_element or (isinstance(document, dict) and step in document)
        if is_member:
            document = document[step]
            path.append(step)
    is_inside = isinstance(document, dict) or (isinstance(document, list) and isinstance(last, int))
    return [*path, last] if is_inside and steps else path
