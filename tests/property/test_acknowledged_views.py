"""Acknowledged views: a short filter covers the same categories, in bounded bytes; each item is reported once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gregor.core.category_filter import pack_category_filter, unpack_category_filter
from gregor.core.ids import MAX_DOTTED_LENGTH, MAX_FILTER_PREFIXES, is_allowed, normalize_prefixes
from gregor.core.items.sync import View
from gregor.core.notify.acknowledged_views import compact_view, shows_category, unreported

SEGMENTS = st.sampled_from(["a", "b", "ab", "a_b", "x" * 40])
CATEGORIES = st.lists(SEGMENTS, min_size=1, max_size=3).map(".".join)
FILTERS = st.none() | st.sets(CATEGORIES, max_size=30).map(normalize_prefixes)


@given(FILTERS, CATEGORIES)
def test_compact_filter_covers_the_same_categories(prefixes: tuple[str, ...] | None, category: str) -> None:
    compact = compact_view(View("phone", prefixes)).category_filter
    stored = unpack_category_filter(pack_category_filter(compact))

    assert stored == compact
    assert shows_category(stored, category) == is_allowed(prefixes, category)


@given(st.integers(1, MAX_DOTTED_LENGTH - 3), st.integers(1, MAX_FILTER_PREFIXES))
def test_stored_filter_has_at_most_999_bytes(length: int, count: int) -> None:
    prefixes = tuple(f"{n:03}" + "x" * length for n in range(count))

    assert len(pack_category_filter(compact_view(View("phone", prefixes)).category_filter)) <= 999


STEPS = st.lists(st.tuples(FILTERS, st.integers(1, 6)), max_size=12)


@given(STEPS, CATEGORIES)
def test_device_reports_each_item_that_a_view_shows(
    steps: list[tuple[tuple[str, ...] | None, int]], category: str
) -> None:
    """A device reports exactly the items that its views show, although earlier categories are left out."""
    acknowledged: dict[tuple[str, ...] | None, int] = {}
    shown, reported = set[int](), set[int]()
    for prefixes, seq in steps:
        compact = compact_view(View("phone", prefixes)).category_filter
        if seq <= acknowledged.get(compact, 0):
            continue
        new = unreported(compact, seq, acknowledged)
        acknowledged[compact] = seq
        if is_allowed(prefixes, category):
            shown.update(range(1, seq + 1))
        if new is not None and shows_category(new[0], category):
            reported.update(range(new[1] + 1, seq + 1))
        assert reported == shown


@given(STEPS, st.integers(1, 6))
def test_view_that_was_acknowledged_reports_nothing_again(
    steps: list[tuple[tuple[str, ...] | None, int]], seq: int
) -> None:
    acknowledged = {compact_view(View("phone", prefixes)).category_filter: at for prefixes, at in steps}
    for prefixes, at in acknowledged.items():
        part = prefixes[:1] if prefixes else prefixes
        assert unreported(part, min(seq, at), acknowledged) is None
