"""How a user may be reached: address, language, zone, quiet hours; and which categories may, on which channel.

Quiet hours are read off the clock on the user's wall. Where that is set back in them they last as long as the wall
shows them, both times; where it is set forward over their end they end with the jump. So they are one stretch of time,
and `quiet_until` is its end. What falls into them waits, and is never dropped (protocol.md; semantics.md L15).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from gregor.core.errors import Problem
from gregor.core.ids import normalize_prefix, prefixes_of
from gregor.core.json_text import escape_pointer
from gregor.core.validation import ValidationErrors

from .email_address import parse_mailbox

Channel = Literal["push", "email"]
CHANNELS: Final[tuple[Channel, ...]] = ("push", "email")
ALL_CATEGORIES: Final = "*"
"""The least of prefixes, in preferences."""
QUIET_HOURS: Final = "quiet_hours"
"""Why a delivery waits for their end (a word of protocol.md, "deliveries")."""
MAX_PREFERENCES: Final = 1_000
"""Prefixes that one user may have an opinion on."""

_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")
_LOCALE: Final = re.compile(r"(?=.{1,35}\Z)[A-Za-z0-9]{1,8}(?:[_-][A-Za-z0-9]{1,8})*\Z")
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}\Z")
# Other renderings of the same data (one counts leap seconds), and what means something else on each machine.
_NO_ZONES: Final = ("posix/", "right/", "localtime", "posixrules")
_FIELDS: Final = ("email", "locale", "timezone", "quiet_hours")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From one time of the day to another, minutes after midnight; over midnight where `until` is the smaller."""

    from_min: int
    until_min: int


@dataclass(frozen=True, slots=True)
class Contact:
    """Where and when. `timezone`: a name of the IANA database; UTC where there is none."""

    email: str | None = None
    locale: str | None = None
    timezone: str | None = None
    quiet_hours: QuietHours | None = None


NO_CONTACT: Final = Contact()


@dataclass(frozen=True, slots=True)
class Preferences:
    """For a category prefix (or `*`), which channels may be used; what is not said is left to a shorter prefix."""

    by_prefix: Mapping[str, Mapping[str, bool]]


NO_PREFERENCES: Final = Preferences(MappingProxyType({}))


def parse_contact(document: Any) -> Contact:
    """The contact that a JSON document says; null is absent. Raises Problem with all that is wrong."""
    errors = ValidationErrors()
    given = _object(document, "", errors)
    errors.add_unknown_fields(given, _FIELDS, "")
    contact = Contact(
        _text(given, "email", errors, "This is no e-mail address.", lambda text: parse_mailbox(text) is not None),
        _text(given, "locale", errors, "This is no BCP 47 language tag, such as it-IT.", is_language_tag),
        _text(given, "timezone", errors, "This is no IANA time zone, such as Europe/Rome.", _is_zone),
        _quiet_hours(given.get("quiet_hours"), errors),
    )
    errors.raise_if_any()
    return contact


def contact_document(contact: Contact) -> dict[str, Any]:
    """The contact as the API shows it: what `parse_contact` took."""
    hours = contact.quiet_hours
    document: dict[str, Any] = {"email": contact.email, "locale": contact.locale, "timezone": contact.timezone}
    shown = hours and {"from": _shown(hours.from_min), "to": _shown(hours.until_min)}
    return {name: value for name, value in {**document, "quiet_hours": shown}.items() if value is not None}


def parse_preferences(document: Any, most: int | None = MAX_PREFERENCES) -> Preferences:
    """The preferences that a JSON document says, prefixes in their one form. Raises Problem with all that is wrong.

    `most`: prefixes that it may name; None for what is kept already.
    """
    errors = ValidationErrors()
    by_prefix: dict[str, Mapping[str, bool]] = {}
    given = _object(document, "", errors)
    if most is not None and len(given) > most:
        raise Problem("too_many", f"Preferences may name up to {most:,} prefixes.")
    for name, said in given.items():
        pointer = f"/{escape_pointer(name)}"
        prefix = ALL_CATEGORIES if name == ALL_CATEGORIES else normalize_prefix(name) or None
        if prefix is None:
            errors.add("invalid_id", pointer, "This is no category prefix; * stands for all.")
        elif prefix in by_prefix:
            errors.add("contradictory", pointer, "This prefix is named twice, with and without its dot.")
        else:
            by_prefix[prefix] = _channels(said, pointer, errors)
    errors.raise_if_any()
    return Preferences(MappingProxyType(by_prefix))


def preferences_document(preferences: Preferences) -> dict[str, dict[str, bool]]:
    """The preferences as the API shows them."""
    return {prefix: dict(said) for prefix, said in preferences.by_prefix.items()}


def without_email(preferences: Preferences, categories: Iterable[str]) -> Preferences:
    """The preferences of a user who wants no mail of these categories any more, or of any (`*`).

    Never too many: who does not want mail must be able to say so.
    """
    by_prefix = {prefix: dict(said) for prefix, said in preferences.by_prefix.items()}
    for category in categories:
        by_prefix.setdefault(category, {})["email"] = False
        if category == ALL_CATEGORIES:
            for said in by_prefix.values():
                if "email" in said:
                    said["email"] = False
    return Preferences(MappingProxyType(by_prefix))


