"""TLS contexts of clients, with the system's certificate authorities or with those of a file."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from gregor.net.outgoing.bounded_streams import READ_BYTES
from gregor.net.outgoing.tls import outgoing_context

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAX_TLS_OVERHEAD: Final = 32_768
"""Encrypted bytes that a peer may send in the handshake, and again after it without content.

A relay that asks for client certificates may list its 150 authorities in the handshake, which takes 16 KiB. Hostile
certificates fit in, too: 60 of them block the event loop for 17 s (see `MAX_HANDSHAKE_WORK`). OpenSSL takes 16 µs for a
key update of 27 bytes. An incomplete record of up to 16 KiB counts until it is complete.
"""
WRITE_OVERHEAD: Final = 64
"""Bytes of overhead that each write allows in addition to its own length. A short reply has 22 to 85."""

_T = TypeVar("_T")


class TlsLimitExceeded(ssl.SSLError):
    """A handshake, or a connection after it, exceeded `MAX_TLS_OVERHEAD`. The event loop closes the connection."""


class BoundedSslObject(ssl.SSLObject):
    """A TLS connection that limits encrypted bytes without content, such as session tickets and key updates.

    OpenSSL processes all of them that have arrived in one call, and uvloop reads up to 8 MiB in one iteration of the
    event loop. This class passes the bytes to OpenSSL in parts of `READ_BYTES`, up to the limit.
    """

    _arrived: ssl.MemoryBIO
    _incoming: ssl.MemoryBIO
    _left: int

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> Self:
        # `SSLContext.wrap_bio` calls this method. Only here is the buffer of the event loop available.
        inner = ssl.MemoryBIO()
        made: Self = super()._create(inner, outgoing, *args, **options)  # type: ignore[misc]
        made._arrived, made._incoming, made._left = incoming, inner, MAX_TLS_OVERHEAD
        return made

    def do_handshake(self) -> None:
        """Continue the handshake. Raises `TlsLimitExceeded`."""
        self._feed(super().do_handshake)
        self._left = MAX_TLS_OVERHEAD

    def read(self, size: int = 1_024, buffer: WriteableBuffer | None = None) -> Any:
        """Return decrypted bytes, or their number if there is a buffer. Raises `TlsLimitExceeded`."""
        read = super().read
        content = self._feed(lambda: read(size) if buffer is None else read(size, buffer))
        # Bytes of content are not overhead: only the other bytes of their records remain counted.
        self._refill(content if isinstance(content, int) else len(content))
        return content

    def write(self, data: ReadableBuffer) -> int:
        """Encrypt bytes. Each write raises the overhead that the peer may send."""
        write = super().write
        written = self._feed(lambda: write(data))
        self._refill(written + WRITE_OVERHEAD)
        return written

    def pending(self) -> int:
        """Return the bytes that can be read without new ones from the peer, encrypted ones included.

        uvloop stops reading when this is 0 and its own buffer is empty.
        """
        return super().pending() + self._incoming.pending

    def unwrap(self) -> None:
        """Continue to close the connection. Raises `TlsLimitExceeded`."""
        self._feed(super().unwrap)

    def _refill(self, size: int) -> None:
        self._left = min(self._left + size, MAX_TLS_OVERHEAD)

    def _feed(self, call: Callable[[], _T]) -> _T:
        """Call OpenSSL, and pass it further parts of the bytes that have arrived while it needs more."""
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                if part := self._arrived.read(READ_BYTES):
                    self._incoming.write(part)
                elif self._arrived.eof and not self._incoming.eof:
                    self._incoming.write_eof()
                else:
                    raise
            self._left -= len(part)
            if self._left < 0:
                raise TlsLimitExceeded("TLS: too many encrypted bytes without content")


def limit_overhead(context: ssl.SSLContext) -> ssl.SSLContext:
    """Limit the TLS overhead of all new connections of a context (`BoundedSslObject`), and return the context."""
    context.sslobject_class = BoundedSslObject
    return context


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities in `ca_file`; None: the system's. Raises OSError.

    Private authorities are not checked strictly: since Python 3.13 the default rejects those without some extensions of
    RFC 5280, such as key usage: the same file would work with one Python and fail with another.
    """
    context = outgoing_context(ca_file)
    if ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
