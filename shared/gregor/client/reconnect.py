"""Timings of a device, and the delay before it reconnects (websocket.md, "Closes")."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from gregor.core.backoff import Backoff
from gregor.core.close_codes import CloseCode

MAX_WAIT_MS = 3_600_000
"""Longest wait that a server can request from a client; a longer one is reduced to this."""
_RETRY_AFTER = re.compile(r"\bretry_after_ms=(\d{1,9})\b")


@dataclass(frozen=True, slots=True)
class DeviceTimings:
    """Timings of a device, in seconds. The defaults are those of the protocol; tests use shorter ones."""

    first_delay_s: float = 0.5
    """Upper bound of the first reconnect delay; the bound doubles with each failure."""
    max_delay_s: float = 20.0
    """Upper bound of any reconnect delay."""
    silence_s: float = 40.0
    """Without any frame for this long, the device sends a ping."""
    answer_s: float = 10.0
    """Without any frame for this long after its ping, the connection counts as dead, whatever TCP reports."""
    good_s: float = 5.0
    """A connection ends the backoff if it was synchronized for this long."""
    check_s: float = 300.0
    """Interval at which the device compares the digest of its copy with the server's."""


class ReconnectDelays:
    """Exponential backoff with full jitter: a random delay below a bound that doubles with each failure."""

    def __init__(self, timings: DeviceTimings) -> None:
        self._backoff = Backoff(timings.first_delay_s, timings.max_delay_s, random.uniform)

    def next_s(self, reason: str = "") -> float:
        """Return the next delay in seconds.

        At least `retry_after_ms`, if the close reason of the server contains it, up to an hour.
        """
        delay_s = self._backoff.next_s()
        wanted = _RETRY_AFTER.search(reason)
        return max(delay_s, min(int(wanted[1]), MAX_WAIT_MS) / 1_000) if wanted else delay_s

    def reset(self) -> None:
        """Start from the first bound again, after a good connection."""
        self._backoff.reset()


def is_final(code: int) -> bool:
    """Return whether a device must not reconnect with the same token after this close code."""
    close = CloseCode.find(code)
    # Newer servers may add codes: an unknown code of the final range is final as well.
    return close.is_final if close is not None else 4500 <= code < 4600
