"""Refusals of documents: what pydantic found, in the words of the one table of errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from gregor.core.errors import FieldError, Problem
from gregor.core.jsontext import pointer_to

_CODES: Final = {"missing": "missing_field", "extra_forbidden": "unknown_field"}
_WORDS: Final = {"missing_field": "This field must be there.", "unknown_field": "This field is not known."}
_OWN_CODES: Final = frozenset(
    {"invalid_id", "too_many", "time_out_of_range", "number_out_of_range", "push_endpoint_not_allowed"}
)


def of_query(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """The problem of query parameters that FastAPI refused."""
    error = next(iter(errors))
    return Problem(_code_of(error), f"The query parameter {error['loc'][-1]}: {_detail_of(error)}")


def of_document(error: ValidationError, document: Any) -> Problem:
    """The problem of a document that does not fit its model, with a pointer to each fault."""
    found = error.errors(include_url=False, include_context=False)
    faults = tuple(FieldError(pointer_to(_place(each["loc"], document)), _detail_of(each)) for each in found)
    return Problem(_code_of(found[0]), f"{faults[0].pointer or 'The document'}: {faults[0].detail}", faults)


def _code_of(error: Mapping[str, Any]) -> str:
    kind = str(error["type"])
    return kind if kind in _OWN_CODES else _CODES.get(kind, "invalid")


def _detail_of(error: Mapping[str, Any]) -> str:
    return _WORDS.get(_code_of(error), str(error["msg"]).removeprefix("Value error, "))


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
