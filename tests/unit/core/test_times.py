"""Times, durations and offsets: exact to the microsecond in both directions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.json_text import canonical_json
from gregor.core.messages.model import Offset
from gregor.core.times import (
    MAX_TIME_US,
    UNIT_S,
    format_time,
    parse_duration,
    parse_time,
    parse_time_or_offset,
)

times_us = st.integers(0, MAX_TIME_US)


def rejected(value: Any) -> tuple[str, str]:
    with pytest.raises(Problem) as caught:
        parse_time_or_offset(value, "/t")
    return caught.value.code, caught.value.errors[0].pointer


# ---- times


@given(times_us)
@example(MAX_TIME_US)
@example(MAX_TIME_US - 1)
@example(4_294_967_296_000_001)
def test_time_survives_a_round_trip(at_us: int) -> None:
    assert parse_time(json.loads(format_time(at_us)), "") == at_us


@given(times_us)
@example(1)
def test_formatted_time_is_canonical_json(at_us: int) -> None:
    text = format_time(at_us)

    assert canonical_json(json.loads(text)) == text


@pytest.mark.parametrize(
    ("value", "at_us"),
    [
        (0, 0),
        (1457056447, 1_457_056_447_000_000),
        (1457056447.0, 1_457_056_447_000_000),
        (1457056447.25, 1_457_056_447_250_000),
        (0.0000004, 0),
        (-0.0000004, 0),
        (0.0000006, 1),
        (8589934591, MAX_TIME_US),
        (8589934590.999999, MAX_TIME_US - 1),
        (-0.0, 0),
    ],
)
def test_time_is_rounded_to_the_nearest_microsecond(value: float, at_us: int) -> None:
    assert parse_time(value, "") == at_us


@pytest.mark.parametrize("value", [-1, -0.000001, 2**33, 8589934591.000001, 8589934592.0, 10**30, 1e300, -1e300])
def test_time_beyond_the_valid_range_is_rejected(value: float) -> None:
    assert rejected(value) == ("time_out_of_range", "/t")


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, None, [], {}, "1", "", "+", "+-1", "+1.", "+.5", "+1.1234567", "+12345678901", " +1", "+1\n"),
        *("+١", "+1 h", "+1hh", "+h", "+1y", "++1", "1h", "2d"),
    ],
)
def test_invalid_time_is_rejected(value: Any) -> None:
    assert rejected(value) == ("invalid", "/t")


# ---- offsets


@pytest.mark.parametrize(
    ("text", "us"),
    [
        *(
            ("+0", 0),
            ("+31536000", 31_536_000_000_000),
            ("+1.5", 1_500_000),
            ("+0.000001", 1),
            ("+1.000000", 1_000_000),
        ),
        *(("+1h", 3_600_000_000), ("+90s", 90_000_000), ("+2w", 1_209_600_000_000), ("+0.5d", 43_200_000_000)),
    ],
)
def test_offset_is_a_duration_with_a_plus(text: str, us: int) -> None:
    assert parse_time_or_offset(text, "/t") == Offset(us)


def test_duration_without_a_plus_gets_a_hint() -> None:
    with pytest.raises(Problem, match=r'did you mean "\+2h"\?'):
        parse_time_or_offset("2h", "/t")


@pytest.mark.parametrize("text", ["+8589934592", "+9999999999w"])
def test_offset_beyond_the_valid_range_is_rejected(text: str) -> None:
    assert rejected(text) == ("time_out_of_range", "/t")
    assert parse_time_or_offset("+8589934591", "/t") == Offset(MAX_TIME_US)


def test_absolute_time_field_rejects_an_offset() -> None:
    with pytest.raises(Problem) as caught:
        parse_time("+5", "/t")

    assert caught.value.code == "invalid"


# ---- durations


@given(
    whole=st.integers(0, 14_201), micros=st.integers(0, 999_999), unit=st.sampled_from([*UNIT_S]), plus=st.booleans()
)
def test_duration_is_exact_in_every_unit(whole: int, micros: int, unit: str, plus: bool) -> None:
    text = f"{'+' if plus else ''}{whole}.{micros:06}{unit}"

    assert parse_duration(text) == (whole * 1_000_000 + micros) * UNIT_S[unit]


@given(times_us)
def test_offset_and_duration_share_one_grammar(us: int) -> None:
    text = f"+{us // 1_000_000}.{us % 1_000_000:06}"

    assert parse_time_or_offset(text, "") == Offset(us)
    assert parse_duration(text) == parse_duration(text[1:]) == us


@pytest.mark.parametrize("value", [90, 90.0, "90", "+90", "90s", "1.5m"])
def test_number_of_seconds_and_text_are_the_same_duration(value: Any) -> None:
    assert parse_duration(value) == 90_000_000


@pytest.mark.parametrize("value", [True, None, [], "", "-1", -1, "1 h", "h", "1y", float("nan"), 10**11, "9999999999w"])
def test_other_values_are_not_durations(value: Any) -> None:
    assert parse_duration(value) is None
