"""Collector of validation errors: a response lists all errors of a document (errors.md, "Problems")."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

from .errors import FieldError, Problem
from .json_text import escape_pointer

MAX_ERRORS: Final = 20
"""Errors listed in one response: enough to fix a document with, few enough to read."""

# The search for similar names is quadratic in the length of the names: 15 s for two names of 6,000 characters.
_MAX_COMPARED_LENGTH: Final = 64
_MAX_COMPARED_NAMES: Final = 100


def similar_name(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar of the known names, if one is similar. Compares 100 names of at most 64 characters."""
    if len(name) > _MAX_COMPARED_LENGTH:
        return None
    short = (each for each in known if len(each) <= _MAX_COMPARED_LENGTH)
    return next(iter(get_close_matches(name, islice(short, _MAX_COMPARED_NAMES), 1)), None)


def unknown_field_detail(name: str, known: Collection[str]) -> str:
    """Return the text for an unknown field: the most similar known field, or the list of all known ones."""
    near = similar_name(name, known)
    hint = f'did you mean "{near}"?' if near else f"known fields are {', '.join(sorted(known))}."
    return f"Unknown field; {hint}"


class ValidationErrors:
    """The errors of one document, in the order of their discovery.

    ``code``: the code of the final ``Problem``; without it, the code of the first error. ``limit``: errors to keep.
    """

    __slots__ = ("_code", "_errors", "_limit")

    def __init__(self, code: str = "", limit: int = MAX_ERRORS) -> None:
        self._code = code
        self._errors: list[FieldError] = []
        self._limit = limit

    @property
    def has_errors(self) -> bool:
        """Whether an error was added."""
        return bool(self._errors)

    @property
    def field_errors(self) -> tuple[FieldError, ...]:
        """The errors added so far."""
        return tuple(self._errors)

    def has_error_at(self, pointer: str) -> bool:
        """Whether there is an error at ``pointer`` or below it."""
        return any(error.pointer == pointer or error.pointer.startswith(pointer + "/") for error in self._errors)

    def add(self, code: str, pointer: str, detail: str) -> None:
        """Add one error. Errors beyond the limit are dropped: the document is rejected anyway."""
        self._code = self._code or code
        if len(self._errors) < self._limit:
            self._errors.append(FieldError(pointer, detail))

    def add_problem(self, problem: Problem) -> None:
        """Add the errors of a ``Problem`` that the parser of one field raised."""
        for error in problem.errors:
            self.add(problem.code, error.pointer, error.detail)

    def add_unknown_fields(self, document: Mapping[str, Any], known: Collection[str], pointer: str) -> None:
        """Add an error for each field of the object at ``pointer`` that is not among the ``known`` ones."""
        for name in document:
            if name not in known and len(self._errors) < self._limit:
                self.add("unknown_field", f"{pointer}/{escape_pointer(name)}", unknown_field_detail(name, known))

    def raise_if_any(self) -> None:
        """Raise one ``Problem`` with all errors, if there are any."""
        if self._errors:
            first = self._errors[0]
            raise Problem(self._code, f"{first.pointer or 'The document'}: {first.detail}", tuple(self._errors))
