"""Errors in categories: each is reported once, with its place and its fix."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gregor.core.categories.parse import MAX_CATEGORIES, MAX_CATEGORY_ERRORS, parse_categories
from gregor.core.errors import Problem


def mistakes(document: Any) -> list[tuple[str, str]]:
    """Return (pointer, detail) of each error."""
    with pytest.raises(Problem) as refused:
        parse_categories(document)
    assert refused.value.code == "schema"
    return [(error.pointer, error.detail) for error in refused.value.errors]


@pytest.mark.parametrize(
    ("entry", "pointer", "words"),
    [
        ({"titel": "x"}, "/titel", 'did you mean "title"?'),
        ({"remind_at": ["4d"]}, "/remind_at", 'did you mean "remind_after"?'),
        ({"zzz": 1}, "/zzz", "known fields are aggregate, body_schema, collapse"),
        ({"expires_after": "3 days"}, "/expires_after", "12h"),
        ({"expires_after": "0s"}, "/expires_after", "longer than zero"),
        ({"expires_after": True}, "/expires_after", "duration"),
        ({"expires_after": -1}, "/expires_after", "duration"),
        ({"expires_after": "99999999999d"}, "/expires_after", "duration"),
        ({"remind_after": "4d"}, "/remind_after", '["4d"]'),
        ({"remind_after": ["4d", "x"]}, "/remind_after/1", "duration"),
        ({"remind_after": ["1d"] * 17}, "/remind_after", "at most 16"),
        ({"title": ""}, "/title", "text in quotes"),
        ({"title": 5}, "/title", "text in quotes"),
        ({"title": "x" * 2_001}, "/title", "at most 2000"),
        ({"title": "file:x"}, "/title", "Only the html"),
        ({"counts_in_badge": "yes"}, "/counts_in_badge", "true or false"),
        ({"urgent": 1}, "/urgent", "true or false"),
        ({"max_live": 0}, "/max_live", "from 1"),
        ({"max_live": True}, "/max_live", "whole number"),
        ({"max_live": 2.5}, "/max_live", "whole number"),
        ({"title": "x", "push": True}, "/push", "push = {…}"),
        ({"title": "x", "push": {"sond": "x"}}, "/push/sond", 'did you mean "sound"?'),
        ({"title": "x", "push": {"after": "x"}}, "/push/after", "duration"),
        ({"title": "x", "email": {"unless": "never"}}, "/email/unless", '"foreground", "online" or "acked"'),
        ({"title": "x", "email": {"html": "file:x.html"}}, "/email/html", "gregor categories apply"),
        ({"push": {}}, "/push", "push needs a title"),
        ({"email": {}}, "/email", "email needs a title"),
        ({"aggregate": {}}, "/aggregate", "window and at_least must be set"),
        ({"aggregate": {"window": "10m"}}, "/aggregate", "at_least must be set"),
        ({"aggregate": {"window": "10m", "at_least": 1}}, "/aggregate/at_least", "from 2"),
        ({"aggregate": {"window": "10m", "at_least": 3, "keep": 101}}, "/aggregate/keep", "to 100"),
        ({"body_schema": {"type": "objet"}}, "/body_schema/type", 'did you mean "object"?'),
        ({"body_schema": True}, "/body_schema", "JSON Schema"),
        ({"body_schema": {"const": float("inf")}}, "/body_schema", "JSON does not support"),
        ({"body_schema": {"enum": ["x" * 17_000]}}, "/body_schema", "at most 16384"),
        ({"locales": "it"}, "/locales", "languages"),
        ({"locales": {"it it": {}}}, "/locales/it it", "language tag"),
        ({"locales": {"it": "x"}}, "/locales/it", "texts"),
        ({"locales": {"it": {"titel": "x"}}}, "/locales/it/titel", 'did you mean "title"?'),
        ({"locales": {"it": {"email": {"after": 1}}}}, "/locales/it/email/after", "known fields are html, subject"),
        ({"locales": {"pt-BR": {}, "pt_br": {}}}, "/locales/pt_br", "is there twice"),
    ],
)
def test_field_error_has_pointer_and_fix(entry: Any, pointer: str, words: str) -> None:
    [(found, detail)] = mistakes({"a.b": entry})

    assert found == "/a.b" + pointer
    assert words in detail
    assert "\n" not in detail


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("user.*", 'write "user"'),
        ("user.", 'write "user"'),
        ("*", 'write ""'),
        ("a b", "must be a category"),
        ("a..b", "must be a category"),
        ("x" * 129, "must be a category"),
    ],
)
def test_invalid_category_name_gets_a_suggestion(name: str, words: str) -> None:
    [(_, detail)] = mistakes({name: {"title": "x"}})

    assert words in detail


def test_unquoted_dotted_table_gets_a_hint() -> None:
    [(pointer, detail)] = mistakes({"user": {"joined": {"title": "x"}}})

    assert pointer == "/user/joined"
    assert '["user.joined"]' in detail


def test_entry_must_be_a_table() -> None:
    assert mistakes([])[0][0] == ""
    assert mistakes({"title": "x"}) == [
        ("/title", 'An entry must be a table: put ["invoice.due"], the category in quotes, above its fields.')
    ]
    assert "at most" in mistakes({f"a{n}": {} for n in range(MAX_CATEGORIES + 1)})[0][1]


def test_all_errors_are_reported_up_to_the_limit() -> None:
    assert [pointer for pointer, _ in mistakes({"a": {"titel": "x", "max_live": 0}, "b": {"push": {}}})] == [
        "/a/titel",
        "/a/max_live",
        "/b/push",
    ]
    assert len(mistakes({f"a{n}": {"x": 1} for n in range(200)})) == MAX_CATEGORY_ERRORS


def test_error_causes_no_follow_up_errors() -> None:
    assert len(mistakes({"a": {"titel": "x", "push": {}, "email": {}}})) == 1
    assert len(mistakes({"a": {"aggregate": {"window": "x", "at_least": 3}}})) == 1


def test_channel_gets_its_title_from_above_or_below() -> None:
    parse_categories({"a": {"title": "x"}, "a.b": {"push": {}}})
    parse_categories({"": {"email": {}}, "a.b": {"title": "x"}})


def test_aggregate_is_complete_with_inherited_fields() -> None:
    parse_categories({"a": {"aggregate": {"window": 1, "at_least": 2}}, "a.b": {"aggregate": {"title": "x"}}})

    assert mistakes({"a": {"aggregate": False}, "a.b": {"aggregate": {"title": "x"}}})[0][0] == "/a.b/aggregate"


def test_counted_entry_below_uncounted_is_rejected() -> None:
    [(pointer, detail)] = mistakes({"a": {"counts_in_badge": False}, "a.b.c": {"counts_in_badge": True}})

    assert pointer == "/a.b.c/counts_in_badge"
    assert "above" in detail


def test_names_in_pointers_are_escaped() -> None:
    assert mistakes({"a": {"x/y~": 1}})[0][0] == "/a/x~1y~0"
    assert mistakes({"": {"x": 1}})[0][0] == "//x"


def test_patterns_of_a_set_are_limited() -> None:
    """Without the limit, each process that loads this set compiles its patterns for 8 s."""

    def schema(entry: int) -> dict[str, Any]:
        return {
            "properties": {f"p{n}": {"pattern": f"^[ab]{{0,{700 - n % 100}}}a\\w{{9}}x{entry}"} for n in range(200)}
        }

    began = time.thread_time()
    [(pointer, detail)] = mistakes({f"c{entry}": {"body_schema": schema(entry)} for entry in range(90)})

    assert pointer.startswith("/c") and pointer.endswith("/body_schema")
    assert "have more than 2000 patterns, or 8 MiB" in detail
    assert time.thread_time() - began < 3
    parse_categories({f"c{n}": {"body_schema": {"pattern": f"^{n}-[A-Z]{{2}}$"}} for n in range(1_000)})
