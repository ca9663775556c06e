"""PURE. Turns of calls that wait for the same thing: each returns at its own time, not all at once."""

from __future__ import annotations


class Turns:
    """The turns of one receiver or user. Times are seconds on any clock that does not run backwards."""

    __slots__ = ("_last_s",)

    def __init__(self) -> None:
        self._last_s = 0.0

    def next_s(self, interval_s: float, longest_s: float, now_s: float) -> float:
        """Return the seconds until the next turn: `interval_s` after the last one, and at most `longest_s` from now."""
        self._last_s = min(max(self._last_s, now_s) + interval_s, now_s + longest_s)
        return self._last_s - now_s

    def clear(self) -> None:
        """Forget the given turns: the next call that waits gets the first one."""
        self._last_s = 0.0
