"""The render budget: every filter, test and operator stays within the limits on the largest operands."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import product
from typing import Any

import pytest

from gregor.rendering.comparisons import TESTS
from gregor.rendering.filters import FILTERS
from gregor.rendering.sandbox import MAX_CHARS, TemplateError, compile_template
from tests.support.cpu_time import reference_s

HALF = MAX_CHARS // 2
TEXT = "ab" * HALF
DEEP: Any = [1] * 3_000
for _ in range(60):
    DEEP = [DEEP]
OPERANDS: dict[str, Any] = {
    "text": TEXT,
    "wide": "\U0001f600-" * HALF,
    "hex": "f1" * HALF,
    "letters": list(TEXT[:30_000]),
    "others": list("CD" * 15_000),
    "texts": [TEXT] * 1_000,
    "pairs": [[TEXT, TEXT]] * 1_000,
    "objects": [{"a": {"b": TEXT}}] * 1_000,
    "object": {f"k{n}": "v" * 8 for n in range(1_000)},
    "deep": [[*DEEP[:-1], [DEEP, n]] for n in range(40)],
    "path": "a." * 8_000 + "a",
    "form": "%A" * HALF,
    "width": "%999999999d",
    "number": 2**53 - 1,
}
"""Larger than any body, because filters make large values from small ones."""

LARGE = ("text", "wide", "hex", "letters", "texts", "pairs", "objects", "object", "deep", "number", "width")
PAIRS = (*((name, name) for name in LARGE), ("texts", "text"), ("text", "letters"), ("number", "deep"))
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "date": ("body.form",),
    "default": ("body.text", "body.texts"),
    "int": ("0, 16", "0, 36"),
    "join": ("body.text", "', ', body.path"),
    "map": (
        "'upper'",
        "'tojson'",
        "'int', 0, 16",
        "'map', 'upper'",
        "attribute=body.path",
        "'replace', 'a', body.text",
    ),
    "max": ("true, body.path",),
    "min": ("attribute='a.b'",),
    "reject": ("'in', body.letters", "'eq', body.texts", "'lower'", "'odd'"),
    "rejectattr": ("body.path", "'a.b', 'in', body.texts"),
    "replace": ("'a', body.text", "'', 'x'", "body.hex, 'x'", "body.texts, 'x'"),
    "round": ("999999999",),
    "select": ("'in', body.letters", "'in', body.text", "'lt', body.text", "'divisibleby', 7"),
    "selectattr": ("body.path", "'a.b', 'eq', body.text"),
    "sort": ("attribute='a.b,a.b,a.b'", "attribute=body.path", "true, true, 'a'"),
    "sum": ("body.path", "'a.b'"),
    "trim": ("body.text", "body.wide"),
    "truncate": ("60000", "60000, true, body.text"),
    "unique": ("true, 'a.b'", "attribute=body.path"),
}
COPIES = 6


def cpu_seconds(expression: str) -> float:
    """Return the CPU time of a template that uses an expression often."""
    template = compile_template(f"{{% if {expression} %}}{{% endif %}}" * COPIES)
    began = time.thread_time()
    with suppress(TemplateError):
        template.render({"body": OPERANDS})
    return time.thread_time() - began


def assert_bounded(expression: str) -> None:
    """Check that one of three renderings takes at most 0.5 s of a core that computes the reference in 0.001 s.

    Most take less than 0.1 s. Without the budget, a rendering takes seconds.
    """
    assert any(cpu_seconds(expression) < 500 * reference_s() for _ in range(3)), expression


@pytest.mark.parametrize("name", sorted(name for name in FILTERS if not name.startswith(" ")))
def test_filter_is_bounded(name: str) -> None:
    for operand, arguments in product(LARGE, ("", *ARGUMENTS.get(name, ()))):
        assert_bounded(f"(body.{operand} | {name}({arguments}))")


@pytest.mark.parametrize("name", sorted(TESTS))
def test_template_test_is_bounded(name: str) -> None:
    for operand, other in PAIRS:
        # Some names are symbols, which only filters accept. Tests with one operand fail at once with two.
        assert_bounded(f"(body.{operand} | select('{name}', body.{other}) | list)")
        assert_bounded(f"(body.{operand} | select('{name}') | list)")


@pytest.mark.parametrize("operator", ("<", ">=", "==", "!=", "+", "-", "*", "/", "//", "%", "~", "in", "not in"))
def test_operator_is_bounded(operator: str) -> None:
    for left, right in PAIRS:
        assert_bounded(f"(body.{left} {operator} body.{right})")


@pytest.mark.parametrize("expression", ["x[::2]", "x[body.number]", "not x", "body[x]", "-x"])
def test_other_expression_is_bounded(expression: str) -> None:
    for operand in LARGE:
        assert_bounded(f"({expression.replace('x', f'body.{operand}')})")


@pytest.mark.parametrize(
    "source",
    [
        "{{ body.letters | select('in', body.others) | list | count }}",
        "{{ body.deep | sort | first | count }}",
        "{{ body.objects }}",
        "{% for a in body.others %}{% if a in body.others %}{% endif %}{% endfor %}",
        "{% for a in body.others if a in body.others %}{% endfor %}",
        "{% for a in body.others %}{% if body.text < a ~ body.text %}{% endif %}{% endfor %}",
        "{{ body.letters | map('select', 'in', body.others) | list | count }}",
        "{% set n = body.hex | int(0, 16) %}{{ n % (n // 3) }}",
        "{{ body.texts | map('trim', body.wide) | map('title') | list }}",
        "".join(f"{{% set s{n} = body.letters[:] %}}" for n in range(300)),
        "".join(f"{{% set s{n} = body.wide[1:] %}}" for n in range(260)),
    ],
)
def test_expensive_operation_within_a_filter_or_loop_is_stopped(source: str) -> None:
    template = compile_template(source)

    def cpu_seconds() -> float:
        began = time.thread_time()
        with pytest.raises(TemplateError):
            template.render({"body": OPERANDS})
        return time.thread_time() - began

    assert any(cpu_seconds() < 500 * reference_s() for _ in range(2))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ body.hex | int(0, 16) }}", "more than 77 digits"),
        ("{{ body.numbers | sum }}", "more than 77 digits"),
        ("{{ '%99999999d' is odd }}", "odd needs a number"),
        ("{{ body.width is even }}", "even needs a number"),
        ("{{ ['%99999999d'] | select('divisibleby', 3) | list }}", "divisibleby needs a number"),
    ],
)
def test_large_number_or_formatted_text_is_refused(source: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        compile_template(source).render({"body": {**OPERANDS, "numbers": [2**255] * 3}})


@pytest.mark.parametrize("literal", ["9" * 5_000, "9" * 78, "0x" + "f" * 65])
def test_large_number_is_refused_in_a_template(literal: str) -> None:
    with pytest.raises(TemplateError, match="more than 77 digits"):
        compile_template("{{ " + literal + " }}")


def test_usual_comparisons_of_a_large_body_are_accepted() -> None:
    tags = [f"tag{n}" for n in range(300)]
    source = (
        "{% for tag in body.tags if tag in body.wanted %}{{ 'x' if tag == body.first }}{% endfor %}"
        "{% if 'tags' in body and body.tags == body.wanted and body.n is even %}same{% endif %}"
        "{{ items | sort(attribute='body.n') | map(attribute='body.n') | join(',') }}"
    )
    items = [{"id": "i", "body": {"n": n, "text": "t" * 15_000}} for n in range(100)]

    text = compile_template(source).render(
        {"body": {"tags": tags, "wanted": list(tags), "first": tags[0], "n": 2}, "items": items}
    )

    assert text.startswith("xsame0,1,2")
