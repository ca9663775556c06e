"""Network streams that bound the work for one response of a receiver that may be hostile.

The parser of HTTP/1.1 handles all of one read without a pause, and any number of `1xx` responses, headers and chunks.
So does OpenSSL with records that contain no bytes of a response, such as session tickets and key updates.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from weakref import WeakValueDictionary

import anyio
import httpcore
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream
from httpcore._backends.anyio import AnyIOStream

from gregor.net.bounded_responses import parse_in_linear_time

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
MAX_HANDSHAKE_WORK: Final = 32_768
"""Limit of the work for the encrypted bytes of one handshake: bytes, and surcharges of reads.

The certificates of most servers have 3 to 6 KiB. OpenSSL takes 0.1 s for a hostile one of 729 bytes: its key lies on a
curve with explicit parameters over a prime for which square roots are expensive. A chain of 100 KiB took 14 s.
"""
HANDSHAKE_READ_BYTES: Final = 8_192
"""Limit of one read of a handshake. Most servers send all their part at once: one step of a thread is enough."""
HANDSHAKE_THREADS: Final = 4
"""Handshakes that OpenSSL processes at once. Others wait.

Each thread that is busy with a hostile certificate delays the event loop: 16 of them stopped it for 11 s on two cores.
"""
HOST_THREADS: Final = 1
"""Threads that the handshakes of one host occupy, in one pool. A cancelled handshake counts until OpenSSL returns."""

_threads: Final = ThreadPoolExecutor(HANDSHAKE_THREADS, "gregor-handshake")

parse_in_linear_time()


class ResponseLimitExceeded(httpcore.RemoteProtocolError):
    """A response or TLS handshake takes more work than `MAX_RESPONSE_WORK`, `MAX_TLS_WORK` or `MAX_HANDSHAKE_WORK`."""


class BoundedBackend(httpcore.AsyncNetworkBackend):
    """A network backend of httpcore; the streams of its connections are bounded.

    `max_work`: limit of the work for one response, with twice as much for its encrypted bytes.
    """

    def __init__(self, inner: httpcore.AsyncNetworkBackend, max_work: int = MAX_RESPONSE_WORK) -> None:
        self._inner, self._max_work = inner, max_work
        self._handshakes = _Handshakes()

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
    """The encrypted bytes of a TLS connection, limited for each handshake and each response."""

    def __init__(self, inner: ByteStream) -> None:
        self._inner = inner
        self._work, self._max_work, self._read_bytes = 0, MAX_HANDSHAKE_WORK, HANDSHAKE_READ_BYTES

    def start_response(self, max_work: int) -> None:
        """Count from here, up to `max_work`."""
        self._work, self._max_work, self._read_bytes = 0, max_work, READ_BYTES

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
        handshakes: _Handshakes,
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
        encrypted = _EncryptedStream(self._inner._stream)
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


class _Handshakes:
    """TLS handshakes of one event loop. OpenSSL works in threads, and the event loop goes on."""

    def __init__(self) -> None:
        self._hosts: WeakValueDictionary[str | None, asyncio.Semaphore] = WeakValueDictionary()

    async def perform(self, stream: ByteStream, context: ssl.SSLContext, hostname: str | None) -> TLSStream:
        """Return a TLS connection over a stream.

        Raises ssl.SSLError, `ResponseLimitExceeded` and the exceptions of the stream.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # As bytes, which Python does not encode again: httpcore gives ASCII.
        tls = context.wrap_bio(incoming, outgoing, server_hostname=hostname and hostname.encode("ascii"))
        is_complete = False
        while not is_complete:
            try:
                await self._continue(tls, hostname, is_started=bool(incoming.pending))
                is_complete = True
            except ssl.SSLWantReadError:
                pass
            if outgoing.pending:
                await stream.send(outgoing.read())
            if not is_complete:
                incoming.write(await stream.receive(HANDSHAKE_READ_BYTES))
        return TLSStream(
            transport_stream=stream, standard_compatible=False, _ssl_object=tls, _read_bio=incoming, _write_bio=outgoing
        )

    async def _continue(self, tls: ssl.SSLObject, hostname: str | None, *, is_started: bool) -> None:
        """Let OpenSSL process the received bytes. If cancelled, the thread keeps its place until OpenSSL returns."""
        if not is_started:
            tls.do_handshake()  # The first message needs no bytes of the server.
            return
        places = self._hosts.setdefault(hostname, asyncio.Semaphore(HOST_THREADS))
        await places.acquire()
        step = asyncio.get_running_loop().run_in_executor(_threads, tls.do_handshake)
        step.add_done_callback(lambda _: places.release())
        await asyncio.shield(step)
