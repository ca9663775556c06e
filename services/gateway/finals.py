"""What was closed for good: a stream that comes back by itself must not be opened again (protocol.md, "SSE")."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from gregor.clock import Clock
from gregor.core.errors import CLOSES
from gregor.store.contract import Store

REMEMBERED: Final = 20_000
REPLACED: Final = 4504


@dataclass(frozen=True, slots=True)
class Credential:
    """What a stream was opened with: a hash of token or ticket, and the session that the client named."""

    hash: bytes
    session: str | None

    @classmethod
    def of(cls, text: str, session: str | None) -> Credential:
        """Of a token or ticket."""
        return cls(hashlib.sha256(text.encode()).digest(), session)


@dataclass(frozen=True, slots=True)
class _End:
    code: int
    uid: str
    device: str
    connection: str


class Finals:
    """The last final closes of this process; the oldest are forgotten."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ends: dict[Credential, _End] = {}

    def note(self, credential: Credential, code: int, uid: str, device: str, connection: str) -> None:
        """A connection was closed; remembered where that is final."""
        if code in CLOSES and CLOSES[code].final:
            self._ends.pop(credential, None)
            while len(self._ends) >= REMEMBERED:
                del self._ends[next(iter(self._ends))]
            self._ends[credential] = _End(code, uid, device, connection)

    async def hold(self, credential: Credential) -> int | None:
        """The code for which this may not come back, or ``None``. One that was replaced may, once the newer is gone."""
        end = self._ends.get(credential)
        if end is None or end.code != REPLACED:
            return end.code if end is not None else None
        if credential.session is not None:
            name = credential.session
            live = await self._store.devices.session(end.uid, end.device, name, self._clock.now_us())
            if live is not None and live.connection != end.connection:
                return REPLACED
        del self._ends[credential]
        return None
