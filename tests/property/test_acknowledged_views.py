"""Acknowledged views: a shortened filter covers the same categories, in bounded bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gregor.core.category_filter import pack_category_filter, unpack_category_filter
from gregor.core.ids import MAX_DOTTED_LENGTH, MAX_FILTER_PREFIXES, is_allowed, normalize_prefixes
from gregor.core.items.sync import View
from gregor.core.notify.acknowledged_views import compact_view, shows_category

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
