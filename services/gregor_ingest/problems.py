"""Validation errors of pydantic, as problems with our codes, texts and JSON Pointers."""

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
# The texts of pydantic use Python terms, so common errors get texts that say how to fix the JSON.
_DETAILS: Final = {
    "missing": "This field is missing.",
    "extra_forbidden": "Unknown field.",
    "model_type": "This must be an object.",
    "model_attributes_type": "This must be an object.",
    "dict_type": "This must be an object.",
    "list_type": "This must be an array.",
    "string_type": "This must be a string.",
    "bool_type": "This must be true or false.",
    "bool_parsing": "This must be true or false.",
    "float_type": "This must be a number.",
    "int_type": "This must be a whole number.",
    "int_parsing": "This must be a whole number.",
    "int_from_float": "This must be a whole number.",
    "greater_than": "This must be more than {gt:g}.",
    "greater_than_equal": "This must be at least {ge}.",
    "less_than_equal": "This must be at most {le:.0f}.",
    "too_short": "This must not be empty.",
    "too_long": "This may have at most {max_length} elements.",
    "string_too_short": "This must not be empty.",
    "string_too_long": "This may have at most {max_length} characters.",
    "literal_error": "This must be one of {expected}.",
    "union_tag_not_found": "This field is missing.",
    "union_tag_invalid": "This must be one of {expected_tags}.",
}
"""The text for each type of error. Other types come from our own validators, with their own texts."""


def query_problem(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """Return the problem for query parameters that FastAPI refused."""
    error = next(iter(errors))
    return Problem(_code_of(error), f"The query parameter {error['loc'][-1]}: {_detail_of(error)}")


def document_problem(error: ValidationError, document: Any, known: Collection[str]) -> Problem:
    """Return the problem for an invalid document, with a pointer to each error. ``known``: the fields of its model."""
    found = error.errors(include_url=False)
    field_errors = tuple(
        FieldError(pointer_to(_path(each, document)), _detail_of(each, known)) for each in found[:MAX_ERRORS]
    )
    return Problem(
        _code_of(found[0]), f"{field_errors[0].pointer or 'The document'}: {field_errors[0].detail}", field_errors
    )


def _code_of(error: Mapping[str, Any]) -> str:
    kind = str(error["type"])
    return kind if kind in _OWN_CODES else _CODES.get(kind, "invalid")


def _detail_of(error: Mapping[str, Any], known: Collection[str] = ()) -> str:
    kind, place = str(error["type"]), error["loc"]
    if kind == "extra_forbidden" and len(place) == 1 and known:
        return unknown_field_detail(str(place[0]), known)
    text = _DETAILS.get(kind)
    return str(error["msg"]).removeprefix("Value error, ") if text is None else text.format(**error.get("ctx", {}))


def _path(error: Mapping[str, Any], document: Any) -> list[str | int]:
    """Return the path of an error. For a union, it ends with the discriminator."""
    path = _place(error["loc"], document)
    if str(error["type"]).startswith("union_tag_"):
        return [*path, str(error["ctx"]["discriminator"]).strip("'")]
    return path


def _place(steps: Sequence[str | int], document: Any) -> list[str | int]:
    """Return pydantic's path of an error without the names of models, which are not in the document."""
    path: list[str | int] = []
    *inner, last = steps or ("",)
    # pydantic puts names of models and union tags between the members: skip steps that the document does not have.
    for step in inner:
        is_element = isinstance(document, list) and isinstance(step, int)
        is_member = is_element or (isinstance(document, dict) and step in document)
        if is_member:
            document = document[step]
            path.append(step)
    is_inside = isinstance(document, dict) or (isinstance(document, list) and isinstance(last, int))
    return [*path, last] if is_inside and steps else path
