"""Times, durations and offsets: Unix seconds on the wire, microseconds inside (semantics.md, "Times")."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from .errors import field_problem
from .json_text import OUT_OF_RANGE
from .limits import SECOND_US
from .messages.model import Offset

MAX_TIME_US: Final = ((1 << 33) - 1) * SECOND_US
"""The last valid time: 2^33−1 s, in the year 2242. Up to here a double keeps microseconds apart."""

DURATION_EXAMPLES: Final = '"90s", "15m", "12h", "30d", "2w"'
"""For error messages about durations."""

UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
"""Unit of a duration to its seconds."""

_DURATION: Final = re.compile(r"\+?([0-9]{1,10})(?:\.([0-9]{1,6}))?([smhdw]?)\Z")
_MAX_OFFSET_LENGTH: Final = 19
"""``+``, ten digits, a point, six decimals and a unit."""
TIME_RANGE: Final = "A time must be within 0 … 2^33−1, in Unix seconds."

# ---- times


def parse_time(value: Any, pointer: str) -> int:
    """Return Unix seconds as microseconds, rounded to the nearest one.

    Raises ``Problem``: ``invalid`` if it is not a number, ``time_out_of_range``.
    """
    at_us: int
    if type(value) is int:
        at_us = value * SECOND_US
    elif type(value) is float and -1.0 < value < 2.0**33:
        whole = int(value)
        # Whole and fraction apart: above 2^32 s the product of both is rounded in steps of 2 µs.
        at_us = whole * SECOND_US + round((value - whole) * SECOND_US)
    elif type(value) is float or value is OUT_OF_RANGE:
        raise field_problem("time_out_of_range", pointer, TIME_RANGE)
    else:
        raise field_problem("invalid", pointer, "A time must be a number: Unix seconds.")
    if not 0 <= at_us <= MAX_TIME_US:
        raise field_problem("time_out_of_range", pointer, TIME_RANGE)
    return at_us


def format_time(at_us: int) -> bytes:
    """Return a time as JSON: Unix seconds, without a fraction if possible, else the shortest decimal (RFC 8785)."""
    whole, rest = divmod(at_us, SECOND_US)
    return b"%d" % whole if not rest else (b"%d.%06d" % (whole, rest)).rstrip(b"0")


def date_text(at_us: int) -> str:
    """Return a time for people, such as ``2026-12-01 13:40:00 UTC``."""
    return f"{datetime.fromtimestamp(at_us // SECOND_US, UTC):%Y-%m-%d %H:%M:%S} UTC"


# ---- durations


def parse_duration(value: Any) -> int | None:
    """Return the microseconds of a duration, or None if ``value`` is not one that is at most ``MAX_TIME_US``.

    A duration is a number of seconds, or a text: a number with at most six decimals, and a unit (``s``, ``m``, ``h``,
    ``d``, ``w``; without one, seconds). A leading ``+`` has no meaning. Settings, categories, the command line and
    offsets share this grammar.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _DURATION.match(str(value))
    if match is None:
        return None
    us = (int(match[1]) * SECOND_US + int((match[2] or "").ljust(6, "0"))) * UNIT_S[match[3]]
    return us if us <= MAX_TIME_US else None


# ---- offsets


def parse_time_or_offset(value: Any, pointer: str) -> int | Offset:
    """Return a time, or an offset from the item's ``created``: ``+`` and a duration. Raises as ``parse_time`` does."""
    if not isinstance(value, str):
        return parse_time(value, pointer)
    if value[:1] == "+" and len(value) <= _MAX_OFFSET_LENGTH and (offset := _parse_offset(value)) is not None:
        return offset
    match = _DURATION.match(value)
    if match is None or not (value.startswith("+") or match[3]):
        detail = 'A time must be Unix seconds, or an offset from created such as "+86400" or "+1d".'
        raise field_problem("invalid", pointer, detail)
    if not value.startswith("+"):
        raise field_problem("invalid", pointer, f'An offset from created begins with "+"; did you mean "+{value}"?')
    raise field_problem("time_out_of_range", pointer, TIME_RANGE)


@lru_cache(1_024)
def _parse_offset(text: str) -> Offset | None:
    # Cached: most items use the same few offsets, and one message of a device may have 1,600.
    us = parse_duration(text)
    return None if us is None else Offset(us)
