"""Policies of categories: defaults, inheritance, languages, badge."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.core.categories.parse import parse_categories
from gregor.core.categories.policy import (
    DEFAULT_POLICY,
    NO_POLICIES,
    AggregationPolicy,
    CategoryPolicy,
    CategoryTexts,
    EmailPolicy,
    PushPolicy,
)
from gregor.core.times import MAX_TIME_US
from tests.support.builders import DAY_US, SECOND_US

REMOVABLE = (
    *("text", "link", "push", "email", "expires_after", "remind_after", "max_live", "collapse", "body_schema"),
    "aggregate",
)


def resolve(category: str, **entries: Any) -> CategoryPolicy:
    return parse_categories(
        {name.replace("_", ".") if name != "root" else "": entry for name, entry in entries.items()}
    ).resolve(category)


def test_category_without_entry_has_defaults() -> None:
    assert NO_POLICIES.resolve("a.b") is DEFAULT_POLICY
    assert resolve("b", a={"title": "x"}) is DEFAULT_POLICY
    assert CategoryPolicy() == DEFAULT_POLICY and not NO_POLICIES
    assert (DEFAULT_POLICY.push, DEFAULT_POLICY.email, DEFAULT_POLICY.title, DEFAULT_POLICY.counts_in_badge) == (
        None,
        None,
        None,
        True,
    )


def test_every_field_of_an_entry_is_read() -> None:
    policy = resolve(
        "a",
        a={
            "title": "t",
            "text": "x",
            "link": "l",
            "collapse": "c",
            "expires_after": "365d",
            "remind_after": ["4d", 60, "4d", "1.5h"],
            "counts_in_badge": False,
            "max_live": 200,
            "push": {"after": "1m", "sound": "ding"},
            "email": {"after": 0, "unless": "acked", "subject": "s", "html": "<p>"},
            "urgent": True,
            "aggregate": {"window": "10m", "at_least": 3, "title": "n", "keep": 5},
            "body_schema": {"type": "object"},
            "locales": {"pt_BR": {"title": "o"}},
        },
    )

    assert (policy.title, policy.text, policy.link, policy.collapse) == ("t", "x", "l", "c")
    assert policy.expires_after_us == 365 * DAY_US
    assert policy.remind_after_us == (60 * SECOND_US, 5_400 * SECOND_US, 4 * DAY_US)
    assert (policy.counts_in_badge, policy.urgent, policy.max_live) == (False, True, 200)
    assert policy.push == PushPolicy(60 * SECOND_US, "ding")
    assert policy.email == EmailPolicy(0, "acked", "s", "<p>")
    assert policy.aggregate == AggregationPolicy(600 * SECOND_US, 3, "n", 5)
    assert policy.body_schema is not None and policy.body_schema.document == {"type": "object"}
    assert policy.texts_for("pt-br").title == "o"


def test_empty_tables_take_the_defaults() -> None:
    policy = resolve("a", a={"title": "t", "push": {}, "email": {}, "aggregate": {"window": 1, "at_least": 2}})

    assert policy.push == PushPolicy(10 * SECOND_US, None)
    assert policy.email == EmailPolicy(900 * SECOND_US, "foreground", "{{ title }}", None)
    assert policy.aggregate == AggregationPolicy(SECOND_US, 2, None, 20)


def test_fields_are_inherited_along_the_prefix() -> None:
    entries = {
        "root": {"title": "root", "expires_after": "1d", "push": {"after": 1, "sound": "root"}},
        "a": {"text": "a", "push": {"after": 2}},
        "a_b_c": {"title": "c", "push": {"sound": "c"}},
    }

    assert resolve("a.b.c.d", **entries).push == PushPolicy(2 * SECOND_US, "c")
    assert resolve("a.b", **entries).push == PushPolicy(2 * SECOND_US, "root")
    assert resolve("x", **entries).push == PushPolicy(SECOND_US, "root")
    found = resolve("a.b.c", **entries)
    assert (found.title, found.text, found.expires_after_us) == ("c", "a", DAY_US)
    assert resolve("ab", **entries).text is None


def test_false_removes_an_inherited_field() -> None:
    entries: dict[str, Any] = {
        "a": {"title": "t", "text": "x", "link": "l", "push": {"after": 5, "sound": "s"}, "email": {"after": 1},
              "expires_after": 5, "remind_after": [5], "max_live": 5, "collapse": "c", "body_schema": {},
              "aggregate": {"window": 1, "at_least": 2}},
        "a_b": dict.fromkeys(REMOVABLE, False),
        "a_b_c": {"push": {"sound": "c"}},
    }  # fmt: skip

    assert resolve("a.b", **entries) == CategoryPolicy(title="t")
    assert resolve("a.b.c", **entries).push == PushPolicy(10 * SECOND_US, "c")


def test_null_field_is_inherited_like_a_missing_one() -> None:
    found = resolve(
        "a.b", a={"title": "t", "push": {"after": 5}}, a_b={"title": None, "push": {"after": None}, "text": None}
    )

    assert found == CategoryPolicy(title="t", push=PushPolicy(5 * SECOND_US))


def test_category_without_title_sends_nothing() -> None:
    entries = {"a": {"push": {}, "email": {}}, "a_b": {"title": "t"}, "a_c": {"text": "x"}}

    assert resolve("a.b", **entries).push == PushPolicy()
    assert (resolve("a", **entries).push, resolve("a.c", **entries).email) == (None, None)
    assert resolve("a.b.c", a_b={"title": "t", "push": {}}, a_b_c={"title": False}).push is None


def test_language_falls_back_field_by_field() -> None:
    texts = {"it": {"title": "it", "text": "it"}, "it-CH": {"title": "ch", "email": {"subject": "s"}}}
    policy = resolve("a", a={"title": "en", "link": "en", "email": {}, "locales": texts})

    assert policy.texts_for("it-CH") == CategoryTexts("ch", "it", "en", "s", None, None)
    assert policy.texts_for("it-IT").title == policy.texts_for("IT_it").title == "it"
    assert policy.texts_for("it-CH-x").title == "ch"
    for other in ("de", "i", "italian", "", None):
        assert policy.texts_for(other) == policy.texts == CategoryTexts("en", None, "en")


def test_new_text_drops_inherited_translations() -> None:
    entries: dict[str, Any] = {
        "a": {"title": "en", "text": "en", "aggregate": {"window": 1, "at_least": 2, "title": "en"},
              "locales": {"it": {"title": "it", "text": "it", "aggregate": {"title": "it"}}}},
        "a_b": {"title": "other"},
        "a_c": {"title": "other", "locales": {"it": {"title": "altro"}}},
        "a_d": {"aggregate": {"title": "other"}},
    }  # fmt: skip

    assert resolve("a.b", **entries).texts_for("it") == CategoryTexts("other", "it", summary="it")
    assert resolve("a.c", **entries).texts_for("it").title == "altro"
    assert resolve("a.d", **entries).texts_for("it").summary == "other"


def test_the_uncounted_prefixes_are_the_fewest() -> None:
    off = {"counts_in_badge": False}
    entries = parse_categories({"sys": off, "sys.log": off, "sys.x": {}, "a.b": off, "system": {}})

    assert entries.uncounted == ("a.b", "sys")
    assert parse_categories({"": {"counts_in_badge": False}, "a": {}}).uncounted == ("",)
    assert NO_POLICIES.uncounted == ()


def test_uncounted_prefixes_within_limits_name_no_others() -> None:
    off = {"counts_in_badge": False}
    entries = parse_categories({"mail": off, "news.sport": off, "secret": off})

    assert entries.uncounted_within(None) == entries.uncounted
    assert entries.uncounted_within(("mail.inbox", "news")) == ("mail.inbox", "news.sport")
    assert entries.uncounted_within(("other",)) == ()
    assert parse_categories({"": off}).uncounted_within(("mail",)) == ("mail",)


def test_badge_ignores_uncounted_categories() -> None:
    entries = parse_categories({"sys": {"counts_in_badge": False}})

    assert entries.badge({"sys": 1, "sys.log": 2, "system": 3, "a": 1}) == 4
    assert NO_POLICIES.badge({"sys": 1, "a": 2}) == 3
    assert parse_categories({"": {"counts_in_badge": False}}).badge({"a": 1}) == 0


@pytest.mark.parametrize("created_us", [0, 1_457_056_447_000_000])
def test_default_times_count_from_created(created_us: int) -> None:
    policy = resolve("a", a={"expires_after": "1d", "remind_after": ["1s", "2s"]})

    assert policy.expires_us(created_us) == created_us + DAY_US
    assert policy.remind_at_us(created_us) == (created_us + SECOND_US, created_us + 2 * SECOND_US)


def test_default_times_beyond_the_range_are_none() -> None:
    policy = resolve("a", a={"expires_after": "1d", "remind_after": ["1s", "1d"]})

    assert policy.expires_us(MAX_TIME_US - DAY_US) == MAX_TIME_US
    assert policy.expires_us(MAX_TIME_US - DAY_US + 1) is None
    assert policy.remind_at_us(MAX_TIME_US - SECOND_US) == (MAX_TIME_US,)


def test_resolved_policy_is_shared() -> None:
    entries = parse_categories({"a": {"title": "t"}})

    assert entries.resolve("a.b") is entries.resolve("a.c") is entries.named["a"]
