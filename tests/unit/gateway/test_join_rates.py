"""Rate limit of joins: a device that reconnects again and again is closed with 4009 before it reads."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gregor.core.limits import Limits
from gregor.core.rate_limit import REQUEST_NS, request_buckets
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.sessions.device_rates import (
    FILTER_BYTES,
    JOIN_BURST,
    JOINS,
    JOINS_A_SECOND,
    KEY_JOIN_BURST,
    USER_JOINS_A_SECOND,
    DeviceRates,
    JoinRates,
    filter_weight,
    user_join_bucket,
)
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, settle


def test_joins_of_a_device_are_limited() -> None:
    rates = DeviceRates(JOINS)

    assert [rates.take("alice", "phone", 0.0) for _ in range(JOIN_BURST)] == [0.0] * JOIN_BURST
    assert 0 < rates.take("alice", "phone", 0.0) < 0.11
    assert rates.take("alice", "laptop", 0.0) == 0.0
    assert rates.take("alice", "phone", 0.2) == 0.0


def test_idle_devices_are_forgotten() -> None:
    rates = DeviceRates(JOINS)

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


def test_sync_of_a_join_is_charged_by_its_weight() -> None:
    rates = DeviceRates(JOINS)

    assert rates.take("alice", "phone", 0.0) == 0.0
    rates.charge("alice", "phone", JOIN_BURST + 50, 0.0)

    assert 0.0 < rates.take("alice", "phone", 0.0) < 0.3
    assert rates.take("alice", "phone", 0.3) == 0.0
    assert rates.take("alice", "laptop", 0.0) == 0.0


async def test_rendered_copies_use_the_joins_of_a_device(gateway: Gateway) -> None:
    await create_rendered_items(gateway)

    for _ in range(4):
        await gateway.connect("laptop")
        await gateway.connect("phone", hello=Hello(render="it"))

    assert joins_left(gateway, "laptop") == JOIN_BURST - 4
    gateway.dial("phone", hello=Hello(render="it"))
    await wait_until(lambda: gateway.closes(4009) == 1, "the close")


async def test_resync_waits_for_the_joins_of_its_device(gateway: Gateway) -> None:
    """Each connection may resync once a second, but all connections of a device share the cost."""
    phone, laptop = await gateway.connect("phone"), await gateway.connect("laptop")
    gateway.context.join_rates.charge("alice", "phone", JOIN_BURST, gateway.context.timers.now)
    gateway.context.join_rates.charge("alice", "phone", 20, gateway.context.timers.now)

    for device in (phone, laptop):
        device.send(ref=3, resync=True)
        await settle()

    [problem] = [frame["problem"] for frame in phone.frames]
    assert problem["code"] == "rate_limited"
    assert 1_500 < problem["retry_after_ms"] <= 2_200
    assert laptop.kinds == ["full"]
    gateway.pass_time(2.2)
    phone.send(resync=True)
    await phone.until("full")


async def test_resync_takes_a_join_of_its_device(gateway: Gateway) -> None:
    """512 connections of a user may resync at once, each once a second."""
    phone = await gateway.connect()
    left = joins_left(gateway, "phone")

    phone.send(resync=True)
    await phone.until("full")

    assert joins_left(gateway, "phone") == left - 1


async def test_devices_of_a_user_share_a_rate_of_joins(gateway: Gateway) -> None:
    """Each device has its own rate, so tokens of 64 devices could use a gateway 64 times as much."""
    phone = await gateway.connect("phone")
    exhaust_joins_of_alice(gateway)

    refused = gateway.dial("laptop")
    phone.send(ref=3, resync=True)
    await wait_until(lambda: refused.closed == 4009, "the close")

    assert re.fullmatch(r"retry_after_ms=\d{4}", refused.close_reason)
    assert [frame["problem"]["code"] for frame in phone.frames] == ["rate_limited"]
    await gateway.connect("laptop", uid="bob")
    gateway.pass_time(1)
    await gateway.connect("laptop")


async def test_refused_joins_take_none_of_the_user(gateway: Gateway) -> None:
    rates, now = gateway.context.join_rates, gateway.context.timers.now
    rates.charge("alice", "phone", JOIN_BURST, now)
    left = rates.left("alice", "laptop", now)

    assert all(rates.take("alice", "phone", now) > 0 for _ in range(2_000))

    assert rates.take("alice", "laptop", now) == 0.0
    assert left.remaining == JOIN_BURST


def test_one_device_cannot_use_up_the_joins_of_the_user() -> None:
    """Of 150 connections that it opens at once, 142 are displaced, but their copies have been read."""
    limits = Limits()
    rates = JoinRates(user_join_bucket(limits))

    for _ in range(150):
        rates.take("alice", "phone", 0.0)
    for _ in range(150):
        rates.charge("alice", "phone", JOIN_BURST, 0.0)

    assert rates.wait_s("alice", "phone", 60.0) > 0
    assert rates.left("alice", "laptop", 0.0).remaining == JOIN_BURST
    others = [rates.take("alice", f"d{n}", 0.0) for n in range(user_join_bucket(limits).burst - 3 * JOIN_BURST)]
    assert others == [0.0] * len(others)


def test_copies_of_many_devices_use_the_joins_of_the_user() -> None:
    """Each device alone may take 10 a second in the long run, but all of them only 25."""
    rates, weight, taken = JoinRates(user_join_bucket(Limits())), 90, 0

    for second in range(600):
        for device in range(64):
            if not rates.take("alice", f"d{device}", float(second)):
                rates.charge("alice", f"d{device}", weight, float(second))
                taken += 1 + weight

    assert taken < 2 * (user_join_bucket(Limits()).burst + 600 * USER_JOINS_A_SECOND)


@pytest.mark.parametrize(("gateways", "device", "user"), [(0, 10, 25), (2, 10, 25), (8, 2.5, 6.25), (40, 2, 5)])
def test_gateways_divide_the_rates_of_joins(gateways: int, device: float, user: float) -> None:
    """Joins use Redis, which all gateways share: 16 gateways gave one device 160 joins a second."""
    rates = JoinRates(user_join_bucket(Limits()), lambda: gateways)
    for number in range(user_join_bucket(Limits()).burst):
        rates.take("alice", f"d{number // 100}", 0.0)
    rates.charge("bob", "phone", JOIN_BURST, 0.0)

    assert rates.of_device.rate == device
    assert rates.left("bob", "phone", 4.0).remaining == 4 * device
    assert sum(rates.take("alice", "new", second) == 0.0 for second in [4.0] * 200) == 4 * user


def test_clients_of_a_failed_gateway_find_full_bursts() -> None:
    rates = JoinRates(user_join_bucket(Limits()), lambda: 16)

    assert [rates.take("alice", "phone", 0.0) for _ in range(JOIN_BURST)] == [0.0] * JOIN_BURST
    others = [rates.take("alice", f"d{n}", 0.0) for n in range(user_join_bucket(Limits()).burst - JOIN_BURST)]
    assert others == [0.0] * len(others)


def test_cpu_time_of_a_device_is_not_divided() -> None:
    """Each gateway has its own CPU time, which no other gateway shares."""
    few, many = (JoinRates(user_join_bucket(Limits()), lambda count=count: count) for count in (1, 16))

    for rates in few, many:
        for second in range(600):
            rates.charge("alice", "phone", 0, second, int(JOINS_A_SECOND) * REQUEST_NS)
        assert rates.wait_s("alice", "phone", 600.0) == 0.0
        for second in range(600, 1_000):
            rates.charge("alice", "phone", 0, second, 2 * int(JOINS_A_SECOND) * REQUEST_NS)
        assert rates.wait_s("alice", "phone", 1_000.0) > 60.0


async def test_gateways_that_are_alive_divide_the_rates(gateway: Gateway) -> None:
    assert gateway.context.join_rates.of_device == JOINS

    for number in range(8):
        await gateway.store.gateways.renew(f"g{number}", gateway.clock.now_us())
    assert gateway.context.join_rates.of_device.rate == JOINS_A_SECOND / 4

    gateway.pass_time(60)
    await gateway.store.gateways.renew("g0", gateway.clock.now_us())
    assert gateway.context.join_rates.of_device == JOINS


async def test_filters_of_a_connection_take_joins(gateway: Gateway) -> None:
    """The lease contains the filters, so each later join of the device reads them: 1.2 ms of Redis, not 0.4 ms."""
    longest = tuple(f"a{n:02}" + ".b" * 58 for n in range(100))

    await gateway.connect("phone", hello=Hello(prefixes=longest, systems=longest))
    await gateway.connect("desk", hello=Hello(prefixes=longest[:30]))

    assert joins_left(gateway, "phone") == JOIN_BURST - 1 - 5
    assert joins_left(gateway, "desk") == JOIN_BURST - 1
    assert filter_weight(None, ("x" * FILTER_BYTES,)) == 1


async def test_observers_use_no_joins_of_the_user(gateway: Gateway) -> None:
    """A key has its own joins, and is not refused because the devices have none."""
    rates, now = gateway.context.join_rates, gateway.context.timers.now

    for number in range(10):
        rates.charge("alice", f"key/{number}", JOIN_BURST, now)

    assert rates.take("alice", "phone", now) == 0.0
    exhaust_joins_of_alice(gateway)
    assert rates.take("alice", "phone", now) > 0.0
    assert rates.take("alice", "key/10", now) == 0.0


def test_observers_of_a_limited_key_share_its_rate_over_all_users() -> None:
    rates = JoinRates(user_join_bucket(Limits()))

    def take(number: int, holder: str, now_s: float, rate: float | None) -> float:
        return rates.take(f"u{number}", holder, now_s, rate)

    assert [take(n, "key/a", 0.0, 2.0) for n in range(KEY_JOIN_BURST)] == [0.0] * KEY_JOIN_BURST
    assert 0.4 < take(999, "key/a", 0.0, 2.0) <= 0.5
    assert [take(n, "key/b", 0.0, None) for n in range(2 * KEY_JOIN_BURST)] == [0.0] * 2 * KEY_JOIN_BURST
    assert take(999, "key/a", 0.5, 2.0) == 0.0
    rates.charge("u999", "key/a", 10, 0.5)
    assert 5.4 < take(998, "key/a", 0.5, 2.0) <= 5.5
    assert take(998, "key/a", 1_000.0, 2.0) == 0.0


@pytest.mark.parametrize("weight", [1, 20, JOIN_BURST])
def test_copies_of_one_user_take_half_of_the_rate_of_a_key(weight: int) -> None:
    """The user decides how large its copies are. The observers of other users, within the other half, always join."""
    rates = JoinRates(user_join_bucket(Limits()))

    refused = 0
    for second in range(3_600):
        if rates.take("mallory", "key/k", second, 8.0) == 0.0:
            rates.charge("mallory", "key/k", weight, second)
        refused += sum(rates.take(f"bob{n}", "key/k", second + 0.5, 8.0) > 0.0 for n in range(3))

    assert refused == 0


def test_all_connections_of_a_user_may_join_twice_at_once() -> None:
    limits = Limits()

    assert user_join_bucket(limits).burst == 2 * limits.devices * limits.connections
    assert user_join_bucket(replace(limits, devices=1)).burst == JOIN_BURST


async def test_observers_use_no_joins_of_the_device_that_they_name(gateway: Gateway) -> None:
    """A service key with the scope ``read`` alone could keep the devices of any user from joining."""
    key, _ = await gateway.store.access.create_key(["read"], None, None, None, gateway.clock.now_us())

    for _ in range(JOIN_BURST):
        observer = gateway.observe("phone", key=key.id)
        await wait_until(lambda observer=observer: observer.frames, "the sync")

    assert joins_left(gateway, "phone") == JOIN_BURST
    refused = gateway.observe("phone", key=key.id)
    await wait_until(lambda: refused.closed == 4009, "the close")
    await gateway.connect("phone")


async def test_copy_for_a_client_that_left_is_charged(gateway: Gateway) -> None:
    await create_rendered_items(gateway)
    reader = gateway.context.sync_reader

    gone = gateway.dial(hello=Hello(render="it"))
    await wait_until(lambda: reader.waiting == 1 and not reader._queued, "the rendering", step_s=0)
    gone.connection.end()
    await wait_until(lambda: reader.waiting == 0, "its end")

    assert joins_left(gateway, "phone") < JOIN_BURST - 50


async def test_join_that_displaces_a_device_takes_requests_of_its_user(gateway: Gateway) -> None:
    """Rates of joins hold for one gateway, so tokens of many devices could displace others at many gateways."""
    devices, limits = gateway.store.devices, gateway.context.limits
    for number in range(limits.devices):
        await devices.ensure_device("alice", f"d{number:02}", gateway.clock.now_us())

    known = await gateway.connect("d63")
    assert await requests_left(gateway) == limits.user_request_burst
    await gateway.connect("new")
    assert await requests_left(gateway) == limits.user_request_burst - 5

    await take_requests(gateway, limits.user_request_burst - 8)
    refused = gateway.dial("newer")
    await wait_until(lambda: refused.closed == 4009, "the close")
    assert re.fullmatch(r"retry_after_ms=\d{4}", refused.close_reason)
    assert await devices.device("alice", "newer", gateway.clock.now_us()) is None
    assert known.closed is None
    gateway.pass_time(1)
    await gateway.connect("newer")


def exhaust_joins_of_alice(gateway: Gateway) -> None:
    """Take all joins of alice by devices, none of which has used up its own."""
    bucket, now = user_join_bucket(gateway.context.limits), gateway.context.timers.now
    for taken in range(0, bucket.burst, 100):
        gateway.context.join_rates.charge("alice", f"d{taken}", min(100, bucket.burst - taken), now)


async def take_requests(gateway: Gateway, count: int) -> None:
    """Take from the requests of alice."""
    [*_, bucket] = request_buckets("alice", "", gateway.context.limits)
    await gateway.store.access.take_all("alice", (bucket,), count, gateway.clock.now_us())


async def requests_left(gateway: Gateway) -> int:
    """Return how many requests alice has left."""
    [*_, bucket] = request_buckets("alice", "", gateway.context.limits)
    return (await gateway.store.access.take_all("alice", (bucket,), 0, gateway.clock.now_us())).remaining


async def create_rendered_items(gateway: Gateway) -> None:
    """Create 100 items with titles of 1,000 characters: a weight of about 56."""
    assert await gateway.store.categories.apply({"user.joined": {"title": "{{ body }}"}}, gateway.clock.now_us())
    await gateway.context.registry.refresh()
    await gateway.create(*(f"i{n}" for n in range(100)), body="x" * 1_000)


def joins_left(gateway: Gateway, device: str) -> int:
    return gateway.context.join_rates.left("alice", device, gateway.context.timers.now).remaining
