"""Times: seconds outside, microseconds inside, nothing lost between."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.json_text import canonical_json
from gregor.core.messages.model import Offset
from gregor.core.times import MAX_TIME_US, format_time, parse_offset, parse_time, parse_time_or_offset, resolve_offset

moments = st.integers(0, MAX_TIME_US)


def refusal(value: Any) -> tuple[str, str]:
    with pytest.raises(Problem) as caught:
        parse_time_or_offset(value, "/t")
    return caught.value.code, caught.value.errors[0].pointer


@given(moments)
@example(MAX_TIME_US)
@example(MAX_TIME_US - 1)
@example(4_294_967_296_000_001)
def test_every_microsecond_goes_out_and_comes_back_the_same(at_us: int) -> None:
    assert parse_time(json.loads(format_time(at_us)), "") == at_us


@given(moments)
@example(1)
def test_a_time_goes_out_as_canonical_json(at_us: int) -> None:
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
def test_a_number_is_rounded_to_the_nearest_microsecond(value: float, at_us: int) -> None:
    assert parse_time(value, "") == at_us


@pytest.mark.parametrize("value", [-1, -0.000001, 2**33, 8589934591.000001, 8589934592.0, 10**30, 1e300, -1e300])
def test_a_time_outside_what_can_be_said_is_out_of_range(value: float) -> None:
    assert refusal(value) == ("time_out_of_range", "/t")


@pytest.mark.parametrize(
    "value",
    [True, False, None, [], {}, "1", "", "+", "+-1", "+1.", "+.5", "+1.1234567", "+12345678901", " +1", "+1\n", "+١"],
)
def test_what_is_no_time_is_invalid(value: Any) -> None:
    assert refusal(value) == ("invalid", "/t")


@pytest.mark.parametrize(
    ("text", "us"),
    [("+0", 0), ("+31536000", 31_536_000_000_000), ("+1.5", 1_500_000), ("+0.000001", 1), ("+1.000000", 1_000_000)],
)
def test_an_offset_is_seconds_after_created(text: str, us: int) -> None:
    assert parse_offset(text) == Offset(us)


def test_an_offset_beyond_every_time_is_out_of_range_where_it_stands() -> None:
    assert refusal("+8589934592") == ("time_out_of_range", "/t")
    assert parse_time_or_offset("+8589934591", "/t") == Offset(MAX_TIME_US)


def test_an_offset_is_no_time_where_only_a_time_may_stand() -> None:
    with pytest.raises(Problem) as caught:
        parse_time("+5", "/t")

    assert caught.value.code == "invalid"


def test_an_offset_that_leads_beyond_the_last_time_is_out_of_range() -> None:
    assert resolve_offset(Offset(5), MAX_TIME_US - 5, "/t") == MAX_TIME_US

    with pytest.raises(Problem) as caught:
        resolve_offset(Offset(6), MAX_TIME_US - 5, "/t")

    assert caught.value.code == "time_out_of_range"
