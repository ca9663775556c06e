"""Connections to servers of each kind, every test in a namespace of its own."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from fakeredis import FakeAsyncRedis

from gregor.store.keys import Keys
from gregor.store.link import Connection
from tests.support.fake_link import RedisPyLink
from tests.support.servers import linked


@dataclass(frozen=True)
class Ground:
    """Where a store of Redis can stand. ``url`` is ``None`` where nobody else can connect."""

    connection: Connection
    keys: Keys
    url: str | None
    allow_oom: bool

    async def ttl_ms(self, key: str) -> int:
        """Time to live of a key: -1 without end, -2 no such key."""
        return int(await self.connection.call("PTTL", key))


@pytest.fixture(
    params=[
        pytest.param("redis_server", marks=pytest.mark.redis),
        pytest.param("valkey_server", marks=pytest.mark.redis),
        "fakeredis",
    ]
)
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    """A server of each kind that the scripts must run on."""
    keys = Keys(f"test-{secrets.token_hex(4)}")
    if request.param == "fakeredis":
        client = FakeAsyncRedis()
        link = RedisPyLink(client)
        yield Ground(link, keys, None, allow_oom=False)
        await link.close()
        await client.aclose()
        return
    url = request.getfixturevalue(request.param)
    async with linked(url) as connection:
        yield Ground(connection, keys, url, allow_oom=True)


@pytest.fixture
async def real_ground(redis_server: str) -> AsyncIterator[Ground]:
    """A real Redis."""
    async with linked(redis_server) as connection:
        yield Ground(connection, Keys(f"test-{secrets.token_hex(4)}"), redis_server, allow_oom=True)
