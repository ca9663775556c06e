"""PURE. The header blocks of requests to APNs, as HPACK (RFC 7541) has them: hpack's own, made with less work.

Of a push's headers all but a few are the same each time: they are looked up once, until the table that both sides keep
changes. What is of one push alone is written as it is: to squeeze it by Huffman's code would save the provider a few
bytes, and cost us a tenth of all that a push does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hpack import Encoder, NeverIndexedHeaderTuple
from hpack.hpack import encode_integer

_NEVER_INDEXED: Final = 0x10
_PATH: Final = bytes((_NEVER_INDEXED | 4,))
"""The name `:path` in the static table."""


class ApnsEncoder(Encoder):
    """An encoder whose blocks any decoder reads; names and values are bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._indexed: dict[tuple[bytes, bytes], bytes] = {}

    @property
    def header_table_size(self) -> int:
        """Bytes of the table that both sides keep."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        if value != self.header_table.maxsize:  # hpack forgets to tell of a change that is said twice
            self._indexed.clear()
            self.header_table.maxsize = value
            self.table_size_changes.append(value)

    def encode(self, headers: Iterable[Any], huffman: bool = False) -> bytes:
        """The block of a request. `huffman` is for the literals that join the table alone."""
        blocks = []
        if self.header_table.resized:
            blocks.append(self._encode_table_size_change())
            self.header_table.resized = False
        for header in headers:
            if isinstance(header, NeverIndexedHeaderTuple):
                blocks.append(_literal(*header))
            else:
                blocks.append(self._indexed.get(header) or self._joining(header, huffman))
        return b"".join(blocks)

    def _joining(self, header: tuple[bytes, bytes], huffman: bool) -> bytes:
        """A header by its place in the table; or as a literal that joins it, so that all places move."""
        found = self.add(header, sensitive=False, huffman=huffman)
        if found[0] & 0x80:
            self._indexed[header] = found
        else:
            self._indexed.clear()
        return found


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that joins no table."""
    front = _PATH if name == b":path" else b"\x10%b%b" % (bytes(encode_integer(len(name), 7)), name)
    return b"%b%b%b" % (front, bytes(encode_integer(len(value), 7)), value)
