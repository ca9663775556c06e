"""Times on the wire (Unix seconds, whole or decimal) and inside (microseconds); semantics.md, "Times"."""

from __future__ import annotations

import re
from typing import Any, Final

from .errors import field_problem
from .json_text import OUT_OF_RANGE
from .limits import SECOND_US
from .messages.model import Offset

MAX_TIME_US: Final = ((1 << 33) - 1) * SECOND_US
"""The last time that can be said: 2^33−1 s, in the year 2242. Up to here a double still tells microseconds apart."""

_OFFSET: Final = re.compile(r"\+([0-9]{1,10})(?:\.([0-9]{1,6}))?\Z")
_DURATION: Final = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,6})?)([smhdw]?)\Z")
_UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_RANGE: Final = "A time must lie within 0 … 2^33−1, in Unix seconds."


def parse_time(value: Any, pointer: str) -> int:
    """Unix seconds as microseconds, rounded to the nearest one. ``time_out_of_range``, or ``invalid`` for no number."""
    at_us: int
    if type(value) is int:
        at_us = value * SECOND_US
    elif type(value) is float and -1.0 < value < 2.0**33:
        whole = int(value)
        # The parts apart: above 2^32 s the product of the whole value is rounded in steps of 2 µs.
        at_us = whole * SECOND_US + round((value - whole) * SECOND_US)
    elif type(value) is float or value is OUT_OF_RANGE:
        raise field_problem("time_out_of_range", pointer, _RANGE)
    else:
        raise field_problem("invalid", pointer, "A time must be a number: Unix seconds.")
    if not 0 <= at_us <= MAX_TIME_US:
        raise field_problem("time_out_of_range", pointer, _RANGE)
    return at_us


def parse_time_or_offset(value: Any, pointer: str) -> int | Offset:
    """A time, or an offset from the item's ``created`` as ``"+<seconds>"``. Raises as ``parse_time`` does."""
    if isinstance(value, str):
        offset = parse_offset(value)
        if offset is None:
            raise field_problem(
                "invalid", pointer, 'A time must be Unix seconds, or an offset from created such as "+86400".'
            )
        if offset.us > MAX_TIME_US:
            raise field_problem("time_out_of_range", pointer, _RANGE)
        return offset
    return parse_time(value, pointer)


def parse_offset(text: str) -> Offset | None:
    """``"+<seconds>"`` with at most ten digits before the point and six after it; ``None`` where it is no offset."""
    match = _OFFSET.match(text)
    if match is None:
        return None
    return Offset(int(match[1]) * SECOND_US + int((match[2] or "").ljust(6, "0")))


def resolve_offset(when: int | Offset, created_us: int, pointer: str) -> int:
    """The time that was meant, in microseconds; ``time_out_of_range`` where an offset leads beyond the last time."""
    if isinstance(when, int):
        return when
    at_us = created_us + when.us
    if at_us > MAX_TIME_US:
        raise field_problem("time_out_of_range", pointer, _RANGE)
    return at_us


def format_time(at_us: int) -> bytes:
    """A time as it goes out: Unix seconds, whole where it is whole, else the shortest decimal (as RFC 8785)."""
    whole, rest = divmod(at_us, SECOND_US)
    return b"%d" % whole if not rest else (b"%d.%06d" % (whole, rest)).rstrip(b"0")


def parse_duration(value: Any) -> int | None:
    """Microseconds of ``"30d"``, ``"12h"``, ``"15m"``, ``"90s"`` or a number of seconds; ``None`` where it is none.

    At most up to the last time that can be said.
    """
    is_said = isinstance(value, str | int | float) and not isinstance(value, bool)
    match = _DURATION.match(str(value)) if is_said else None
    if match is None:
        return None
    us = round(float(match[1]) * _UNIT_S[match[2]] * SECOND_US)
    return us if us <= MAX_TIME_US else None
