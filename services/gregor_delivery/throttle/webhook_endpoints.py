"""PURE. Circuit breaker and concurrency limit of each webhook endpoint: a slow endpoint does not delay the others."""

from __future__ import annotations

from typing import Final

from gregor_delivery.channels.verdict import Verdict

from .breaker import Breaker, Permit

MAX_CONCURRENT: Final = 32
"""Concurrent calls to one webhook from one process: an eighth of the channel's limit."""
BUSY_RETRY_S: Final = 0.5
"""Pause before a call to an endpoint at its concurrency limit is decided again."""
LONGEST_PAUSE_S: Final = 1_800.0
"""Longest pause of a call to an endpoint that is down: 100,000 waiting calls then cost about 75 decisions a second."""
PROBE_S: Final = 15.0
"""Shortest pause of a call during a probe of an endpoint that has been down for long. Most probes end within it."""


class WebhookEndpoints:
    """The endpoints that one process calls. Times are monotonic seconds."""

    def __init__(self, max_concurrent: int = MAX_CONCURRENT, max_endpoints: int | None = None) -> None:
        """`max_endpoints`: remembered endpoints; beyond them the oldest idle one is forgotten."""
        self._max_concurrent = max_concurrent
        self._max_endpoints = max_endpoints
        self._endpoints: dict[str, _Endpoint] = {}

    @property
    def remembered(self) -> int:
        """Number of remembered endpoints."""
        return len(self._endpoints)

    def retain(self, webhooks: set[str]) -> None:
        """Forget all endpoints except those of `webhooks`."""
        self._endpoints = {name: endpoint for name, endpoint in self._endpoints.items() if name in webhooks}

    def wait_s(self, webhook: str, now_s: float) -> float:
        """Return how long a call has to wait; 0 if it may start now, with `acquire`."""
        endpoint = self._endpoint(webhook)
        if endpoint.breaker.capacity(1, now_s) == 0:
            return max(BUSY_RETRY_S, endpoint.breaker.wait_s(now_s))
        return BUSY_RETRY_S if endpoint.in_flight >= self._max_concurrent else 0.0

    def pause_s(self, webhook: str, now_s: float) -> float:
        """Return the shortest pause of a call that has to wait. Its longest pause is twice as long.

        The pause grows with the outage of the endpoint, up to `LONGEST_PAUSE_S`. Waiting calls then cost little, and
        are sent soon after the endpoint is back.
        """
        endpoint, wait_s = self._endpoint(webhook), self.wait_s(webhook, now_s)
        if endpoint.down_since_s is None:
            return wait_s
        is_probing = endpoint.breaker.wait_s(now_s) == 0.0
        return max(wait_s, min((now_s - endpoint.down_since_s) / 2, PROBE_S if is_probing else LONGEST_PAUSE_S / 2))

    def is_down(self, webhook: str) -> bool:
        """Return whether the circuit breaker of the endpoint is open."""
        return self._endpoint(webhook).breaker.is_open

    def acquire(self, webhook: str, uid: str | None = None) -> Permit:
        """Start a call; see `Breaker.acquire`. The caller must finish the permit with `record` or `release`."""
        endpoint = self._endpoint(webhook)
        endpoint.in_flight += 1
        permit = endpoint.breaker.acquire(uid)

        def finish(verdict: Verdict | None, now_s: float) -> None:
            endpoint.in_flight -= 1
            if verdict is None:
                permit.release()
                return
            permit.record(verdict, now_s)
            if not endpoint.breaker.is_open:
                endpoint.down_since_s = None
            elif endpoint.down_since_s is None:
                endpoint.down_since_s = now_s

        return Permit(finish)

    def _endpoint(self, webhook: str) -> _Endpoint:
        endpoint = self._endpoints.get(webhook)
        if endpoint is None:
            if self._max_endpoints is not None and len(self._endpoints) >= self._max_endpoints:
                self._forget_idle()
            endpoint = self._endpoints[webhook] = _Endpoint()
        return endpoint

    def _forget_idle(self) -> None:
        """Forget one endpoint without calls in flight, if possible one whose circuit breaker is closed."""
        idle = [name for name, each in self._endpoints.items() if not each.in_flight]
        closed = (name for name in idle if not self._endpoints[name].breaker.is_open)
        for name in (next(closed, None), *idle[:1]):
            if name is not None:
                del self._endpoints[name]
                return


class _Endpoint:
    __slots__ = ("breaker", "down_since_s", "in_flight")

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.down_since_s: float | None = None
        self.in_flight = 0
