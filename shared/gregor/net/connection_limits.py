"""Limits on connections before authentication: in total, per client address, and new ones per second.

All counts are local to the process. An unauthenticated client must not cause a Redis command.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from gregor.core.rate_limit import RateLimiter

MAX_IDLE_ADDRESSES: Final = 16_384
"""Addresses without a connection whose handshake rate is remembered. Beyond it, the oldest are forgotten."""
HARD_FACTOR: Final = 2
"""Refused connections also count until they end. At this multiple of a limit a connection gets no answer at all."""

BURST_S: Final = 5.0
"""Seconds of the handshake rate that a client may use at once: an office behind one address reconnects together."""
ANONYMOUS_BURST_S: Final = 10.0
"""Seconds of the rate of requests without a caller that a client may use at once: browsers load pages and files."""


_SETTINGS: Final = {
    "process": "GREGOR_MAX_CONNECTIONS_PROCESS",
    "address": "GREGOR_MAX_CONNECTIONS_PER_ADDRESS",
    "handshakes": "GREGOR_HANDSHAKE_RATE",
}


class Admission(Enum):
    """The result of counting a new connection: the limit that refuses it, or ``ADMITTED``."""

    ADMITTED = "admitted"
    PROCESS = "process"
    ADDRESS = "address"
    HANDSHAKES = "handshakes"
    FLOOD = "flood"

    @property
    def is_admitted(self) -> bool:
        """Whether the connection may be served."""
        return self is Admission.ADMITTED

    @property
    def setting(self) -> str:
        """The setting of the limit."""
        return _SETTINGS.get(self.value, "")


PROBE_CONNECTIONS: Final = 256
"""Connections to a port of probes: a few supervisors and scrapers need one each."""
PROBE_CONNECTIONS_PER_ADDRESS: Final = 32
"""The same from one address, so that a stranger cannot lock out the supervisor."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of a process, from its settings."""

    process: int = 100_000
    """Connections of the process."""
    address: int = 200
    """Connections of one client address."""
    handshakes: float = 20.0
    """New connections a second of one client address, with a burst of ``BURST_S``."""
    anonymous: float = 50.0
    """Requests a second of one client address without a caller, with a burst of ``ANONYMOUS_BURST_S``."""

    def for_probes(self) -> ConnectionLimits:
        """Return the limits of a port that serves only probes and metrics."""
        return replace(
            self,
            process=min(self.process, PROBE_CONNECTIONS),
            address=min(self.address, PROBE_CONNECTIONS_PER_ADDRESS),
        )


class _Client(RateLimiter):
    """The connections of one client address, and the rate of its handshakes."""

    __slots__ = ("connections",)

    def __init__(self, rate: float) -> None:
        super().__init__(rate, max(1, round(rate * BURST_S)))
        self.connections = 0


class AnonymousRequests:
    """Limits the requests of a client address that have no valid token or key, or that are refused with 429."""

    def __init__(self, rate: float, burst: int | None = None) -> None:
        """``rate``: requests a second. ``burst``: by default those of ``ANONYMOUS_BURST_S``."""
        self._rate = rate
        self._burst = burst or max(1, round(rate * ANONYMOUS_BURST_S))
        self.clients: dict[str, RateLimiter] = {}
        """The clients with such requests in the last seconds, the least recent first."""

    def wait_s(self, key: str | None, now_s: float) -> float:
        """Return the seconds until a client may send a request; 0 if it may now. ``None`` is not limited."""
        client = self.clients.get(key) if key is not None else None
        return 0.0 if client is None else client.wait_s(now_s)

    def count(self, key: str | None, now_s: float) -> None:
        """Count a request of a client after it was answered."""
        if key is None:
            return
        client = self.clients.pop(key, None) or RateLimiter(self._rate, self._burst)
        client.acquire(now_s)
        # Two steps a call keep up with one insertion.
        for oldest in [name for _, name in zip(range(2), self.clients, strict=False)]:
            if self.clients[oldest].capacity(self._burst, now_s) == self._burst:
                del self.clients[oldest]
        self.clients[key] = client
        if len(self.clients) > MAX_IDLE_ADDRESSES:
            del self.clients[next(iter(self.clients))]


