"""Leases of gateways: which gateways a process takes for alive, also when it cannot ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gregor.core.limits import SECOND_US, Limits
from gregor.redis.errors import RedisUnavailable
from gregor.store.contract.store import Unavailable
from gregor.store.gateways import GATEWAY_LEASE_US, HELD_LEASE_US, LiveGateways
from gregor.store.redis.store import RedisStore
from tests.support.servers import BINARIES, Server, open_client, running_server
from tests.support.wait import wait_until
from tests.unit.store.redis_setup import NOW_US, RedisSetup, make_store, session

HOUR_US = 3_600 * SECOND_US
RETENTION_US = Limits().retention_us


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Start a server of each kind for this test."""
    with running_server(request.param, tmp_path) as server:
        yield server


class WithoutKey:
    """Commands of a server for which one key is in a shard that is away."""

    def __init__(self, commands: Any, key: str) -> None:
        self._commands = commands
        self._key = key
        self.is_away = True

    def evalsha(self, script: Any, keys: Any, args: Any) -> asyncio.Future[Any]:
        return self._gone() if self.is_away and self._key in keys else self._commands.evalsha(script, keys, args)

    def call(self, *args: Any) -> asyncio.Future[Any]:
        return self._gone() if self.is_away and self._key in args else self._commands.call(*args)

    def _gone(self) -> asyncio.Future[Any]:
        gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        gone.set_exception(RedisUnavailable("the shard is away"))
        return gone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._commands, name)


def test_gateway_is_dead_after_its_lease() -> None:
    live = LiveGateways()
    live.observe({"g1": NOW_US, "g2": NOW_US - GATEWAY_LEASE_US + 1}, NOW_US, RETENTION_US)
    assert (live.is_live("g1"), live.is_live("g2"), live.is_live("g3"), live.names) == (True, True, False, " g1 g2 ")
    assert live.count == 2

    live.observe({}, NOW_US + GATEWAY_LEASE_US - 1, RETENTION_US)

    assert (live.is_live("g1"), live.is_live("g2"), live.names, live.count) == (True, False, " g1 ", 1)
    assert live.ends_of(["g2", "g3"]) == f" g2={NOW_US - GATEWAY_LEASE_US + 1} g3=0 "


def test_unread_process_knows_no_gateway() -> None:
    assert not LiveGateways().is_live("g1") and not LiveGateways().is_live("")


def test_gateways_dead_beyond_retention_are_dropped() -> None:
    live = LiveGateways()
    live.observe({"g1": NOW_US}, NOW_US, RETENTION_US)

    live.observe({}, NOW_US + RETENTION_US, RETENTION_US)

    assert live.alive_us("g1") == 0


async def test_renewed_gateway_is_alive_in_other_processes(setup: RedisSetup) -> None:
    """Also if the clock of a host is an hour ahead or behind: renewals have the time of the server."""
    one, *others = [make_store(setup) for _ in range(4)]

    assert not await one.gateways.renew("g1", NOW_US)
    assert await one.gateways.renew("g1", NOW_US)
    for other, ahead_us in zip(others, (0, HOUR_US, -HOUR_US), strict=True):
        await other.gateways.refresh(NOW_US + ahead_us)
        assert other.gateways.live.is_live("g1") and other.gateways.live_count == 1
        assert abs(other.gateways.live.alive_us("g1") - NOW_US - ahead_us) < 10 * SECOND_US
    assert 0 < await setup.ttl_ms(one.keys.gateways) <= RETENTION_US // 1_000


async def test_ended_lease_is_reported_to_its_gateway(setup: RedisSetup) -> None:
    """A suspended gateway: others may have removed its sessions meanwhile."""
    store = make_store(setup)
    await store.gateways.renew("g1", NOW_US)
    last_us = int(await setup.connection.call("ZSCORE", setup.keys.gateways, "g1"))

    await setup.connection.call("ZADD", setup.keys.gateways, last_us - GATEWAY_LEASE_US, "g1")

    assert not await store.gateways.renew("g1", NOW_US)
    assert await store.gateways.renew("g1", NOW_US)


@pytest.mark.redis
async def test_restarted_server_is_reported_once(server: Server) -> None:
    """Its data may lack the last writes, though it has the lease. A reconnect to the same server is not reported."""
    async with open_client(server.url, max_wait_s=10) as link:
        store = RedisStore(link, Limits())
        await store.gateways.renew("g1", NOW_US)
        server.say("CLIENT", "KILL", "TYPE", "normal")
        await wait_until(lambda: link.reconnections == 1, "the client is connected again")
        assert await store.gateways.renew("g1", NOW_US)
        server.say("SAVE")
        server.kill()
        server.start()
        await wait_until(lambda: link.reconnections == 2, "the client is connected again")

        kept = [await store.gateways.renew("g1", NOW_US) for _ in range(2)]

    assert kept == [False, True]


async def test_known_gateways_stay_alive_while_their_key_is_away(setup: RedisSetup) -> None:
    """Fail static: a device does not look offline because a shard is away."""
    commands = WithoutKey(setup.connection, setup.keys.gateways)
    commands.is_away = False
    store = RedisStore(commands, Limits(), setup.keys.namespace, allow_oom=setup.allow_oom)
    await store.gateways.renew("g1", NOW_US)
    await store.gateways.refresh(NOW_US)
    await store.devices.open_session("alice", "phone", session("s1"), NOW_US, HELD_LEASE_US)
    commands.is_away = True

    with pytest.raises(Unavailable):
        await store.gateways.refresh(NOW_US + HOUR_US)

    assert (await store.devices.presence(["alice"], NOW_US + HOUR_US))[0].online
    assert await store.devices.session("alice", "phone", "s1", NOW_US + HOUR_US) is not None
