"""When a device comes back."""

import pytest

from gregor.client.reconnect import DeviceTimings, ReconnectDelays, is_final
from gregor.core.close_codes import CloseCode


def test_pauses_stay_below_a_bound_that_doubles_up_to_the_greatest() -> None:
    longest = [0.0] * 8
    for _ in range(300):
        pauses = ReconnectDelays(DeviceTimings(first_delay_s=0.5, max_delay_s=20))
        longest = [max(pause, pauses.next_s()) for pause in longest]

    for bound_s, pause_s in zip([0.5, 1, 2, 4, 8, 16, 20, 20], longest, strict=True):
        assert bound_s * 0.8 < pause_s <= bound_s


def test_a_good_connection_makes_the_next_pause_a_first_one() -> None:
    pauses = ReconnectDelays(DeviceTimings(first_delay_s=0.5))
    for _ in range(9):
        pauses.next_s()

    pauses.reset()

    assert pauses.next_s() <= 0.5


def test_a_pause_is_at_least_what_the_server_asks_for() -> None:
    assert ReconnectDelays(DeviceTimings()).next_s("retry_after_ms=1800") >= 1.8


@pytest.mark.parametrize("code", CloseCode)
def test_finality_is_that_of_the_table(code: CloseCode) -> None:
    assert is_final(int(code)) is code.is_final


def test_codes_that_are_not_in_the_table_are_judged_by_their_range() -> None:
    assert not any(is_final(code) for code in (1000, 1001, 1006, 1009, 1011, 1012, 1013, 4010))
    assert is_final(4506)
