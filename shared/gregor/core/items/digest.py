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
