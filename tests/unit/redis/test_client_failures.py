"""The Redis client with a server that is gone, silent, slow, or speaks another protocol."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from gregor.redis.client import RedisClient
from gregor.redis.commands import Script
from gregor.redis.connection import pack_script
from gregor.redis.errors import RedisConnectionLost, RedisUnavailable
from tests.support.ports import free_port
from tests.support.servers import BINARIES, Server, open_client, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Start a server of each kind for this test."""
    with running_server(request.param, tmp_path) as server:
        yield server


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted_server(behaviour: Behaviour) -> AsyncIterator[str]:
    """Return the URL of a server that runs ``behaviour`` for each client."""
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.add(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            await behaviour(reader, writer)
            await reader.read()
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        listener.close()
        await asyncio.gather(*clients, return_exceptions=True)


async def test_calls_wait_for_a_restarting_server(server: Server) -> None:
    async with open_client(server.url, max_wait_s=10) as client:
        await client.evalsha(ECHO, ["k"], [1])
        server.kill()
        await wait_until(lambda: not client.connected, "the client has noticed")
        waiting = [client.call("ECHO", n) for n in range(3)]
        script = client.evalsha(ECHO, ["k"], [2])

        server.start()

        assert await asyncio.gather(*waiting) == [b"0", b"1", b"2"]
        assert await script == [b"k", b"2"]
        assert client.reconnections == 1


async def test_call_on_a_connection_does_not_wait_for_the_next_one(server: Server) -> None:
    """The next connection may lead to another server, which was promoted meanwhile."""
    async with open_client(server.url, max_wait_s=10) as client:
        assert await client.call_on_connection("ECHO", "a") == b"a"
        server.suspend()
        written = client.call("SET", "k", b"x" * 20_000_000)
        await wait_until(lambda: client._is_paused, "the server does not read")
        unwritten, waiting = client.call_on_connection("ECHO", "b"), client.call("ECHO", "c")

        server.kill()
        with pytest.raises(RedisConnectionLost):
            await written
        with pytest.raises(RedisUnavailable) as refused:
            await client.call_on_connection("ECHO", "d")
        assert not isinstance(refused.value, RedisConnectionLost)
        server.start()

        assert await waiting == b"c"
        with pytest.raises(RedisUnavailable) as refused:
            await unwritten
        assert not isinstance(refused.value, RedisConnectionLost), "it was not executed"


async def test_age_of_the_connection_begins_again_with_a_reconnect(server: Server) -> None:
    async with open_client(server.url, max_wait_s=10) as client:
        await wait_until(lambda: client.connected_for_s > 0.3, "the connection has an age")
        server.kill()
        await wait_until(lambda: not client.connected, "the client has noticed")
        assert client.connected_for_s == 0.0
        server.start()

        await client.call("PING")

        assert 0.0 < client.connected_for_s < 0.3


async def test_each_outage_has_its_own_deadline(server: Server) -> None:
    async def outage() -> None:
        server.kill()
        await wait_until(lambda: not client.connected, "the client has noticed")
        waiting = client.call("PING")
        server.start()
        assert await waiting == b"PONG"

    async with open_client(server.url, max_wait_s=1.5) as client:
        await outage()
        since = asyncio.get_running_loop().time()
        await wait_until(lambda: asyncio.get_running_loop().time() > since + 1.5, "the first deadline has passed")

        await outage()


async def test_cancelled_waiting_call_is_not_sent(server: Server) -> None:
    async with open_client(server.url, max_wait_s=10) as client:
        server.kill()
        await wait_until(lambda: not client.connected, "the client has noticed")
        unwanted, wanted = client.call("SET", "unwanted", 1), client.call("SET", "wanted", 1)
        unwanted.cancel()

        server.start()

        await wanted
        assert await client.call("EXISTS", "unwanted") == 0


async def test_waiting_call_fails_as_not_executed(server: Server) -> None:
    async with open_client(server.url, max_wait_s=0.1) as client:
        server.kill()
        await wait_until(lambda: not client.connected, "the client has noticed")

        with pytest.raises(RedisUnavailable, match=f"127.0.0.1:{server.port}") as raised:
            await client.call("INCR", "counter")

        assert not isinstance(raised.value, RedisConnectionLost)


async def test_written_command_fails_as_unknown(server: Server) -> None:
    async with open_client(server.url) as client:
        stuck = client.call("BLPOP", "nothing", 0)
        await wait_until(lambda: "blocked_clients:1" in server.say("INFO", "clients"), "the command is carried out")

        server.say("CLIENT", "KILL", "TYPE", "normal")

        with pytest.raises(RedisConnectionLost, match="unknown whether"):
            await stuck
        assert await client.call("PING") == b"PONG"


async def test_unwritten_commands_wait_for_the_next_connection(
    server: Server,
) -> None:
    async with open_client(server.url, max_wait_s=0.2, timeout_s=30) as client:
        server.suspend()
        calls = []
        for n in range(50):
            calls.append(client.call("SET", n, b"x" * 1_000_000))
            await asyncio.sleep(0)
        server.kill()

        outcomes = [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]

        lost = outcomes.count(RedisConnectionLost)
        assert outcomes == [RedisConnectionLost] * lost + [RedisUnavailable] * (50 - lost)
        assert 0 < lost < 50


async def test_replies_before_a_break_are_kept() -> None:
    async def answer_two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"server\r\n")
        writer.write(b"+PONG\r\n+OK\r\n$0\r\n\r\n")
        await reader.readuntil(b"EVALSHA")
        writer.write(b":1\r\n:2\r\n")
        await writer.drain()
        writer.close()

    async with scripted_server(answer_two) as url, open_client(url, max_wait_s=0.1) as client:
        replies = await client.run_many([(ECHO, pack_script(ECHO.sha, ["k"], [n])) for n in range(4)])

    assert replies[:2] == [1, 2]
    assert list(map(type, replies[2:])) == [RedisConnectionLost, RedisConnectionLost]


