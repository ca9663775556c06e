"""A ping of all servers that is given up leaves no future behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gregor.redis.errors import RedisUnavailable
from gregor.store.redis.store import RedisStore
from tests.support.builders import LIMITS


class SilentServer:
    """Commands of one server that does not answer."""

    name = "redis:6379"

    def __init__(self) -> None:
        self.sent: list[asyncio.Future[Any]] = []
        self.nodes = (self,)

    def call(self, *args: Any) -> asyncio.Future[Any]:
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]


async def test_cancelled_ping_leaves_no_error_behind() -> None:
    server = SilentServer()
    store = RedisStore(server, LIMITS)  # type: ignore[arg-type]

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await store.ping()
    [sent] = server.sent
    if not sent.done():
        sent.set_exception(RedisUnavailable("connection refused"))

    assert sent.cancelled()
