"""Times and durations on the command line: one grammar for all options.

A duration is `90s`, `15m`, `2h`, `30d`, `1w` or a number of seconds. A time is Unix seconds, `+2h` (from now), or `-2h`
(ago). Times are shown in local time. The audit trail and the service keys show UTC, because
operators compare them with logs.
"""

import re
from datetime import UTC, datetime

import typer

from gregor.core.times import parse_duration


def seconds_of(text: str) -> float | None:
    """Return the seconds of a duration; None if the text is not one."""
    us = parse_duration(text)
    return None if us is None else us / 1_000_000


def duration_option(text: str, option: str, min_s: float = 0) -> float:
    """Return the seconds of a duration option. Raises BadParameter if it is malformed or below `min_s`."""
    seconds = seconds_of(text)
    if seconds is None:
        raise typer.BadParameter(f"{text} is not a duration; write 2h, 30m, 1d, or seconds", param_hint=option)
    if seconds < min_s:
        raise typer.BadParameter(f"{text} is too short; write {min_s:g}s or more", param_hint=option)
    return seconds


def time_or_offset(text: str, option: str) -> str | float:
    """Return `+1h` as the offset `"+3600"` of the API, or Unix seconds. Raises BadParameter."""
    seconds = seconds_of(text[1:]) if text.startswith("+") else None
    if seconds is not None:
        return f"+{seconds:.6f}".rstrip("0").rstrip(".")
    if re.fullmatch(r"\d{1,10}(\.\d+)?", text):
        return float(text) if "." in text else int(text)
    fault = "is in the past" if text.startswith("-") and seconds_of(text[1:]) is not None else "is not a time"
    raise typer.BadParameter(f"{text} {fault}; write +1h, +90, or Unix seconds", param_hint=option)


def future_time(text: str, option: str, now_s: float) -> float:
    """Return `+2h` from now, or Unix seconds, as Unix seconds. Raises BadParameter."""
    time = time_or_offset(text, option)
    return round(now_s + float(time), 3) if isinstance(time, str) else time


def past_time(text: str, option: str, now_s: float) -> str:
    """Return `-2d` before now, or Unix seconds, as Unix seconds. Raises BadParameter."""
    if re.fullmatch(r"\d+(\.\d{1,6})?", text):
        return text
    seconds = seconds_of(text[1:]) if text.startswith("-") else None
    if seconds is None:
        raise typer.BadParameter(f"{text} is not a time; write -2d (two days ago), or Unix seconds", param_hint=option)
    return f"{now_s - seconds:.6f}"


def time_text(seconds: float | None) -> str:
    """Return Unix seconds as local date and time; `-` if there is none."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds else "-"


def utc_text(seconds: float | None) -> str:
    """Return Unix seconds as date and time in UTC, as logs have them; `-` if there is none."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}" if seconds else "-"


def clock_text(seconds: float) -> str:
    """Return Unix seconds as local time of day."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%H:%M:%S")
