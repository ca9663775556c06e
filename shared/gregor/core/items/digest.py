"""Digest of a view: a sum of hashes that any client can compute over its items (semantics.md L10).

A leaf is the SHA-256 of one item. A digest is the sum of leaves in eight unsigned 32-bit big-endian lanes, each modulo
2^32: 32 bytes, 64 hex digits on the wire. It does not depend on order, and a change costs as much as the changed items.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from .sync import ZERO_DIGEST

_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")
_LANES: Final = struct.Struct(">8I")
_MASK: Final = 0xFFFFFFFF
_WIDE_LANES: Final = struct.Struct(">8Q")
_ALL_LANES: Final = int.from_bytes(_WIDE_LANES.pack(*[_MASK] * 8), "big")
_BORROWS: Final = int.from_bytes(_WIDE_LANES.pack(*[_MASK + 1] * 8), "big")


def leaf(item_id: str, item_json: bytes) -> bytes:
    """Return one item's share of a digest, 32 bytes: SHA-256 of the canonical ``[id, item]``.

    ``item_json`` is canonical (RFC 8785). Names need no escape, so the pair is assembled without encoding.
    """
    return sha256(b'["%s",%s]' % (item_id.encode(), item_json)).digest()


def digest_items(items: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the digest of items given as (id, canonical JSON)."""
    return total(leaf(item_id, item_json) for item_id, item_json in items)


def parse_digest(text: str) -> bytes | None:
    """Return a digest from the wire, or None if it is malformed."""
    return bytes.fromhex(text) if _HEX.match(text) else None


# ---- the sum


def add(digest: bytes, leaf: bytes) -> bytes:
    """Return ``digest`` with one more leaf."""
    pairs = zip(_LANES.unpack(digest), _LANES.unpack(leaf), strict=True)
    return _LANES.pack(*((left + right) & _MASK for left, right in pairs))


def subtract(digest: bytes, leaf: bytes) -> bytes:
    """Return ``digest`` without one leaf that is in it."""
    pairs = zip(_LANES.unpack(digest), _LANES.unpack(leaf), strict=True)
    return _LANES.pack(*((left - right) & _MASK for left, right in pairs))


def total(leaves: Iterable[bytes]) -> bytes:
    """Return the digest of all leaves; 32 zero bytes for none."""
    columns = list(zip(*map(_LANES.unpack, leaves), strict=True))
    return _LANES.pack(*(sum(column) & _MASK for column in columns)) if columns else ZERO_DIGEST


# ---- the sum of integers


# A checker of histories adds and compares millions of digests. As integers with 64 bits for each lane, a sum of
# 2^32 leaves has no carry into the next lane, and ``sum`` adds a leaf in 40 ns.
def lanes(digest: bytes) -> int:
    """Return a digest, or a leaf, as one integer: 64 bits for each lane."""
    return int.from_bytes(_WIDE_LANES.pack(*_LANES.unpack(digest)), "big")


def sum_lanes(leaves: Iterable[int]) -> int:
    """Return the digest of all leaves (``lanes``)."""
    return sum(leaves) & _ALL_LANES


def add_lanes(digest: int, leaf: int) -> int:
    """Return ``digest`` with one more leaf (``lanes``)."""
    return (digest + leaf) & _ALL_LANES


def subtract_lanes(digest: int, leaf: int) -> int:
    """Return ``digest`` without one leaf that is in it (``lanes``)."""
    return ((digest | _BORROWS) - leaf) & _ALL_LANES
