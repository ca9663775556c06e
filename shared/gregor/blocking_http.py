"""Blocking HTTP requests with a deadline for the whole request.

The timeouts of httpx are those of one read or one write: a server that sends a byte now and then never reaches them.
Here each read and each write gets the time that the deadline of its request leaves. `getaddrinfo` has no timeout at
all, so a new connection to a name waits for a thread that looks it up; kept connections and addresses need none.
"""

from __future__ import annotations

import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, Self

import httpcore
import httpx

from gregor.net.outgoing.http_clients import client_options
from gregor.net.outgoing.pool_places import free_failed_places

_PIECE_BYTES = 65_536
"""How much is written in one step: the rest of a large request gets the time that is left then."""


class RequestDeadline:
    """The end of a request. It may be moved while the response is read."""

    __slots__ = ("_ends_s",)

    def __init__(self, seconds: float) -> None:
        """Set the end, in seconds from now."""
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Move the end, to `seconds` from now."""
        self._ends_s = time.monotonic() + seconds

    def left_s(self) -> float:
        """Return the time until the end, negative after it."""
        return self._ends_s - time.monotonic()

    def timeouts(self, connect_s: float, silence_s: float = math.inf) -> httpx.Timeout:
        """Return the timeouts of a request of `blocking_client` that ends at this deadline.

        `connect_s`: of an attempt to connect to one address. `silence_s`: of one read or write.
        """
        left_s = max(0.001, self.left_s())
        silence = _Limit(min(left_s, silence_s), self)
        return httpx.Timeout(silence, connect=_Limit(min(left_s, connect_s), self))


def blocking_client(**options: Any) -> httpx.Client:
    """Return a client of httpx, made with `options`, whose requests keep the deadline of their timeouts."""
    http = httpx.Client(**client_options(None, options))
    # httpx has no option for the network backend, and with another transport it ignores the proxies of the environment.
    # tests/unit/client/test_hostile_server.py fails if these attributes change.
    for transport in (http._transport, *http._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Backend()
    free_failed_places(http)
    return http


class _Limit(float):
    """A timeout of httpx, in seconds, that knows the deadline of its request."""

    deadline: RequestDeadline

    def __new__(cls, seconds: float, deadline: RequestDeadline) -> Self:
        limit = super().__new__(cls, seconds)
        limit.deadline = deadline
        return limit


def _remaining(timeout: float | None, error: type[httpx.TimeoutException]) -> float | None:
    """Return the timeout of one step. Raises `error` after the deadline, even if bytes are waiting."""
    if not isinstance(timeout, _Limit):
        return timeout
    left_s = timeout.deadline.left_s()
    if left_s <= 0:
        raise error("the response did not end in time")
    return min(timeout, left_s)


class _Backend(httpcore.NetworkBackend):
    """Opens connections whose reads and writes keep the deadline of their request."""

    def __init__(self) -> None:
        self._direct = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that answers."""
        failure: Exception = httpx.ConnectError(f"{host} has no address")
        # One by one: with many addresses, the timeout of each would be the timeout of the first.
        for address in _addresses(host, port, _time_of_lookup(timeout)):
            left_s = _remaining(timeout, httpx.ConnectTimeout)
            try:
                return _Stream(self._direct.connect_tcp(address, port, left_s, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


# ---- names and addresses

_lookups: Final[dict[tuple[int, str, int], Future[list[Any]]]] = {}
"""The look-ups that run, by process, host and port: a forked child has none of the threads of its parent."""


def _time_of_lookup(timeout: float | None) -> float | None:
    """Return how long a look-up may take: until the deadline, because a second name server may answer after seconds."""
    return timeout.deadline.left_s() if isinstance(timeout, _Limit) else timeout


def _addresses(host: str, port: int, timeout_s: float | None) -> Iterator[str]:
    try:
        found = _look_up(host, port, timeout_s)
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"no name server answered for {host} in time") from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error
    for *_, place in found:
        scope = place[3] if len(place) == 4 else 0
        yield f"{place[0]}%{scope}" if scope else str(place[0])


def _look_up(host: str, port: int, timeout_s: float | None) -> list[Any]:
    """Return the addresses of a host. Raises `TimeoutError` or `OSError`.

    Calls that look up the same host wait for one thread, which may outlive them while no name server answers.
    """
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        key, mine = (os.getpid(), host, port), Future[list[Any]]()
    running = _lookups.setdefault(key, mine)
    if running is mine:
        try:
            # A thread of an executor would keep the process from ending until the name server answers.
            threading.Thread(target=_run_lookup, args=(key, mine), name="gregor-lookup", daemon=True).start()
        except RuntimeError:
            _run_lookup(key, mine)  # Python starts no threads while it ends
    return running.result(timeout_s)


def _run_lookup(key: tuple[int, str, int], lookup: Future[list[Any]]) -> None:
    _, host, port = key
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:
        del _lookups[key]
        lookup.set_exception(error)
    else:
        del _lookups[key]
        lookup.set_result(found)


# ---- connections


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes keep the deadline of the request that uses it."""

    def __init__(self, direct: httpcore.NetworkStream) -> None:
        self._direct = direct

    def close(self) -> None:
        """Close the connection."""
        self._direct.close()

    def get_extra_info(self, info: str) -> Any:
        """Return a property of the connection, such as its socket."""
        return self._direct.get_extra_info(info)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what has arrived."""
        return self._direct.read(max_bytes, _remaining(timeout, httpx.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all bytes."""
        for begin in range(0, len(buffer), _PIECE_BYTES):
            piece = buffer[begin : begin + _PIECE_BYTES]
            self._direct.write(piece, _remaining(timeout, httpx.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the connection, encrypted."""
        left_s = _remaining(timeout, httpx.ConnectTimeout)
        return _Stream(self._direct.start_tls(ssl_context, server_hostname, left_s))
