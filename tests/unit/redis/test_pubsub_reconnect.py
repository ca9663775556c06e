"""Pub/sub on a server: interruptions are detected, repaired, and reported as gaps."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gregor.redis.errors import RedisAccessRefused, ReplyError
from gregor.redis.pubsub import RedisPubSub
from tests.support.ports import free_port
from tests.support.receivers import FailingReceiver, RecordingReceiver, open_pubsub, wait_for_payload
from tests.support.servers import BINARIES, Relay, Server, open_client, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Start a server of each kind for this test."""
    with running_server(request.param, tmp_path) as server:
        yield server


async def test_channel_without_receivers_is_unsubscribed(server: Server) -> None:
    async with open_pubsub(server) as (pubsub, _):
        receivers = RecordingReceiver(), RecordingReceiver()
        for receiver in receivers:
            await pubsub.subscribe("a", receiver)

        pubsub.unsubscribe("a", receivers[0])
        assert server.say("PUBSUB", "SHARDNUMSUB", "a").endswith(":1\r\n")
        pubsub.unsubscribe("a", receivers[1])
        await wait_until(lambda: server.say("PUBSUB", "SHARDNUMSUB", "a").endswith(":0\r\n"), "the server knows")


async def test_killed_subscriptions_recover_with_a_gap(server: Server) -> None:
    async with open_pubsub(server) as (pubsub, publish):
        receiver, plain = RecordingReceiver(), RecordingReceiver()
        await asyncio.gather(pubsub.subscribe("a", receiver), pubsub.subscribe("all", plain, sharded=False))
        await publish("a", b"1")
        await wait_for_payload(receiver, b"1")

        server.say("CLIENT", "KILL", "TYPE", "pubsub")
        await wait_for_payload(receiver, "gap")
        await wait_for_payload(plain, "gap")
        await publish("a", b"2")
        await publish("all", b"2", sharded=False)

        assert await wait_for_payload(receiver, b"2") == [b"1", "gap", b"2"]
        assert await wait_for_payload(plain, b"2") == ["gap", b"2"]
        assert pubsub.reconnections == 1


async def test_failing_gap_receiver_does_not_affect_others(server: Server) -> None:
    async with open_pubsub(server) as (pubsub, _):
        receiver = RecordingReceiver()
        for each in FailingReceiver(), receiver:
            await pubsub.subscribe("a", each)

        server.say("CLIENT", "KILL", "TYPE", "pubsub")

        assert await wait_for_payload(receiver, "gap") == ["gap"]


async def test_five_thousand_channels_recover_after_a_kill(server: Server) -> None:
    async with open_pubsub(server) as (pubsub, publish):
        receivers = [RecordingReceiver() for _ in range(5_000)]
        await asyncio.gather(*(pubsub.subscribe(f"user:{n}", receiver) for n, receiver in enumerate(receivers)))

        server.say("CLIENT", "KILL", "TYPE", "pubsub")
        await wait_until(lambda: all(receiver.heard == ["gap"] for receiver in receivers), "all receivers got the gap")
        await asyncio.gather(*(publish(f"user:{n}", b"%d" % n) for n in range(5_000)))

        await wait_until(lambda: all(len(receiver.heard) == 2 for receiver in receivers), "all get messages again")
        assert [receiver.heard[1] for receiver in receivers] == [b"%d" % n for n in range(5_000)]
        assert pubsub.reconnections == 1


async def test_server_restart_causes_a_gap(server: Server) -> None:
    async with open_pubsub(server, probe_s=0.05) as (pubsub, publish):
        receiver = RecordingReceiver()
        await pubsub.subscribe("a", receiver)
        server.kill()
        await wait_until(lambda: pubsub.status != "ok", "the probe has failed")
        server.start()

        assert await wait_for_payload(receiver, "gap") == ["gap"]
        await wait_until(lambda: pubsub.status == "ok", "the probe comes back")
        await publish("a", b"1")
        assert await wait_for_payload(receiver, b"1") == ["gap", b"1"]


async def test_subscribing_while_down_succeeds_later_without_gap(server: Server) -> None:
    async with open_pubsub(server, probe_s=60) as (pubsub, publish):
        early, late = RecordingReceiver(), RecordingReceiver()
        await pubsub.subscribe("a", early)
        server.kill()
        await wait_until(lambda: not pubsub.connected, "the pubsub has noticed")
        waiting = pubsub.subscribe("a", late)
        server.start()

        await asyncio.wait_for(waiting, 10)
        await publish("a", b"1")

        assert await wait_for_payload(early, b"1") == ["gap", b"1"]
        assert await wait_for_payload(late, b"1") == [b"1"]


