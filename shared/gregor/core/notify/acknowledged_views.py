"""Views of acknowledgements: their category filters in bounded bytes. Pure.

A device chooses its filter, up to 100 prefixes of 128 characters. The store keeps each acknowledged view, so a long
filter is replaced by a short hash of each of its prefixes.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from gregor.core.ids import Prefixes, covers, is_allowed, prefixes_of
from gregor.core.items.sync import View

MAX_VIEWS: Final = 16
"""Acknowledged views of a device. One more removes the view that was acknowledged the longest ago."""
MAX_VIEW_PREFIXES: Final = 800
"""Prefixes of the acknowledged views of a device. More remove the oldest views, too.

They are those of eight connections with the longest filters: fewer would report their items again and again. Each
acknowledgement that webhooks want parses them all: 1,600 took Redis 0.85 ms.
"""
MAX_PLAIN_BYTES: Final = 256
"""Bytes of a filter that is kept as it is. A longer one has at most 999: 100 hashes of 9 characters, and commas."""
_HASH_BYTES: Final = 6
# In no prefix, so a hash is never taken for a prefix.
_MARK: Final = "#"


def compact_view(view: View) -> View:
    """Return the view of an acknowledgement as it is stored: a long category filter becomes the hashes of its prefixes.

    Two filters with the same hashes count as one, by chance once in 2^48.
    """
    prefixes = view.category_filter
    if prefixes is None or sum(map(len, prefixes)) + len(prefixes) <= MAX_PLAIN_BYTES:
        return view
    return replace(view, category_filter=tuple(_hash_of(prefix) for prefix in prefixes))


def displaced_views(views: Sequence[Prefixes], new: Prefixes) -> int:
    """Return how many of the filters of a device are removed to make room for a new one, of the oldest first."""
    count = len(new or ())
    for kept, prefixes in enumerate(reversed(views)):
        count += len(prefixes or ())
        if kept + 1 == MAX_VIEWS or count > MAX_VIEW_PREFIXES:
            return len(views) - kept
    return 0


def readable_view(view: View) -> View:
    """Return a view that a read accepts. It sees all items of this stored view, and more if its filter is hashed."""
    return replace(view, category_filter=None) if _is_hashed(view.category_filter) else view


def shows_category(prefixes: Prefixes, category: str) -> bool:
    """Return whether the filter of a stored acknowledgement covers a category."""
    if prefixes is None or not _is_hashed(prefixes):
        return is_allowed(prefixes, category)
    return not keys_of(category).isdisjoint(prefixes)


@lru_cache(256)
def keys_of(category: str) -> frozenset[str]:
    """Return the prefixes of a category, and their hashes: a stored filter covers the category if it contains one."""
    prefixes = prefixes_of(category)
    return frozenset((*prefixes, *map(_hash_of, prefixes[1:])))


class CategoryIndex:
    """An index of category filters, each with a positive number. Finds the highest number that covers a category.

    A user may have 1,024 acknowledged views and 512 connections, with 51,200 prefixes. A notification is decided for
    each device, and a mail for up to 1,000 items: to compare each filter took a process seconds. A look-up takes 1 to
    10 µs, depending on the segments of the category, or 100 µs for a new category of 64 segments.
    """

    __slots__ = ("_numbers",)

    def __init__(self, filters: Iterable[tuple[Prefixes, int]]) -> None:
        numbers = self._numbers = dict[str, int]()
        for prefixes, number in filters:
            for prefix in ("",) if prefixes is None else prefixes:
                if numbers.get(prefix, 0) < number:
                    numbers[prefix] = number

    def highest(self, category: str) -> int:
        """Return the highest number of the filters that cover a category; 0 if none does."""
        return max(self._numbers.get(key, 0) for key in keys_of(category)) if self._numbers else 0


def unreported(prefixes: Prefixes, seq: int, acknowledged: Mapping[Prefixes, int]) -> tuple[Prefixes, int] | None:
    """Return the part of an acknowledgement that webhooks do not know yet. ``None``: they know all of it.

    A device reports an item once, although several of its views may show it. The part is the prefixes with
    unacknowledged seqs, and the seq after which they begin. ``acknowledged``: the seq up to which each filter of the
    device was acknowledged before. All filters are those of stored views.
    """
    if not prefixes:
        since = acknowledged.get(prefixes, 0)
        return None if since >= seq else (prefixes, since)
    since_of = {prefix: _acknowledged_below(prefix, acknowledged) for prefix in prefixes}
    kept = tuple(prefix for prefix in prefixes if since_of[prefix] < seq)
    return (kept, min(since_of[prefix] for prefix in kept)) if kept else None


def _acknowledged_below(prefix: str, acknowledged: Mapping[Prefixes, int]) -> int:
    """Return the seq up to which a filter that covers the whole prefix was acknowledged."""
    # Not `is_allowed`, which searches: hashes are not sorted.
    found = (seq for known, seq in acknowledged.items() if known is None or any(covers(each, prefix) for each in known))
    return max(found, default=0)


def _is_hashed(prefixes: Prefixes) -> bool:
    return bool(prefixes and prefixes[0][:1] == _MARK)


@lru_cache(1_024)
def _hash_of(prefix: str) -> str:
    return _MARK + base64.urlsafe_b64encode(hashlib.sha256(prefix.encode()).digest()[:_HASH_BYTES]).decode()
