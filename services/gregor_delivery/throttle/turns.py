"""PURE. Turns of calls that wait for the same thing: each returns at its own time, not all at once."""

from __future__ import annotations

import random


class Turns:
    """The turns of one receiver or user. Times are seconds on any clock that does not run backwards."""

    __slots__ = ("_ahead", "_at_s")

    def __init__(self) -> None:
        # Counted in calls, not in seconds: after a slow phase, the calls that wait are soon served.
        self._ahead = 0.0
        self._at_s = 0.0

    def next_s(self, interval_s: float, longest_s: float, now_s: float) -> float:
        """Return the seconds until the next turn, at most `longest_s`. `interval_s`: the present time between turns.

        Calls whose turn would be later return at random times in the second half of `longest_s`, not together.
        """
        ahead = max(0.0, self._ahead - (now_s - self._at_s) / interval_s) + 1.0
        self._ahead, self._at_s = min(ahead, longest_s / interval_s), now_s
        turn_s = ahead * interval_s
        return turn_s if turn_s <= longest_s else random.uniform(longest_s / 2, longest_s)
