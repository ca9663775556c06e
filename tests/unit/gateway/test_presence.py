"""Presence at a gateway: one lease carries all sessions; sessions that the store lost are written again."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.core.limits import SECOND_US
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Unavailable
from gregor.store.gateways import GATEWAY_LEASE_US, REFRESH_S
from tests.unit.gateway.conftest import Gateway, settle

HOUR_S = 3_600


async def is_online(gateway: Gateway, uid: str = "alice") -> bool:
    (found,) = await gateway.store.devices.presence([uid], gateway.clock.now_us())
    return found.online


async def pass_seconds(gateway: Gateway, seconds: int) -> None:
    for _ in range(seconds):
        gateway.pass_time(1)
        await settle(2)


def break_leases(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make only the key of the gateways unavailable."""

    async def renew(name: str, now_us: int) -> bool:
        raise Unavailable("the shard of the gateways is away")

    monkeypatch.setattr(gateway.store.gateways, "renew", renew)


async def test_idle_connection_is_hardly_written(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 0.001 writes a second and connection, and it stays online."""
    written: list[Any] = []
    renew = gateway.store.devices.renew_sessions

    async def count(entries: list[tuple[str, str, DeviceSession]], now_us: int, lease_us: int) -> None:
        written.extend(entries)
        await renew(entries, now_us, lease_us)

    monkeypatch.setattr(gateway.store.devices, "renew_sessions", count)
    await gateway.context.presence.join()
    gateway.context.presence.start()
    await gateway.connect()

    await pass_seconds(gateway, HOUR_S)

    assert await is_online(gateway)
    assert 1 <= len(written) <= 0.001 * HOUR_S


async def test_dead_gateway_is_noticed_in_20_seconds(gateway: Gateway) -> None:
    await gateway.context.presence.join()
    gateway.context.presence.start()
    await gateway.connect()
    await pass_seconds(gateway, 60)
    assert await is_online(gateway)

    gateway.clock.advance(20 - REFRESH_S)  # and no timer of the gateway runs

    assert GATEWAY_LEASE_US + REFRESH_S * SECOND_US <= 20 * SECOND_US
    assert not await is_online(gateway)


async def test_lost_sessions_are_written_again(gateway: Gateway) -> None:
    """The store lost the lease of the gateway, so it may have lost its sessions: all are written in 20 seconds."""
    await gateway.context.presence.join()
    gateway.context.presence.start()
    for uid in ("alice", "bob", "carol"):
        await gateway.connect(uid=uid)
    await pass_seconds(gateway, 10)
    gateway.store._data.gateways.clear()
    for uid in ("alice", "bob", "carol"):
        gateway.store._data.owner(uid).leases.clear()

    await pass_seconds(gateway, 50)

    assert all([await is_online(gateway, uid) for uid in ("alice", "bob", "carol")])


async def test_sessions_keep_themselves_without_gateway_leases(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session then has its own lease, as long as the key of the gateways is unavailable."""
    await gateway.context.presence.join()
    gateway.context.presence.start()
    await gateway.connect()
    break_leases(gateway, monkeypatch)
    await gateway.connect(uid="bob")

    await pass_seconds(gateway, 60)  # meanwhile, readers keep the gateways that they knew (LiveGateways)
    for _ in range(300):
        await pass_seconds(gateway, 1)
        assert await is_online(gateway)
        assert await is_online(gateway, "bob")


async def test_failed_close_is_repeated(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that could not be closed would stay open as long as its gateway."""
    await gateway.context.presence.join()
    gateway.context.presence.start()
    phone = await gateway.connect()

    async def fail(*_: Any) -> None:
        raise Unavailable("the shard of the user is away")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store.devices, "close_session", fail)
        phone.connection.close(4001)
        await settle()
    await pass_seconds(gateway, 20)

    assert not await is_online(gateway)


async def test_unknown_opening_is_closed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store executed the opening, but its reply was lost."""
    await gateway.context.presence.join()
    gateway.context.presence.start()
    open_session = gateway.store.devices.open_session

    async def lose(*arguments: Any) -> Any:
        await open_session(*arguments)
        raise Unavailable("the connection was lost")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store.devices, "open_session", lose)
        gateway.dial()
        await settle()
        assert await is_online(gateway)
    await pass_seconds(gateway, 20)

    assert not await is_online(gateway)
