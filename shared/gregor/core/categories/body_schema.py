"""``body_schema``: JSON Schema (draft 2020-12) for the bodies of a category, limited in cost.

This module rejects references to other documents (nothing is fetched), recursive schemas, and schemas that grow beyond
``MAX_SUBSCHEMAS`` when references are followed. ``MAX_VALIDATIONS`` limits how often a value of a body is validated.

Patterns run in linear time: they have no look-around and no back-references. But the time for each character grows with
the size of the compiled pattern, so ``MAX_PATTERN_BYTES`` limits the sum of these sizes for one text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import jsonschema_rs
import msgspec

from gregor.core.errors import FieldError
from gregor.core.json_text import pointer_to
from gregor.core.limits import KIB
from gregor.core.validation import similar_name

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
MAX_VALIDATIONS: Final = 1_000
"""Validations of one value of a body. For ``unevaluatedProperties`` the library validates the neighbouring subschemas
again: the number grows 2.6-fold with each level of nesting."""
MAX_PATTERN_BYTES: Final = 96 * KIB
"""Size of all compiled patterns that are matched with one text. Matching a text of 16 KiB takes 85 ms at this limit."""
MAX_PATTERN_WORK: Final = 3 << 30
"""Compiled pattern bytes times body bytes, added up for one message. Matching takes 170 ms at this limit."""
_MAX_DETAILED_WORK: Final = 1 << 28
"""Compiled pattern bytes times body bytes up to which a rejection says where the errors are.

This matches all patterns again, which takes 14 ms at this limit.
"""
MAX_VALUE_WORK: Final = 200_000_000
"""Nanoseconds of validation of all bodies of one message, as ``BodySchema.value_work`` estimates them."""
_MAX_DETAILED_VALUE_WORK: Final = 20_000_000
"""Nanoseconds of validation of one body up to which all errors are collected."""
_IDN_HOSTNAME_BYTES: Final = KIB
"""The format ``idn-hostname`` takes as long as a pattern of this size; no other format takes a tenth of it."""

_EXTREME: Final = (
    "The schema of this category has multipleOf, so numbers must be 0, or have an absolute value between 1e-6 and 1e21."
)
_TOO_COMPLEX: Final = (
    "The body does not match its schema. The body, or the patterns of the schema, are too large to show where."
)
_TOO_DEEP: Final = (
    "The schema nests lists and objects too deeply. Use fewer levels in const, enum, default, and examples."
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
_DISJOINT: Final = frozenset(("prefixItems", "properties"))
"""Keywords of which at most one subschema applies to each value."""
_UNEVALUATED: Final = frozenset(("unevaluatedItems", "unevaluatedProperties"))
_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")
_KNOWN: Final = _ONE | _MANY | _NAMED | _PLAIN | {"$ref", "$defs"}
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES, dfa_size_limit=1 << 18)
_MEASURED_BYTES: Final = tuple(KIB * size for size in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96))
"""Sizes that are distinguished: the library reports only whether a compiled pattern is above a limit."""
_SIZE_LIMITS: Final = tuple(jsonschema_rs.RegexOptions(size_limit=size) for size in _MEASURED_BYTES)

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

# Measured upper bounds in nanoseconds. The library compares fractions exactly, and numbers of different types.
_SCHEMA_NS: Final = 20
_NUMBER_NS: Final = 800
_OTHER_NS: Final = 10
_CONTAINER_NS: Final = 150
_MULTIPLE_NS: Final = 1_400
_LIMIT_NS: Final = 1_200  # a limit with a fraction
_UNIQUE_NS: Final = 4_000  # lists of up to 15 values are compared pairwise
_FORMAT_NS: Final = 500
_EXTREME_FACTOR: Final = 25
_EXTREME_IN_BODY: Final = re.compile(rb"(?:^|[\[:,])-?(?:[0-9.]+e|[0-9]{20})").search
_LIMITS_OF_NUMBERS: Final = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum")

_Path = tuple[str | int, ...]


# ---- validation of bodies


class SchemaError(ValueError):
    """An error in a schema. ``pointer``: a JSON pointer into the schema."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
        self.detail = detail


