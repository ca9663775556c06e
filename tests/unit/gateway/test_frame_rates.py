"""The frame budget of a device: frames over many connections, and frames that need the store."""

from __future__ import annotations

import pytest

from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway

FOREGROUND = b'{"foreground":true}'


def frames_left(gateway: Gateway, device: str = "phone") -> int:
    return gateway.context.frame_rates.left("alice", device, gateway.context.timers.now).remaining


async def test_new_connection_does_not_renew_the_budget(gateway: Gateway) -> None:
    full = frames_left(gateway)
    for _ in range(3):
        phone = await gateway.connect("phone")
        for _ in range(100):
            phone.connection.receive(b'{"ping":1}')
        phone.connection.end()

    assert frames_left(gateway) == full - 300
    assert frames_left(gateway, "laptop") == full


@pytest.mark.parametrize(
    ("frame", "units"),
    [(FOREGROUND, 5), (b'{"ack":1}', 1), (b'{"ref":1,"system":"gregor","body":{}}', 5), (b'{"token":"x"}', 5)],
)
async def test_frames_for_redis_take_more_units(gateway: Gateway, frame: bytes, units: int) -> None:
    """Also if they are refused."""
    phone = await gateway.connect("phone")
    before = frames_left(gateway)

    phone.connection.receive(frame)

    await wait_until(lambda: frames_left(gateway) == before - units, "the charge")


async def test_device_over_its_frame_budget_is_closed(gateway: Gateway) -> None:
    first, second = await gateway.connect("phone"), await gateway.connect("phone")
    gateway.context.frame_rates.charge("alice", "phone", 1_000_000, gateway.context.timers.now)

    for connection in (first, second):
        connection.connection.receive(b'{"ping":1}')

    assert [first.closed, second.closed] == [4009, 4009]
    gateway.pass_time(1)
    third = await gateway.connect("phone")
    third.connection.receive(b'{"ping":1}')
    assert third.closed is None


async def test_queued_foreground_reports_are_one(gateway: Gateway) -> None:
    phone = await gateway.connect("phone")
    before = frames_left(gateway)

    for _ in range(20):
        phone.connection.receive(b'{"foreground":true}')
        phone.connection.receive(b'{"foreground":false}')

    # the report that runs, and the one that waits
    await wait_until(lambda: phone.connection._tasks is None, "the reports")
    assert frames_left(gateway) >= before - 40 - 2 * 4
