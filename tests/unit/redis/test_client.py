"""The Redis client: pipelining, order, handshake."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gregor.redis.client import RedisClient
from gregor.redis.commands import Script
from gregor.redis.errors import RedisAccessRefused, RedisConnectionLost, RedisUnavailable, ReplyError
from tests.support.servers import BINARIES, Relay, Server, open_client, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Start a server of each kind for this test."""
    with running_server(request.param, tmp_path) as server:
        yield server


async def info_value(client: RedisClient, section: str, name: str) -> str:
    """Return one value of INFO."""
    text = (await client.call("INFO", section)).decode()
    return next((line.partition(":")[2] for line in text.splitlines() if line.startswith(name + ":")), "")


async def test_commands_of_one_iteration_share_a_write(server: Server) -> None:
    async with open_client(server.url) as client:
        before = int(await info_value(client, "stats", "total_reads_processed"))

        await asyncio.gather(*(client.call("GET", f"key{n}") for n in range(300)))

        after = int(await info_value(client, "stats", "total_reads_processed"))
        assert after - before == 2  # the 300 commands, and INFO itself


async def test_replies_match_their_commands(server: Server) -> None:
    async with open_client(server.url) as client:
        increments = [client.call("INCR", "counter") for _ in range(5_000)]
        big = client.call("ECHO", b"x" * 1_000_000)
        others = [client.call("ECHO", n) for n in range(5_000)]

        assert await asyncio.gather(*increments) == list(range(1, 5_001))
        assert await big == b"x" * 1_000_000
        assert await asyncio.gather(*others) == [b"%d" % n for n in range(5_000)]


async def test_replies_are_not_decoded(server: Server) -> None:
    async with open_client(server.url) as client:
        await client.call("HSET", "h", "name", "Grüße", b"\xff", 7)

        assert await client.call("HGETALL", "h") == [b"name", "Grüße".encode(), b"\xff", b"7"]
        assert await client.call("GET", "none") is None


async def test_error_reply_reaches_only_its_caller(server: Server) -> None:
    async with open_client(server.url) as client:
        first, wrong, last = client.call("SET", "k", "v"), client.call("LPUSH", "k", "v"), client.call("GET", "k")

        assert await first == b"OK"
        with pytest.raises(ReplyError, match="wrong kind of value") as raised:
            await wrong
        assert raised.value.code == "WRONGTYPE"
        assert await last == b"v"


async def test_unsupported_argument_type_raises_type_error(server: Server) -> None:
    async with open_client(server.url) as client:
        with pytest.raises(TypeError):
            client.call("SET", "k", None)  # type: ignore[arg-type]

        assert await client.call("PING") == b"PONG"


async def test_cancelled_call_does_not_shift_replies(server: Server) -> None:
    async with open_client(server.url) as client:
        calls = [client.call("ECHO", n) for n in range(10)]
        calls[3].cancel()

        assert await asyncio.gather(*calls[:3], *calls[4:]) == [b"%d" % n for n in range(10) if n != 3]


async def test_missing_script_is_loaded_once(server: Server) -> None:
    async with open_client(server.url) as client:
        answers = await asyncio.gather(*(client.evalsha(ECHO, ["k"], [n]) for n in range(50)))

        assert answers == [[b"k", b"%d" % n] for n in range(50)]
        assert (await info_value(client, "commandstats", "cmdstat_script|load")).startswith("calls=1,")


async def test_flushed_script_is_loaded_again(server: Server) -> None:
    async with open_client(server.url) as client:
        await client.evalsha(ECHO, ["k"], [1])
        await client.call("SCRIPT", "FLUSH")

        assert await client.evalsha(ECHO, ["k"], [2]) == [b"k", b"2"]


async def test_reconnect_loads_scripts_first(server: Server) -> None:
    async with open_client(server.url) as client:
        await client.load([ECHO])
        server.say("SCRIPT", "FLUSH")
        server.say("CLIENT", "KILL", "TYPE", "normal")
        await wait_until(lambda: client.reconnections, "reconnected")

        assert await client.call("EVALSHA", ECHO.sha, 1, "k", 1) == [b"k", b"1"]


async def test_compile_error_of_a_script_is_raised(server: Server) -> None:
    async with open_client(server.url) as client:
        with pytest.raises(ReplyError, match=r"compil.*near 'is'"):
            await client.evalsha(Script("this is not Lua"), [], [])


async def test_script_error_is_a_reply_error(server: Server) -> None:
    async with open_client(server.url) as client:
        with pytest.raises(ReplyError, match=r"^DUE at 5") as raised:
            await client.evalsha(Script("return redis.error_reply('DUE at ' .. ARGV[1])"), [], [5])

        assert raised.value.code == "DUE"


async def test_wrong_password_is_refused_and_not_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.say("CONFIG", "SET", "requirepass", "right")
    client = RedisClient(f"redis://:very-secret@127.0.0.1:{server.port}/0", max_wait_s=60)

    with pytest.raises(RedisAccessRefused, match=f"127.0.0.1:{server.port} refused.*WRONGPASS") as raised:
        await client.open()

    assert "very-secret" not in f"{raised.value!r} {client.address} {client.address!r} {caplog.text}"


async def test_missing_password_is_refused(server: Server) -> None:
    server.say("CONFIG", "SET", "requirepass", "right")

    with pytest.raises(RedisAccessRefused, match="NOAUTH"):
        await RedisClient(server.url, max_wait_s=60).open()


async def test_handshake_sets_user_name_and_database(server: Server) -> None:
    server.say("ACL", "SETUSER", "gregor", "on", ">p@ss/w:rd", "~*", "+@all")

    async with open_client(f"redis://gregor:p%40ss%2Fw%3Ard@127.0.0.1:{server.port}/3", name="gregor-test") as client:
        shown = (await client.call("CLIENT", "INFO")).decode()

        assert " name=gregor-test " in shown
        assert " user=gregor " in shown
        assert " db=3 " in shown


async def test_unknown_database_is_refused(server: Server) -> None:
    with pytest.raises(RedisAccessRefused, match="out of range"):
        await RedisClient(f"redis://127.0.0.1:{server.port}/99").open()


async def test_server_at_client_limit_is_retried(server: Server) -> None:
    async with open_client(server.url) as other:
        await other.call("CONFIG", "SET", "maxclients", 1)
        late = RedisClient(server.url, max_wait_s=10)
        opening = asyncio.create_task(late.open())
        await wait_until(lambda: info_value(other, "stats", "rejected_connections"), "it was sent away once")
        await other.call("CONFIG", "SET", "maxclients", 100)

        await opening

        assert await late.call("PING") == b"PONG"
        await late.close()


async def test_close_fails_pending_and_later_calls(server: Server) -> None:
    client = RedisClient(server.url)
    await client.open()
    stuck = client.call("BLPOP", "nothing", 0)
    await asyncio.sleep(0)

    await client.close()

    with pytest.raises(RedisConnectionLost):
        await stuck
    with pytest.raises(RedisUnavailable, match="is closed"):
        await client.call("PING")


async def test_close_stops_reconnecting(server: Server) -> None:
    client = RedisClient(server.url, max_wait_s=60)
    await client.open()
    server.kill()
    await wait_until(lambda: not client.connected, "the client has noticed")
    waiting = client.call("PING")

    await client.close()

    with pytest.raises(RedisUnavailable, match="is closed"):
        await waiting


async def test_unix_socket_works(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with Relay(server, path=path), open_client(f"unix://{path}?db=2") as client:
        assert " db=2 " in (await client.call("CLIENT", "INFO")).decode()
