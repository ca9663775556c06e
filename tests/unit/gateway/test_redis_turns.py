"""Frames that need Redis take turns: all connections of a user share a rate at each gateway."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest

from gregor.clock import ManualClock
from gregor.core.limits import Limits
from gregor.store.contract.devices import DeviceSession
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.protocol.session import SessionState
from gregor_gateway.runtime.timer_wheel import TimerWheel
from gregor_gateway.sessions.redis_turns import RedisTurns, redis_bucket
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import NOW_US, Gateway, LocalDevice, settle

BUCKET = redis_bucket(Limits())


def use_up(gateway: Gateway, spare: int = 0, wait_s: float = 0.0) -> None:
    """Leave alice ``spare`` turns, or let her next turn be in ``wait_s``."""
    rates, now_s = gateway.context.redis_turns._rates, gateway.context.timers.now
    for _ in range(BUCKET.burst - spare + round(wait_s * BUCKET.rate)):
        rates.charge("alice", "", 1, now_s)


@pytest.fixture
def reports(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Record the reports of presence that reach the store: device and value."""
    renew, stored = gateway.store.devices.renew_sessions, list[tuple[str, bool]]()

    async def record(entries: list[tuple[str, str, DeviceSession]], *more: Any) -> None:
        stored.extend((device, session.foreground) for _, device, session in entries)
        await renew(entries, *more)

    monkeypatch.setattr(gateway.store.devices, "renew_sessions", record)
    return stored


async def devices(gateway: Gateway, count: int) -> list[LocalDevice]:
    return [await gateway.connect(f"d{n}") for n in range(count)]


async def test_all_devices_of_a_user_may_enter_the_foreground_at_once(
    gateway: Gateway, reports: list[tuple[str, bool]]
) -> None:
    assert BUCKET.burst == Limits().devices * Limits().connections
    connected = await devices(gateway, Limits().devices)

    for device in connected:
        device.send(foreground=True)
    await settle()

    assert len(reports) == Limits().devices
    assert {device.closed for device in connected} == {None}


async def test_frames_above_the_rate_of_a_user_wait(gateway: Gateway, reports: list[tuple[str, bool]]) -> None:
    """Each device may send 80 a second: 64 of them took 20 % of a core of Redis."""
    connected = await devices(gateway, 64)
    use_up(gateway)
    gateway.pass_time(0.1)

    for second in range(5):
        for number in range(8):
            for device in connected:
                device.send(foreground=number % 2 == second % 2)
            await settle()
            gateway.pass_time(0.125)
            await settle()

    assert 4 * BUCKET.rate <= len(reports) <= 5.2 * BUCKET.rate
    assert {device.closed for device in connected} == {None}


async def test_waiting_report_has_the_newest_value(gateway: Gateway, reports: list[tuple[str, bool]]) -> None:
    phone = await gateway.connect()
    use_up(gateway, wait_s=0.5)

    for value in (True, False, True, False):
        phone.send(foreground=value)
        await settle()
    assert reports == []
    gateway.pass_time(0.7)
    await settle()

    assert reports == [("phone", False)]


@pytest.mark.parametrize("frame", [{"foreground": True}, {"ack": 1}, {"ref": 1, "system": "gregor", "body": {}}])
async def test_user_above_its_rate_delays_no_other_one(gateway: Gateway, frame: dict[str, Any]) -> None:
    alice, bob = await gateway.connect(), await gateway.connect(uid="bob")
    use_up(gateway, wait_s=1)

    alice.send(**frame)
    bob.send(**frame)
    await settle()

    assert alice.connection._tasks is not None
    assert bob.connection._tasks is None
    gateway.pass_time(1.2)
    await settle()
    assert alice.connection._tasks is None


async def test_message_waits_and_is_answered(gateway: Gateway) -> None:
    phone = await gateway.connect()
    use_up(gateway, wait_s=1)

    phone.send(ref=1, system="gregor", body={"create": {"aa": {"category": "mail"}}})
    await settle()
    assert phone.frames == []
    gateway.pass_time(1.2)

    assert (await phone.until("receipt"))["ref"] == 1


async def test_messages_that_wait_are_not_decoded(gateway: Gateway) -> None:
    """A decoded text of brackets takes 20 times the memory: the frames of one user filled the memory of a gateway."""
    gateway.rules = replace(gateway.rules, queue_bytes=1_000_000)
    connected = await devices(gateway, 4)
    use_up(gateway, wait_s=1)
    before = len(gc.get_objects())

    for number in range(3):
        for device in connected:
            body = {"create": {f"i{number}": {"category": "mail", "body": [[]] * 3_000}}}
            device.send(ref=number, system="gregor", body=body)
        await settle()

    assert {device.connection._tasks is None for device in connected} == {False}
    assert len(gc.get_objects()) - before < 3_000  # one document has more
    gateway.pass_time(1.2)
    for device in connected:
        await device.until("receipt", 3)


async def test_frames_that_wait_are_dropped_with_a_close(gateway: Gateway, reports: list[tuple[str, bool]]) -> None:
    phone = await gateway.connect()
    use_up(gateway, wait_s=1)
    phone.send(ack=1)
    phone.send(foreground=True)

    phone.connection.close(4502)
    gateway.pass_time(1.2)
    await settle()

    assert reports == []
    assert await gateway.store.devices.acknowledgements("alice") == []


@pytest.mark.parametrize(("wait_s", "is_stored"), [(4, True), (10, False)])
async def test_ack_of_a_client_that_left_waits_for_seconds(gateway: Gateway, wait_s: float, is_stored: bool) -> None:
    """Without a bound, clients that connect and leave again and again would fill the memory of the gateway."""
    phone = await gateway.connect()
    await gateway.create("aa")
    await settle()
    use_up(gateway, wait_s=wait_s)

    phone.send(ack=1)
    phone.connection.end()
    await settle()
    assert (phone.connection._tasks is None) is not is_stored
    gateway.pass_time(wait_s + 0.2)
    await settle()

    assert [each.until for each in await gateway.store.devices.acknowledgements("alice")] == [1] * is_stored


async def test_observer_takes_no_turn_of_its_user(gateway: Gateway) -> None:
    observer = gateway.observe()
    await wait_until(lambda: observer.connection.session.state is SessionState.LIVE, "the first sync")

    observer.send(ref=1, system="gregor", body={})
    await observer.until("problem")

    assert len(gateway.context.redis_turns) == 0


async def test_idle_users_are_forgotten() -> None:
    clock = ManualClock(NOW_US)
    turns = RedisTurns(Limits(), TimerWheel(clock))

    for number in range(1_000):
        await turns.take(f"u{number}")
        clock.advance(0.1)

    assert len(turns) < 10


@pytest.mark.parametrize("hello", [Hello(), Hello(foreground=True)])
async def test_join_takes_no_turn(gateway: Gateway, hello: Hello) -> None:
    use_up(gateway, wait_s=60)

    await gateway.connect(hello=hello)
