"""PURE. HPACK encoding (RFC 7541) of request headers for APNs: the encoder of hpack, with less work per push.

Most headers of a push are always the same: their encoded form is cached until the dynamic table changes. Headers that
are unique to a push are written as plain literals. Huffman coding them would save a few bytes and cost a tenth of the
CPU time of a push.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hpack import Encoder, NeverIndexedHeaderTuple
from hpack.hpack import encode_integer

_NEVER_INDEXED: Final = 0x10
_PATH: Final = bytes((_NEVER_INDEXED | 4,))
"""The name `:path` as a reference to the static table."""


class ApnsEncoder(Encoder):
    """Encoder of header blocks for any HPACK decoder; names and values are bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._indexed: dict[tuple[bytes, bytes], bytes] = {}

    @property
    def header_table_size(self) -> int:
        """Size limit of the dynamic table in bytes."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        if value != self.header_table.maxsize:  # hpack would not signal a size that is set twice
            self._indexed.clear()
            self.header_table.maxsize = value
            self.table_size_changes.append(value)

    def encode(self, headers: Iterable[Any], huffman: bool = False) -> bytes:
        """Return the header block of a request. `huffman`: only for literals that are added to the table."""
        blocks = []
        if self.header_table.resized:
            blocks.append(self._encode_table_size_change())
            self.header_table.resized = False
        for header in headers:
            if isinstance(header, NeverIndexedHeaderTuple):
                blocks.append(_literal(*header))
            else:
                blocks.append(self._indexed.get(header) or self._encode_cached(header, huffman))
        return b"".join(blocks)

    def _encode_cached(self, header: tuple[bytes, bytes], huffman: bool) -> bytes:
        """Encode a header by its table index, or as a literal that is added to the table and shifts all indices."""
        found = self.add(header, sensitive=False, huffman=huffman)
        if found[0] & 0x80:
            self._indexed[header] = found
        else:
            self._indexed.clear()
        return found


def _literal(name: bytes, value: bytes) -> bytes:
    """Encode a header as a literal that is never indexed."""
    front = _PATH if name == b":path" else b"\x10%b%b" % (bytes(encode_integer(len(name), 7)), name)
    return b"%b%b%b" % (front, bytes(encode_integer(len(value), 7)), value)