class BodySchema:
    """A validated schema. Raises ``SchemaError`` if it is not valid.

    ``document``: the schema as written. ``pattern_bytes``: compiled size of the patterns that are matched with one
    text. ``compiled_sizes``: the size of each different pattern, in bytes.
    """

    __slots__ = (
        "_decode",
        "_has_choices",
        "_parts",
        "_validator",
        "_work_per_value",
        "compiled_sizes",
        "document",
        "pattern_bytes",
    )

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        walk = _check(document)
        self._parts, self._has_choices = walk.parts, walk.has_choices
        self.pattern_bytes, self._work_per_value = walk.pattern_bytes, walk.value_work
        self.compiled_sizes = tuple(walk.compiled_sizes.values())
        self._decode = _decode_moderate if walk.has_multiples else _decode
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
            reason = str(error).partition("\n")[0]
            raise SchemaError("", _TOO_DEEP if reason.startswith("Recursion limit") else _sentence(reason)) from None

    def value_work(self, body: bytes) -> int:
        """Return an estimate of the time to validate a body, in nanoseconds, without the time for patterns."""
        work = _count_values(body) * self._work_per_value
        # The exact fraction of 1e-300 has 300 digits.
        return work * _EXTREME_FACTOR if _EXTREME_IN_BODY(body) else work

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
        if self.pattern_bytes * len(body) > _MAX_DETAILED_WORK:
            return [FieldError(pointer, _TOO_COMPLEX)]
        is_small = _count_values(body) * self._parts <= MAX_VALIDATION_STEPS
        is_small = is_small and self.value_work(body) <= _MAX_DETAILED_VALUE_WORK
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


def _count_values(body: bytes) -> int:
    return 1 + sum(map(body.count, (b",", b"[", b"{")))


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


def _check(document: Any) -> _Walk:
    """Return the findings of a walk through the whole schema. Raises ``SchemaError`` for what this module rejects.

    The library reports all other errors.
    """
    compiled_sizes: dict[str, int] = {}
    whole = _Walk(document, compiled_sizes)
    cost = whole.through(document, (), ())
    whole.pattern_bytes, whole.value_work = cost.pattern_bytes, cost.value_work
    definitions = document.get("$defs") if isinstance(document, Mapping) else None
    for name, part in definitions.items() if isinstance(definitions, Mapping) else ():
        _Walk(document, compiled_sizes).through(part, ("$defs", name), (name,))
    return whole


class _Cost(NamedTuple):
    """The work for one value: validations, their time, and the compiled size of the patterns matched with one text.

    ``value_work``: nanoseconds without patterns.

    ``repeated_…``: the part that ``unevaluatedProperties`` beside or around the schema causes a second time, to find
    the members that the schema has evaluated.
    """

    validations: int
    pattern_bytes: int
    value_work: int
    repeated_validations: int
    repeated_bytes: int
    repeated_work: int


def _cost(schema: Mapping[str, Any], own_pattern_bytes: int, children: Sequence[tuple[str, _Cost]]) -> _Cost:
    """Return the cost of a schema. ``children``: keyword and cost of its subschemas."""
    validations = 1 + sum(cost.validations for _, cost in children)
    # A text is in one property, and is matched only with the patterns of that one.
    disjoint = [cost for keyword, cost in children if keyword in _DISJOINT]
    others = [cost for keyword, cost in children if keyword not in _DISJOINT]
    pattern_bytes = own_pattern_bytes + max((cost.pattern_bytes for cost in disjoint), default=0)
    pattern_bytes += sum(cost.pattern_bytes for cost in others)
    value_work = _own_value_work(schema) + max((cost.value_work for cost in disjoint), default=0)
    value_work += sum(cost.value_work for cost in others)
    repeated_validations = sum(cost.validations + cost.repeated_validations for cost in others)
    repeated_bytes = sum(cost.pattern_bytes + cost.repeated_bytes for cost in others)
    repeated_work = sum(cost.value_work + cost.repeated_work for cost in others)
    if not _UNEVALUATED.isdisjoint(schema):
        validations += repeated_validations
        pattern_bytes += repeated_bytes
        value_work += repeated_work
    return _Cost(validations, pattern_bytes, value_work, repeated_validations, repeated_bytes, repeated_work)


