"""What was closed for good: a stream that comes back by itself must not be opened again (protocol.md, "SSE").

All gateways know it, for the next try may reach another one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import structlog

from gregor.clock import Clock
from gregor.core.close_codes import CloseCode
from gregor.store.contract.access import TerminalClose
from gregor.store.contract.store import Store, Unavailable

from .presence import NO_GATEWAY

log = structlog.get_logger(__name__)

KEPT_US: Final = 3_600_000_000
REPLACED_KEPT_US: Final = 15_000_000
"""A browser whose stream was replaced is back after `retry`, 1 to 5 s. Who comes later with the same token and session
is rather the newer one itself, whose network changed once more: to turn it away would end it for good."""


@dataclass(frozen=True, slots=True)
class StreamCredential:
    """What a stream was opened with: a hash of token or ticket, and the session that the client named."""

    hash: str
    session: str | None

    @classmethod
    def of(cls, text: str, session: str | None) -> StreamCredential:
        """Of a token or ticket."""
        return cls(hashlib.sha256(text.encode()).hexdigest(), session)

    def __str__(self) -> str:
        return f"{self.hash}/{self.session or ''}"


class TerminalCloses:
    """The last final closes of streams and polls."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def note(self, credential: StreamCredential, close: TerminalClose) -> None:
        """A connection was closed; remembered where that is final. Never raises."""
        code = CloseCode.find(close.code)
        if code is None or not code.is_final:
            return
        if credential.session is None and code in (CloseCode.REPLACED, CloseCode.TOO_MANY_CONNECTIONS):
            return  # a fresh session each time: what comes next is another one
        lives_us = REPLACED_KEPT_US if code is CloseCode.REPLACED else KEPT_US
        try:
            await self._store.access.save_terminal_close(str(credential), close, self._clock.now_us(), lives_us)
        except Unavailable:
            log.info("A final close could not be kept: the stream may try again.")

    async def hold(self, credential: StreamCredential) -> int | None:
        """The code for which this may not come back, or ``None``. One that was replaced may, once the newer is gone.

        Raises ``Unavailable``.
        """
        now_us = self._clock.now_us()
        close = await self._store.access.terminal_close(str(credential), now_us)
        if close is None:
            return None
        if close.code != CloseCode.REPLACED or credential.session is None:
            return close.code
        live = await self._store.devices.session(close.uid, close.device, credential.session, now_us)
        is_newer = live is not None and live.gateway != NO_GATEWAY and live.connection != close.connection
        return CloseCode.REPLACED if is_newer else None