def is_channel_allowed(preferences: Preferences, category: str, channel: Channel) -> bool:
    """Whether `channel` may be used for `category`: the longest prefix that speaks of it decides, `*` last."""
    by_prefix = preferences.by_prefix
    if by_prefix:
        for prefix in reversed(prefixes_of(category)):
            said = by_prefix.get(prefix or ALL_CATEGORIES, {}).get(channel)
            if said is not None:
                return said
    return True


def is_quiet(contact: Contact, at_us: int) -> bool:
    """Whether `at_us` (Unix µs) lies in the quiet hours; their first moment does, their last does not."""
    return quiet_until(contact, at_us) > at_us


def quiet_until(contact: Contact, at_us: int) -> int:
    """The end of the quiet hours that `at_us` lies in, or `at_us` itself where it lies in none."""
    hours = contact.quiet_hours
    if hours is None:
        return at_us
    zone, until_us = _zone(contact.timezone or "UTC"), at_us
    # Where the clock is set back, one stretch may reach into the next: then they are one.
    while (further_us := _end_of(hours, zone, until_us)) > until_us:
        until_us = further_us
    return until_us


def is_language_tag(text: str) -> bool:
    """Whether ``text`` has the form of a BCP 47 language tag, 35 characters at most."""
    return _LOCALE.match(text) is not None


def _end_of(hours: QuietHours, zone: ZoneInfo, at_us: int) -> int:
    """The last end of the stretches that hold `at_us`; `at_us` where none does."""
    at = _EPOCH + at_us * _US
    today = at.astimezone(zone).date()
    # Two days back: a zone that changed its date may have left a whole day out.
    for days in (1, 0, -1, -2):
        day = today + days * _DAY
        over = _DAY if hours.until_min <= hours.from_min else timedelta()
        begin = _instant(datetime.combine(day, _time(hours.from_min)), zone, is_last=False)
        end = _instant(datetime.combine(day + over, _time(hours.until_min)), zone, is_last=True)
        if begin <= at < end:
            return (end - _EPOCH) // _US
    return at_us


def _instant(wall: datetime, zone: ZoneInfo, *, is_last: bool) -> datetime:
    """When the wall shows this time, the first or the last time; where it never does, the jump over it."""
    early, late = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if early <= late:
        return late if is_last else early
    # Set forward: read by the offset after the jump it lies before it, by that before the jump behind it.
    low, high = late, early
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        middle -= timedelta(microseconds=middle.microsecond)
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
    return high


@lru_cache(maxsize=1_000)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _is_zone(name: str) -> bool:
    if _ZONE.match(name) is None or name.startswith(_NO_ZONES):
        return False
    try:
        _zone(name)
    except (ValueError, KeyError, OSError):  # a directory of the database is an OSError
        return False
    return True


def _object(value: Any, pointer: str, errors: ValidationErrors) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    errors.add("invalid", pointer, "This must be an object.")
    return {}


def _text(given: Mapping[str, Any], name: str, errors: ValidationErrors, detail: str, is_good: Any) -> str | None:
    value = given.get(name)
    if value is not None and not (isinstance(value, str) and is_good(value)):
        errors.add("invalid", f"/{name}", detail)
        return None
    return value


def _quiet_hours(value: Any, errors: ValidationErrors) -> QuietHours | None:
    if value is None:
        return None
    given = _object(value, "/quiet_hours", errors)
    errors.add_unknown_fields(given, ("from", "to"), "/quiet_hours")
    minutes: list[int] = []
    for name in ("from", "to"):
        match = _TIME.match(given[name]) if isinstance(given.get(name), str) else None
        if match is not None:
            minutes.append(int(match[1]) * 60 + int(match[2]))
        elif isinstance(value, Mapping):
            code = "invalid" if name in given else "missing_field"
            errors.add(code, f"/quiet_hours/{name}", "A time of the day is written as 22:00.")
    if len(minutes) == 2 and minutes[0] == minutes[1]:
        errors.add("invalid", "/quiet_hours/to", "From and to are the same: is that never, or always?")
    return QuietHours(minutes[0], minutes[1]) if len(minutes) == 2 else None


def _channels(said: Any, pointer: str, errors: ValidationErrors) -> dict[str, bool]:
    given = _object(said, pointer, errors)
    errors.add_unknown_fields(given, CHANNELS, pointer)
    for channel in CHANNELS:
        if channel in given and not isinstance(given[channel], bool):
            errors.add("invalid", f"{pointer}/{channel}", "This must be true or false.")
    return {channel: given[channel] for channel in CHANNELS if isinstance(given.get(channel), bool)}


def _time(minutes: int) -> time:
    return time(minutes // 60, minutes % 60)


def _shown(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
