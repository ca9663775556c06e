"""The frame budget of a device: frames over many connections, and frames that need the store."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.limits import Limits
from gregor.core.messages.cost import text_weight
from gregor.core.rate_limit import take
from gregor_gateway.sessions.device_rates import FRAMES_A_MESSAGE, device_frame_bucket, frame_bucket, length_units
from tests.support.cpu_time import fastest
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
    [(FOREGROUND, 5), (b'{"ack":1}', 5), (b'{"ref":1,"system":"gregor","body":{}}', 5), (b'{"token":"x"}', 5)],
)
async def test_frames_for_redis_take_more_units(gateway: Gateway, frame: bytes, units: int) -> None:
    """Also if they are refused."""
    phone = await gateway.connect("phone")
    before = frames_left(gateway)

    phone.connection.receive(frame)

    await wait_until(lambda: frames_left(gateway) == before - units, "the charge")


@pytest.mark.parametrize(("size_bytes", "units"), [(255, 0), (256, 1), (16_384, 64), (262_144, 1_000)])
async def test_long_frames_take_more_units(gateway: Gateway, size_bytes: int, units: int) -> None:
    """A valid text of 256 KiB took 57 ms of CPU time, and 5 units."""
    phone = await gateway.connect("phone")
    before = frames_left(gateway)

    phone.connection.receive(b'{"ack":1}'.ljust(size_bytes))

    assert frames_left(gateway) == before - 1 - units


async def test_flood_of_long_frames_is_closed_undecoded(gateway: Gateway) -> None:
    phone = await gateway.connect("phone")
    frames = [b'{"ping":%d}'.ljust(260_000) % number for number in range(20)]

    for frame in frames:
        phone.connection.receive(frame)
    phone.connection.flush()

    assert phone.closed == 4009
    assert [frame["pong"] for frame in phone.frames if "pong" in frame] == list(range(7))


@given(st.integers(100, 256 * 1_024), st.integers(1, 60), st.integers(5, 16))
def test_messages_within_their_rate_fit_the_budgets(size: int, burst: int, connections: int) -> None:
    """A device that sends as fast as its message rate permits, over one connection, is never closed.

    With fewer connections for a device, the budget that they share is too small for this.
    """
    limits = Limits(device_rate=10.0, device_burst=burst, connections=connections)
    own, shared, messages = frame_bucket(limits), device_frame_bucket(limits), (limits.device_rate, burst)
    now_us = own_at = shared_at = messages_at = 0
    weight = min(text_weight(size), burst)
    for _ in range(300):
        _, wait_s = take(messages_at, *messages, weight, now_us)
        now_us += round(wait_s * 1_000_000)
        messages_at, wait_s = take(messages_at, *messages, weight, now_us)
        own_at, own_wait_s = take(own_at, own.rate, own.burst, 1 + length_units(size, own.burst), now_us)
        units = FRAMES_A_MESSAGE + length_units(connections * size, shared.burst)
        shared_at, shared_wait_s = take(shared_at, shared.rate, shared.burst, units, now_us)

        assert (wait_s, own_wait_s, shared_wait_s) == (0.0, 0.0, 0.0)


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


async def test_extreme_numbers_in_a_control_message(gateway: Gateway) -> None:
    """Frames that were posted to another gateway may have them as ``ref``; msgspec alone takes 30 times as long."""
    await gateway.connect("phone")
    control = gateway.context.hub.channels["alice"]._control
    raw = b'{"frames":{"session":"other","frames":[%s]}}' % b",".join([b"1e300"] * 2_000)

    assert fastest(lambda: control(raw)) < 8 * fastest(lambda: json.loads(raw))
