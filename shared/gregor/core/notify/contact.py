"""Contact and preferences of a user: e-mail address, language, time zone, quiet hours, and channels by category.

Quiet hours follow the user's local clock. If the clock is set back within them, they last until the local time reaches
their end for the last time. If it is set forward past their end, they end with the jump. So they are one interval, and
``quiet_until`` is its end. A delivery that is due within them waits; it is never dropped (delivery.md, "Contact,
preferences, quiet hours"; semantics.md L15).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
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
"""The shortest prefix, in preferences."""
QUIET_HOURS: Final = "quiet_hours"
"""The reason of a delivery that waits for the end of quiet hours (delivery.md, "Skip reasons")."""
MAX_PREFERENCES: Final = 1_000
"""Prefixes in one user's preferences, beside ``*``: an objection to all e-mails needs room, too."""

_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")
_LOCALE: Final = re.compile(r"(?=.{1,35}\Z)[A-Za-z0-9]{1,8}(?:[_-][A-Za-z0-9]{1,8})*\Z")
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}\Z")
# Other forms of the same data (one with leap seconds), and names that depend on the machine.
_NO_ZONES: Final = ("posix/", "right/", "localtime", "posixrules")
QUIET_FIELDS: Final = ("timezone", "quiet_hours")
"""The members of a contact that decide when notifications wait: users set them in the app."""
_FIELDS: Final = ("email", "locale", *QUIET_FIELDS)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)


# ---- values


@dataclass(frozen=True, slots=True)
class QuietHours:
    """The daily quiet hours, in minutes after midnight.

    They span midnight if ``until_min`` is less than ``from_min``.
    """

    from_min: int
    until_min: int


@dataclass(frozen=True, slots=True)
class Contact:
    """How to reach a user, and when. ``timezone``: a name of the IANA database; without one, UTC."""

    email: str | None = None
    locale: str | None = None
    timezone: str | None = None
    quiet_hours: QuietHours | None = None


NO_CONTACT: Final = Contact()


@dataclass(frozen=True, slots=True)
class Preferences:
    """The allowed channels for each category prefix (or ``*``). A channel that a prefix does not mention is decided by
    a shorter prefix.
    """

    by_prefix: Mapping[str, Mapping[str, bool]]


NO_PREFERENCES: Final = Preferences(MappingProxyType({}))


# ---- contact


def parse_contact(document: Any, fields: Collection[str] = _FIELDS) -> Contact:
    """Return the contact of a JSON document; null is absent. Raises ``Problem`` with all errors.

    ``fields``: the members that the document may have.
    """
    errors = ValidationErrors()
    given = _object(document, "", errors)
    errors.add_unknown_fields(given, fields, "")
    contact = Contact(
        _text(given, "email", errors, "This is not an e-mail address.", lambda text: parse_mailbox(text) is not None),
        _text(given, "locale", errors, "This is not a BCP 47 language tag, such as it-IT.", is_language_tag),
        _text(given, "timezone", errors, "This is not an IANA time zone, such as Europe/Rome.", _is_zone),
        _quiet_hours(given.get("quiet_hours"), errors),
    )
    errors.raise_if_any()
    return contact


def contact_document(contact: Contact) -> dict[str, Any]:
    """Return the contact as the API shows it: the document that ``parse_contact`` reads."""
    hours = contact.quiet_hours
    document: dict[str, Any] = {"email": contact.email, "locale": contact.locale, "timezone": contact.timezone}
    shown = hours and {"from": _shown(hours.from_min), "to": _shown(hours.until_min)}
    return {name: value for name, value in {**document, "quiet_hours": shown}.items() if value is not None}


# ---- preferences


def parse_preferences(document: Any) -> Preferences:
    """Return the preferences of a JSON document, with normalized prefixes. Raises ``Problem`` with all errors."""
    errors = ValidationErrors()
    by_prefix: dict[str, Mapping[str, bool]] = {}
    given = _object(document, "", errors)
    check_preference_count(given)
    for name, channels in given.items():
        pointer = f"/{escape_pointer(name)}"
        prefix = ALL_CATEGORIES if name == ALL_CATEGORIES else normalize_prefix(name) or None
        if prefix is None:
            errors.add("invalid_id", pointer, "This is not a category prefix, such as invoice.due, or * for all.")
        elif prefix in by_prefix:
            errors.add("contradictory", pointer, "This prefix is there twice, with and without its dot.")
        else:
            by_prefix[prefix] = _channels(channels, pointer, errors)
    errors.raise_if_any()
    return Preferences(MappingProxyType(by_prefix))


