"""How long a device waits before it connects again (protocol.md, "WebSocket closes"). PURE but for the dice."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from gregor.core.close_codes import CloseCode

_RETRY_AFTER = re.compile(r"\bretry_after_ms=(\d{1,9})\b")


@dataclass(frozen=True, slots=True)
class Patience:
    """Times of a device, in seconds. The defaults are those of the protocol; tests take shorter ones."""

    first_s: float = 0.5
    """Greatest first pause before a reconnect; doubled each time."""
    most_s: float = 20.0
    """Greatest pause at all."""
    silence_s: float = 60.0
    """Nothing heard for so long: the connection is dead, whatever TCP says."""
    check_s: float = 300.0
    """How often the device has its copy compared with the server's."""


class Pauses:
    """Full jitter: random between nothing and a bound that doubles with each failure."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._bound_s = patience.first_s

    def next_s(self, reason: str = "") -> float:
        """The next pause; where the server's reason names one (`retry_after_ms=1800`), at least that."""
        pause_s = random.uniform(0, self._bound_s)
        self._bound_s = min(self._patience.most_s, 2 * self._bound_s)
        asked = _RETRY_AFTER.search(reason)
        return max(pause_s, int(asked[1]) / 1_000) if asked else pause_s

    def reset(self) -> None:
        """A connection was good: the next pause is a first one."""
        self._bound_s = self._patience.first_s


def is_final(code: int) -> bool:
    """Whether a device must not reconnect as it is after this close."""
    close = CloseCode.find(code)
    # An unknown code of the final range is final, too: the contract changes by addition.
    return close.is_final if close is not None else 4500 <= code < 4600
