"""The digest of the items that a client holds (semantics.md L10). PURE.

It is computed over what came, every field included, so that it proves the copy and not the program's idea of it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from gregor.core.jsontext import canonical

_LANES = struct.Struct(">8I")
_MASK = 0xFFFF_FFFF


class Digest:
    """The lane-wise sum over a set of items: eight unsigned 32-bit lanes, kept as items come and go."""

    def __init__(self) -> None:
        self._lanes = [0] * 8

    @property
    def hex(self) -> str:
        """64 hex digits; those of an empty set are zeros."""
        return _LANES.pack(*self._lanes).hex()

    def add(self, id_: str, item: Mapping[str, Any]) -> None:
        """An item entered."""
        self._lanes = [(lane + part) & _MASK for lane, part in zip(self._lanes, leaf(id_, item), strict=True)]

    def remove(self, id_: str, item: Mapping[str, Any]) -> None:
        """An item that was added left."""
        self._lanes = [(lane - part) & _MASK for lane, part in zip(self._lanes, leaf(id_, item), strict=True)]


def leaf(id_: str, item: Mapping[str, Any]) -> tuple[int, ...]:
    """The eight lanes that one item adds: SHA-256 of the canonical JSON of `[id, item]`."""
    return _LANES.unpack(hashlib.sha256(canonical([id_, item])).digest())


def digest_of(items: Mapping[str, Mapping[str, Any]]) -> str:
    """The digest of these items, as 64 hex digits."""
    digest = Digest()
    for id_, item in items.items():
        digest.add(id_, item)
    return digest.hex
