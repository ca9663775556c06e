"""``body_schema``: JSON Schema (draft 2020-12) for the bodies of a category, limited in cost.

Rejected are references to other documents (nothing is fetched), recursive schemas, and schemas that grow beyond
``MAX_SUBSCHEMAS`` when references are followed. So each value of a body is validated at most that many times. Patterns
run in linear time: they have no look-around and no back-references.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

import jsonschema_rs
import msgspec

from gregor.core.errors import FieldError
from gregor.core.json_text import pointer_to

MAX_SUBSCHEMAS: Final = 500
"""Subschemas in a schema; a reference counts as the schema it leads to."""
MAX_NESTED_SCHEMAS: Final = 64
"""Levels of nested subschemas, references followed."""
MAX_BODY_ERRORS: Final = 10
"""Errors of one body in a response."""
MAX_VALIDATION_STEPS: Final = 2_000
"""Subschemas times values of a body up to which all errors are collected; beyond it only the first.

Validation takes microseconds. But the library collects all errors before it returns one, and all errors within a
choice (``anyOf``, ``oneOf``) even then, at 40 µs each. At the maximal size of both that is minutes.
"""
_EXTREME: Final = (
    "The schema of this category has multipleOf, so numbers must be 0, or have an absolute value between 1e-6 and 1e21."
)
_TOO_LARGE: Final = (
    "The body does not match its schema, which has choices (anyOf, oneOf): it is too large to show where."
)

_ONE: Final = frozenset(
    [
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
_MANY: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_CHOICES: Final = frozenset(("anyOf", "oneOf"))
_NAMED: Final = frozenset(("dependentSchemas", "patternProperties", "properties"))
_PLAIN: Final = frozenset(
    [
        "const",
        "contentEncoding",
        "contentMediaType",
        "default",
        "dependentRequired",
        "deprecated",
        "description",
        "enum",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "readOnly",
        "required",
        "title",
        "type",
        "uniqueItems",
        "writeOnly",
        "$comment",
        "$schema",
    ]
)
_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")
_KNOWN: Final = _ONE | _MANY | _NAMED | _PLAIN | {"$ref", "$defs"}
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=1 << 18, dfa_size_limit=1 << 18)

_PATTERN: Final = " of the supported kind: it has look-around, a back-reference, too many repeats, or an error"


class _ExtremeNumber(Exception):
    """A number that takes 15 µs to check, because ``multipleOf`` is computed with exact fractions."""


def _moderate(text: str) -> float:
    """Return a number of canonical JSON, which has an exponent if the number is extreme."""
    if "e" in text:
        raise _ExtremeNumber
    return float(text)


_decode: Final = msgspec.json.Decoder(float_hook=float).decode
_decode_moderate: Final = msgspec.json.Decoder(float_hook=_moderate).decode

_Path = tuple[str | int, ...]


# ---- validation of bodies


class SchemaError(ValueError):
    """An error in a schema. ``pointer``: a JSON pointer into the schema."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
        self.detail = detail


class BodySchema:
    """A validated schema. Raises ``SchemaError`` if it is not valid. ``document``: the schema as written."""

    __slots__ = ("_decode", "_has_choices", "_parts", "_validator", "document")

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self._parts, self._has_choices, has_multiples = _check(document)
        self._decode = _decode_moderate if has_multiples else _decode
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                dict(document),
                validate_formats=True,
                ignore_unknown_formats=False,
                pattern_options=_PATTERNS,
                offline=True,
            )
        except jsonschema_rs.ValidationError as error:
            # "Unknown format: 'x'. Adjust configuration …": there is none to adjust.
            message = error.message.partition(". Adjust configuration")[0]
            if message.endswith('is not a "regex"'):
                message += _PATTERN
            raise SchemaError(pointer_to(error.instance_path), _sentence(message)) from None
        except ValueError as error:
            raise SchemaError("", _sentence(str(error).partition("\n")[0])) from None

    def errors(self, body: bytes, pointer: str) -> list[FieldError]:
        """Return the errors of a body in canonical JSON.

        Their pointers begin with ``pointer``, the body's.
        """
        try:
            value = self._decode(body)
        except _ExtremeNumber:
            return [FieldError(pointer, _EXTREME)]
        if self._validator.is_valid(value):
            return []
        values = 1 + sum(map(body.count, (b",", b"[", b"{")))
        is_small = values * self._parts <= MAX_VALIDATION_STEPS
        if self._has_choices and not is_small:
            return [FieldError(pointer, _TOO_LARGE)]
        found: list[FieldError] = []
        for error in self._validator.iter_errors(value) if is_small else self._first(value):
            path = pointer + pointer_to(error.instance_path)
            found += [FieldError(path + step, _sentence(error.message)) for step in _steps(error)]
            if len(found) >= MAX_BODY_ERRORS:
                break
        return found[:MAX_BODY_ERRORS]

    def _first(self, value: Any) -> Iterable[jsonschema_rs.ValidationError]:
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return (error,)
        return ()


