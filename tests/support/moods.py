"""What a provider is in the mood for: how it meets each request. The same words for all four of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

WELL: Final = "well"
MIXED: Final = "mixed"
BUSY: Final = "busy"
"""503, or 421 of a relay."""
ASKING: Final = "asking"
"""429 with Retry-After, or 451 of a relay."""
HANGING: Final = "hanging"
"""It reads, and says nothing."""
DOWN: Final = "down"
"""Nobody listens."""

_ALWAYS: Final = {WELL: "take", BUSY: "busy", ASKING: "ask", HANGING: "hang", DOWN: "busy"}
_SHARES: Final[Mapping[str, Mapping[str, float]]] = {
    "apns": {
        "ask": 0.02,
        "busy": 0.02,
        "hang": 0.01,
        "drop": 0.002,
        "reset": 0.01,
        "refuse stream": 0.01,
        "go": 0.003,
        "go without": 0.003,
        "late": 0.02,
        "gone": 0.003,
        "refuse": 0.003,
    },
    "fcm": {
        "ask": 0.02,
        "busy": 0.02,
        "hang": 0.005,
        "take and hang": 0.01,
        "drop": 0.005,
        "take and drop": 0.01,
        "half": 0.005,
        "late": 0.02,
        "gone": 0.003,
        "refuse": 0.003,
    },
    "webpush": {
        "ask": 0.02,
        "busy": 0.02,
        "hang": 0.01,
        "drop": 0.01,
        "half": 0.005,
        "late": 0.02,
        "gone": 0.003,
        "refuse": 0.003,
    },
    "email": {
        "ask": 0.02,
        "busy": 0.02,
        "hang": 0.003,
        "drop": 0.01,
        "take and hang": 0.005,
        "take and drop": 0.01,
        "gone": 0.003,
        "refuse": 0.003,
    },
}
"""Of the requests in a mixed mood; the rest is taken."""


class Mood:
    """Of one provider; `word` may be set at any time."""

    def __init__(self, channel: str, seed: int = 0) -> None:
        self.word = WELL
        self._dice = random.Random(f"{channel} {seed}")
        shares = _SHARES[channel]
        self._acts = ["take", *shares]
        self._weights = [1 - sum(shares.values()), *shares.values()]

    def act(self) -> str:
        """What is done with the next request."""
        if self.word != MIXED:
            return _ALWAYS[self.word]
        return self._dice.choices(self._acts, self._weights)[0]
