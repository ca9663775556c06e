"""Rate limit of joins: a device that reconnects again and again is closed with 4009 before it reads."""

from __future__ import annotations

from gregor_gateway.sessions.join_rates import JOIN_BURST, JoinRates
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway


def test_joins_of_a_device_are_limited() -> None:
    rates = JoinRates()

    assert [rates.take("alice", "phone", 0.0) for _ in range(JOIN_BURST)] == [0.0] * JOIN_BURST
    assert 0 < rates.take("alice", "phone", 0.0) < 0.11
    assert rates.take("alice", "laptop", 0.0) == 0.0
    assert rates.take("alice", "phone", 0.2) == 0.0


def test_idle_devices_are_forgotten() -> None:
    rates = JoinRates()

    for number in range(10_000):
        rates.take(f"u{number}", "phone", number * 0.01)

    assert len(rates) < 50


async def test_device_that_joins_too_often_is_closed_with_4009(gateway: Gateway) -> None:
    for _ in range(JOIN_BURST):
        gateway.context.join_rates.take("alice", "phone", gateway.context.timers.now)

    refused = gateway.dial()
    await wait_until(lambda: refused.closed == 4009, "the close")
    assert gateway.context.hub.channels == {}
    gateway.pass_time(1)
    await gateway.connect()
