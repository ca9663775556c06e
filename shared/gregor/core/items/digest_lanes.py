"""The arithmetic of digests: eight unsigned 32-bit big-endian lanes, each added modulo 2^32 (semantics.md L10).

Pure bytes in, bytes out; a sum does not depend on order, so it is kept in O(changes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from .sync import ZERO_DIGEST

_LANES: Final = struct.Struct(">8I")
_MASK: Final = 0xFFFFFFFF


def add(digest: bytes, leaf: bytes) -> bytes:
    """``digest`` with the leaf of one more item."""
    pairs = zip(_LANES.unpack(digest), _LANES.unpack(leaf), strict=True)
    return _LANES.pack(*((left + right) & _MASK for left, right in pairs))


def subtract(digest: bytes, leaf: bytes) -> bytes:
    """``digest`` without the leaf of an item that is in it."""
    pairs = zip(_LANES.unpack(digest), _LANES.unpack(leaf), strict=True)
    return _LANES.pack(*((left - right) & _MASK for left, right in pairs))


def total(leaves: Iterable[bytes]) -> bytes:
    """The digest of items by their leaves; 32 zero bytes for none."""
    columns = list(zip(*map(_LANES.unpack, leaves), strict=True))
    return _LANES.pack(*(sum(column) & _MASK for column in columns)) if columns else ZERO_DIGEST
