"""The digest of a view: a sum of hashes that any client can compute over the items it holds (semantics.md L10).

32 bytes (the arithmetic is in ``lanes``), on the wire 64 hex digits. A sum does not depend on order, and takes an item
out as cheaply as it puts one in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from .digest_lanes import add as add
from .digest_lanes import subtract as subtract
from .digest_lanes import total as total

_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")


def leaf(item_id: str, item_json: bytes) -> bytes:
    """One item's share of a digest, 32 bytes: SHA-256 of the canonical ``[id, item]``.

    ``item_json`` is canonical (RFC 8785); a name needs no escape, so the pair is put together without encoding.
    """
    return sha256(b'["%s",%s]' % (item_id.encode(), item_json)).digest()


def digest_items(items: Iterable[tuple[str, bytes]]) -> bytes:
    """The digest of items given as (id, canonical JSON)."""
    return total(leaf(item_id, item_json) for item_id, item_json in items)


def parse_digest(text: str) -> bytes | None:
    """A digest from the wire, or ``None`` where it is none."""
    return bytes.fromhex(text) if _HEX.match(text) else None
