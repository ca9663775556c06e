"""The template sandbox: features, refusals with their line, and limits of time and size."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.rendering.sandbox import MAX_CHARS, TemplateError, compile_template

BODY = {"name": "Bob", "n": 10, "tags": ["b", "a"], "who": {"k": "kb"}, "items": [1, 2], "x": None, "yes": True}


def rendered(source: str, *, is_html: bool = False, **variables: Any) -> str:
    template = compile_template(source, is_html=is_html)
    template.check()
    return template.render({"body": BODY, "count": 1, "items": [{"id": "a", "body": BODY}], **variables})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ body.name }} joined", "Bob joined"),
        ("{{ body.who.k | upper }}", "KB"),
        ("{{ body['name'] }}{{ body.tags[0] }}{{ body.name[:2] }}", "BobbBo"),
        ("{{ body.nothing }}{{ body.nothing.at.all }}{{ body.x }}", ""),
        ("{{ body.nothing | default('you') }}", "you"),
        ("{{ body.items }} {{ body.yes }}", "[1, 2] true"),
        ("{{ body.who }}", '{"k": "kb"}'),
        ("{{ body.n * 2 + 1 }} {{ body.n / 4 }} {{ body.n // 4 }} {{ -body.n % 3 }}", "21 2.5 2 2"),
        ("{{ (body.n / 3) | round(2) }} {{ (body.n / 3) | round }}", "3.33 3"),
        ("{{ body.name ~ '!' ~ body.n }}", "Bob!10"),
        ("{% if body.n > 5 and 'a' in body.tags %}much{% else %}little{% endif %}", "much"),
        ("{{ 'many' if count > 1 else 'one' }}", "one"),
        (
            "{% for tag in body.tags | sort %}{{ loop.index }}{{ tag }}{% if not loop.last %},{% endif %}{% endfor %}",
            "1a,2b",
        ),
        ("{% for key, value in body.who | items %}{{ key }}={{ value }}{% endfor %}", "k=kb"),
        ("{% for x in body.nothing %}x{% else %}none{% endfor %}", "none"),
        ("{% for t in body.tags if t != 'a' %}{{ t }}{% endfor %}", "b"),
        ("{{ items | map(attribute='body.name') | join(', ') }}", "Bob"),
        ("{{ body.tags | join('-') }} {{ body.items | sum }} {{ body.tags | length }}", "b-a 3 2"),
        ("{{ body.name | replace('B', 'R') }} {{ body.name | truncate(2, true, '', 0) }}", "Rob Bo"),
        ("{% set who = body.name | lower %}{{ who }}{{ who }}", "bobbob"),
        ("{{ body.tags | first }}{{ body.tags | last }}{{ body.tags | max }}", "bab"),
        ("{{ 1457056447 | date }} {{ 1457056447 | date('%d.%m.%y %') }}{{ body.x | date }}", "2016-03-04 04.03.16 %"),
        ("{{ 'a b/ü' | urlencode }}", "a%20b/%C3%BC"),
        ("{{ body.name is defined }}{{ body.n is divisibleby 5 }}", "truetrue"),
        ("{# a comment #}{% raw %}{{ }}{% endraw %}", "{{ }}"),
    ],
)
def test_template_features(source: str, text: str) -> None:
    assert rendered(source) == text


def test_html_is_always_escaped() -> None:
    body = {"name": "<b>&", "list": ["<i>"]}
    source = (
        "<p>{{ body.name }}{{ body.list | join('<br>') }}{{ '<' ~ body.name }}{{ body.name | replace('&', '<') }}</p>"
    )

    html = compile_template(source, is_html=True).render({"body": body})

    assert html == "<p>&lt;b&gt;&amp;&lt;i&gt;&lt;&lt;b&gt;&amp;&lt;b&gt;&lt;</p>"
    for source in ("{{ body.name | safe }}", "{% autoescape false %}{{ body.name }}{% endautoescape %}"):
        with pytest.raises(TemplateError):
            compile_template(source, is_html=True)


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("{{ body.x", 1, "Unexpected end of template, expected '}}'."),
        ("{{ body.x y }}", 1, "Expected token '}}', got 'y'."),
        ("a\n{% if body.x }", 2, "Unexpected '}'."),
        ("{% if body.x {{ y }}{% endif %}", 1, "Expected token '%}', got '{'."),
        ("a\n{% autoescape false %}{{ body.x }}{% endautoescape %}", 2, "Escaping cannot be disabled"),
        ("one\n{% if %}", 2, "Expected an expression"),
        ("one\ntwo\n{{ bdy.x }}", 3, "Unknown variable bdy; did you mean body?"),
        ("{{ body.x | uper }}", 1, "Unknown filter uper; did you mean upper?"),
        ("{{ body.x | batch }}", 1, "Unknown filter batch; known are abs"),
        ("{{ body.x is oddd }}", 1, "Unknown test oddd; did you mean odd?"),
        ("\n{{ body.x.upper() }}", 2, "cannot call functions"),
        ("{{ range(10) }}", 1, "cannot call functions"),
        ("{{ 2 ** 9 }}", 1, "power operator"),
        ("{% include 'x' %}", 1, "not supported in templates"),
        ("{% import 'x' as y %}", 1, "not supported in templates"),
        ("{% macro a() %}{% endmacro %}", 1, "not supported in templates"),
        ("{% block a %}{% endblock %}", 1, "not supported in templates"),
        ("{% set a = [body, body] %}", 1, "only constants"),
        ("{% set a, b = body %}", 1, "one name"),
        ("{{ {'a': 1} }}", 1, "Dictionaries"),
        ("{% for a in body recursive %}{% endfor %}", 1, "Recursive"),
        ("{{ self }}", 1, "Unknown variable self"),
        ("{{ cycler }}", 1, "Unknown variable cycler"),
        ("{{ body | attr('x') }}", 1, "Unknown filter attr"),
        ("{% do x %}", 1, "unknown tag"),
        ("{{" + "(" * 3_000 + "1" + ")" * 3_000 + "}}", 0, "nested too deeply"),
        ("{{ body" + ".a" * 3_000 + " }}", 1, "more than 2000 parts"),
        ("{{ " + " or ".join(["body.a"] * 3_000) + " }}", 1, "more than 2000 parts"),
    ],
)
def test_unsupported_syntax_is_refused_with_line(source: str, line: int, words: str) -> None:
    with pytest.raises(TemplateError) as refused:
        compile_template(source)

    assert refused.value.line == line
    assert words in refused.value.reason


@pytest.mark.parametrize(
    "source", ["{{ 1 // 0 }}", "{{ 'a' * 9 }}", "{{ 'a' + 'b' }}", "{{ '%s' % 1 }}", "{{ 'x' | truncate(-1) }}"]
)
def test_check_finds_rendering_errors_with_line(source: str) -> None:
    template = compile_template("one\n" + source)

    with pytest.raises(TemplateError) as refused:
        template.check()

    assert refused.value.line == 2


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ body.__class__.__mro__ }}",
        "{{ body.items.__self__ }}",
        "{{ body.name.format }}{{ body.tags.append }}{{ body.keys }}",
        "{{ loop }}",
        "{% for x in body.tags %}{{ loop._iterator }}{{ loop.cycle }}{% endfor %}",
        "{{ body['__class__'] }}{{ body.tags['append'] }}",
        "{{ items | map(attribute='__class__') | join }}",
        "{{ body.n.real }}",
    ],
)
def test_no_python_object_is_reachable(source: str) -> None:
    try:
        assert rendered(source) == ""
    except TemplateError as error:
        assert re.search("Unknown variable|Unknown member|underscore", error.reason)


MANY = [1] * 5_000
LARGE = {"l": MANY, "m": list(MANY), "n": list(MANY), "s": "a" * 8_000, "d": [{"a": 1}] * 1_000, "lists": [[1]] * 100}
DOUBLED = "{% set a = body.s %}" + "{% set a = a ~ a %}" * 30 + "{{ a }}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in body.l %}{% for b in body.l %}{% for c in body.l %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in body.s %}{% for b in body.s %}{{ '' }}{% endfor %}{% endfor %}",
        "{% for a in body.l %}{% for b in body.l %}{% if body.m == body.n %}{% endif %}{% endfor %}{% endfor %}",
        "{% for a in body.l %}{% if body | tojson == 'x' %}{% endif %}{% endfor %}",
        "{% for a in body.l %}{% if body.l | sort | join(',') == '' %}{% endif %}{% endfor %}",
        "{% for a in body.l %}{{ body.s | replace('a', 'b') | upper | lower | title | trim | first }}{% endfor %}",
        "{% for a in body.l %}{{ body }}{% endfor %}",
        "{{ body.s | replace('a', body.s) }}",
        "{{ body.s | replace('', body.s) }}",
        "{{ body.l | join(body.s) }}",
        "{{ body.l | map('replace', '1', body.s) | list | length }}",
        "{{ body.lists | map(' each', -999999) | map('list') | list }}"
        "{% for a in body.l %}{% for b in body.l %}{% endfor %}{% endfor %}",
        DOUBLED,
        "{% set x = 99999999 %}" + "{% set x = x * x %}" * 20 + "{{ x }}",
        "{{ body.s | replace('a', '<') | e | string | replace('<', '&&') | replace('&', body.s) }}",
        "{% for a in body.l %}" + "{{ a }}x" * 20 + "{% endfor %}",
    ],
)
def test_runaway_template_is_stopped(source: str) -> None:
    template = compile_template(source)

    def cpu_seconds() -> float:
        began = time.thread_time()
        with pytest.raises(TemplateError):
            template.render({"body": LARGE})
        return time.thread_time() - began

    # A rendering may meet one full garbage collection of what all tests before it left, hardly two.
    assert min(cpu_seconds() for _ in range(2)) < 0.3


def test_text_length_limit() -> None:
    template = compile_template("{% for a in body %}" + "x" * 64 + "{% endfor %}")

    assert len(template.render({"body": [1] * (MAX_CHARS // 64)})) == MAX_CHARS
    with pytest.raises(TemplateError, match="characters"):
        template.render({"body": [1] * (MAX_CHARS // 64 + 1)})


def test_each_rendering_has_its_own_budget() -> None:
    template = compile_template("{% for a in body %}{{ a }}{% endfor %}")

    assert {len(template.render({"body": [1] * 5_000})) for _ in range(20)} == {5_000}


def test_template_lists_its_variables() -> None:
    assert compile_template("{% set x = count %}{{ x }}{% for i in items %}{{ i.id }}{% endfor %}").names == {
        "count",
        "items",
    }


NAMES = st.from_regex(r"_{0,2}[a-z]{1,6}_{0,2}", fullmatch=True)
BASES = st.sampled_from(["body", "body.a", "items[0]", "title", "(body ~ '')", "(body or title)"])
ACCESSES = st.sampled_from(
    [
        ".{}",
        "['{}']",
        "| map(attribute='a.{}') | list",
        "| join(', ', '{}')",
        "| sum('{}')",
        "| selectattr('{}') | list",
    ]
)


@settings(deadline=None)
@given(BASES, st.lists(st.tuples(ACCESSES, NAMES), min_size=1, max_size=5))
def test_attribute_chains_reach_json_members_only(base: str, chain: list[tuple[str, str]]) -> None:
    expression = base
    for access, name in chain:
        expression = f"({expression}{access.format(name)})"
    source = f"first line\n{{{{ {expression} }}}}"
    forbidden = [name for _, name in chain if name.startswith("_")]

    if forbidden:
        with pytest.raises(TemplateError) as refused:
            compile_template(source)
        assert refused.value.line == 2
        assert refused.value.reason.split('"')[1] in forbidden
        return
    try:
        text = compile_template(source).render({"body": {"a": [1, "x"]}, "items": [{"id": "i"}], "title": "t"})
    except TemplateError:
        return
    assert not re.search(r"<|object at 0x|method|built-in", text)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ ''.__class__ }}", '"__class__" begins with an underscore'),
        ("{{ ''['__class__'] }}", '"__class__" begins with an underscore'),
        ("{{ body.__init__.__globals__ }}", "begins with an underscore"),
        ("{{ items | map(attribute='__class__') | list }}", "begins with an underscore"),
        ("{{ items | map(attribute='body.__class__') | list }}", "begins with an underscore"),
        ("{{ 'a'.upper }}", 'no member "upper"'),
        ("{{ [1].append }}", 'no member "append"'),
        ("{{ (1, 2).count }}", 'no member "count"'),
        ("{% for x in items %}{{ loop.cycle }}{% endfor %}", "cycle"),
        ("{% set loop = body %}{{ loop.x }}", "loop is the name of the loop itself"),
    ],
)
def test_python_attributes_are_refused_when_checked(source: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(reason)) as refused:
        compile_template(source)
    assert refused.value.line == 1


@pytest.mark.parametrize(
    "source", ["{{ ['a', 'b'] | join('_') }}", "{{ items | map(attribute='x', default='_') | list }}"]
)
def test_underscore_outside_of_names_is_allowed(source: str) -> None:
    compile_template(source).check()


@pytest.mark.parametrize("wrong", ["-a[names]", "-body[names]", "-(a | first)[names]"])
def test_error_about_a_missing_member_does_not_show_a_large_name(wrong: str) -> None:
    large = "{% set a = 'abcdefghijklmnop' %}" + "{% set a = a ~ a %}" * 8
    names = "{% set names = a[:2000] | list | map(attribute='b', default=a) %}"
    template = compile_template(large + names + "{{ " + wrong + " }}")
    with pytest.raises(TemplateError) as refused:
        template.render({"body": {}})
    assert refused.value.reason == "This value has no such member."
