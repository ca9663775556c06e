"""Script calls that are sent together: each has its reply, or its error, at its position."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from gregor.redis.client import RedisClient
from gregor.redis.commands import RedisCommands, Script, ScriptCall
from gregor.redis.connection import pack_script
from gregor.redis.errors import RedisUnavailable, ReplyError
from tests.support.redis_py_commands import RedisPyCommands
from tests.support.servers import BINARIES, Server, open_client, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

ECHO = Script("return {KEYS[1], ARGV[1]}")
OTHER = Script("return ARGV[1] .. '!'")
REFUSING = Script("return redis.error_reply('DUE at ' .. ARGV[1])")
PUSH = Script("return redis.call('RPUSH', KEYS[1], ARGV[1])")


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Start a server of each kind for this test."""
    with running_server(request.param, tmp_path) as server:
        yield server


def call(script: Script, n: int, size: int = 0) -> ScriptCall:
    return script, pack_script(script.sha, ["k"], [n, b"x" * size])


def replies_as_text(replies: Sequence[Any]) -> list[Any]:
    return [str(reply) if isinstance(reply, ReplyError) else reply for reply in replies]


def mixed() -> list[ScriptCall]:
    return [call((ECHO, REFUSING, OTHER)[n % 3], n) for n in range(90)]


MIXED = [([b"k", b"%d" % n], f"DUE at {n}", b"%d!" % n)[n % 3] for n in range(90)]


async def in_order(client: RedisCommands) -> None:
    """Check the order while none of the scripts is loaded, and again when all are."""
    for _ in range(2):
        first, replies, last = await asyncio.gather(
            client.call("PING"), client.run_many(mixed()), client.call("ECHO", 1)
        )
        assert (first, replies_as_text(replies), last) == (b"PONG", MIXED, b"1")
    assert await client.run_many([]) == []


async def test_batch_replies_keep_their_positions(server: Server) -> None:
    async with open_client(server.url) as client:
        await in_order(client)


async def test_redis_py_commands_behave_the_same() -> None:
    fake = RedisPyCommands(FakeAsyncRedis())
    await in_order(fake)
    await fake.close()


async def many_commands(client: RedisCommands) -> None:
    commands = [("SET", "n", 1), ("INCR", "n"), ("HGET", "n", "field"), ("GET", "n")]

    replies = await client.call_many(commands)

    assert replies[:2] + replies[3:] == [b"OK", 2, b"2"]
    assert isinstance(replies[2], ReplyError)
    assert await client.call_many([]) == []


async def one_node_owns_all_keys(client: RedisCommands) -> None:
    [node], [group] = client.nodes, client.group_by_node(["a", "{b}:c", "d"])

    assert group.node is node and list(group.places) == [0, 1, 2]
    assert node.connected and await node.call("ECHO", node.name) == node.name.encode()
    assert client.group_by_node([]) == []


@pytest.mark.parametrize("behaviour", [many_commands, one_node_owns_all_keys])
async def test_both_kinds_of_commands(server: Server, behaviour: Callable[[RedisCommands], Awaitable[None]]) -> None:
    async with open_client(server.url) as client:
        await behaviour(client)
    fake = RedisPyCommands(FakeAsyncRedis())
    await behaviour(fake)
    await fake.close()


async def test_batch_with_missing_scripts_keeps_order(server: Server) -> None:
    async with open_client(server.url) as client:
        assert await client.run_many([call(PUSH, n) for n in range(50)]) == list(range(1, 51))
        assert await client.call("LRANGE", "k", 0, -1) == [b"%d" % n for n in range(50)]


async def test_batch_leaves_in_one_write(server: Server) -> None:
    async with open_client(server.url) as client:
        await client.run_many([call(ECHO, 0)])
        before = await _reads(client)

        await client.run_many([call(ECHO, n) for n in range(100)])

        assert await _reads(client) - before == 2  # the hundred commands, and INFO itself


async def test_cancelled_batch_does_not_shift_replies(server: Server) -> None:
    async with open_client(server.url) as client:
        await client.run_many([call(ECHO, 0)])
        given_up = asyncio.ensure_future(client.run_many([call(ECHO, n) for n in range(10)]))
        await asyncio.sleep(0)
        after = asyncio.ensure_future(client.run_many([call(ECHO, n) for n in range(3)]))
        given_up.cancel()

        assert await after == [[b"k", b"%d" % n] for n in range(3)]
        with pytest.raises(asyncio.CancelledError):
            await given_up


async def test_calls_wait_for_a_restarting_server(server: Server) -> None:
    async with open_client(server.url, max_wait_s=10) as client:
        server.kill()
        await wait_until(lambda: not client.connected, "the client has noticed")
        unwanted = asyncio.ensure_future(client.run_many([call(PUSH, 7)] * 3))
        wanted = asyncio.ensure_future(client.run_many([call(PUSH, n) for n in range(5)]))
        await asyncio.sleep(0)
        unwanted.cancel()

        server.start()

        assert await wanted == [1, 2, 3, 4, 5]


async def test_waiting_batch_fails_as_not_executed(server: Server) -> None:
    async with open_client(server.url, max_wait_s=0.1) as client:
        server.kill()
        await wait_until(lambda: not client.connected, "the client has noticed")

        assert list(map(type, await client.run_many([call(ECHO, n) for n in range(3)]))) == [RedisUnavailable] * 3

    assert list(map(type, await client.run_many([call(ECHO, n) for n in range(3)]))) == [RedisUnavailable] * 3


async def test_oversized_batch_is_refused_whole(server: Server) -> None:
    async with open_client(server.url, max_in_flight=10) as client:
        await client.call("SCRIPT", "LOAD", PUSH.source)
        fits, over, last = await asyncio.gather(
            client.run_many([call(PUSH, n) for n in range(8)]),
            client.run_many([call(PUSH, n) for n in range(3)]),
            client.run_many([call(PUSH, n) for n in range(2)]),
        )

        assert (fits, list(map(type, over)), last) == (list(range(1, 9)), [RedisUnavailable] * 3, [9, 10])


async def _reads(client: RedisClient) -> int:
    text = (await client.call("INFO", "stats")).decode()
    return int(next(line for line in text.splitlines() if line.startswith("total_reads_processed:")).partition(":")[2])
