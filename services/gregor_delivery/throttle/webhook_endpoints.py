"""PURE. Circuit breaker and concurrency limit of each webhook endpoint: a slow endpoint does not delay the others."""

from __future__ import annotations

import math
from typing import Final

from gregor_delivery.channels.http_pool import CONNECTIONS
from gregor_delivery.channels.verdict import Verdict

from .breaker import LONGEST_PAUSE_S as LONGEST_OPEN_S
from .breaker import Breaker, Permit
from .turns import Turns
from .user_places import PLACES_OF_USER

MAX_CONCURRENT: Final = 32
"""Concurrent calls to one webhook from one process."""
SHARE: Final = 0.5
"""The calls of a webhook are at most this share of the places that are free."""
BUSY_RETRY_S: Final = 0.5
"""Shortest pause before a call to an endpoint at its concurrency limit is decided again."""
LONGEST_TURN_S: Final = 600.0
"""Longest such pause: 100,000 waiting calls then cost about 220 decisions a second."""
SHORTEST_CALL_S: Final = 0.01
"""Assumed duration of shorter calls, and of the first calls."""
LONGEST_PAUSE_S: Final = 1_800.0
"""Longest pause of a call to an endpoint that is down: 100,000 waiting calls then cost about 75 decisions a second."""
PROBE_S: Final = 15.0
"""Shortest pause of a call during a probe of an endpoint that has been down for long. Most probes end within it."""


class Places:
    """The concurrent calls of one channel, or of a group of its endpoints.

    `size`: the number that the connections allow. `within`: the places of the whole channel, for a group.
    """

    __slots__ = ("_free", "_within")

    def __init__(self, size: int = CONNECTIONS, within: Places | None = None) -> None:
        self._free = size
        self._within = within

    @property
    def free(self) -> int:
        """Number of calls that may start now."""
        return self._free if self._within is None else min(self._free, self._within.free)

    def take(self) -> None:
        """Take the place of a call. The caller must return it with `give_back`."""
        self._free -= 1
        if self._within is not None:
            self._within.take()

    def give_back(self) -> None:
        """Return the place of a call that has ended."""
        self._free += 1
        if self._within is not None:
            self._within.give_back()


class WebhookEndpoints:
    """The endpoints that one process calls. Times are monotonic seconds."""

    def __init__(
        self,
        max_concurrent: int = MAX_CONCURRENT,
        max_endpoints: int | None = None,
        places: Places | None = None,
        share: float = SHARE,
        counts_each_unreachable: bool = True,
    ) -> None:
        """`max_endpoints`: remembered endpoints; beyond them the oldest idle one is forgotten.

        `share`: the calls of an endpoint are at most this share of the free `places`, so other endpoints find some.

        `counts_each_unreachable`: see `Breaker`.
        """
        self._max_concurrent = max_concurrent
        self._max_endpoints = max_endpoints
        self._places = places or Places()
        self._share = share
        self._counts_each_unreachable = counts_each_unreachable
        self._endpoints: dict[str, _Endpoint] = {}

    @property
    def remembered(self) -> int:
        """Number of remembered endpoints."""
        return len(self._endpoints)

    def retain(self, webhooks: set[str]) -> None:
        """Forget all endpoints except those of `webhooks`."""
        self._endpoints = {name: endpoint for name, endpoint in self._endpoints.items() if name in webhooks}

    def wait_s(self, webhook: str, now_s: float, uid: str | None = None) -> float:
        """Return how long a call has to wait; 0 if it may start now, with `acquire`. `uid`: see `Breaker.wait_s`."""
        endpoint = self._endpoint(webhook)
        wait_s = endpoint.breaker.wait_s(now_s, uid)
        if wait_s > 0.0 or endpoint.breaker.capacity(1, now_s) == 0:
            return max(BUSY_RETRY_S, wait_s)
        free = self._free_places(endpoint)
        return BUSY_RETRY_S if free <= 0.0 or endpoint.full_user(uid, free) else 0.0

    def turn_s(self, webhook: str, now_s: float, uid: str | None = None) -> float:
        """Return the pause of a call whose endpoint or user has no free place.

        Each waiting call gets its own turn, at the pace at which the endpoint finishes calls. If they were decided
        again more often, thousands of calls to a slow endpoint would use up the process and the store.
        """
        endpoint = self._endpoint(webhook)
        # A user with fewer than eight calls waits for places of the endpoint, and the pace of few calls says little.
        return (endpoint.full_user(uid) or endpoint.calls).turn_s(now_s)

    def pause_s(self, webhook: str, now_s: float, uid: str | None = None) -> float:
        """Return the shortest pause of a call to an endpoint that is down. Its longest pause is twice as long.

        The pause grows with the outage of the endpoint, up to `LONGEST_PAUSE_S`. Waiting calls then cost little, and
        are sent soon after the endpoint is back.
        """
        # A user with a failure waits a little longer than the breaker is open, but pauses no longer than others.
        endpoint, wait_s = self._endpoint(webhook), min(self.wait_s(webhook, now_s, uid), LONGEST_OPEN_S)
        if endpoint.down_since_s is None:
            return wait_s
        is_probing = endpoint.breaker.wait_s(now_s, uid) == 0.0
        return max(wait_s, min((now_s - endpoint.down_since_s) / 2, PROBE_S if is_probing else LONGEST_PAUSE_S / 2))

    def is_down(self, webhook: str) -> bool:
        """Return whether the circuit breaker of the endpoint is open."""
        return self._endpoint(webhook).breaker.is_open

    def acquire(self, webhook: str, now_s: float, uid: str | None = None) -> Permit:
        """Start a call; see `Breaker.acquire`. The caller must finish the permit with `record` or `release`."""
        endpoint, call = self._endpoint(webhook), object()
        endpoint.start(call, uid, now_s)
        self._places.take()
        permit = endpoint.breaker.acquire(uid, now_s)

        def finish(verdict: Verdict | None, now_s: float) -> None:
            endpoint.end(call, uid, None if verdict is None else now_s)
            self._places.give_back()
            if verdict is None:
                permit.release()
                return
            permit.record(verdict, now_s)
            if not endpoint.breaker.is_open:
                endpoint.down_since_s = None
            elif endpoint.down_since_s is None:
                endpoint.down_since_s = now_s

        return Permit(finish)

    def _free_places(self, endpoint: _Endpoint) -> float:
        """Return how many further calls to an endpoint may start now; a fraction allows one."""
        # Each further call also reduces the share.
        calls = len(endpoint.calls.began_s)
        return min(self._max_concurrent - calls, (self._share * self._places.free - calls) / (1 + self._share))

    def _endpoint(self, webhook: str) -> _Endpoint:
        endpoint = self._endpoints.get(webhook)
        if endpoint is None:
            if self._max_endpoints is not None and len(self._endpoints) >= self._max_endpoints:
                self._forget_idle()
            endpoint = self._endpoints[webhook] = _Endpoint(self._counts_each_unreachable)
        return endpoint

    def _forget_idle(self) -> None:
        """Forget one endpoint without calls in flight, if possible one whose circuit breaker is closed."""
        idle = [name for name, each in self._endpoints.items() if not each.calls.began_s]
        closed = (name for name in idle if not self._endpoints[name].breaker.is_open)
        for name in (next(closed, None), *idle[:1]):
            if name is not None:
                del self._endpoints[name]
                return


