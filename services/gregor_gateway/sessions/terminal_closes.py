"""Memory of terminal close codes: a stream that was closed for good is not opened again when a browser reconnects.

It is kept in the store, because the next attempt may reach another gateway.
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
from gregor.store.gateways import NO_GATEWAY

log = structlog.get_logger(__name__)

KEPT_US: Final = 3_600_000_000
DISPLACED_KEPT_US: Final = 15_000_000
"""How long a displaced stream (4504, 4505) is remembered. A browser reconnects after ``retry``, 1 to 5 s.

After 4504 a later request probably comes from the newer client, whose network changed again. After 4505 the newer
connections of the device may belong to an attacker with its cookie or token: they must not lock the user out.
"""
_DISPLACED: Final = (CloseCode.REPLACED, CloseCode.TOO_MANY_CONNECTIONS)


@dataclass(frozen=True, slots=True)
class StreamCredential:
    """The hash of the token or ticket that opened a stream, and the session that the client named."""

    hash: str
    session: str | None

    @classmethod
    def of(cls, text: str, session: str | None) -> StreamCredential:
        """Return the credential of a token or ticket."""
        return cls(hashlib.sha256(text.encode()).hexdigest(), session)

    def __str__(self) -> str:
        return f"{self.hash}/{self.session or ''}"


class TerminalCloses:
    """Terminal closes of streams and long polls."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def note(self, credential: StreamCredential, close: TerminalClose) -> None:
        """Remember a close if its code is final. Never raises."""
        code = CloseCode.find(close.code)
        if code is None or not code.is_final:
            return
        if credential.session is None and code in _DISPLACED:
            return  # a session without a name is new each time: the next request is another client
        lives_us = DISPLACED_KEPT_US if code in _DISPLACED else KEPT_US
        try:
            await self._store.access.save_terminal_close(str(credential), close, self._clock.now_us(), lives_us)
        except Unavailable:
            log.info("terminal_close.not_stored", code=close.code)

    async def find(self, credential: StreamCredential) -> int | None:
        """Return the code with which a credential was closed for good, or ``None``. Raises ``Unavailable``.

        A stream that was replaced may return when the newer connection of its session is gone.
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
