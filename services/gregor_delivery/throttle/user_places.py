"""PURE. The places of each user in one push channel: a provider that answers one device late delays no other user."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from gregor.core.notify.intents import PUSH_CHANNELS

PLACES_OF_USER: Final = 8
"""Concurrent attempts of a user in one push channel of one process; also concurrent calls to one webhook."""
USER_RETRY_S: Final = 0.5
"""Mean pause of a delivery whose user has no free place. It is random, so these deliveries return one by one."""


class UserPlaces:
    """The attempts in flight of each user. Mails have another limit; webhook calls are limited for each webhook."""

    def __init__(self, channel: str) -> None:
        self._is_limited = channel in PUSH_CHANNELS
        self._in_flight = Counter[str]()

    def wait_s(self, uid: str) -> float:
        """Return the seconds for which a delivery of this user waits; 0.0: it may start."""
        is_full = self._is_limited and self._in_flight[uid] >= PLACES_OF_USER
        return random.uniform(0.5, 1.5) * USER_RETRY_S if is_full else 0.0

    def start(self, uid: str) -> None:
        """Take the place of an attempt. The caller must return it with `end`."""
        self._in_flight[uid] += 1

    def end(self, uid: str) -> None:
        """Return the place of an attempt that has ended."""
        self._in_flight[uid] -= 1
        if self._in_flight[uid] == 0:
            del self._in_flight[uid]