def _own_value_work(schema: Mapping[str, Any]) -> int:
    """Return the nanoseconds for one value by the keywords of a schema without its subschemas."""
    work = _SCHEMA_NS
    choices = schema.get("enum")
    # The library looks up texts in a set. It compares all other values one by one.
    if isinstance(choices, list) and not all(isinstance(each, str) for each in choices):
        work += _comparison_ns(choices)
    if "const" in schema:
        work += _comparison_ns(schema["const"])
    for keyword in _LIMITS_OF_NUMBERS:
        if keyword in schema:
            is_plain = isinstance(schema[keyword], int) and schema[keyword].bit_length() < 64
            work += _SCHEMA_NS if is_plain else _LIMIT_NS * _extreme_factor(schema[keyword])
    if "multipleOf" in schema:
        work += _MULTIPLE_NS * _extreme_factor(schema["multipleOf"])
    work += _UNIQUE_NS * ("uniqueItems" in schema) + _FORMAT_NS * ("format" in schema)
    for keyword in ("dependentRequired", "properties"):
        members = schema.get(keyword)
        if isinstance(members, Mapping):
            longest = max((len(each) for each in members.values() if isinstance(each, list)), default=0)
            work += _SCHEMA_NS * (len(members) + longest)
    return work


def _comparison_ns(value: Any) -> int:
    """Return the nanoseconds to compare a value of a body with ``value``."""
    total_ns, pending = 0, [value]
    while pending:  # not recursive: the value can be nested more deeply than the library accepts
        each = pending.pop()
        if isinstance(each, Mapping):
            total_ns += _CONTAINER_NS + _OTHER_NS * len(each)
            pending += each.values()
        elif isinstance(each, list):
            total_ns += _CONTAINER_NS
            pending += each
        elif isinstance(each, int | float) and not isinstance(each, bool):
            total_ns += _NUMBER_NS * _extreme_factor(each)
        else:
            total_ns += _OTHER_NS
    return total_ns


def _extreme_factor(number: Any) -> int:
    is_moderate = isinstance(number, int | float) and (number == 0 or 1e-6 <= abs(number) < 1e19)
    return 1 if is_moderate else _EXTREME_FACTOR


def _check_cost(cost: _Cost, path: _Path) -> None:
    if cost.validations > MAX_VALIDATIONS:
        detail = (
            f"This schema validates a value more than {MAX_VALIDATIONS} times. Use fewer parts, or no "
            "unevaluatedProperties and unevaluatedItems within each other."
        )
        raise SchemaError(pointer_to(path), detail)
    if cost.pattern_bytes > MAX_PATTERN_BYTES:
        detail = (
            f"The patterns for one text are too large: {cost.pattern_bytes // KIB} KiB when compiled, and the limit is "
            f"{MAX_PATTERN_BYTES // KIB} KiB. Use fewer patterns, or maxLength instead of repeats such as {{1,200}}."
        )
        raise SchemaError(pointer_to(path), detail)


def _compiled_bytes(pattern: str) -> int:
    """Return an upper bound for the size of a compiled pattern; the maximum if it is larger or invalid."""
    index = bisect_left(_SIZE_LIMITS, True, hi=len(_MEASURED_BYTES) - 1, key=lambda limits: _fits(pattern, limits))
    return _MEASURED_BYTES[index]


