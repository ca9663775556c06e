"""The receiver of a probe: a message that a process publishes to itself, on the path of all announcements."""

from __future__ import annotations

import asyncio
import secrets


class Probe:
    """The receiver of one probe channel."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.token = ""
        self._echo: asyncio.Future[None] | None = None

    def expect(self) -> asyncio.Future[None]:
        """Make a new ``token``. Returns a future that ends when the token comes back."""
        self.token = secrets.token_hex(8)
        self._echo = asyncio.get_running_loop().create_future()
        return self._echo

    def receive(self, payload: bytes) -> None:
        """See ``Receiver.receive``."""
        if self._echo is not None and not self._echo.done() and payload == self.token.encode():
            self._echo.set_result(None)

    def lost(self) -> None:
        """Do nothing: a lost probe times out."""

    def gap(self, *, same_server: bool) -> None:
        """Do nothing: see ``lost``."""
