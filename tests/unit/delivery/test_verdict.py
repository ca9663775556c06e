"""Parsing of Retry-After."""

import pytest

from gregor_delivery.channels.verdict import MAX_RETRY_AFTER_S, parse_retry_after

NOW_US = 1_457_056_447_000_000  # Fri, 04 Mar 2016 01:54:07 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("9" * 30, MAX_RETRY_AFTER_S),
        ("Fri, 04 Mar 2016 01:55:07 GMT", 60),
        ("Friday, 04-Mar-16 01:55:07 GMT", 60),
        ("Fri, 04 Mar 2016 01:54:00 GMT", 0),
        ("Sun, 04 Mar 2046 01:54:00 GMT", MAX_RETRY_AFTER_S),
    ],
)
def test_retry_after_in_seconds_or_date_is_bounded(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW_US) == seconds


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "١٢", "Fri, 99 Mar 2016 01:55:07 GMT"])
def test_malformed_retry_after_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, NOW_US) is None
