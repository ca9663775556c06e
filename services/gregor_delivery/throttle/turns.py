"""PURE. Turns of calls that wait for the same thing: each returns at its own time, not all at once."""

from __future__ import annotations

import random


class Turns:
    """The turns of one receiver or user. Times are seconds on any clock that does not run backwards."""

    __slots__ = ("_last_s",)

    def __init__(self) -> None:
        self._last_s = 0.0

    def next_s(self, interval_s: float, longest_s: float, now_s: float) -> float:
        """Return the seconds until the next turn: `interval_s` after the last one, and at most `longest_s` from now.

        Calls whose turn would be later return at random times in the second half of `longest_s`, not together.
        """
        turn_s = max(self._last_s, now_s) + interval_s - now_s
        self._last_s = now_s + min(turn_s, longest_s)
        return turn_s if turn_s <= longest_s else random.uniform(longest_s / 2, longest_s)

    def clear(self) -> None:
        """Forget the given turns: the next call that waits gets the first one."""
        self._last_s = 0.0