def _steps(error: jsonschema_rs.ValidationError) -> list[str]:
    """Return the path from the reported object to the wrong field, if a field is missing or not allowed."""
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        return [pointer_to((kind.property,))]
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        return [pointer_to((name,)) for name in kind.unexpected]
    return [""]


def _sentence(message: str) -> str:
    """Return the library's message as a short sentence."""
    text = message if len(message) <= 300 else message[:299] + "…"
    return text if text.endswith((".", "…")) else text + "."


# ---- checks of a schema


def _check(document: Any) -> tuple[int, bool, bool]:
    """Return the number of subschemas, whether there are choices, and whether there is a ``multipleOf``.

    Raises ``SchemaError`` for what this module rejects; the library reports all other errors.
    """
    whole = _Walk(document)
    whole.through(document, (), ())
    definitions = document.get("$defs") if isinstance(document, Mapping) else None
    for name, part in definitions.items() if isinstance(definitions, Mapping) else ():
        _Walk(document).through(part, ("$defs", name), (name,))
    return whole.parts, whole.has_choices, whole.has_multiples


class _Walk:
    """A walk through a schema along its references, as validation does it."""

    def __init__(self, root: Any) -> None:
        self._definitions = root.get("$defs") if isinstance(root, Mapping) else None
        self.parts = 0
        self.has_choices = self.has_multiples = False
        self._depth = 0

    def through(self, schema: Any, path: _Path, within: tuple[str, ...]) -> None:
        """Check a schema and its subschemas. ``within``: the definitions that contain it."""
        self.parts += 1
        if self.parts > MAX_SUBSCHEMAS or self._depth > MAX_NESTED_SCHEMAS:
            limits = f"{MAX_SUBSCHEMAS} subschemas, or {MAX_NESTED_SCHEMAS} levels of nesting"
            raise SchemaError("", f"The schema has more than {limits}, references followed.")
        if not isinstance(schema, Mapping):
            return
        for keyword in schema:
            if keyword not in _KNOWN or (keyword == "$defs" and path):
                raise SchemaError(pointer_to((*path, keyword)), _unknown(keyword))
        if schema.get("$schema", _DRAFT) not in (_DRAFT, _DRAFT + "#"):
            raise SchemaError(
                pointer_to((*path, "$schema")), f"Only draft 2020-12 is supported: remove $schema, or use {_DRAFT}."
            )
        _check_type(schema, path)
        self.has_choices = self.has_choices or not _CHOICES.isdisjoint(schema)
        self.has_multiples = self.has_multiples or "multipleOf" in schema
        self._depth += 1
        if "$ref" in schema:
            self._follow(schema["$ref"], (*path, "$ref"), within)
        for step, part in _parts(schema):
            self.through(part, (*path, *step), within)
        self._depth -= 1

    def _follow(self, reference: Any, path: _Path, within: tuple[str, ...]) -> None:
        at, definitions = pointer_to(path), self._definitions if isinstance(self._definitions, Mapping) else {}
        name = reference.removeprefix("#/$defs/") if isinstance(reference, str) else None
        if name is None or name == reference or "/" in name:
            detail = 'A $ref must lead to a definition of this schema, such as "#/$defs/address"; nothing is fetched.'
            raise SchemaError(at, detail)
        if name in within:
            raise SchemaError(at, f'The definition "{name}" contains itself; recursive schemas are not supported.')
        if name not in definitions:
            near = get_close_matches(name, definitions, 1)
            hint = f'; did you mean "#/$defs/{near[0]}"?' if near else "."
            raise SchemaError(at, f'$defs has no "{name}"{hint}')
        self.through(definitions[name], ("$defs", name), (*within, name))


def _check_type(schema: Mapping[str, Any], path: _Path) -> None:
    """Raise for an unknown type: the library only reports that no alternative matches."""
    named = schema.get("type", ())
    for name in [named] if isinstance(named, str) else named if isinstance(named, list) else ():
        if name not in _TYPES:
            near = get_close_matches(str(name), _TYPES, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"the types are {', '.join(_TYPES)}."
            raise SchemaError(pointer_to((*path, "type")), f'"{name}" is not a type; {hint}')


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[_Path, Any]]:
    """Yield the direct subschemas of a schema."""
    for keyword, value in schema.items():
        if keyword in _ONE:
            yield (keyword,), value
        elif keyword in _MANY and isinstance(value, list):
            for index, part in enumerate(value):
                yield (keyword, index), part
        elif keyword in _NAMED and isinstance(value, Mapping):
            for name, part in value.items():
                yield (keyword, name), part


def _unknown(keyword: str) -> str:
    if keyword == "$defs":
        return "$defs must be at the top of the schema."
    near = get_close_matches(keyword, _KNOWN, 1)
    hint = f'; did you mean "{near[0]}"?' if near else "."
    return f'"{keyword}" is not a supported keyword{hint}'
