"""The digest of a view: a sum of hashes that any client can compute over the items it holds (semantics.md L10).

Eight unsigned 32-bit big-endian lanes, each added modulo 2^32: 32 bytes, on the wire 64 hex digits. A sum does not
depend on order, and takes an item out as cheaply as it puts one in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from .sync import ZERO_DIGEST

_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")
_HIGH: Final = int.from_bytes(b"\x80\0\0\0" * 8, "big")
_LOW: Final = int.from_bytes(b"\x7f\xff\xff\xff" * 8, "big")


def leaf(item_id: str, item_json: bytes) -> bytes:
    """One item's share of a digest, 32 bytes: SHA-256 of the canonical ``[id, item]``.

    ``item_json`` is canonical (RFC 8785); a name needs no escape, so the pair is put together without encoding.
    """
    return sha256(b'["%s",%s]' % (item_id.encode(), item_json)).digest()


def add(digest: bytes, share: bytes) -> bytes:
    """The digest with one more leaf (or another digest) in it."""
    left, right = int.from_bytes(digest, "big"), int.from_bytes(share, "big")
    # All lanes at once: the high bit of each lane is added without its carry, so that no lane spills into the next.
    return (((left & _LOW) + (right & _LOW)) ^ ((left ^ right) & _HIGH)).to_bytes(32, "big")


def subtract(digest: bytes, share: bytes) -> bytes:
    """The digest without a leaf (or another digest) that is in it."""
    left, right = int.from_bytes(digest, "big"), int.from_bytes(share, "big")
    # The same with borrows: each lane's high bit is lent beforehand, and set right after.
    return (((left | _HIGH) - (right & _LOW)) ^ (~(left ^ right) & _HIGH)).to_bytes(32, "big")


def total(leaves: Iterable[bytes]) -> bytes:
    """The digest of the items with these leaves."""
    digest = ZERO_DIGEST
    for share in leaves:
        digest = add(digest, share)
    return digest


def digest_of(items: Iterable[tuple[str, bytes]]) -> bytes:
    """The digest of items given as (id, canonical JSON)."""
    return total(leaf(item_id, item_json) for item_id, item_json in items)


def parse_digest(text: str) -> bytes | None:
    """A digest from the wire, or ``None`` where it is none."""
    return bytes.fromhex(text) if _HEX.match(text) else None
