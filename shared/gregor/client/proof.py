"""The digest of the items that a client holds (semantics.md L10). PURE.

It is computed over what came, every field included, so that it proves the copy and not the program's idea of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gregor.core.items import digest as core
from gregor.core.items.sync import ZERO_DIGEST
from gregor.core.json_text import canonical_json


class Digest:
    """The lane-wise sum over a set of items, kept as items come and go."""

    def __init__(self) -> None:
        self._sum = ZERO_DIGEST

    @property
    def hex(self) -> str:
        """64 hex digits; those of an empty set are zeros."""
        return self._sum.hex()

    def add(self, id_: str, item: Mapping[str, Any]) -> None:
        """An item entered."""
        self._sum = core.add(self._sum, leaf(id_, item))

    def remove(self, id_: str, item: Mapping[str, Any]) -> None:
        """An item that was added left."""
        self._sum = core.subtract(self._sum, leaf(id_, item))


def leaf(id_: str, item: Mapping[str, Any]) -> bytes:
    """What one item adds, 32 bytes."""
    return core.leaf(id_, canonical_json(item))


def digest_of(items: Mapping[str, Mapping[str, Any]]) -> str:
    """The digest of these items, as 64 hex digits."""
    return core.digest_items((id_, canonical_json(item)) for id_, item in items.items()).hex()