class _Calls:
    """The calls in flight of an endpoint, or of one user to it, and the turns of those that wait."""

    __slots__ = ("began_s", "ends_a_second", "turns")

    def __init__(self) -> None:
        self.began_s: dict[object, float] = {}
        """When each call in flight began, oldest first."""
        self.ends_a_second = 1 / SHORTEST_CALL_S
        """Calls that one place finishes in a second: the mean over the last calls, about as many as may be in flight.

        A mean of durations would follow a few slow calls among many fast ones.
        """
        self.turns = Turns()

    def end(self, call: object, now_s: float | None) -> None:
        """End a call. `now_s`: `None` if the call does not count in the mean, for example because it was not made."""
        began_s = self.began_s.pop(call)
        if now_s is not None:
            self.ends_a_second += (1 / max(SHORTEST_CALL_S, now_s - began_s) - self.ends_a_second) / MAX_CONCURRENT

    def turn_s(self, now_s: float) -> float:
        """Return the seconds until the next turn.

        The longer a call in flight has lasted, the less it adds to the pace. So a silent receiver slows the pace before
        its first call ends, but a few calls without a response do not.
        """
        usual_s = 1 / self.ends_a_second
        calls_a_second = sum(1 / max(usual_s, now_s - began_s) for began_s in self.began_s.values())
        interval_s = 1 / (calls_a_second or self.ends_a_second)
        return max(BUSY_RETRY_S, self.turns.next_s(interval_s, LONGEST_TURN_S, now_s))


class _Endpoint:
    __slots__ = ("breaker", "calls", "down_since_s", "users")

    def __init__(self, counts_each_unreachable: bool) -> None:
        self.breaker = Breaker(counts_each_unreachable=counts_each_unreachable)
        self.down_since_s: float | None = None
        self.calls = _Calls()
        self.users: dict[str, _Calls] = {}
        """The calls of each user with calls in flight."""

    def full_user(self, uid: str | None, free: float = math.inf) -> _Calls | None:
        """Return the calls of a user if no further one may start, else None. `free`: free places of the endpoint.

        The calls of a user stay below half of the free places, so a few users with slow calls leave some to others.
        """
        calls = None if uid is None else self.users.get(uid)
        return calls if calls is not None and len(calls.began_s) >= min(PLACES_OF_USER, free / 2) else None

    def start(self, call: object, uid: str | None, now_s: float) -> None:
        """Start a call of a user."""
        self.calls.began_s[call] = now_s
        if uid is not None:
            self.users.setdefault(uid, _Calls()).began_s[call] = now_s

    def end(self, call: object, uid: str | None, now_s: float | None) -> None:
        """End a call of a user; see `_Calls.end`."""
        calls = None if uid is None else self.users[uid]
        # A user whose calls hang must not set the pace of others: they may have had no call for a long time.
        is_last = calls is None or len(calls.began_s) == 1
        self.calls.end(call, now_s if is_last else None)
        if uid is not None and calls is not None:
            calls.end(call, now_s)
            if is_last:
                del self.users[uid]
