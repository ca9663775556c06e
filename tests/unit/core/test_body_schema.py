"""Body schemas: validation of bodies, rejected schemas, and limits of cost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gregor.core.categories.body_schema import MAX_BODY_ERRORS, BodySchema, SchemaError
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
