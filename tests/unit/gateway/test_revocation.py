"""Closes that were lost in a gap of the channel are found in the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace as with_changes
from typing import Any

import pytest

from gregor.store.contract.store import Unavailable
from gregor_gateway.protocol.hello import Hello
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, LocalDevice, settle


async def revoke(gateway: Gateway) -> None:
    await gateway.store.devices.revoke("alice", "phone", gateway.clock.now_us(), gateway.clock.now_us())


async def forget_device(gateway: Gateway) -> None:
    await gateway.store.devices.forget_device("alice", "phone", gateway.clock.now_us(), b"abc")


async def delete_user(gateway: Gateway) -> None:
    await gateway.store.users.delete_user("alice", gateway.clock.now_us())


async def replace(gateway: Gateway) -> None:
    lease = gateway.context.hub.channels["alice"].subscribers[0].lease("elsewhere")
    newer = type(lease)(lease.session, "newer", "elsewhere", lease.opened_us + 1, False, None, None)
    await gateway.store.devices.open_session("alice", "phone", newer, gateway.clock.now_us(), 60_000_000)
    await gateway.store.devices.publish_control(
        "alice", {"close": {"device": "phone", "connection": "none", "code": 4504}}
    )


async def phone_and_laptop(gateway: Gateway) -> tuple[LocalDevice, LocalDevice]:
    """Connect a phone that must be closed and a laptop that may stay; the channel then has a gap."""
    phone, laptop = await gateway.connect(hello=Hello(session="one")), await gateway.connect("laptop")
    gateway.feed.block(gateway.store.channel_of("alice"))
    return phone, laptop


@pytest.mark.parametrize(
    ("happens", "code"),
    [(revoke, 4502), (forget_device, 4003), (replace, 4504)],
    ids=["revoked", "forgotten", "replaced"],
)
async def test_close_lost_in_a_gap_is_repeated(
    gateway: Gateway, happens: Callable[[Gateway], Awaitable[None]], code: int
) -> None:
    phone, laptop = await phone_and_laptop(gateway)
    await happens(gateway)
    await settle()
    before = phone.closed

    gateway.feed.unblock()
    await wait_until(lambda: phone.closed is not None, "the close")
    await settle(100)

    assert [before, phone.closed, laptop.closed] == [None, code, None]


async def test_user_deleted_in_a_gap_is_closed(gateway: Gateway) -> None:
    phone, laptop = await phone_and_laptop(gateway)
    await delete_user(gateway)
    await settle()

    gateway.feed.unblock()
    await wait_until(lambda: phone.closed and laptop.closed, "the closes")

    assert (phone.closed, laptop.closed) == (4502, 4502)


@pytest.mark.parametrize("device", ["", "phone"])
async def test_observer_of_a_deleted_user_is_closed(gateway: Gateway, device: str) -> None:
    await gateway.send({"create": {"aa": {"category": "mail"}}})
    await revoke(gateway)
    gateway.pass_time(1)
    connect_observer = gateway.observe(device)
    await wait_until(lambda: connect_observer.frames, "the sync")
    await gap_only(gateway)
    assert connect_observer.closed is None, "what was revoked before does not concern it"

    gateway.feed.block(gateway.store.channel_of("alice"))
    await delete_user(gateway)
    await settle()
    gateway.feed.unblock()
    await wait_until(lambda: connect_observer.closed is not None, "the close")

    assert connect_observer.closed == 4502


async def gap_only(gateway: Gateway) -> None:
    """A gap in which nothing happened."""
    gateway.feed.block(gateway.store.channel_of("alice"))
    gateway.feed.unblock()
    await settle(100)


async def test_failed_revocation_check_is_retried(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    phone, _ = await phone_and_laptop(gateway)
    await revoke(gateway)
    await settle()
    devices = gateway.store.devices

    async def down(*_: object) -> None:
        raise Unavailable("down")

    with monkeypatch.context() as broken:
        broken.setattr(type(devices), "revoked_before", down)
        gateway.feed.unblock()
        await settle(100)
    assert phone.closed is None
    gateway.pass_time(1.2)
    await wait_until(lambda: phone.closed == 4502, "the close")


async def test_stored_device_is_read_once_for_its_connections(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have 512 connections, and all users are checked after a failover."""
    phones = [await gateway.connect(hello=Hello(session=f"s{number}")) for number in range(8)]
    devices, read = gateway.store.devices, []
    original = type(devices).device

    async def device(self: Any, uid: str, name: str, now_us: int) -> Any:
        read.append(name)
        return await original(self, uid, name, now_us)

    monkeypatch.setattr(type(devices), "device", device)
    await gap_only(gateway)

    assert read == ["phone"]
    assert {phone.closed for phone in phones} == {None}


async def test_joining_and_observing_connections_stay(gateway: Gateway) -> None:
    phone = await gateway.connect()
    phone.connection.is_present = False  # once before it joined, and once as an observer
    await forget_device_of(gateway, "phone")

    gateway.context.hub.channels["alice"].gap(same_server=True)
    await settle(100)

    assert phone.closed is None


async def forget_device_of(gateway: Gateway, device: str) -> None:
    """Delete a device without publishing it."""
    gateway.feed.drop_next(10)
    await gateway.store.devices.forget_device("alice", device, gateway.clock.now_us(), b"abc")
    gateway.feed.drop_next(0)


async def test_older_connection_of_the_session_closes_nothing(gateway: Gateway) -> None:
    """A failover lost the opening of the newer connection, and brought back the one that it had replaced."""
    phone, _ = await phone_and_laptop(gateway)
    lease = phone.connection.lease("elsewhere")
    older = with_changes(lease, connection="older", opened_us=lease.opened_us - 1)
    await gateway.store.devices.open_session("alice", "phone", older, gateway.clock.now_us(), 60_000_000)

    gateway.feed.unblock()
    await settle(200)

    assert phone.closed is None
