"""Reports on the connections of a process to the servers of the state, for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
