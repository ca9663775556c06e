"""Collects what is wrong with a document, so that its sender learns all of it at once (protocol.md, "Errors")."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final

from .errors import FieldError, Problem
from .json_text import escape

MOST_TOLD: Final = 20
"""Faults listed in one refusal: enough to mend a document by, few enough to read."""

_LONGEST_NAME: Final = 64  # of an unknown field that is compared with the known ones: the search costs its square


def unknown(name: str, known: Collection[str]) -> str:
    """What to tell who wrote the field ``name`` where only the ``known`` ones are read."""
    near = get_close_matches(name, known, 1) if len(name) <= _LONGEST_NAME else []
    hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(sorted(known))}."
    return f"This field is not known here; {hint}"


class Faults:
    """The faults of one document, in the order they were found; the first one's code is the refusal's.

    ``code``: the refusal's, whatever the faults' own are. ``most``: how many are told.
    """

    __slots__ = ("_code", "_errors", "_most")

    def __init__(self, code: str = "", most: int = MOST_TOLD) -> None:
        self._code = code
        self._errors: list[FieldError] = []
        self._most = most

    @property
    def found(self) -> bool:
        """Whether anything is wrong so far."""
        return bool(self._errors)

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """The faults so far."""
        return tuple(self._errors)

    def is_at(self, pointer: str) -> bool:
        """Whether there is a fault at ``pointer`` or below it."""
        return any(error.pointer == pointer or error.pointer.startswith(pointer + "/") for error in self._errors)

    def note(self, code: str, pointer: str, detail: str) -> None:
        """Remember one fault. Past the most that are told, they are dropped: the document is refused anyway."""
        self._code = self._code or code
        if len(self._errors) < self._most:
            self._errors.append(FieldError(pointer, detail))

    def take(self, problem: Problem) -> None:
        """Remember the faults of a refusal that a reader of one field raised."""
        for error in problem.errors:
            self.note(problem.code, error.pointer, error.detail)

    def note_unknown(self, document: Mapping[str, Any], known: Collection[str], pointer: str) -> None:
        """Remember each field of the object at ``pointer`` that is not among the ``known`` ones."""
        for name in document:
            if name not in known and len(self._errors) < self._most:
                self.note("unknown_field", f"{pointer}/{escape(name)}", unknown(name, known))

    def check(self) -> None:
        """Raise the refusal, if there is a fault."""
        if self._errors:
            first = self._errors[0]
            raise Problem(self._code, f"{first.pointer or 'The document'}: {first.detail}", tuple(self._errors))
