"""Deadlines of one connection: hello, heartbeat (pings), token expiry, maximum age. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gregor.core.close_codes import CloseCode
from gregor.core.ids import Prefixes
from gregor.core.limits import Limits

GRACE_S: Final = 25.0
"""How long a connection outlives its token."""
REFRESH_S: Final = 60.0
"""How long before its expiry a client is asked for a new token."""
MAX_UNANSWERED_PINGS: Final = 2
"""Unanswered pings after which the connection is closed."""
NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class SessionRules:
    """Limits and features that all sessions of a transport share.

    ``pings``, ``welcomes``: whether the transport sends these frames. ``sends_unchanged``: whether a client that
    requests a sync gets an ``unchanged`` frame. ``uncounted``: returns the category prefixes that do not count in the
    badge now, within the limits of a caller. ``now_ms``: returns the wall time of the server in Unix ms, by which
    clients count expiries.
    """

    limits: Limits = field(default_factory=Limits)
    hello_timeout_s: float = 15.0
    ping_interval_s: float = 25.0
    max_age_s: float = 6 * 3_600.0
    queue_bytes: int = 1 << 20
    max_frame_bytes: int = 1 << 20
    pings: bool = True
    welcomes: bool = True
    sends_unchanged: bool = True
    uncounted: Callable[[Prefixes], tuple[str, ...]] = lambda _: ()
    now_ms: Callable[[], int] = int
    jitter: Callable[[float, float], float] = random.uniform


@dataclass(frozen=True, slots=True)
class Ping:
    """Send ``{"ping": n}``, a heartbeat."""

    n: int


@dataclass(frozen=True, slots=True)
class Refresh:
    """Ask for a new token."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """Close with this code."""

    code: int


class Deadlines:
    """The deadlines. Times are seconds of a monotonic clock."""

    __slots__ = ("_age_at", "_expires_at", "_hello_at", "_last", "_ping_at", "_refresh_at", "_rules", "_unanswered")

    def __init__(self, rules: SessionRules, now: float) -> None:
        self._rules = rules
        self._hello_at = now + rules.hello_timeout_s
        # Half to all of the age: connections that were opened together must not close together.
        self._age_at = now + rules.max_age_s * rules.jitter(0.5, 1.0)
        self._ping_at = self._refresh_at = self._expires_at = NEVER
        self._last = self._unanswered = 0

    def greeted(self) -> None:
        """Clear the deadline of the hello."""
        self._hello_at = NEVER

    def joined(self, now: float) -> None:
        """Start the pings and the deadline of the token refresh."""
        self._refresh_at = self._expires_at - REFRESH_S
        if self._rules.pings:
            self._set_ping(now)

    def expires(self, lives_s: float, now: float) -> None:
        """Set the expiry of a verified token."""
        self._expires_at = now + lives_s

    def answered(self) -> None:
        """Reset the number of unanswered pings."""
        self._unanswered = 0

    def left_s(self, now: float) -> int | None:
        """Return the seconds until the token expires; ``None`` if it does not."""
        return None if self._expires_at == NEVER else max(0, round(self._expires_at - now))

    @property
    def due(self) -> float:
        """The earliest deadline."""
        return min(self._hello_at, self._ping_at, self._refresh_at, self._expires_at + GRACE_S, self._age_at)

    def tick(self, now: float) -> list[Ping | Refresh | DeadlinePassed]:
        """Return the actions of all deadlines that have passed."""
        if now >= self._hello_at:
            return [DeadlinePassed(CloseCode.HELLO_TIMEOUT)]
        if now >= self._expires_at + GRACE_S:
            return [DeadlinePassed(CloseCode.TOKEN_EXPIRED)]
        if now >= self._age_at:
            return [DeadlinePassed(CloseCode.MAX_AGE)]
        said: list[Ping | Refresh | DeadlinePassed] = []
        if now >= self._refresh_at:
            self._refresh_at = NEVER
            said.append(Refresh())
        if now >= self._ping_at:
            if self._unanswered >= MAX_UNANSWERED_PINGS:
                return [DeadlinePassed(CloseCode.PING_TIMEOUT)]
            self._last += 1
            self._unanswered += 1
            self._set_ping(now)
            said.append(Ping(self._last))
        return said

    def _set_ping(self, now: float) -> None:
        self._ping_at = now + self._rules.ping_interval_s * self._rules.jitter(0.9, 1.1)