async def test_silent_server_is_dropped_after_the_timeout(server: Server) -> None:
    async with open_client(server.url, timeout_s=0.2) as client:
        server.suspend()
        started = asyncio.get_running_loop().time()

        with pytest.raises(RedisConnectionLost, match=r"was silent for 0\.2 s"):
            await client.call("PING")

        assert 0.2 <= asyncio.get_running_loop().time() - started < 2
        server.resume()
        await wait_until(lambda: client.connected, "connected again")
        assert await client.call("PING") == b"PONG"


async def test_idle_client_tolerates_silence(server: Server) -> None:
    async with open_client(server.url, timeout_s=0.05) as client:
        await client.call("PING")
        since = asyncio.get_running_loop().time()
        await wait_until(lambda: asyncio.get_running_loop().time() > since + 0.3, "six times the timeout has passed")

        assert await client.call("PING") == b"PONG"
        assert client.reconnections == 0


async def test_silence_counts_from_the_first_request(server: Server) -> None:
    async with open_client(server.url, timeout_s=1) as client:
        await client.call("PING")
        since = asyncio.get_running_loop().time()
        await wait_until(lambda: asyncio.get_running_loop().time() > since + 0.8, "most of the timeout has passed")

        assert await client.call("BLPOP", "nothing", "0.6") is None
        assert client.reconnections == 0


async def test_slow_reply_is_not_silence() -> None:
    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"server\r\n")
        writer.write(b"+PONG\r\n+OK\r\n$0\r\n\r\n")
        await reader.readuntil(b"GET")
        for part in b"$", b"3\r", b"\na", b"bc", b"\r", b"\n":
            since = asyncio.get_running_loop().time()
            await wait_until(
                lambda since=since: asyncio.get_running_loop().time() > since + 0.25, "a quarter of the timeout"
            )
            writer.write(part)

    async with scripted_server(dawdle) as url, open_client(url, timeout_s=1) as client:
        assert await client.call("GET", "k") == b"abc"


async def test_slow_server_gets_all_commands_in_order(server: Server) -> None:
    async with open_client(server.url, timeout_s=30) as client:
        server.suspend()
        calls = []
        for n in range(200):
            calls.append(client.call("RPUSH", "list", b"%d:" % n + b"x" * 100_000))
            await asyncio.sleep(0)
        held = client.call("LLEN", "list")
        server.resume()

        assert await asyncio.gather(*calls) == list(range(1, 201))
        assert await held == 200


async def test_queued_bytes_are_bounded(server: Server) -> None:
    async with open_client(server.url, timeout_s=30) as client:
        server.suspend()
        calls = []
        for _ in range(100):
            calls.append(client.call("RPUSH", "list", b"x" * 1_000_000))
            await asyncio.sleep(0)
        server.resume()

        outcomes = await asyncio.gather(*calls, return_exceptions=True)

        done = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert done == list(range(1, len(done) + 1))
        assert 60 < len(done) < 90
        assert {type(outcome) for outcome in outcomes[len(done) :]} == {RedisUnavailable}
        assert await client.call("LLEN", "list") == len(done)


async def test_commands_in_flight_are_bounded(server: Server) -> None:
    async with open_client(server.url, max_in_flight=10) as client:
        calls = [client.call("INCR", "counter") for _ in range(12)]

        outcomes = await asyncio.gather(*calls, return_exceptions=True)

        assert outcomes[:10] == list(range(1, 11))
        assert [type(outcome) for outcome in outcomes[10:]] == [RedisUnavailable, RedisUnavailable]
        assert await client.call("GET", "counter") == b"10"


async def test_connection_error_names_host_and_port() -> None:
    port = free_port()

    with pytest.raises(RedisUnavailable, match=f"cannot connect to 127.0.0.1:{port}: "):
        await RedisClient(f"redis://127.0.0.1:{port}", max_wait_s=0.1).open()


async def test_other_protocol_is_reported() -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with scripted_server(web) as url:
        with pytest.raises(RedisUnavailable, match="does not speak the Redis protocol"):
            await RedisClient(url, max_wait_s=0.1).open()
