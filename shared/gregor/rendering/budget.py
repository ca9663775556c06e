"""The render budget: it charges every operation of a template by the size of its operands.

An operation that takes constant time is not charged. All others charge before they run, so one operation takes at most
the time that the rest of the steps allows; the CPU time is checked at each charge.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_BITS: Final = 256
"""Bits of an integer of a template."""

_CHARS_PER_STEP: Final = 64
_CHARS_PER_VALUE: Final = 4
_ENTRIES_PER_STEP: Final = 2
_STEPS_PER_CHECK: Final = 50
"""Steps between two readings of the clock. A reading takes 0.2 µs, as much as a small filter."""
_SIZED: Final = (str, list, tuple, Mapping)
_CONTAINERS: Final = (list, tuple, dict)
"""JSON objects are of the type dict; a check for ``Mapping`` is slow."""


class LimitExceeded(Exception):
    """A rendering exceeded a limit."""


class RenderBudget:
    """The remaining steps and time of one rendering. Stored among the variables, under a name with a space.

    ``context.parent`` holds the variables; a lookup in the context itself takes longer than a small filter.

    The time starts with the first charged step. A template that only shows values never reads the clock.
    """

    NAME: Final = " budget"

    __slots__ = ("_checks_at", "_left", "_max_chars", "_max_ns", "_until_ns")

    def __init__(self, steps: int, ms: int, chars: int) -> None:
        self._left = self._checks_at = steps
        self._max_chars = chars
        self._max_ns = ms * 1_000_000
        self._until_ns = 0

    def charge(self, steps: int) -> None:
        """Use ``steps``, at least one. Raises ``LimitExceeded`` if no steps or no time is left."""
        self._left -= steps if steps > 1 else 1
        if self._left < self._checks_at:
            self._check_limits()

    def _check_limits(self) -> None:
        now_ns = time.thread_time_ns()
        self._until_ns = self._until_ns or now_ns + self._max_ns
        if self._left < 0 or now_ns > self._until_ns:
            raise LimitExceeded("the template needs too many steps")
        self._checks_at = max(0, self._left - _STEPS_PER_CHECK)

    def charge_entries(self, value: Any, rate: int = 1) -> None:
        """Charge for work on each direct entry of ``value``. The characters of a text are its entries."""
        self.charge(len(value) * rate // _ENTRIES_PER_STEP if isinstance(value, _SIZED) else 1)

    def charge_content(self, *values: Any, rate: int = 1, is_ordered: bool = False) -> None:
        """Charge for work on all texts and values within ``values``.

        Python compares the rest of two nested lists again at each level, hence ``is_ordered`` weighs values by depth.
        """
        chars = depth = 0
        most = self._left * _CHARS_PER_STEP
        level: Sequence[Any] = values
        while level and chars <= most:
            below: list[Any] = []
            weight = 1 + depth // 2 if is_ordered else 1
            for value in level:
                if isinstance(value, str):
                    chars += weight * len(value)
                elif isinstance(value, _CONTAINERS):
                    chars += weight * _CHARS_PER_VALUE * len(value)
                    below += value
                    if isinstance(value, dict):
                        below += value.values()
                    # A list may contain a long list many times.
                    if chars > most:
                        break
            level = below
            depth += 1
        self.charge(chars * rate // _CHARS_PER_STEP)

    def keep(self, value: Any) -> Any:
        """Return ``value``. Raises ``LimitExceeded`` if it is too large."""
        if isinstance(value, str):
            if len(value) > self._max_chars:
                raise LimitExceeded(f"a text is longer than {self._max_chars} characters")
        elif isinstance(value, int):
            check_bits(value)
        return value


def check_bits(number: int) -> None:
    """Raise ``LimitExceeded`` if the integer is too large: the time of a division grows with the square."""
    if number.bit_length() > MAX_BITS:
        raise LimitExceeded("a number has more than 77 digits")