async def test_output_buffer_overflow_causes_a_gap(server: Server) -> None:
    # One large message is not enough: Valkey 9.1 writes it to the socket before it checks the limit. So the subscriber
    # stops reading. The messages are small, because Valkey does not copy large ones into the output buffer.
    server.say("CONFIG", "SET", "client-output-buffer-limit", "pubsub 100kb 100kb 1")
    async with (
        Relay(server) as relay,
        open_pubsub(server, f"redis://127.0.0.1:{relay.port}", probe_s=60) as (pubsub, publish),
    ):
        receiver = RecordingReceiver()
        await pubsub.subscribe("a", receiver)

        relay.stall()
        payloads: list[bytes | str] = []
        while not server.say("PUBSUB", "SHARDNUMSUB", "a").endswith(":0\r\n"):
            assert len(payloads) < 10_000, "the server must close a subscriber that is 100 MB behind"
            batch = [b"%010000d" % n for n in range(len(payloads), len(payloads) + 50)]
            await asyncio.gather(*(publish("a", payload) for payload in batch))
            payloads += batch
        relay.resume()

        await wait_for_payload(receiver, "gap")
        await publish("a", b"after")
        *before, gap, after = await wait_for_payload(receiver, b"after")
        assert (gap, after) == ("gap", b"after")
        assert before == payloads[: len(before)] and len(before) < len(payloads)
        assert pubsub.reconnections == 1


async def test_probe_detects_a_silent_network(server: Server) -> None:
    async with (
        Relay(server) as relay,
        open_pubsub(server, f"redis://127.0.0.1:{relay.port}", probe_s=0.02, probe_timeout_s=0.2) as (pubsub, publish),
    ):
        receiver = RecordingReceiver()
        await pubsub.subscribe("a", receiver)

        relay.swallows = True
        await publish("a", b"lost")
        await wait_until(lambda: pubsub.status == "late", "the probe does not come back")
        assert pubsub.healthy
        relay.swallows = False

        await wait_for_payload(receiver, "gap")
        await publish("a", b"1")
        assert await wait_for_payload(receiver, b"1") == ["gap", b"1"]
        await wait_until(lambda: pubsub.status == "ok", "the probe comes back")


async def test_three_lost_probes_are_unhealthy(
    server: Server,
) -> None:
    async with (
        Relay(server) as relay,
        open_pubsub(server, f"redis://127.0.0.1:{relay.port}", probe_s=60, probe_timeout_s=0.5, timeout_s=0.5) as (
            pubsub,
            _,
        ),
    ):
        relay.swallows = True
        seen = []
        for _ in range(3):
            await pubsub.probe()
            seen.append((pubsub.status, pubsub.healthy))
        relay.swallows = False
        await wait_until(lambda: pubsub.connected, "connected again")
        await pubsub.probe()

        assert seen == [("late", True), ("late", True), ("down", False)]
        assert (pubsub.status, pubsub.healthy) == ("ok", True)


async def test_unpublished_probe_keeps_subscriptions(server: Server) -> None:
    async with open_client(server.url) as client:
        pubsub = RedisPubSub(server.url, client, probe_s=60)
        await pubsub.open()
        await client.close()

        assert not await pubsub.probe()
        assert (pubsub.status, pubsub.connected, pubsub.reconnections) == ("late", True, 0)
        await pubsub.close()


async def test_refused_channel_fails_alone(server: Server) -> None:
    server.say("ACL", "SETUSER", "default", "resetchannels", "&gregor:*", "&mine")
    async with open_pubsub(server) as (pubsub, publish):
        receiver = RecordingReceiver()
        mine, secret = pubsub.subscribe("mine", receiver), pubsub.subscribe("secret", RecordingReceiver())

        with pytest.raises(ReplyError, match="NOPERM"):
            await secret
        await mine
        await publish("mine", b"1")

        assert await wait_for_payload(receiver, b"1") == [b"1"]
        assert pubsub.reconnections == 0


async def test_migrated_slot_causes_a_gap(tmp_path: Path, server: Server) -> None:
    # The default port of the cluster bus is 10,000 higher, which may be beyond 65,535.
    with running_server(
        server.binary, tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())
    ) as node:
        node.say("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await wait_until(lambda: "cluster_state:ok" in node.say("CLUSTER", "INFO"), "the cluster is up")
        slot = node.say("CLUSTER", "KEYSLOT", "a").strip()[1:]
        async with open_pubsub(node, probe_s=60) as (pubsub, publish):
            receiver = RecordingReceiver()
            await pubsub.subscribe("a", receiver)

            node.say("CLUSTER", "DELSLOTS", slot)
            await wait_until(lambda: pubsub.reconnections > 0, "the pubsub tries again")
            node.say("CLUSTER", "ADDSLOTS", slot)

            await wait_for_payload(receiver, "gap")
            await wait_until(lambda: "cluster_state:ok" in node.say("CLUSTER", "INFO"), "the cluster is up")
            await publish("a", b"1")
            assert await wait_for_payload(receiver, b"1") == ["gap", b"1"]


async def test_pubsub_without_password_does_not_open(server: Server) -> None:
    server.say("CONFIG", "SET", "requirepass", "right")
    async with open_client(f"redis://:right@127.0.0.1:{server.port}") as client:
        with pytest.raises(RedisAccessRefused, match="NOAUTH"):
            await RedisPubSub(server.url, client, max_wait_s=60).open()
