"""Contact and preferences: accepted and rejected documents; quiet hours over midnight and over clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.notify.contact import (
    NO_CONTACT,
    NO_PREFERENCES,
    Contact,
    QuietHours,
    contact_document,
    is_channel_allowed,
    parse_contact,
    parse_preferences,
    preferences_document,
    quiet_until,
)

NIGHT = QuietHours(22 * 60, 7 * 60)
ALICE: dict[str, Any] = {
    "email": "alice@example.com",
    "locale": "it-IT",
    "timezone": "Europe/Rome",
    "quiet_hours": {"from": "22:00", "to": "07:00"},
}


def is_quiet(contact: Contact, at_us: int) -> bool:
    """Return whether a moment is in the quiet hours."""
    return quiet_until(contact, at_us) > at_us


def us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def utc(text: str) -> int:
    return us(datetime.fromisoformat(text + "+00:00"))


def quiet(zone: str, begin: str, end: str) -> Contact:
    return parse_contact({"timezone": zone, "quiet_hours": {"from": begin, "to": end}})


# Values.


def test_contact_survives_a_round_trip() -> None:
    contact = parse_contact(ALICE)

    assert contact == Contact("alice@example.com", "it-IT", "Europe/Rome", NIGHT)
    assert contact_document(contact) == ALICE


def test_every_contact_field_may_be_absent_or_null() -> None:
    assert parse_contact({}) == parse_contact(dict.fromkeys(ALICE)) == NO_CONTACT
    assert contact_document(NO_CONTACT) == {}


@pytest.mark.parametrize(
    ("field", "value", "pointer"),
    [
        ("email", "alice", "/email"),
        ("email", "a@b.example\r\nBcc: eve@example.com", "/email"),
        ("email", 7, "/email"),
        ("locale", "it IT", "/locale"),
        ("locale", "x" * 36, "/locale"),
        ("timezone", "Europe/Nowhere", "/timezone"),
        ("timezone", "Europe", "/timezone"),
        ("timezone", "../Europe/Rome", "/timezone"),
        ("timezone", "right/Europe/Rome", "/timezone"),
        ("timezone", "", "/timezone"),
        ("quiet_hours", "22-7", "/quiet_hours"),
        ("quiet_hours", {"from": "22:00"}, "/quiet_hours/to"),
        ("quiet_hours", {"from": "22:00", "to": "7:00"}, "/quiet_hours/to"),
        ("quiet_hours", {"from": "24:00", "to": "07:00"}, "/quiet_hours/from"),
        ("quiet_hours", {"from": "22:00\n", "to": "07:00"}, "/quiet_hours/from"),
        ("quiet_hours", {"from": "22:00", "to": "22:00"}, "/quiet_hours/to"),
        ("quiet_hours", {"from": "22:00", "to": "07:00", "x": 1}, "/quiet_hours/x"),
        ("mail", "a@b.example", "/mail"),
    ],
)
def test_contact_errors_have_pointers(field: str, value: object, pointer: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_contact({**ALICE, field: value})

    assert [error.pointer for error in caught.value.errors] == [pointer]
    assert caught.value.status == 422


def test_all_contact_errors_are_reported_at_once() -> None:
    with pytest.raises(Problem) as caught:
        parse_contact({"email": "", "timezone": "x", "quiet_hours": {}})

    assert len(caught.value.errors) >= 3
    with pytest.raises(Problem) as caught:
        parse_contact({"quiet_hours": {"from": "25:00"}})
    assert [error.pointer for error in caught.value.errors] == ["/quiet_hours/from", "/quiet_hours/to"]


@pytest.mark.parametrize("document", [None, [], "x", 7])
def test_contact_and_preferences_must_be_objects(document: object) -> None:
    for parse in (parse_contact, parse_preferences):
        with pytest.raises(Problem):
            parse(document)


# Preferences.


def test_longest_prefix_decides_the_channel() -> None:
    said = parse_preferences(
        {"*": {"email": False}, "user": {"push": False, "email": True}, "user.joined": {"push": True}}
    )

    assert [
        is_channel_allowed(said, name, "push") for name in ("user.joined.x", "user.joined", "user.left", "users", "sys")
    ] == [*(True, True, False, True, True)]
    assert [is_channel_allowed(said, name, "email") for name in ("user.joined", "user", "users")] == [True, True, False]


def test_channel_without_preference_is_allowed() -> None:
    assert is_channel_allowed(NO_PREFERENCES, "user.joined", "push")


def test_preference_prefixes_are_normalized() -> None:
    assert preferences_document(parse_preferences({"user.": {"push": False}})) == {"user": {"push": False}}


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"": {"push": True}}, "invalid_id"),
        ({"user..x": {"push": True}}, "invalid_id"),
        ({"user": {"push": True}, "user.": {"push": False}}, "contradictory"),
        ({"user": {"push": 1}}, "invalid"),
        ({"user": {"sms": True}}, "unknown_field"),
        ({"user": True}, "invalid"),
        ({f"c{n}": {} for n in range(1_001)}, "too_many"),
    ],
)
def test_preferences_errors_have_codes(document: dict[str, Any], code: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_preferences(document)

    assert caught.value.code == code


# Quiet hours.


def test_contact_without_quiet_hours_has_none() -> None:
    assert quiet_until(NO_CONTACT, 5) == 5
    assert not is_quiet(NO_CONTACT, 5)


@pytest.mark.parametrize(
    ("at", "until"),
    [
        ("2026-01-10T20:59:59.999999", None),
        ("2026-01-10T21:00:00", "2026-01-11T06:00:00"),
        ("2026-01-10T23:30:00", "2026-01-11T06:00:00"),
        ("2026-01-11T05:59:59.999999", "2026-01-11T06:00:00"),
        ("2026-01-11T06:00:00", None),
    ],
)
def test_quiet_hours_span_midnight_in_the_users_zone(at: str, until: str | None) -> None:
    contact = parse_contact(ALICE)

    assert quiet_until(contact, utc(at)) == utc(until or at)
    assert is_quiet(contact, utc(at)) == (until is not None)


def test_quiet_hours_default_to_utc() -> None:
    assert quiet_until(Contact(quiet_hours=QuietHours(60, 120)), utc("2026-01-01T01:30:00")) == utc(
        "2026-01-01T02:00:00"
    )


@pytest.mark.parametrize(
    ("contact", "at", "until"),
    [
        # Rome 2026-03-29: 02:00 becomes 03:00 at 01:00 UTC. Rome 2026-10-25: 03:00 becomes 02:00 at 01:00 UTC.
        (quiet("Europe/Rome", "22:00", "07:00"), "2026-03-28T23:00:00", "2026-03-29T05:00:00"),
        (quiet("Europe/Rome", "22:00", "07:00"), "2026-10-24T23:00:00", "2026-10-25T06:00:00"),
        (quiet("Europe/Rome", "22:00", "02:30"), "2026-03-28T23:00:00", "2026-03-29T01:00:00"),
        (quiet("Europe/Rome", "02:30", "05:00"), "2026-03-29T01:00:00", "2026-03-29T03:00:00"),
        (quiet("Europe/Rome", "02:15", "02:45"), "2026-03-29T01:00:00", "2026-03-29T01:00:00"),
        (quiet("Europe/Rome", "22:00", "02:30"), "2026-10-25T00:45:00", "2026-10-25T01:30:00"),
        (quiet("Europe/Rome", "02:30", "05:00"), "2026-10-25T00:30:00", "2026-10-25T04:00:00"),
        # New York 2026-11-01: 02:00 becomes 01:00 at 06:00 UTC.
        (quiet("America/New_York", "00:30", "01:30"), "2026-11-01T05:40:00", "2026-11-01T06:30:00"),
        # Lord Howe moves by half an hour: 2026-04-05, 02:00 becomes 01:30 at 15:00 UTC the day before.
        (quiet("Australia/Lord_Howe", "01:00", "01:45"), "2026-04-04T14:50:00", "2026-04-04T15:15:00"),
        # ... and 2026-10-04, 02:00 becomes 02:30 at 15:30 UTC the day before.
        (quiet("Australia/Lord_Howe", "01:00", "02:15"), "2026-10-03T15:00:00", "2026-10-03T15:30:00"),
        # Apia had no 30 December 2011.
        (quiet("Pacific/Apia", "22:00", "07:00"), "2011-12-30T09:00:00", "2011-12-30T17:00:00"),
    ],
)
def test_clock_change_lengthens_or_shortens_the_hours(contact: Contact, at: str, until: str) -> None:
    assert quiet_until(contact, utc(at)) == utc(until)


ZONES = ["Europe/Rome", "America/New_York", "Australia/Lord_Howe"]
CHANGES = {
    "Europe/Rome": ("2026-03-29T01:00:00", "2026-10-25T01:00:00"),
    "America/New_York": ("2026-03-08T07:00:00", "2026-11-01T06:00:00"),
    "Australia/Lord_Howe": ("2026-04-04T15:00:00", "2026-10-03T15:30:00"),
}
hours = st.tuples(st.integers(0, 1_439), st.integers(0, 1_439)).filter(lambda pair: pair[0] != pair[1])


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, int]:
    """Return a zone, and a moment within 36 hours of one of its clock changes."""
    zone = draw(st.sampled_from(ZONES))
    change = utc(draw(st.sampled_from(CHANGES[zone])))
    return zone, change + draw(st.integers(-36 * 60, 36 * 60)) * 60_000_000 + draw(st.integers(0, 59_999_999))


def wall_is_within(contact: Contact, zone: str, at_us: int) -> bool:
    """Return whether the local time is quiet, read from the clock: the oracle."""
    wall = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).astimezone(ZoneInfo(zone))
    minute, quiet_hours = wall.hour * 60 + wall.minute, contact.quiet_hours
    assert quiet_hours is not None
    begin, end = quiet_hours.from_min, quiet_hours.until_min
    return begin <= minute < end if begin < end else minute >= begin or minute < end


@given(moment=moments(), pair=hours)
def test_quiet_hours_cover_every_quiet_local_time(moment: tuple[str, int], pair: tuple[int, int]) -> None:
    zone, at_us = moment
    contact = Contact(timezone=zone, quiet_hours=QuietHours(*pair))

    assert is_quiet(contact, at_us) or not wall_is_within(contact, zone, at_us)


@given(moment=moments(), pair=hours)
def test_quiet_hours_equal_local_time_without_change(moment: tuple[str, int], pair: tuple[int, int]) -> None:
    zone, at_us = moment
    at_us += 14 * 86_400_000_000
    contact = Contact(timezone=zone, quiet_hours=QuietHours(*pair))

    assert is_quiet(contact, at_us) == wall_is_within(contact, zone, at_us)


@given(moment=moments(), pair=hours, share=st.floats(0, 1, exclude_max=True))
def test_quiet_hours_are_one_interval(moment: tuple[str, int], pair: tuple[int, int], share: float) -> None:
    zone, at_us = moment
    contact = Contact(timezone=zone, quiet_hours=QuietHours(*pair))

    until_us = quiet_until(contact, at_us)
    between_us = at_us + int((until_us - at_us) * share)

    # Nearly two days where the loud part of the wall's day lies in an hour that is left out: they are one stretch then.
    assert at_us <= until_us <= at_us + 48 * 3_600_000_000 + 3_600_000_000
    assert not is_quiet(contact, until_us)
    assert until_us == at_us or quiet_until(contact, between_us) == until_us


@given(moment=moments(), pair=hours)
def test_clock_change_adds_at_most_one_hour(moment: tuple[str, int], pair: tuple[int, int]) -> None:
    zone, at_us = moment
    contact = Contact(timezone=zone, quiet_hours=QuietHours(*pair))

    if is_quiet(contact, at_us) and not wall_is_within(contact, zone, at_us):
        assert any(abs(at_us - utc(change)) <= 3_600_000_000 for change in CHANGES[zone])
