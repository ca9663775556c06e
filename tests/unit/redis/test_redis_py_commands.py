"""Commands over redis-py answer like our client; otherwise the store's tests on fakeredis would prove nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from gregor.redis.commands import RedisCommands, Script
from gregor.redis.errors import RedisUnavailable, ReplyError
from tests.support.redis_py_commands import RedisPyCommands
from tests.support.servers import BINARIES, open_client, running_server

COMMANDS: list[tuple[bytes | str | int, ...]] = [
    ("SET", "text", "Grüße"),
    ("SET", "text", "again", "NX"),
    ("GET", "text"),
    ("GET", "none"),
    ("HSET", "hash", "a", 1, "b", b"\xff"),
    ("HGETALL", "hash"),
    ("HMGET", "hash", "a", "none"),
    ("GET", "hash"),
    ("ZADD", "zset", 1, "m", "2.5", "n"),
    ("ZRANGE", "zset", 0, -1, "WITHSCORES"),
    ("ZSCORE", "zset", "n"),
    ("EXPIRE", "text", 100),
    ("TTL", "text"),
    ("SMEMBERS", "none"),
    ("EVAL", "return {1, 'a', {ok='fine'}, false, {'x'}, 2.7}", 0),
    ("EVAL", "return redis.error_reply('DUE at 5')", 0),
]


async def outcomes(client: RedisCommands) -> list[Any]:
    """Return replies and errors of commands that are issued together."""
    calls = [client.call(*command) for command in COMMANDS]
    calls += [client.evalsha(Script("return {KEYS[1], ARGV[1]}"), ["k"], [n]) for n in range(3)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [str(outcome) if isinstance(outcome, ReplyError) else outcome for outcome in found]


@pytest.mark.redis
async def test_redis_py_commands_answer_like_a_server(tmp_path: Path) -> None:
    fake = RedisPyCommands(FakeAsyncRedis())
    with running_server(BINARIES[0], tmp_path) as server:
        async with open_client(server.url) as client:
            expected = await outcomes(client)

    assert await outcomes(fake) == expected
    await fake.close()


async def test_closed_commands_refuse_calls() -> None:
    fake = RedisPyCommands(FakeAsyncRedis())
    waiting = fake.call("PING")
    await fake.close()

    for future in waiting, fake.call("PING"):
        with pytest.raises(RedisUnavailable):
            await future
