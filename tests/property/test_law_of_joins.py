"""Law of joins: all gateways together give a device and a user a bounded number of joins, however many there are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.core.limits import Limits
from gregor.core.rate_limit import Bucket
from gregor_gateway.sessions.device_rates import (
    FULL_RATE_GATEWAYS,
    JOIN_BURST,
    JOINS,
    LEAST_SHARE,
    JoinRates,
    user_join_bucket,
)

OF_USER = user_join_bucket(Limits(devices=2))
SECONDS = 120
steps = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["phone", "desk", "tv"]), st.integers(0, JOIN_BURST)), max_size=12
)


def bound(bucket: Bucket, gateways: int, seconds: float) -> float:
    """Return how many joins a bucket allows in this time: a burst for each gateway, and the rate of the cluster."""
    rate = bucket.rate * max(min(gateways, FULL_RATE_GATEWAYS), LEAST_SHARE * gateways)
    return gateways * bucket.burst + seconds * rate


@settings(max_examples=30, deadline=None)
@given(gateways=st.integers(1, 20), devices=st.integers(1, 3), weight=st.sampled_from([0, 1, 6, 40]))
def test_joins_at_all_gateways_are_bounded(gateways: int, devices: int, weight: int) -> None:
    """Each device joins at each gateway as often as it may. The last join of each bucket may leave a debt."""
    cluster = [JoinRates(OF_USER, lambda: gateways) for _ in range(gateways)]
    taken = [0] * devices

    for second in range(SECONDS):
        for rates in cluster:
            for device in range(devices):
                while rates.take("alice", f"d{device}", second) == 0.0:
                    rates.charge("alice", f"d{device}", weight, second)
                    taken[device] += 1 + weight

    debt = gateways * (1 + weight)
    assert max(taken) <= bound(JOINS, gateways, SECONDS) + debt
    assert sum(taken) <= bound(OF_USER, gateways, SECONDS) + devices * debt


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=10), spent=steps)
def test_change_of_the_number_of_gateways_changes_no_burst(
    counts: list[tuple[int, int]], spent: list[tuple[int, str, int]]
) -> None:
    """A gateway that joins or leaves gives no tokens back and takes none."""
    alive, now_s = [1], 0.0
    rates = JoinRates(OF_USER, lambda: alive[0])
    for after_s, device, weight in spent:
        now_s += after_s
        rates.charge("alice", device, weight, now_s)

    before = [rates.left("alice", device, now_s).remaining for device in ("phone", "desk", "new")]
    for number, passed_s in counts:
        alive[0] = number
        after = [rates.left("alice", device, now_s).remaining for device in ("phone", "desk", "new")]
        assert after == before
        now_s += passed_s
        before = [rates.left("alice", device, now_s).remaining for device in ("phone", "desk", "new")]
        gained = [now - then for now, then in zip(before, after, strict=True)]
        assert max(gained) <= passed_s * OF_USER.rate + 1 and min(gained) >= 0


@settings(max_examples=50, deadline=None)
@given(gateways=st.integers(0, 30), weight=st.integers(1, 2 * JOIN_BURST))
def test_wait_is_the_time_until_a_join(gateways: int, weight: int) -> None:
    rates = JoinRates(user_join_bucket(Limits()), lambda: gateways)
    rates.charge("alice", "phone", JOIN_BURST, 0.0)
    rates.charge("alice", "phone", weight, 0.0)

    wait_s = rates.take("alice", "phone", 0.0)

    assert wait_s > 0.0 and rates.wait_s("alice", "phone", 0.0) >= wait_s * 0.999
    assert rates.take("alice", "phone", wait_s * 0.99) > 0.0
    assert rates.take("alice", "phone", wait_s + 0.001) == 0.0