class ConnectionLimiter:
    """Counts the connections of a process. Each counted connection must be released when it ends.

    A port that learns the client address later (from a header) counts the connection first, and its address then.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.anonymous = AnonymousRequests(limits.anonymous)
        self.connections = 0
        self._clients: dict[str, _Client] = {}
        self._idle: dict[str, _Client] = {}

    @property
    def addresses(self) -> int:
        """The number of addresses that are remembered."""
        return len(self._clients) + len(self._idle)

    # ---- the process

    def open(self) -> Admission:
        """Count a connection of the process, including a refused one."""
        self.connections += 1
        return Admission.PROCESS if self.connections > self.limits.process else Admission.ADMITTED

    def close(self) -> None:
        """Release a connection that ``open`` counted."""
        self.connections -= 1

    # ---- a client address

    def open_for(self, key: str | None, now_s: float, *, is_handshake: bool = True) -> Admission:
        """Count a connection of a client, including a refused one. ``key``: see ``ClientAddresses.limited``.

        ``None`` is not limited. ``FLOOD``: there are so many refused ones that the connection gets no answer.
        ``is_handshake``: the connection also counts in the handshake rate.
        """
        if key is None:
            return Admission.ADMITTED
        client = self._clients.get(key) or self._idle.pop(key, None) or _Client(self.limits.handshakes)
        self._clients[key] = client
        client.connections += 1
        if client.connections > HARD_FACTOR * self.limits.address:
            return Admission.FLOOD
        if client.connections > self.limits.address:
            return Admission.ADDRESS
        is_within_rate = not is_handshake or client.try_acquire(now_s)
        return Admission.ADMITTED if is_within_rate else Admission.HANDSHAKES

    def close_for(self, key: str | None) -> None:
        """Release a connection that ``open_for`` counted."""
        client = self._clients.get(key) if key is not None else None
        if key is None or client is None:
            return
        client.connections -= 1
        if client.connections:
            return
        # A client that reconnects at once must not get a new bucket.
        self._idle[key] = self._clients.pop(key)
        if len(self._idle) > MAX_IDLE_ADDRESSES:
            del self._idle[next(iter(self._idle))]

    def retry_after_s(self, key: str | None, now_s: float) -> float:
        """Return after how many seconds a refused client may try again, without jitter; at least 1."""
        client = self._clients.get(key) if key is not None else None
        return max(1.0, client.wait_s(now_s) if client is not None else 0.0)


# ---- ports of probes


class ProbeConnection(Protocol):
    """A connection to a port of probes."""

    @property
    def is_answering(self) -> bool:
        """Whether the response to a complete request is being made or written."""
        ...

    def evict(self) -> None:
        """Close the connection at once."""
        ...


class ProbeConnections:
    """The open connections of a port of probes. A full port closes one of them instead of refusing the next.

    Refusing would let a client with ``PROBE_CONNECTIONS`` unfinished requests hide the process from its supervisor.
    """

    def __init__(self) -> None:
        self._oldest_first: dict[ProbeConnection, None] = {}

    def add(self, connection: ProbeConnection) -> None:
        """Add a new connection."""
        self._oldest_first[connection] = None

    def discard(self, connection: ProbeConnection) -> None:
        """Remove a connection that has ended."""
        self._oldest_first.pop(connection, None)

    def make_room(self) -> bool:
        """Close the oldest connection that is not answering; the oldest one if all are. Returns whether one was open.

        The newest connections are those whose request is still on its way.
        """
        connections = self._oldest_first
        idle = (connection for connection in connections if not connection.is_answering)
        victim = next(idle, None) or next(iter(connections), None)
        if victim is None:
            return False
        del connections[victim]
        victim.evict()
        return True
