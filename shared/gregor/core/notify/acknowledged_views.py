"""Views of acknowledgements: their category filters in bounded bytes. Pure.

A device chooses its filter, up to 100 prefixes of 128 characters. The store keeps each acknowledged view, so a long
filter is replaced by a short hash of each of its prefixes.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from functools import lru_cache
from typing import Final

from gregor.core.ids import Prefixes, is_allowed, prefixes_of
from gregor.core.items.sync import View

MAX_VIEWS: Final = 16
"""Acknowledged views of a device. One more removes the view that was acknowledged the longest ago."""
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


def shows_category(prefixes: Prefixes, category: str) -> bool:
    """Return whether the filter of a stored acknowledgement covers a category."""
    if not prefixes or prefixes[0][:1] != _MARK:
        return is_allowed(prefixes, category)
    return any(_hash_of(prefix) in prefixes for prefix in prefixes_of(category)[1:])


@lru_cache(1_024)
def _hash_of(prefix: str) -> str:
    return _MARK + base64.urlsafe_b64encode(hashlib.sha256(prefix.encode()).digest()[:_HASH_BYTES]).decode()
