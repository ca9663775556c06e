"""Connecting: through Sentinels to the primary, to an address that another server takes over, and over TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gregor.redis.client import RedisClient
from gregor.redis.connector import LEAVE_S
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.pubsub import RedisPubSub
from gregor.redis.tracking import ServerKeyTracker
from tests.support.certificates import write_certificate
from tests.support.ports import free_port
from tests.support.servers import BINARIES, Relay, Server, open_client, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis


class Watched:
    """A primary, its replica, and a Sentinel that monitors them as ``gregor``."""

    def __init__(self, stack: ExitStack, binary: str, directory: Path) -> None:
        quick = ("--repl-diskless-sync-delay", "0", "--replica-priority", "1")
        self.primary = stack.enter_context(running_server(binary, directory, *quick))
        self.replica = stack.enter_context(
            running_server(binary, directory, *quick, "--replicaof", f"127.0.0.1 {self.primary.port}")
        )
        settings = directory / "sentinel.conf"
        settings.write_text(f"sentinel monitor gregor 127.0.0.1 {self.primary.port} 1\n")
        self.sentinel = Server(binary, directory)
        self.sentinel.command[1:1] = [str(settings), "--sentinel"]
        stack.callback(self.sentinel.kill)
        self.sentinel.start()
        # By default a Sentinel refreshes replicas every 10 s, and tolerates a demoted primary for 8 s.
        self.sentinel.say("SENTINEL", "DEBUG", "info-period", "1000", "publish-period", "100")

    @property
    def url(self) -> str:
        """The URL with a Sentinel that is down, then the one that is up."""
        return f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.sentinel.port}/gregor/0"

    def fail_over(self) -> bool:
        """Request a failover if it has not happened yet. Returns whether it has."""
        if "role:master" in self.replica.say("INFO", "replication"):
            return True
        self.sentinel.say("SENTINEL", "FAILOVER", "gregor")
        return False


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
async def watched(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Watched]:
    """Start the three, and wait until the replica is synchronized and known to the Sentinel."""
    with ExitStack() as stack:
        watched = Watched(stack, request.param, tmp_path)
        await wait_until(
            lambda: "master_link_status:up" in watched.replica.say("INFO", "replication"), "the replica is in step"
        )
        yield watched


class GapCounter:
    """Counts gaps, and keeps the messages."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.gaps = 0

    def receive(self, payload: bytes) -> None:
        self.heard.append(payload)

    def lost(self) -> None:
        pass

    def gap(self, *, same_server: bool) -> None:
        self.gaps += 1


async def test_sentinel_failover_is_followed(watched: Watched) -> None:
    async with open_client(watched.url, max_wait_s=10) as client:
        pubsub, receiver = RedisPubSub(watched.url, client, probe_s=0.2), GapCounter()
        await pubsub.open()
        await pubsub.subscribe("a", receiver)
        await client.call("SET", "k", "before")
        assert watched.primary.say("GET", "k") == "$6\r\nbefore\r\n"
        await wait_until(watched.fail_over, "the replica is promoted", timeout_s=30)

        async def written() -> bool:
            try:
                await client.call("SET", "k", "after")
            except (RedisUnavailable, ReplyError):
                return False
            return watched.replica.say("GET", "k") == "$5\r\nafter\r\n"

        await wait_until(written, "the promoted replica gets the write", timeout_s=30)
        await wait_until(lambda: receiver.gaps > 0 and pubsub.status == "ok", "the pubsub has followed", timeout_s=30)
        await client.call("SPUBLISH", "a", "1")
        await wait_until(lambda: receiver.heard == [b"1"], "the publication is heard")
        await pubsub.close()


async def test_demoted_primary_is_left(watched: Watched) -> None:
    async with open_client(watched.url, max_wait_s=10) as client:
        watched.primary.say("REPLICAOF", "127.0.0.1", str(watched.replica.port))

        with pytest.raises(ReplyError, match=r"^READONLY"):
            await client.call("SET", "k", "v")

        await wait_until(lambda: not client.connected, "the client leaves it")

        # The Sentinel still names this server, but it is a replica now.
        with pytest.raises(RedisUnavailable, match="is not the primary"):
            await RedisClient(watched.url, max_wait_s=0.1).open()


