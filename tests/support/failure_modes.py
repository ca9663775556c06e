"""Failure modes of a fake provider: the reaction to each request. The same modes exist for all four providers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

WELL: Final = "well"
MIXED: Final = "mixed"
BUSY: Final = "busy"
"""Responds 503 (a relay: 421)."""
ASKING: Final = "asking"
"""Responds 429 with Retry-After (a relay: 451)."""
HANGING: Final = "hanging"
"""Reads requests and never responds."""
DOWN: Final = "down"
"""Does not listen."""

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
"""Share of each action in mode MIXED; the other requests are accepted."""


class FailureMode:
    """The mode of one provider; `word` may be set at any time."""

    def __init__(self, channel: str, seed: int = 0) -> None:
        self.word = WELL
        self._dice = random.Random(f"{channel} {seed}")
        shares = _SHARES[channel]
        self._acts = ["take", *shares]
        self._weights = [1 - sum(shares.values()), *shares.values()]

    def act(self) -> str:
        """Return the action for the next request."""
        if self.word != MIXED:
            return _ALWAYS[self.word]
        return self._dice.choices(self._acts, self._weights)[0]
