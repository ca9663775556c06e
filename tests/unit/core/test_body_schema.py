"""Body schemas: validation of bodies, rejected schemas, and limits of cost."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from gregor.core.categories.body_schema import MAX_BODY_ERRORS, MAX_PATTERN_BYTES, BodySchema, SchemaError
from gregor.core.json_text import canonical_json


def pointers(schema: dict[str, Any], body: Any) -> list[str]:
    return [fault.pointer for fault in BodySchema(schema).errors(canonical_json(body), "/b")]


@pytest.mark.parametrize(
    ("schema", "body", "expected"),
    [
        ({"type": "object"}, {}, []),
        ({"type": "object"}, 1, ["/b"]),
        ({"required": ["a/b"]}, {}, ["/b/a~1b"]),
        ({"required": ["a", "c"]}, {}, ["/b/a", "/b/c"]),
        ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": [1, "x", 2.5]}, ["/b/a/1", "/b/a/2"]),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"a": 1, "x": 1}, ["/b/x"]),
        ({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}, {"a": "x"}, ["/b/a"]),
        ({"properties": {"a": {"format": "email"}}}, {"a": "nobody"}, ["/b/a"]),
        ({"pattern": "^a+$"}, "aab", ["/b"]),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "const": 1}, 1, []),
    ],
)
def test_schema_error_points_at_the_wrong_field(schema: dict[str, Any], body: Any, expected: list[str]) -> None:
    assert pointers(schema, body) == expected


def test_body_errors_are_few_and_short() -> None:
    errors = BodySchema({"items": {"type": "string"}}).errors(canonical_json([9] * 50), "")
    [long] = BodySchema({"type": "integer"}).errors(canonical_json("x" * 9_000), "")

    assert len(errors) == MAX_BODY_ERRORS
    assert len(long.detail) <= 300


@pytest.mark.parametrize(
    ("schema", "pointer", "words"),
    [
        ({"tpe": "object"}, "/tpe", 'did you mean "type"?'),
        ({"properties": {"a": {"maxlength": 5}}}, "/properties/a/maxlength", 'did you mean "maxLength"?'),
        ({"type": "strin"}, "/type", 'did you mean "string"?'),
        ({"minimum": "a"}, "/minimum", "number"),
        ({"$ref": "https://example.com/s.json"}, "/$ref", "nothing is fetched"),
        ({"$ref": "#/$defs/n"}, "/$ref", '$defs has no "n"'),
        ({"$defs": {"name": {}}, "$ref": "#/$defs/nam"}, "/$ref", "did you mean"),
        ({"$defs": {"n": {"properties": {"x": {"$ref": "#/$defs/n"}}}}}, "/$defs/n/properties/x/$ref", "itself"),
        ({"$id": "x"}, "/$id", "not a supported keyword"),
        ({"$dynamicRef": "#x"}, "/$dynamicRef", "not a supported keyword"),
        ({"properties": {"a": {"$defs": {}}}}, "/properties/a/$defs", "at the top"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema", "2020-12"),
        ({"format": "nope"}, "/format", "Unknown format: 'nope'."),
        ({"pattern": "("}, "/pattern", "regex"),
        ({"pattern": "(?=a)"}, "/pattern", "look-around"),
        ({"pattern": "(a{1000}){1000}"}, "/pattern", "regex"),
    ],
)
def test_invalid_schema_is_rejected_with_a_pointer(schema: dict[str, Any], pointer: str, words: str) -> None:
    with pytest.raises(SchemaError) as refused:
        BodySchema(schema)

    assert refused.value.pointer == pointer
    assert words in refused.value.detail and "configuration" not in refused.value.detail


def test_exponential_references_are_rejected() -> None:
    doubling: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(12)
    }

    with pytest.raises(SchemaError) as refused:
        BodySchema({"$ref": "#/$defs/d0", "$defs": {**doubling, "d12": {}}})

    assert "500 subschemas" in refused.value.detail


def test_deeply_nested_schema_is_rejected() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5_000):
        schema = {"not": schema}

    with pytest.raises(SchemaError):
        BodySchema(schema)


def test_backtracking_pattern_takes_linear_time() -> None:
    began = time.thread_time()

    assert pointers({"pattern": "^(a+)+$"}, "a" * 16_000 + "b") == ["/b"]

    assert time.thread_time() - began < 0.5


LETTERS = canonical_json("".join(random.Random(1).choices("ab", k=16_000)))


def slow(count: int, repeats: int) -> dict[str, Any]:
    """Return a schema with many patterns for one text. The time to match each grows with its repeats."""
    return {"anyOf": [{"pattern": f"^[ab]*a[ab]{{{repeats - n}}}c"} for n in range(count)]}


def nested(keyword: str, levels: int) -> dict[str, Any]:
    """Return a schema with one `unevaluatedProperties` in each level."""
    schema: dict[str, Any] = {"properties": {"a": {"type": "string"}}}
    for _ in range(levels):
        schema = {keyword: [schema], "unevaluatedProperties": False}
    return schema


def wrapped(levels: int, name: str | None = None) -> Any:
    """Return nested lists, or objects with one member of that name."""
    value: Any = []
    for _ in range(levels):
        value = [value] if name is None else {name: value}
    return value


@pytest.mark.parametrize(
    ("schema", "pointer", "words"),
    [
        (slow(200, 700), "", "patterns for one text are too large"),
        ({"properties": {"s": slow(200, 700)}}, "/properties/s", "too large"),
        ({"$defs": {"s": slow(1, 700)}, "allOf": [{"$ref": "#/$defs/s"}] * 40}, "", "maxLength"),
        ({"patternProperties": {f"^x{n}[ab]*$": {} for n in range(490)}}, "", "too large"),
        ({"anyOf": [{"format": "idn-hostname"}] * 400}, "", "too large"),
        ({"pattern": "^[ab]{20000}c"}, "/pattern", "too many repeats"),
        ({"const": wrapped(990)}, "", "too deeply"),
        ({"enum": [wrapped(700, "a")]}, "", "too deeply"),
        (nested("allOf", 12), "/allOf/0/allOf/0/allOf/0/allOf/0/allOf/0", "validates a value more than 1000 times"),
        (nested("anyOf", 12), "/anyOf/0/anyOf/0/anyOf/0/anyOf/0/anyOf/0", "validates a value more than 1000 times"),
    ],
)
def test_schema_with_too_much_work_is_rejected(schema: dict[str, Any], pointer: str, words: str) -> None:
    with pytest.raises(SchemaError, match=words) as refused:
        BodySchema(schema)

    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (slow(1, 1_350), LETTERS),
        (slow(12, 100), LETTERS),
        ({"allOf": [{"not": part} for part in slow(6, 206)["anyOf"]]}, LETTERS),
        ({"anyOf": [{"format": "idn-hostname"}] * 96}, canonical_json("é.b" * 3_900)),
        (nested("anyOf", 5), canonical_json({f"{n}": n for n in range(1_500)})),
        ({"items": {"allOf": [{"minLength": 1}] * 490}}, canonical_json(["a"] * 4_000)),
    ],
)
def test_largest_schema_on_the_largest_body_takes_bounded_time(schema: dict[str, Any], body: bytes) -> None:
    checked = BodySchema(schema)
    assert checked.pattern_bytes <= MAX_PATTERN_BYTES

    began = time.thread_time()
    checked.errors(body, "/b")

    assert time.thread_time() - began < 1.5  # takes 0.11 s; without the limits 31 s


def test_patterns_of_different_texts_do_not_add_up() -> None:
    uuid = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
    ids = {f"id{n}": {"$ref": "#/$defs/uuid"} for n in range(100)}
    schema = {"$defs": {"uuid": {"pattern": uuid}}, "properties": ids, "unevaluatedProperties": False}

    assert pointers(schema, {"id7": "no uuid"}) == ["/b/id7"]


ANY = [{"const": number} for number in range(10, 240)]


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"items": {"anyOf": ANY}}, "/b"),
        ({"items": {"oneOf": ANY}}, "/b"),
        ({"anyOf": [{"items": each} for each in ANY]}, "/b"),
        ({"items": {"allOf": ANY}}, "/b/0"),
        ({"allOf": [{"contains": each} for each in ANY]}, "/b"),
        ({"items": {"not": {"const": 1}}}, "/b/0"),
    ],
)
def test_large_body_with_many_errors_is_fast(schema: dict[str, Any], pointer: str) -> None:
    checked, body = BodySchema(schema), canonical_json([1] * 8_000)

    began = time.thread_time()
    errors = checked.errors(body, "/b")

    assert [fault.pointer for fault in errors] == [pointer]
    assert time.thread_time() - began < 1  # some milliseconds; the library takes from seconds to minutes for all faults


@pytest.mark.parametrize("number", [1e300, -1e21, 1e-300, 1.5e-7])
def test_extreme_numbers_are_not_checked_for_multiples(number: float) -> None:
    """Exact fractions take 15 µs for one, and a device chooses 16 KiB of them: 38 ms for each item."""
    schema = {"type": "object", "properties": {"amounts": {"items": {"multipleOf": 0.01}}}}

    [error] = BodySchema(schema).errors(canonical_json({"amounts": [number] * 2_000}), "/b")

    assert error.pointer == "/b" and "multipleOf" in error.detail
    assert pointers(schema, {"amounts": [0, 0.01, 999999999999.99, 1e20], "e": "1e300"}) == []
    assert pointers({"type": "object"}, {"amounts": [number]}) == []


def test_long_reference_to_a_missing_definition_is_rejected_fast() -> None:
    # Each character appears in at most 1 % of the names: difflib would ignore more popular ones.
    letters = [chr(0x100 + index % 100) for index in range(3_000)]
    name = "".join(letters)
    other = "".join(each if index % 3 else chr(0x200 + index // 3 % 6) for index, each in enumerate(letters))
    began = time.thread_time()
    with pytest.raises(SchemaError, match="has no"):
        BodySchema({"$ref": f"#/$defs/{name}", "$defs": {other: True}})
    assert time.thread_time() - began < 0.2  # takes 1 ms; compared with the name of the definition 2 s
