"""The receiver of a probe: a message that a process publishes to itself, on the path of all announcements."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, TypeAlias

from gregor.redis.commands import RedisCommands

from .contract import Receiver

MAX_PROBE_FAILURES: Final = 3
"""Failed probes in a row after which a server counts as down, and ``/readyz`` fails (http.md, "Probes")."""

Subscribe: TypeAlias = Callable[[str, Receiver], asyncio.Future[None]]


class Probe:
    """The receiver of one probe channel."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.token = ""
        self.round_trip_s: float | None = None
        """From the publication of the last token that came back to its arrival; ``None`` before the first one."""
        self._echo: asyncio.Future[None] | None = None

    def expect(self) -> asyncio.Future[None]:
        """Make a new ``token``. Returns a future that ends when the token comes back."""
        self.token = secrets.token_hex(8)
        self._echo = asyncio.get_running_loop().create_future()
        return self._echo

    async def go_round(self, subscribe: Subscribe, client: RedisCommands, timeout_s: float) -> None:
        """Subscribe, publish a new token, and wait until it comes back.

        Raises ``TimeoutError`` if the subscription or the token takes longer than ``timeout_s``, and the errors of
        ``subscribe`` and of the client.
        """
        async with asyncio.timeout(timeout_s):
            # Subscribed again with all other channels after a reconnect; then this returns at once.
            await subscribe(self.channel, self)
        echo, begun_s = self.expect(), asyncio.get_running_loop().time()
        await client.call("SPUBLISH", self.channel, self.token)
        async with asyncio.timeout(timeout_s):
            await echo
        self.round_trip_s = asyncio.get_running_loop().time() - begun_s

    def receive(self, payload: bytes) -> None:
        """See ``Receiver.receive``."""
        if self._echo is not None and not self._echo.done() and payload == self.token.encode():
            self._echo.set_result(None)

    def lost(self) -> None:
        """Do nothing: a lost probe times out."""

    def gap(self, *, same_server: bool) -> None:
        """Do nothing: see ``lost``."""
