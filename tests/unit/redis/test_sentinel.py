"""Following the primary that Sentinels name: switches, lost events, stale Sentinels, logins, TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gregor.redis.client import RedisClient
from gregor.redis.errors import RedisAccessRefused, RedisUnavailable, ReplyError
from gregor.redis.pubsub import RedisPubSub
from gregor.redis.sentinel import watcher
from gregor.redis.sentinel.events import EventKind, SentinelEvent, parse_event
from tests.support.certificates import write_certificate
from tests.support.fake_sentinel import FakeSentinel
from tests.support.ports import free_port
from tests.support.receivers import RecordingReceiver
from tests.support.servers import BINARIES, Relay, Server, open_client, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

PROMOTING = "slave 127.0.0.1:2 127.0.0.1 2 @ gregor 127.0.0.1 {}"


# ---- events


@pytest.mark.parametrize(
    ("channel", "payload", "event"),
    [
        (
            b"+switch-master",
            b"gregor 10.0.0.1 1 10.0.0.2 2",
            SentinelEvent(EventKind.REPLACED, "gregor", ("10.0.0.1", 1)),
        ),
        (
            b"+failover-state-send-slaveof-noone",
            b"slave 10.0.0.2:2 10.0.0.2 2 @ gregor 10.0.0.1 1",
            SentinelEvent(EventKind.BEING_REPLACED, "gregor", ("10.0.0.1", 1)),
        ),
        (
            b"+failover-state-reconf-slaves",
            b"master gregor 10.0.0.1 1",
            SentinelEvent(EventKind.ASK_AGAIN, "gregor", ("10.0.0.1", 1)),
        ),
        (b"+sdown", b"master gregor 10.0.0.1 1", None),
        (b"+switch-master", b"gregor 10.0.0.1", None),
        (b"+switch-master", b"gregor 10.0.0.1 port 10.0.0.2 2", None),
        (b"+promoted-slave", b"slave \xff", None),
        (b"+promoted-slave", b"", None),
    ],
)
def test_event_is_parsed(channel: bytes, payload: bytes, event: SentinelEvent | None) -> None:
    assert parse_event(channel, payload) == event


# ---- switches


class Pair:
    """Two servers that both accept writes, and Sentinels that name one of them."""

    def __init__(self, first: Server, second: Server, sentinels: list[FakeSentinel]) -> None:
        self.first, self.second = first, second
        self.sentinels = sentinels
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in sentinels)}/gregor/0"

    async def subscribed(self) -> None:
        await wait_until(lambda: all(each.subscribers for each in self.sentinels), "all sentinels have a subscriber")


def address(server: Server) -> tuple[str, int]:
    return "127.0.0.1", server.port


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Start two servers and three Sentinels that name the first one."""
    async with AsyncExitStack() as stack:
        first, second = (stack.enter_context(running_server(BINARIES[-1], tmp_path)) for _ in range(2))
        fakes = [await stack.enter_async_context(FakeSentinel(address(first))) for _ in range(3)]
        yield Pair(first, second, fakes)


async def test_switch_moves_all_connections_at_once(pair: Pair) -> None:
    async with open_client(pair.url) as one, open_client(pair.url) as other:
        pubsub, receiver = RedisPubSub(pair.url, one), RecordingReceiver()
        await pubsub.open()
        await pubsub.subscribe("a", receiver)
        await pair.subscribed()

        for sentinel in pair.sentinels:
            sentinel.promote(address(pair.second))
        await wait_until(lambda: receiver.heard == ["gap"], "the subscription has moved")
        await one.call("SET", "k", "one")
        await other.call("APPEND", "k", "+other")
        await one.call("SPUBLISH", "a", "1")

        assert pair.second.say("GET", "k") == "$9\r\none+other\r\n"
        assert one.primary_switches == other.primary_switches == 1
        assert pair.first.say("EXISTS", "k") == ":0\r\n"
        assert "cmd=ssubscribe" not in pair.first.say("CLIENT", "LIST")
        await wait_until(lambda: receiver.heard == ["gap", b"1"], "the publication is heard")
        assert [sentinel.subscribers for sentinel in pair.sentinels] == [1, 1, 1]
        await pubsub.close()


