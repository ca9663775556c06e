"""Looking up a category in the filters of many views or connections at once. Pure.

A user may have 512 connections and 1,024 acknowledged views, with 51,200 prefixes of up to 64 segments. A notification
is decided for each device, and a mail for up to 1,000 items: to compare each filter took a process seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from gregor.core.ids import Prefixes

from .acknowledged_views import keys_of


class CategoryIndex:
    """Some filters, each with a positive number. A look-up takes as long as the category has segments: 1 to 10 µs.

    The filters are those of stored acknowledgements, or as a client sent them.
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
