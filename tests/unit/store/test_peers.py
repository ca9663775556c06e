"""Running schedulers find each other, and forget one that stopped renewing its lease."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

import pytest

from gregor.clock import SystemClock
from gregor.dev.embedded_redis import find_server
from gregor.redis.client import RedisClient
from gregor.store.redis.deployment import RedisDeployment
from gregor.store.redis.keys import Keys
from tests.support.servers import Server, open_client
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis


async def started(client: RedisClient, keys: Keys, service: str) -> RedisDeployment:
    deployment = RedisDeployment(client, keys)
    await deployment.agree(service)

    async def is_registered() -> bool:
        return deployment.process in await deployment.peers()

    await wait_until(is_registered, "the process is registered")
    return deployment


async def test_peers_are_the_processes_of_one_service(redis_server: str) -> None:
    keys = Keys(f"test-{secrets.token_hex(4)}")
    async with open_client(redis_server) as client:
        first, second = await started(client, keys, "scheduler"), await started(client, keys, "scheduler")
        ingest = await started(client, keys, "ingest")

        assert sorted(await first.peers()) == sorted(await second.peers()) == sorted([first.process, second.process])
        assert await ingest.peers() == [ingest.process]

        await second.close()
        assert await first.peers() == [first.process]
        await first.close()
        await ingest.close()


async def test_peer_without_renewal_is_forgotten(redis_server: str) -> None:
    keys = Keys(f"test-{secrets.token_hex(4)}")
    async with open_client(redis_server) as client:
        first, dead = await started(client, keys, "scheduler"), await started(client, keys, "scheduler")
        assert dead._own is not None
        seconds, _ = await client.call("TIME")
        score = int(float(await client.call("ZSCORE", keys.processes, dead._own.encode()))) // 1_000_000
        assert 8 <= score - int(seconds) <= 11

        await client.call("ZADD", keys.processes, (int(seconds) - 1) * 1_000_000, dead._own.encode())

        assert await first.peers() == [first.process]
        await dead.close()
        await first.close()


async def test_clock_of_a_slow_server_is_read_with_its_error(tmp_path: Path) -> None:
    """Without the round trip, a server that hangs for seconds would seem to have a wrong clock."""
    server = Server(str(find_server()), tmp_path).start()
    try:
        async with open_client(server.url) as client:
            deployment = RedisDeployment(client, Keys("test"))
            await deployment.agree("scheduler")
            server.suspend()
            asyncio.get_running_loop().call_later(0.6, server.resume)
            await deployment.peers()

            reading = deployment.server_time
            assert reading is not None and reading.error_s >= 0.25
            offset_s = reading.offset_s(SystemClock().now_us(), time.monotonic())
            assert abs(offset_s) <= reading.error_s + 0.05
            await deployment.close()
    finally:
        server.kill()


async def test_unregistered_process_has_no_peers(redis_server: str) -> None:
    async with open_client(redis_server) as client:
        assert await RedisDeployment(client, Keys(f"test-{secrets.token_hex(4)}")).peers() == []
