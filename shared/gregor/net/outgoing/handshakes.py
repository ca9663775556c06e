"""TLS handshakes of clients in threads. Hosts with expensive certificates do not delay handshakes with other hosts."""

from __future__ import annotations

import asyncio
import ssl
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final
from weakref import WeakValueDictionary

from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from gregor.clock import Clock, SystemClock

HANDSHAKE_READ_BYTES: Final = 8_192
"""Limit of one read of a handshake. Most servers send all their part at once: one step of a thread is enough."""
HOST_THREADS: Final = 1
"""Threads that handshakes with one host use, for each HTTP pool. A cancelled one counts until OpenSSL returns."""
SLOW_S: Final = 0.1
"""CPU time of a call of OpenSSL that makes its host slow. Honest handshakes take 1 to 5 ms."""
SLOW_KEPT_S: Final = 3_600.0
"""Time for which a host remains slow. Then it is new again: it may have other certificates."""
REMEMBERED_HOSTS: Final = 1_000
"""Proven hosts, and slow hosts, that each HTTP pool remembers. There are at most 100 webhooks."""

# OpenSSL processes four handshakes at once, because each busy thread delays the event loop: 16 of them stopped it for
# 11 s on two cores. A process ends when the calls that OpenSSL has begun have returned: it has no way to stop them.
_proven_threads: Final = ThreadPoolExecutor(2, "gregor-handshake")
_new_threads: Final = ThreadPoolExecutor(1, "gregor-handshake-new")
_slow_threads: Final = ThreadPoolExecutor(1, "gregor-handshake-slow")


class HandshakeHosts:
    """The hosts of an HTTP pool, by the cost of their handshakes: proven, slow or new. Each kind has its own threads.

    A host is proven when a handshake completed, and slow when a call of OpenSSL took more than `SLOW_S`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._proven: dict[str | None, float] = {}  # when each was recorded, the oldest first
        self._slow: dict[str | None, float] = {}

    def threads(self, host: str | None) -> ThreadPoolExecutor:
        """Return the threads for the next step of a handshake with this host."""
        if self._is_slow(host):
            return _slow_threads
        return _proven_threads if host in self._proven else _new_threads

    def record_complete(self, host: str | None) -> None:
        """Record that a handshake completed. The host becomes proven unless it is slow."""
        if not self._is_slow(host):
            self._record(self._proven, host)

    def record_step(self, host: str | None, cpu_s: float) -> None:
        """Record the CPU time of a step. A host that took more than `SLOW_S` becomes slow."""
        if cpu_s > SLOW_S:
            self._proven.pop(host, None)
            self._record(self._slow, host)

    def _is_slow(self, host: str | None) -> bool:
        return host in self._slow and self._clock.monotonic() < self._slow[host] + SLOW_KEPT_S

    def _record(self, hosts: dict[str | None, float], host: str | None) -> None:
        hosts.pop(host, None)
        hosts[host] = self._clock.monotonic()
        if len(hosts) > REMEMBERED_HOSTS:
            del hosts[next(iter(hosts))]


class Handshakes:
    """TLS handshakes of one event loop. OpenSSL works in threads, and the event loop goes on."""

    def __init__(self) -> None:
        self._hosts = HandshakeHosts(SystemClock())
        self._places: WeakValueDictionary[str | None, asyncio.Semaphore] = WeakValueDictionary()

    async def perform(self, stream: ByteStream, context: ssl.SSLContext, hostname: str | None) -> TLSStream:
        """Return a TLS connection over a stream.

        Raises ssl.SSLError and the exceptions of the stream.
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
        self._hosts.record_complete(hostname)
        return TLSStream(
            transport_stream=stream, standard_compatible=False, _ssl_object=tls, _read_bio=incoming, _write_bio=outgoing
        )

    async def _continue(self, tls: ssl.SSLObject, hostname: str | None, *, is_started: bool) -> None:
        """Let OpenSSL process the received bytes.

        If cancelled, a step that waits for its thread ends. One that runs keeps its place until OpenSSL returns.
        """
        if not is_started:
            tls.do_handshake()  # The first message needs no bytes of the server.
            return
        places = self._places.setdefault(hostname, asyncio.Semaphore(HOST_THREADS))
        await places.acquire()
        loop, step = asyncio.get_running_loop(), _Step(tls)

        def end() -> None:
            self._hosts.record_step(hostname, step.cpu_s)
            places.release()

        def end_in_loop(_: Future[None]) -> None:
            with suppress(RuntimeError):  # The event loop is closed.
                loop.call_soon_threadsafe(end)

        try:
            call = self._hosts.threads(hostname).submit(step.run)
        except RuntimeError as error:
            places.release()
            raise ssl.SSLError("no thread can be started for the handshake") from error
        call.add_done_callback(end_in_loop)
        # If the task is cancelled, this cancels the call, too, unless it runs. Its exception is then ignored.
        await asyncio.wrap_future(call)


class _Step:
    """A call of OpenSSL that continues a handshake, and the CPU time that it took."""

    def __init__(self, tls: ssl.SSLObject) -> None:
        self._tls, self.cpu_s = tls, 0.0

    def run(self) -> None:
        """Continue the handshake. Raises ssl.SSLError."""
        start_s = time.thread_time()
        try:
            self._tls.do_handshake()
        finally:
            self.cpu_s = time.thread_time() - start_s
