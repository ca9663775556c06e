"""Who looks on with a service key, and may no more: the key was deleted, or its secret rotated out.

A key is no user's, so no channel tells of its end; the keys of those who look on are looked at every few seconds.
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
"""How often: one read a key then, however many look on with it."""


class Observer(Protocol):
    """A connection that only looks on."""

    @property
    def ticket(self) -> Ticket | None:
        """The ticket that it was opened with."""
        ...

    def close(self, code: int) -> None:
        """Close it."""
        ...


class Observers:
    """Those of this process. Costs nothing while there are none."""

    def __init__(self, authenticator: Authenticator, timers: TimerWheel, background: BackgroundTasks) -> None:
        self._authenticator = authenticator
        self._timers = timers
        self._background = background
        self._here: set[Observer] = set()
        self._is_watched = False

    def add(self, observer: Observer) -> None:
        """Look at its key now and then, from now on."""
        self._here.add(observer)
        self._watch()

    def discard(self, observer: Observer) -> None:
        """It left. Repeatable."""
        self._here.discard(observer)

    def _watch(self) -> None:
        if self._here and not self._is_watched:
            self._is_watched = True
            self._timers.after(EVERY_S, lambda: self._background.start(self._look()))

    async def _look(self) -> None:
        by_key: dict[tuple[str | None, str | None], list[tuple[Observer, Ticket]]] = {}
        for observer in self._here:
            if (ticket := observer.ticket) is not None:
                name = ticket.claims.get("key"), ticket.claims.get("secret")
                by_key.setdefault(name, []).append((observer, ticket))
        try:
            for those in by_key.values():
                if not await self._authenticator.key_stands(those[0][1]):
                    for observer, _ in those:
                        observer.close(CloseCode.REVOKED)
        except Unavailable:
            pass  # the next look is not far
        finally:
            self._is_watched = False
            self._watch()