def _fits(pattern: str, limits: jsonschema_rs.RegexOptions) -> bool:
    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=limits, offline=True)
    except ValueError:
        return False
    return True


class _Walk:
    """A walk through a schema along its references, as validation does it."""

    def __init__(self, root: Any, compiled_sizes: dict[str, int]) -> None:
        self._definitions = root.get("$defs") if isinstance(root, Mapping) else None
        self.compiled_sizes = compiled_sizes
        """The size of each pattern in bytes. The walks through the definitions add theirs."""
        self.pattern_bytes = self.value_work = 0
        self.parts = 0
        self.has_choices = self.has_multiples = False
        self._depth = 0

    def through(self, schema: Any, path: _Path, within: tuple[str, ...]) -> _Cost:
        """Check a schema and its subschemas, and return its cost. ``within``: the definitions that contain it."""
        self.parts += 1
        if self.parts > MAX_SUBSCHEMAS or self._depth > MAX_NESTED_SCHEMAS:
            limits = f"{MAX_SUBSCHEMAS} subschemas, or {MAX_NESTED_SCHEMAS} levels of nesting"
            raise SchemaError("", f"The schema has more than {limits}, references followed.")
        if not isinstance(schema, Mapping):
            return _Cost(1, 0, _SCHEMA_NS, 0, 0, 0)
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
        children = [("$ref", self._follow(schema["$ref"], (*path, "$ref"), within))] if "$ref" in schema else []
        children += [(str(step[0]), self.through(part, (*path, *step), within)) for step, part in _parts(schema)]
        self._depth -= 1
        cost = _cost(schema, self._own_pattern_bytes(schema), children)
        _check_cost(cost, path)
        return cost

    def _own_pattern_bytes(self, schema: Mapping[str, Any]) -> int:
        """Return the compiled size of the patterns of a schema without its subschemas."""
        # Invalid patterns are not rejected here: the library reports them.
        named = schema.get("patternProperties")
        patterns = [schema.get("pattern"), *(named if isinstance(named, Mapping) else ())]
        size = _IDN_HOSTNAME_BYTES if schema.get("format") == "idn-hostname" else 0
        for pattern in patterns:
            if isinstance(pattern, str):
                if pattern not in self.compiled_sizes:
                    self.compiled_sizes[pattern] = _compiled_bytes(pattern)
                size += self.compiled_sizes[pattern]
        return size

    def _follow(self, reference: Any, path: _Path, within: tuple[str, ...]) -> _Cost:
        at, definitions = pointer_to(path), self._definitions if isinstance(self._definitions, Mapping) else {}
        name = reference.removeprefix("#/$defs/") if isinstance(reference, str) else None
        if name is None or name == reference or "/" in name:
            detail = 'A $ref must lead to a definition of this schema, such as "#/$defs/address"; nothing is fetched.'
            raise SchemaError(at, detail)
        if name in within:
            raise SchemaError(at, f'The definition "{name}" contains itself; recursive schemas are not supported.')
        if name not in definitions:
            near = similar_name(name, definitions)
            hint = f'; did you mean "#/$defs/{near}"?' if near else "."
            raise SchemaError(at, f'$defs has no "{name}"{hint}')
        return self.through(definitions[name], ("$defs", name), (*within, name))


def _check_type(schema: Mapping[str, Any], path: _Path) -> None:
    """Raise for an unknown type: the library only reports that no alternative matches."""
    named = schema.get("type", ())
    for name in [named] if isinstance(named, str) else named if isinstance(named, list) else ():
        if name not in _TYPES:
            near = similar_name(str(name), _TYPES)
            hint = f'did you mean "{near}"?' if near else f"the types are {', '.join(_TYPES)}."
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
    near = similar_name(keyword, _KNOWN)
    hint = f'; did you mean "{near}"?' if near else "."
    return f'"{keyword}" is not a supported keyword{hint}'