async def test_last_client_ends_the_subscriptions(pair: Pair) -> None:
    async with open_client(pair.url), open_client(pair.url):
        await pair.subscribed()

    await wait_until(lambda: not any(each.subscribers for each in pair.sentinels), "all subscriptions have ended")


async def test_missed_event_costs_one_poll(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "POLL_S", (0.05, 0.1))
    async with open_client(pair.url) as client:
        for sentinel in pair.sentinels:
            sentinel.primary = address(pair.second)

        await wait_until(lambda: client.reconnections == 1, "the client has moved")

        await client.call("SET", "k", "v")
        assert pair.second.say("GET", "k") == "$1\r\nv\r\n"


async def test_noreplicas_asks_the_sentinels(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "POLL_S", (60.0, 60.0))
    pair.first.say("CONFIG", "SET", "min-replicas-to-write", "1")
    async with open_client(pair.url) as client:
        for sentinel in pair.sentinels:
            sentinel.primary = address(pair.second)

        with pytest.raises(ReplyError, match="NOREPLICAS"):
            await client.call("SET", "k", "v")

        await wait_until(lambda: client.reconnections == 1, "the client has moved")


async def test_primary_being_replaced_gets_no_writes(pair: Pair) -> None:
    async with open_client(pair.url) as client:
        await client.call("SET", "k", "before")
        await pair.subscribed()

        pair.sentinels[1].publish("+failover-state-send-slaveof-noone", PROMOTING.format(pair.first.port))
        await wait_until(lambda: not client.connected, "the primary is left")
        write = client.call("SET", "k", "after")
        pair.sentinels[1].primary, pair.sentinels[1].epoch = address(pair.second), 2
        await write

        assert pair.first.say("GET", "k") == "$6\r\nbefore\r\n"
        assert pair.second.say("GET", "k") == "$5\r\nafter\r\n"


async def test_aborted_failover_keeps_the_primary(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "HOLD_S", 60.0)
    async with open_client(pair.url, max_wait_s=10) as client:
        await pair.subscribed()
        pair.sentinels[0].publish("+failover-state-send-slaveof-noone", PROMOTING.format(pair.first.port))
        await wait_until(lambda: not client.connected, "the primary is left")

        pair.sentinels[0].publish("-failover-abort-slave-timeout", f"master gregor 127.0.0.1 {pair.first.port}")

        await client.call("SET", "k", "v")
        assert pair.first.say("GET", "k") == "$1\r\nv\r\n"


async def test_failover_without_result_keeps_the_primary(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "HOLD_S", 0.3)
    async with open_client(pair.url, max_wait_s=10) as client:
        await pair.subscribed()

        pair.sentinels[0].publish("+failover-state-send-slaveof-noone", PROMOTING.format(pair.first.port))

        await wait_until(lambda: client.reconnections == 1, "the client is back")
        assert await client.call("PING") == b"PONG"


async def test_event_of_another_service_is_ignored(pair: Pair) -> None:
    async with open_client(pair.url) as client:
        await pair.subscribed()
        asked = pair.sentinels[0].queries
        pair.sentinels[0].publish("+switch-master", f"other 127.0.0.1 {pair.first.port} 127.0.0.1 2")
        pair.sentinels[0].publish("+promoted-slave", PROMOTING.format(pair.first.port))

        await wait_until(lambda: pair.sentinels[0].queries > asked, "the second event is handled")

        assert client.connected
        assert client.reconnections == 0


# ---- which answer counts


async def test_newest_configuration_counts(pair: Pair) -> None:
    """Two Sentinels were cut off from a failover: the one that knows it is right."""
    pair.sentinels[2].primary, pair.sentinels[2].epoch = address(pair.second), 2

    async with open_client(pair.url) as client:
        await client.call("SET", "k", "v")

    assert pair.second.say("GET", "k") == "$1\r\nv\r\n"


