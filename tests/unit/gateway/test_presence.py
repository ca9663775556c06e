"""Presence at a gateway: one lease carries all sessions; sessions that the store lost are written again."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from gregor.core.limits import SECOND_US
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Unavailable
from gregor.store.gateways import GATEWAY_LEASE_US, REFRESH_S
from gregor_gateway.protocol.hello import Hello
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


def report_another_server(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next renewal report that another server answers, as after a failover."""
    renew, answers = gateway.store.gateways.renew, iter([False])

    async def renew_and_report(name: str, now_us: int) -> bool:
        is_kept = await renew(name, now_us)
        return next(answers, is_kept)

    monkeypatch.setattr(gateway.store.gateways, "renew", renew_and_report)


async def refuse(*_: Any) -> None:
    raise Unavailable("the shard of the user is away")


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


async def test_lost_sessions_of_a_paused_gateway_are_written_again(gateway: Gateway) -> None:
    """A virtual machine was suspended, and another connection of the user removed the sessions of the dead gateway."""
    await gateway.context.presence.join()
    gateway.context.presence.start()
    await gateway.connect()
    await pass_seconds(gateway, 10)

    gateway.clock.advance(24)  # and no timer of the gateway runs
    gateway.store._data.owner("alice").leases.clear()
    await pass_seconds(gateway, 50)

    assert await is_online(gateway)


async def test_session_whose_close_was_lost_ends(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover lost the close. The sessions of connected devices stay open during the repair."""
    await gateway.context.presence.join()
    gateway.context.presence.start()
    phone = await gateway.connect(hello=Hello(foreground=True))
    await gateway.connect(uid="bob")
    await pass_seconds(gateway, 10)
    stored = copy.deepcopy(gateway.store._data.owner("alice").leases)
    phone.connection.close(4001)
    await settle()
    gateway.store._data.owner("alice").leases = stored
    report_another_server(gateway, monkeypatch)

    for _ in range(75):
        await pass_seconds(gateway, 1)
        assert await is_online(gateway, "bob")

    assert not await is_online(gateway)


async def test_session_opened_during_a_repair_stays_open(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store answers after the sweep has passed the group of the session, which has the former id."""
    await gateway.context.presence.join()
    gateway.context.presence.start()
    await pass_seconds(gateway, 10)
    open_session, repaired = gateway.store.devices.open_session, asyncio.Event()

    async def open_slowly(*arguments: Any) -> Any:
        displaced = await open_session(*arguments)
        await repaired.wait()
        return displaced

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store.devices, "open_session", open_slowly)
        gateway.dial()
        await settle()
    report_another_server(gateway, monkeypatch)
    await pass_seconds(gateway, 50)
    repaired.set()
    await pass_seconds(gateway, 30)

    assert await is_online(gateway)


async def test_repair_waits_for_a_shard_that_is_away(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sessions stay open by the former id of the gateway until they could be written."""
    await gateway.context.presence.join()
    gateway.context.presence.start()
    await gateway.connect()
    await pass_seconds(gateway, 10)
    report_another_server(gateway, monkeypatch)

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store.devices, "renew_sessions", refuse)
        for _ in range(90):
            await pass_seconds(gateway, 1)
            assert await is_online(gateway)
    for _ in range(90):
        await pass_seconds(gateway, 1)
        assert await is_online(gateway)


async def test_changed_foreground_is_stored_when_the_store_is_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.context.presence.join()
    gateway.context.presence.start()
    phone, left = await gateway.connect(hello=Hello(foreground=True)), await gateway.connect(uid="bob")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store.devices, "renew_sessions", refuse)
        phone.send(foreground=False)
        left.send(foreground=True)
        await settle()
        left.connection.end()
        await pass_seconds(gateway, 5)
    await pass_seconds(gateway, 2)

    (found,) = await gateway.store.devices.presence(["alice"], gateway.clock.now_us())
    assert (found.online, found.foreground) == (True, False)
    assert not await is_online(gateway, "bob")  # a closed session is not recorded again


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

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store.devices, "close_session", refuse)
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
