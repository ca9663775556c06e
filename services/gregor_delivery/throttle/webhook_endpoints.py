"""PURE. The receivers of webhooks, each with a breaker and places of its own: one that hangs slows no other."""

from __future__ import annotations

from typing import Final

from gregor_delivery.channels.verdict import Verdict

from .breaker import Breaker, Permit

AT_ONCE: Final = 32
"""Calls of one webhook that are under way at once, of a process: an eighth of all that the channel may have."""
BUSY_S: Final = 0.5
"""When one looks again whether a place is free."""


class WebhookEndpoints:
    """Of one process. Times are monotonic seconds."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._known: dict[str, _Receiver] = {}

    def keep(self, webhooks: set[str]) -> None:
        """Know no others than these any more."""
        self._known = {name: receiver for name, receiver in self._known.items() if name in webhooks}

    def wait_s(self, webhook: str, now_s: float) -> float:
        """How long a call to it has to wait; 0 where it may be made, which ``began`` must be told of."""
        receiver = self._of(webhook)
        if receiver.breaker.room(1, now_s) == 0:
            return max(BUSY_S, receiver.breaker.wait_s(now_s))
        return BUSY_S if receiver.in_flight >= self._at_once else 0.0

    def is_down(self, webhook: str) -> bool:
        """Whether it failed again and again, and has not proved itself since."""
        return self._of(webhook).breaker.is_open

    def began(self, webhook: str) -> Permit:
        """A call is made; its turn must be told how it ended."""
        receiver = self._of(webhook)
        receiver.in_flight += 1
        turn = receiver.breaker.began()

        def ended(verdict: Verdict | None, now_s: float) -> None:
            receiver.in_flight -= 1
            turn.passed() if verdict is None else turn.ended(verdict, now_s)

        return Permit(ended)

    def _of(self, webhook: str) -> _Receiver:
        return self._known.setdefault(webhook, _Receiver())


class _Receiver:
    __slots__ = ("breaker", "in_flight")

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.in_flight = 0
