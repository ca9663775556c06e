"""Anomalies: their names, what each means, and one finding of the checker."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

LOST_IN_FAILOVER: Final = "lost-in-failover"
"""Not an anomaly but a count: messages that a recorded failover lost, and that did not ask for ``replicated``."""

ANOMALIES: Final = {
    "lost-write": "an acknowledged message is not in the state, and nothing explains it",
    "broken-promise": "a message that was acknowledged as replicated is lost",
    "duplicate": "one message took effect twice, or two messages have the same seq",
    "hole": "a seq has no message, or a message without effect has a seq",
    "order-vs-time": "a request that began after another had ended is ordered before it",
    "resurrected": "an item is live that was dismissed, expired or covered by a remembered dismissal",
    "half": "only a part of a message is applied",
    "aborted-read": "an item is visible that no accepted message created",
    "wrong-receipt": "a receipt differs from the receipt that the laws require",
    "wrong-delta": "a copy differs from the state of its seq after a sync object, frame or read was applied",
    "wrong-digest": "a digest differs from the digest of the state of its seq",
    "skip": "a connection did not get a change, and got a later one",
    "regress": "a connection or a reader went back in the history",
    "twice": "a connection got a frame, or a user a reminder, for a second time",
    "never-seen": "a connected device did not get a change until the end",
    "late": "a connected device got a change too late, or an expired item was still shown",
    "early": "a reminder, an expiry or a delayed message happened before its time",
}
"""The name and the meaning of each anomaly, as docs/reference/history-format.md lists them."""


class Anomaly(Struct, frozen=True):
    """One anomaly. ``lines``: the lines of the file with the operations involved. ``text`` is one sentence."""

    name: str
    uid: str
    text: str
    lines: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return one line for people."""
        where = f" (lines {', '.join(map(str, self.lines))})" if self.lines else ""
        return f"{self.name} {self.uid}: {self.text}{where}"