async def test_stale_minority_is_not_believed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "POLL_S", (0.05, 0.1))
    for sentinel in pair.sentinels[1:]:
        sentinel.primary, sentinel.epoch = address(pair.second), 2
    async with open_client(pair.url) as client:
        for sentinel in pair.sentinels[1:]:
            await sentinel.__aexit__()
        asked = pair.sentinels[0].queries
        await wait_until(lambda: pair.sentinels[0].queries > asked + 2, "the stale one was asked alone")

        await client.call("SET", "k", "v")

    assert pair.second.say("GET", "k") == "$1\r\nv\r\n"


async def test_reset_sentinels_are_believed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "POLL_S", (0.05, 0.1))
    for sentinel in pair.sentinels:
        sentinel.epoch = 7
    async with open_client(pair.url) as client:
        for sentinel in pair.sentinels:
            sentinel.primary, sentinel.epoch = address(pair.second), 0

        await wait_until(lambda: client.reconnections == 1, "the client has moved")


async def test_hung_sentinel_delays_nothing(pair: Pair) -> None:
    pair.sentinels[0].is_hung = True

    async with open_client(pair.url, max_wait_s=0.1) as client:
        assert await client.call("PING") == b"PONG"


async def test_replica_is_not_used(pair: Pair) -> None:
    pair.first.say("REPLICAOF", "127.0.0.1", str(pair.second.port))

    with pytest.raises(RedisUnavailable, match=r"is not the primary \(its role is replica\)"):
        await RedisClient(pair.url, max_wait_s=0.1).open()


async def test_role_is_checked_without_permission_for_it(pair: Pair) -> None:
    pair.first.say("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-@dangerous", "+info")
    url = pair.url.replace("://", "://limited:pw@")
    async with open_client(url) as client:
        assert await client.call("PING") == b"PONG"
    assert pair.first.say("ACL", "LOG") == "*0\r\n"
    pair.first.say("REPLICAOF", "127.0.0.1", str(pair.second.port))

    with pytest.raises(RedisUnavailable, match="is not the primary"):
        await RedisClient(url, max_wait_s=0.1).open()


# ---- logins and TLS


async def test_sentinels_have_their_own_credentials(pair: Pair, tmp_path: Path) -> None:
    with running_server(BINARIES[-1], tmp_path) as server:
        server.say("ACL", "SETUSER", "app", "on", ">data", "~*", "&*", "+@all")
        server.say("ACL", "SETUSER", "default", "off")
        async with FakeSentinel(address(server), login=("watcher", "s%cret")) as sentinel:
            url = f"redis+sentinel://app:data@127.0.0.1:{sentinel.port}/gregor/0"

            async with open_client(f"{url}?sentinel_username=watcher&sentinel_password=s%25cret") as client:
                assert await client.call("ACL", "WHOAMI") == b"app"
            with pytest.raises(RedisAccessRefused, match=r"no sentinel knows the primary: .* WRONGPASS"):
                await RedisClient(f"{url}?sentinel_password=wrong", max_wait_s=60).open()
            with pytest.raises(RedisAccessRefused, match="NOAUTH"):
                await RedisClient(url, max_wait_s=60).open()
            assert ("app", "data") not in sentinel.logins


async def test_tls_covers_sentinels_and_servers(pair: Pair, tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with Relay(pair.first, tls=tls) as relay, FakeSentinel(("127.0.0.1", relay.port), tls=tls) as sentinel:
        url = f"rediss+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/gregor/0"

        async with open_client(f"{url}?ssl_ca_certs={certificate}") as client:
            assert await client.call("PING") == b"PONG"
            await wait_until(lambda: sentinel.subscribers, "the events are subscribed")
        with pytest.raises(RedisUnavailable, match="certificate verify failed"):
            await RedisClient(url, max_wait_s=0.1).open()