async def test_unknown_sentinel_service_is_reported(watched: Watched) -> None:
    url = watched.url.replace("/gregor/", "/other/")

    with pytest.raises(
        RedisUnavailable, match=r"no sentinel knows the primary: cannot connect .* does not know the service other"
    ):
        await RedisClient(url, max_wait_s=0.1).open()


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Start two servers of each kind for this test."""
    with running_server(request.param, tmp_path) as one, running_server(request.param, tmp_path) as other:
        yield one, other


async def test_demoted_server_behind_an_address_is_left(pair: tuple[Server, Server]) -> None:
    old, new = pair
    async with Relay(old) as relay, open_client(url := f"redis://127.0.0.1:{relay.port}/0", max_wait_s=10) as client:
        pubsub, tracker = RedisPubSub(url, client), ServerKeyTracker(url)
        await pubsub.open()

        async def tracked() -> bool:
            return await tracker.read([("GET", "k")]) == [None]

        await wait_until(tracked, "the tracker is connected")

        old.say("REPLICAOF", "127.0.0.1", str(new.port))
        relay.lead_to(new)
        # Both replies come in one read: the second must not meet the commands of the next connection.
        refused = await asyncio.gather(*(client.call("SET", "k", n) for n in range(2)), return_exceptions=True)

        assert [str(each).partition(" ")[0] for each in refused] == ["READONLY"] * 2
        await wait_until(lambda: not client.connected, "the client leaves it")
        assert await client.call("SET", "k", "v") == b"OK"
        # No error reply shows these two that they read from a replica.
        names = ("gregor-pubsub", "gregor-tracking")
        await wait_until(lambda: all(name in new.say("CLIENT", "LIST") for name in names), "both have followed")
        assert not any(name in old.say("CLIENT", "LIST") for name in names)
        await tracker.close()
        await pubsub.close()


async def test_replica_is_refused(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    replica.say("REPLICAOF", "127.0.0.1", str(primary.port))

    with pytest.raises(RedisUnavailable, match=rf":{replica.port} is a replica, which refuses writes: the URL"):
        await RedisClient(replica.url, max_wait_s=0.1).open()

    async with open_client(replica.url, accepts_replica=True) as reader:
        assert await reader.call("GET", "k") is None


async def test_server_that_stays_read_only_is_left_once_a_second(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    replica.say("REPLICAOF", "127.0.0.1", str(primary.port))
    # This user may not send INFO, so the handshake does not show that the server is a replica.
    replica.say("ACL", "SETUSER", "default", "-info")
    async with open_client(replica.url, max_wait_s=10) as client:
        loop, refused = asyncio.get_running_loop(), 0

        async def left(times: int) -> bool:
            nonlocal refused
            with pytest.raises((ReplyError, RedisUnavailable)):
                await client.call("SET", "k", "v")
            refused += 1
            return client.reconnections == times

        await wait_until(lambda: left(1), "the client leaves it")
        since = loop.time()
        await wait_until(lambda: left(2), "the client leaves it again")

        assert loop.time() - since > LEAVE_S / 2 and refused > 4


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_certificate(tmp_path)


async def test_tls_is_verified_against_given_authorities(certificate: Path, tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with running_server(BINARIES[0], tmp_path) as server:
        async with Relay(server, tls=tls) as relay:
            url = f"rediss://127.0.0.1:{relay.port}/0"

            async with open_client(f"{url}?ssl_ca_certs={certificate}") as client:
                assert await asyncio.gather(*(client.call("ECHO", n) for n in range(3))) == [b"0", b"1", b"2"]
            with pytest.raises(RedisUnavailable, match="certificate verify failed"):
                await RedisClient(url, max_wait_s=0.1).open()
            async with open_client(f"{url}?ssl_cert_reqs=none") as client:
                assert await client.call("PING") == b"PONG"
