"""Fixtures: connections to servers of each kind, each test in its own namespace."""

import secrets
from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis

from gregor.store.redis.devices.device_state import RedisDevices
from gregor.store.redis.keys import Keys
from tests.support.redis_py_commands import RedisPyCommands
from tests.support.servers import open_client
from tests.unit.store.redis_setup import RedisSetup, make_devices


@pytest.fixture(
    params=[
        pytest.param("redis_server", marks=pytest.mark.redis),
        pytest.param("valkey_server", marks=pytest.mark.redis),
        "fakeredis",
    ]
)
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[RedisSetup]:
    """Return a connection to each kind of server that the scripts must run on."""
    keys = Keys(f"test-{secrets.token_hex(4)}")
    if request.param == "fakeredis":
        client = FakeAsyncRedis()
        link = RedisPyCommands(client)
        yield RedisSetup(link, keys, None, allow_oom=False)
        await link.close()
        await client.aclose()
        return
    url = request.getfixturevalue(request.param)
    async with open_client(url) as connection:
        yield RedisSetup(connection, keys, url, allow_oom=True)


@pytest.fixture
async def real_setup(redis_server: str) -> AsyncIterator[RedisSetup]:
    """Return a connection to a real Redis."""
    async with open_client(redis_server) as connection:
        yield RedisSetup(connection, Keys(f"test-{secrets.token_hex(4)}"), redis_server, allow_oom=True)


@pytest.fixture
def devices(setup: RedisSetup) -> RedisDevices:
    """Return the devices part of a store on each kind of server."""
    return make_devices(setup)
