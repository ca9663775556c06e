"""Observers: connections that inspect a user with a service key.

They are closed when the key is deleted or rotated out. A key belongs to no user, so no user channel announces its end.
The keys of observers are checked every few seconds instead. A key has a limited number of observers of one user: each
may have a different category filter, for which a message is encoded again.
"""

from __future__ import annotations

from itertools import chain
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
    def uid(self) -> str:
        """The user."""
        ...

    @property
    def holder(self) -> str:
        """The name of its service key (``Ticket.holder``)."""
        ...

    @property
    def ticket(self) -> Ticket | None:
        """The ticket that opened it."""
        ...

    def close(self, code: int) -> None:
        """Close the connection."""
        ...


class Observers:
    """The observers of this process. ``most``: how many a key may have of one user; the oldest are closed."""

    def __init__(
        self, authenticator: Authenticator, timers: TimerWheel, background: BackgroundTasks, most: int
    ) -> None:
        self._authenticator = authenticator
        self._timers = timers
        self._background = background
        self._most = most
        # By user and key, each the oldest first.
        self._observers: dict[tuple[str, str], dict[Observer, None]] = {}
        self._is_watched = False

    def add(self, observer: Observer) -> None:
        """Check the key of an observer from now on."""
        same = self._observers.setdefault((observer.uid, observer.holder), {})
        same[observer] = None
        if len(same) > self._most:
            oldest = next(iter(same))
            self.discard(oldest)
            oldest.close(CloseCode.TOO_MANY_CONNECTIONS)
        self._watch()

    def discard(self, observer: Observer) -> None:
        """Remove an observer. Idempotent."""
        owner = observer.uid, observer.holder
        same = self._observers.get(owner, {})
        same.pop(observer, None)
        if not same:
            self._observers.pop(owner, None)

    def _watch(self) -> None:
        if self._observers and not self._is_watched:
            self._is_watched = True
            self._timers.after(EVERY_S, lambda: self._background.start(self._check_keys()))

    async def _check_keys(self) -> None:
        by_key: dict[tuple[str | None, str | None], list[tuple[Observer, Ticket]]] = {}
        for observer in chain.from_iterable(self._observers.values()):
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
