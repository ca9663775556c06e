"""The render budget: it charges every operation of a template by the size of its operands.

An operation that takes constant time is not charged. All others charge before they run, so the remaining steps limit
the time of one operation. The CPU time is checked about every 50 steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_BITS: Final = 256
"""Bits of an integer in a template: up to 77 decimal digits."""

CHARS_PER_STEP: Final = 64
"""Characters that a fast operation, such as a comparison, processes in the time of one step."""
CONTAINERS: Final = (list, tuple, dict)
"""Types of JSON arrays and objects. A check for ``Mapping`` is slow."""

_CHARS_PER_VALUE: Final = 4
"""Characters that take as much time as one entry of a list, or one member of an object."""
_ENTRIES_PER_STEP: Final = 2
_STEPS_PER_CHECK: Final = 50
"""Steps between two readings of the clock. A reading takes 0.2 µs, as much as a small filter."""
_SIZED: Final = (str, list, tuple, Mapping)


class LimitExceeded(Exception):
    """A rendering exceeded a limit."""


class RenderBudget:
    """The remaining steps and CPU time of one rendering, and the size limit of its values.

    The time starts with the first charge. A template that only shows values never reads the clock.
    """

    # Filters find the budget among the variables, at `context.parent[NAME]`. A lookup in the context itself would take
    # longer than a small filter. Templates cannot use a name with a space.
    NAME: Final = " budget"

    __slots__ = ("_ends_at_ns", "_max_chars", "_max_ns", "_next_check", "_steps_left")

    def __init__(self, steps: int, ms: int, chars: int) -> None:
        """``steps``, ``ms`` of CPU time: limits of the rendering. ``chars``: limit of each text in it."""
        self._steps_left = self._next_check = steps
        self._max_chars = chars
        self._max_ns = ms * 1_000_000
        self._ends_at_ns = 0

    def charge(self, steps: int) -> None:
        """Use ``steps``, at least one. Raises ``LimitExceeded`` if no steps or no time is left."""
        self._steps_left -= steps if steps > 1 else 1
        if self._steps_left < self._next_check:
            self._check_limits()

    def _check_limits(self) -> None:
        now_ns = time.thread_time_ns()
        self._ends_at_ns = self._ends_at_ns or now_ns + self._max_ns
        if self._steps_left < 0 or now_ns > self._ends_at_ns:
            raise LimitExceeded("the template needs too many steps")
        self._next_check = max(0, self._steps_left - _STEPS_PER_CHECK)

    def charge_entries(self, value: Any, weight: int = 1) -> None:
        """Charge for work on each direct entry of ``value``, ``weight`` times. Raises ``LimitExceeded``.

        The entries of a text are its characters.
        """
        self.charge(len(value) * weight // _ENTRIES_PER_STEP if isinstance(value, _SIZED) else 1)

    def charge_content(self, *values: Any, weight: int = 1, is_compared: bool = False) -> None:
        """Charge for work on all texts and values within ``values``, ``weight`` times. Raises ``LimitExceeded``.

        ``is_compared``: nested values are charged more, because Python compares them again at each level of nesting.
        """
        chars = depth = 0
        max_chars = self._steps_left * CHARS_PER_STEP
        level: Sequence[Any] = values
        while level and chars <= max_chars:
            below: list[Any] = []
            depth_weight = 1 + depth // 2 if is_compared else 1
            for value in level:
                if isinstance(value, str):
                    chars += depth_weight * len(value)
                elif isinstance(value, CONTAINERS):
                    chars += depth_weight * _CHARS_PER_VALUE * len(value)
                    below += value
                    if isinstance(value, dict):
                        below += value.values()
                    # One list may contain a long list many times: the walk must end before it has visited all of them.
                    if chars > max_chars:
                        break
            level = below
            depth += 1
        self.charge(chars * weight // CHARS_PER_STEP)

    def check_size(self, value: Any) -> None:
        """Raise ``LimitExceeded`` if a text or an integer is too large."""
        if isinstance(value, str):
            if len(value) > self._max_chars:
                raise LimitExceeded(f"a text is longer than {self._max_chars} characters")
        elif isinstance(value, int):
            check_bits(value)


def check_bits(number: int) -> None:
    """Raise ``LimitExceeded`` if an integer has more than ``MAX_BITS``."""
    # The time of a division grows with the square of the digits.
    if number.bit_length() > MAX_BITS:
        raise LimitExceeded("a number has more than 77 digits")
