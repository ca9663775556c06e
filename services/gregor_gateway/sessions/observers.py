"""Observers: connections that inspect a user with a service key.

They are closed when the key is deleted or rotated out. A key belongs to no user, so no user channel announces its end.
The keys of observers are checked every few seconds instead.
"""

from __future__ import annotations

from typing import Final, Protocol

from gregor.core.close_codes import CloseCode
from gregor.store.contract.access import Ticket
from gregor.store.contract.store import Unavailable
from gregor_gateway.runtime.background import BackgroundTasks
from gregor_gateway.runtime.timer_wheel import TimerWheel

from .authenticator import Authenticator

EVERY_S: Final = 5.0
"""Interval of the check. It costs one read a key, however many observers use it."""


class Observer(Protocol):
    """A connection that reads a user's items, without presence."""

    @property
    def ticket(self) -> Ticket | None:
        """The ticket that opened it."""
        ...

    def close(self, code: int) -> None:
        """Close the connection."""
        ...


class Observers:
    """The observers of this process."""

    def __init__(self, authenticator: Authenticator, timers: TimerWheel, background: BackgroundTasks) -> None:
        self._authenticator = authenticator
        self._timers = timers
        self._background = background
        self._observers: set[Observer] = set()
        self._is_watched = False

    def add(self, observer: Observer) -> None:
        """Check the key of an observer from now on."""
        self._observers.add(observer)
        self._watch()

    def discard(self, observer: Observer) -> None:
        """Remove an observer. Idempotent."""
        self._observers.discard(observer)

    def _watch(self) -> None:
        if self._observers and not self._is_watched:
            self._is_watched = True
            self._timers.after(EVERY_S, lambda: self._background.start(self._check_keys()))

    async def _check_keys(self) -> None:
        by_key: dict[tuple[str | None, str | None], list[tuple[Observer, Ticket]]] = {}
        for observer in self._observers:
            if (ticket := observer.ticket) is not None:
                key = ticket.claims.get("key"), ticket.claims.get("secret")
                by_key.setdefault(key, []).append((observer, ticket))
        try:
            for observers in by_key.values():
                if not await self._authenticator.is_key_valid(observers[0][1]):
                    for observer, _ in observers:
                        observer.close(CloseCode.REVOKED)
        except Unavailable:
            pass  # the next check is near
        finally:
            self._is_watched = False
            self._watch()
