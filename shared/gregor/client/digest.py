"""The digest of the items that a client holds (docs/semantics.md L10). Pure.

The digest covers every field as received, including fields that this version of the client does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gregor.core.items import digest as core
from gregor.core.items.sync import ZERO_DIGEST
from gregor.core.json_text import canonical_json


class ItemDigest:
    """The lane-wise sum over a set of items, updated as items come and go."""

    def __init__(self) -> None:
        self._sum = ZERO_DIGEST

    @property
    def hex(self) -> str:
        """The digest as 64 hex digits; zeros for an empty set."""
        return self._sum.hex()

    def add(self, id_: str, item: Mapping[str, Any]) -> None:
        """Add an item to the set."""
        self._sum = core.add(self._sum, leaf(id_, item))

    def remove(self, id_: str, item: Mapping[str, Any]) -> None:
        """Remove an item that was added before."""
        self._sum = core.subtract(self._sum, leaf(id_, item))


def leaf(id_: str, item: Mapping[str, Any]) -> bytes:
    """The 32 bytes that one item contributes."""
    return core.leaf(id_, canonical_json(item))


def digest_of(items: Mapping[str, Mapping[str, Any]]) -> str:
    """The digest of these items, as 64 hex digits."""
    return core.digest_items((id_, canonical_json(item)) for id_, item in items.items()).hex()
