"""JSON documents as they are stored. A document of a later format does not begin with ``{`` (``core/formats.py``)."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from gregor.core.formats import LATER
from gregor.store.contract.store import UnreadableValue

T = TypeVar("T")


def decode_document(decoder: msgspec.json.Decoder[T], raw: bytes, kind: str) -> T:
    """Return the decoded document. Raises ``UnreadableValue`` if it has a later format. ``kind``: what it is."""
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError:
        check_document(raw, kind)
        raise


def check_document(raw: bytes, kind: str) -> bytes:
    """Return a stored document. Raises ``UnreadableValue`` if it has a later format."""
    if raw[:1] >= _FIRST_LATER:
        raise UnreadableValue(kind, raw[0])
    return raw


_FIRST_LATER = bytes([LATER])
