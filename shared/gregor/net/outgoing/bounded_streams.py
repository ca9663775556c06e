"""Network streams that bound the work for one response of a receiver that may be hostile.

The parser of HTTP/1.1 handles all of one read without a pause, and any number of `1xx` responses, headers and chunks.
So does OpenSSL with records that contain no bytes of a response, such as session tickets and key updates.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import anyio
import httpcore
from anyio.abc import ByteStream
from httpcore._backends.anyio import AnyIOStream

from gregor.net.bounded_responses import parse_in_linear_time

from .handshakes import HANDSHAKE_READ_BYTES, Handshakes

READ_BYTES: Final = 1_024
"""Limit of one read. Between two reads, the other tasks of the process run."""
MAX_RESPONSE_WORK: Final = 65_536
"""Limit of the work for one response: its bytes, and the surcharges of its lines and reads."""
LINE_WORK: Final = 256
"""Surcharge of a line, in bytes: each header, each chunk and each `1xx` response has at least one."""
READ_WORK: Final = 256
"""Surcharge of a read, in bytes: a sender can split a response into single bytes."""
MAX_TLS_WORK: Final = 2 * MAX_RESPONSE_WORK
"""Limit of the work for the encrypted bytes of one response: bytes, and surcharges of reads."""
MAX_HANDSHAKE_WORK: Final = 16_384
"""Limit of the work for the encrypted bytes of one handshake: bytes, and surcharges of reads.

The certificates of most servers have 3 to 6 KiB, those with very many names 8 KiB. OpenSSL takes 0.27 s for a hostile
one of 538 bytes: its key lies on a curve with explicit parameters over a prime for which square roots are expensive.
Within this limit, a chain takes 8 s; within twice as much, 15 s, which is the timeout of a delivery.
"""

parse_in_linear_time()


class ResponseLimitExceeded(httpcore.RemoteProtocolError):
    """A response or TLS handshake takes more work than `MAX_RESPONSE_WORK`, `MAX_TLS_WORK` or `MAX_HANDSHAKE_WORK`."""


class BoundedBackend(httpcore.AsyncNetworkBackend):
    """A network backend of httpcore; the streams of its connections are bounded.

    `max_work`: limit of the work for one response, with twice as much for its encrypted bytes.
    """

    def __init__(self, inner: httpcore.AsyncNetworkBackend, max_work: int = MAX_RESPONSE_WORK) -> None:
        self._inner, self._max_work = inner, max_work
        self._handshakes = Handshakes()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect as the inner backend does."""
        inner = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _BoundedStream(inner, self._max_work, self._handshakes)

    async def sleep(self, seconds: float) -> None:
        """Sleep; httpcore requires this method."""
        await self._inner.sleep(seconds)


class _EncryptedStream(ByteStream):
    """The encrypted bytes of a TLS connection, limited for each handshake and each response.

    `outer`: those of the connection to an `https://` proxy, if this one runs through it.
    """

    def __init__(self, inner: ByteStream, outer: _EncryptedStream | None) -> None:
        self._inner, self._outer = inner, outer
        self._work, self._max_work, self._read_bytes = 0, MAX_HANDSHAKE_WORK, HANDSHAKE_READ_BYTES

    def start_response(self, max_work: int) -> None:
        """Count from here, up to `max_work`."""
        self._work, self._max_work, self._read_bytes = 0, max_work, READ_BYTES
        if self._outer is not None:
            self._outer.start_response(max_work)

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return the next bytes, not more than the limits allow. Raises `ResponseLimitExceeded`."""
        if self._work >= self._max_work:
            raise ResponseLimitExceeded(f"TLS: more than {self._max_work} encrypted bytes, with the surcharge of reads")
        data = await self._inner.receive(min(max_bytes, self._read_bytes, self._max_work - self._work))
        self._work += len(data) + READ_WORK
        return data

    async def send(self, item: bytes) -> None:
        # Does not restart the count: OpenSSL answers key updates, and the receiver can ask for many.
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._inner.extra_attributes


class _BoundedStream(httpcore.AsyncNetworkStream):
    def __init__(
        self,
        inner: httpcore.AsyncNetworkStream,
        max_work: int,
        handshakes: Handshakes,
        encrypted: _EncryptedStream | None = None,
    ) -> None:
        self._inner, self._max_work, self._handshakes, self._encrypted = inner, max_work, handshakes, encrypted
        self._work = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes, at most `READ_BYTES`. Raises `ResponseLimitExceeded`."""
        # Before the read, not after: the bytes that were read may contain the status, followed by many short lines.
        if self._work > self._max_work:
            raise ResponseLimitExceeded(f"more than {self._max_work} bytes, with the surcharges of lines and reads")
        data = await self._inner.read(min(max_bytes, READ_BYTES), timeout)
        self._work += len(data) + READ_WORK + LINE_WORK * data.count(b"\n")
        # A TLS stream returns bytes that it has decrypted without giving control to the event loop.
        await asyncio.sleep(0)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write a part of a request. The work counts from here: a response begins after its request."""
        self._work = 0
        if self._encrypted is not None:
            self._encrypted.start_response(2 * self._max_work)
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        if not isinstance(self._inner, AnyIOStream):
            inner = await self._inner.start_tls(ssl_context, server_hostname, timeout)
            return _BoundedStream(inner, self._max_work, self._handshakes)
        encrypted = _EncryptedStream(self._inner._stream, self._encrypted)
        try:
            with anyio.fail_after(timeout):
                tls = await self._handshakes.perform(encrypted, ssl_context, server_hostname)
        except BaseException as error:
            await self.aclose()
            if isinstance(error, TimeoutError):
                raise httpcore.ConnectTimeout(str(error)) from error
            if isinstance(error, (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError)):
                raise httpcore.ConnectError(str(error)) from error
            raise
        return _BoundedStream(AnyIOStream(tls), self._max_work, self._handshakes, encrypted)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
