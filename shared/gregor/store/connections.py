"""Reports on the connections of a process to the servers of the state, for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gregor.core.limits import SECOND_US


@dataclass(frozen=True, slots=True)
class ServerTime:
    """A reading of the clock of a server.

    ``monotonic_s``: when it was read, by the monotonic clock of this process, in the middle of the round trip.
    ``error_s``: the most by which the reading may be wrong, half the round trip.
    """

    time_us: int
    monotonic_s: float
    error_s: float

    def offset_s(self, now_us: int, monotonic_s: float) -> float:
        """Return the clock of the server minus the clock of this process, which shows these two times now."""
        return (self.time_us - now_us) / SECOND_US + monotonic_s - self.monotonic_s


@dataclass(frozen=True, slots=True)
class ServerReport:
    """The connection to one server. ``outstanding``: commands without a reply now."""

    outstanding: int
    reconnections: int


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """The connections of a store.

    ``events``: how often each event happened since the start, such as redirects of a cluster.
    ``waiting``: commands that wait until a server serves their slot.
    ``covered_slots``: hash slots with a connected server.
    ``clock_offset_s``: the clock of a server minus the clock of this process; ``None`` before it was measured.
    """

    servers: Mapping[str, ServerReport] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    covered_slots: int = 0
    clock_offset_s: float | None = None