def check_preference_count(names: Collection[str]) -> None:
    """Raise ``too_many`` if a user may not have so many prefixes."""
    count = count_preferences(names)
    if count > MAX_PREFERENCES:
        raise Problem("too_many", f"Preferences may have up to {MAX_PREFERENCES:,} prefixes; these have {count:,}.")


def count_preferences(names: Collection[str]) -> int:
    """Return the number of prefixes that count for ``MAX_PREFERENCES``."""
    return len(names) - (ALL_CATEGORIES in names)


def preferences_document(preferences: Preferences) -> dict[str, dict[str, bool]]:
    """Return the preferences as the API shows them."""
    return {prefix: dict(channels) for prefix, channels in preferences.by_prefix.items()}


def is_channel_allowed(preferences: Preferences, category: str, channel: Channel) -> bool:
    """Return whether ``channel`` is allowed for ``category``: the longest prefix with a value decides, ``*`` last."""
    by_prefix = preferences.by_prefix
    if by_prefix:
        for prefix in reversed(prefixes_of(category)):
            is_allowed = by_prefix.get(prefix or ALL_CATEGORIES, {}).get(channel)
            if is_allowed is not None:
                return is_allowed
    return True


# ---- quiet hours


def quiet_until(contact: Contact, at_us: int) -> int:
    """Return the end of the quiet hours that contain ``at_us``; ``at_us`` itself if none do."""
    hours = contact.quiet_hours
    if hours is None:
        return at_us
    zone, until_us = _zone(contact.timezone or "UTC"), at_us
    # If the clock is set back, one interval may reach into the next: then they are one.
    while (further_us := _end_of(hours, zone, until_us)) > until_us:
        until_us = further_us
    return until_us


def is_language_tag(text: str) -> bool:
    """Return whether ``text`` has the form of a BCP 47 language tag of at most 35 characters."""
    return _LOCALE.match(text) is not None


def _end_of(hours: QuietHours, zone: ZoneInfo, at_us: int) -> int:
    """Return the last end of the intervals that contain ``at_us``; ``at_us`` if none do."""
    at = _EPOCH + at_us * _US
    today = at.astimezone(zone).date()
    # Two days back: a zone that moved across the date line has skipped a whole day.
    for days in (1, 0, -1, -2):
        day = today + days * _DAY
        over = _DAY if hours.until_min <= hours.from_min else timedelta()
        begin = _instant(datetime.combine(day, _time(hours.from_min)), zone, is_last=False)
        end = _instant(datetime.combine(day + over, _time(hours.until_min)), zone, is_last=True)
        if begin <= at < end:
            return (end - _EPOCH) // _US
    return at_us


def _instant(wall: datetime, zone: ZoneInfo, *, is_last: bool) -> datetime:
    """Return the first or last instant of a local time; if the clock skips it, the instant of the jump."""
    early, late = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if early <= late:
        return late if is_last else early
    # The clock is set forward: with the offset after the jump the time is before it, with the other one after it.
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


# ---- fields of a document


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
            errors.add(code, f"/quiet_hours/{name}", "This must be a time of day such as 22:00.")
    if len(minutes) == 2 and minutes[0] == minutes[1]:
        errors.add("invalid", "/quiet_hours/to", "from and to must differ; remove quiet_hours for none.")
    return QuietHours(minutes[0], minutes[1]) if len(minutes) == 2 else None


def _channels(channels: Any, pointer: str, errors: ValidationErrors) -> dict[str, bool]:
    given = _object(channels, pointer, errors)
    errors.add_unknown_fields(given, CHANNELS, pointer)
    for channel in CHANNELS:
        if channel in given and not isinstance(given[channel], bool):
            errors.add("invalid", f"{pointer}/{channel}", "This must be true or false.")
    return {channel: given[channel] for channel in CHANNELS if isinstance(given.get(channel), bool)}


def _time(minutes: int) -> time:
    return time(minutes // 60, minutes % 60)


def _shown(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
