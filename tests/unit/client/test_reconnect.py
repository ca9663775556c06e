"""The reconnect delays of a device, and final close codes."""

import pytest

from gregor.client.reconnect import DeviceTimings, ReconnectDelays, is_final
from gregor.core.close_codes import CloseCode


def test_delays_stay_below_a_doubling_bound() -> None:
    longest = [0.0] * 8
    for _ in range(300):
        pauses = ReconnectDelays(DeviceTimings(first_delay_s=0.5, max_delay_s=20))
        longest = [max(pause, pauses.next_s()) for pause in longest]

    for bound_s, pause_s in zip([0.5, 1, 2, 4, 8, 16, 20, 20], longest, strict=True):
        assert bound_s * 0.8 < pause_s <= bound_s


def test_reset_starts_with_the_first_delay() -> None:
    pauses = ReconnectDelays(DeviceTimings(first_delay_s=0.5))
    for _ in range(9):
        pauses.next_s()

    pauses.reset()

    assert pauses.next_s() <= 0.5


def test_delay_honours_retry_after() -> None:
    assert ReconnectDelays(DeviceTimings()).next_s("retry_after_ms=1800") >= 1.8


def test_retry_after_of_a_close_is_at_most_an_hour() -> None:
    assert ReconnectDelays(DeviceTimings()).next_s("retry_after_ms=999999999") == 3_600


@pytest.mark.parametrize("code", CloseCode)
def test_final_codes_are_those_of_the_enum(code: CloseCode) -> None:
    assert is_final(int(code)) is code.is_final


def test_unknown_code_is_classified_by_range() -> None:
    assert not any(is_final(code) for code in (1000, 1001, 1006, 1009, 1011, 1012, 1013, 4010))
    assert is_final(4506)
