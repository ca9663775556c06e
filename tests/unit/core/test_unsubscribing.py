"""Unsubscribing from e-mails: each objection holds, and the preferences stay bounded."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.core.ids import covers
from gregor.core.notify.contact import (
    ALL_CATEGORIES,
    CHANNELS,
    MAX_PREFERENCES,
    Preferences,
    count_preferences,
    is_channel_allowed,
    parse_preferences,
    preferences_document,
)
from gregor.core.notify.unsubscribing import without_email

OFF = {"email": False}
ON = {"email": True}


def full(*prefixes: str, **more: dict[str, bool]) -> Preferences:
    """Return preferences with as many pushes that are off as a user may have, beside these ends of e-mails."""
    ends = dict.fromkeys(prefixes, OFF) | more
    pushes = {f"p{n}": {"push": False} for n in range(MAX_PREFERENCES - len(ends))}
    return parse_preferences(pushes | ends)


@given(
    ended=st.lists(st.sampled_from(["a", "a.b", "b", "*"]), min_size=1),
    said=st.dictionaries(
        st.sampled_from(["a", "a.b", "a.b.c", "b", "*"]),
        st.dictionaries(st.sampled_from(["push", "email"]), st.booleans()),
    ),
)
def test_unsubscribing_ends_emails_and_keeps_pushes(ended: list[str], said: dict[str, dict[str, bool]]) -> None:
    before = parse_preferences(said)
    after = without_email(before, ended)

    for category in ("a", "a.b", "a.b.c", "b", "c"):
        assert is_channel_allowed(after, category, "push") == is_channel_allowed(before, category, "push")
        if category in ended or "*" in ended:
            assert not is_channel_allowed(after, category, "email")
        elif not any(covers(prefix, category) for prefix in ended):
            assert is_channel_allowed(after, category, "email") == is_channel_allowed(before, category, "email")


def test_repeated_link_changes_nothing() -> None:
    once = without_email(full(*(f"a.b{n}" for n in range(200))), [f"a.c{n}" for n in range(50)])

    assert without_email(once, [f"a.b{n}" for n in range(200)] + ["a"]) == once
    many = full(*(f"b{n}" for n in range(MAX_PREFERENCES)))
    assert without_email(many, ["b7", "b8"]) == many


def test_links_of_many_categories_are_replaced_by_their_prefix() -> None:
    """One device token grew the preferences by 2,700 entries an hour, for ever: each link has 50 new categories."""
    kept = parse_preferences({"chat": {"push": False}, "bill.late": OFF})
    for link in range(60):
        kept = without_email(kept, [f"m.{link}-{n}" for n in range(50)])
        assert count_preferences(kept.by_prefix) <= MAX_PREFERENCES

    assert kept.by_prefix["m"] == OFF
    assert (kept.by_prefix["chat"], kept.by_prefix["bill.late"]) == ({"push": False}, OFF)
    assert is_channel_allowed(kept, "bill.due", "email")


def test_entries_without_an_effect_are_dropped_first() -> None:
    kept = without_email(full("a", *(f"a.b{n}" for n in range(5)), empty={}), ["new"])

    assert (kept.by_prefix["a"], kept.by_prefix["new"]) == (OFF, OFF)
    assert not [prefix for prefix in kept.by_prefix if prefix.startswith("a.") or prefix == "empty"]
    assert is_channel_allowed(kept, "other", "email")


def test_preferences_full_of_pushes_end_all_emails() -> None:
    before = full()
    kept = without_email(before, ["new"])

    assert preferences_document(kept) == {**before.by_prefix, ALL_CATEGORIES: OFF}
    assert count_preferences(kept.by_prefix) == MAX_PREFERENCES


@pytest.mark.parametrize("trees", [1, 500])
def test_objection_counts_more_than_a_permission_that_leaves_no_room(trees: int) -> None:
    by_prefix = {f"t{n}": ON for n in range(trees)}
    by_prefix |= {f"t{n % trees}.x{n}": OFF for n in range(MAX_PREFERENCES - trees)}
    kept = without_email(parse_preferences(by_prefix), ["t0.new", "t1"])

    assert count_preferences(kept.by_prefix) <= MAX_PREFERENCES
    assert not any(is_channel_allowed(kept, name, "email") for name in ("t0.new", "t1", *by_prefix) if "." in name)


_names = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@settings(max_examples=60, deadline=None)
@given(
    stems=st.lists(_names, min_size=1, max_size=4),
    said=st.dictionaries(_names | st.just("*"), st.dictionaries(st.sampled_from(CHANNELS), st.booleans()), max_size=9),
    links=st.lists(st.lists(_names, min_size=1, max_size=3), min_size=1, max_size=4),
    free=st.integers(0, 3),
)
def test_objections_hold_when_preferences_are_full(
    stems: list[str], said: dict[str, dict[str, bool]], links: list[list[str]], free: int
) -> None:
    filled = {f"{stems[n % len(stems)]}.x{n}": OFF for n in range(MAX_PREFERENCES - free - len(said))}
    kept = before = parse_preferences(filled | said)
    objected = set(filled)
    for number, names in enumerate(links):
        ended = [f"{name}.y{number}" for name in names]
        kept = without_email(kept, ended)
        objected.update(ended)

        assert count_preferences(kept.by_prefix) <= MAX_PREFERENCES
        assert not [name for name in objected if is_channel_allowed(kept, name, "email")]
    for name in (*said, *objected):
        assert is_channel_allowed(kept, name, "push") == is_channel_allowed(before, name, "push")


def test_deep_prefixes_take_little_more_time_than_flat_ones() -> None:
    """All shorter prefixes of 1,000 deep ones are 61,000 texts: they blocked the event loop of ingest for 0.17 s."""
    deep = full(*("0." * 58 + f"x{n}.{n % 7}" for n in range(MAX_PREFERENCES)))
    flat = full(*(f"x{n}" for n in range(MAX_PREFERENCES)))

    def shortest_s(preferences: Preferences) -> float:
        times = []
        for _ in range(5):
            began_s = time.process_time()
            without_email(preferences, ["new"])
            times.append(time.process_time() - began_s)
        return min(times)

    assert shortest_s(deep) < 6 * shortest_s(flat)
