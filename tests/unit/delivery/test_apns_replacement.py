"""APNs connections that live but serve no requests are replaced; slow ones are kept. The clock is manual."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gregor.dev.fakes.apns import ANY_TOKEN, FakeApns, FakeApnsConnection
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor.dev.fakes.keys import write_key
from gregor.dev.fakes.tls import CertificateAuthority
from gregor_delivery.channels.apns.channel import ApnsChannel, ApnsConfig
from gregor_delivery.channels.apns.connection import KEEPALIVE_S, UNANSWERED_S
from gregor_delivery.channels.verdict import Retry, Sent, Unknown, Verdict
from tests.support.manual_loop import ManualLoop
from tests.support.sample_pushes import push

DEADLINE_S = 15.0
SILENT = ApnsAction(is_silent=True)
INTERNAL_ERROR, REFUSED_STREAM = 2, 7


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory: bytes arrive in the next iteration of the event loop."""

    def __init__(self, loop: ManualLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop, self._protocol = loop, protocol
        self._is_closing = False
        self.peer = self

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing:
            self._loop.call_soon(self.peer.deliver, bytes(data))

    def deliver(self, data: bytes) -> None:
        if not self._is_closing:
            self._protocol.data_received(data)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)
            self._loop.call_soon(self.peer.close)

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return 0


@dataclass(slots=True)
class PartlyBadApns(FakeApns):
    """A fake whose connections in `bad` give each request the action `bad_action`, and still answer pings."""

    bad: set[int] = field(default_factory=set)
    bad_action: ApnsAction = SILENT

    def decide(self, headers: dict[str, str], body: bytes, connection: FakeApnsConnection) -> ApnsAction:
        action = FakeApns.decide(self, headers, body, connection)
        return self.bad_action if connection.number in self.bad else action


class ApnsLoop(ManualLoop):
    """A loop in which each connection leads to a fake APNs, and a channel that uses it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.fake = PartlyBadApns(CertificateAuthority(directory))
        write_key(directory / "key.p8")
        config = ApnsConfig(
            key_file=directory / "key.p8", key_id="KEY1", team_id="TEAM", topic="com.example.app", url="http://apns:80"
        )
        self.channel = ApnsChannel(config)
        self.complete(self.channel.open())

    async def create_connection(self, factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        protocol, server = factory(), FakeApnsConnection(self.fake)
        transport, peer = MemoryTransport(self, protocol), MemoryTransport(self, server)
        transport.peer, peer.peer = peer, transport
        protocol.connection_made(transport)
        server.connection_made(peer)
        return transport, protocol

    def start(self, token: str = "a1b2c3", deadline_s: float = DEADLINE_S) -> asyncio.Task[Verdict]:
        """Start a push."""
        task = self.create_task(self.channel.send(push(token=token), deadline_s))
        self.settle()
        return task

    def send(self, token: str = "a1b2c3", deadline_s: float = DEADLINE_S) -> Verdict:
        """Send a push, and wait for its verdict."""
        return self.complete(self.channel.send(push(token=token), deadline_s))


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[ApnsLoop]:
    each = ApnsLoop(tmp_path)
    yield each
    each.complete(each.channel.close())
    each.close()


def test_connection_that_answers_only_pings_is_replaced(loop: ApnsLoop) -> None:
    loop.fake.bad = {1}

    verdicts = [loop.send(), loop.send()]

    assert [type(each) for each in verdicts] == [Unknown, Sent]
    assert loop.fake.connections == 2
    assert len(loop.channel.connections(sandbox=False)) == 1


def test_connection_that_stops_serving_is_replaced(loop: ApnsLoop) -> None:
    assert isinstance(loop.send(), Sent)
    loop.advance(3_600)
    loop.fake.bad = {1}

    verdicts = [loop.send(), loop.send()]

    assert [type(each) for each in verdicts] == [Unknown, Sent]
    assert loop.fake.connections == 2


@pytest.mark.parametrize("code", [INTERNAL_ERROR, REFUSED_STREAM])
def test_connection_that_resets_every_stream_is_replaced(loop: ApnsLoop, code: int) -> None:
    loop.fake.bad, loop.fake.bad_action = {1}, ApnsAction(reset=code)

    for _ in range(5):
        assert not isinstance(loop.send(), Sent)
    loop.advance(UNANSWERED_S)
    loop.send()

    assert isinstance(loop.send(), Sent)
    assert loop.fake.connections == 2


def test_connection_without_a_window_is_replaced(loop: ApnsLoop) -> None:
    loop.fake.window_bytes = 0
    assert loop.send() == Retry(None, None, "no response before the deadline")
    loop.fake.window_bytes = 65_535

    assert isinstance(loop.send(), Sent)
    assert loop.fake.connections == 2


def test_connections_without_streams_are_replaced(loop: ApnsLoop) -> None:
    loop.fake.most_streams = 0
    assert loop.send() == Retry(None, None, "no free connection before the deadline")
    loop.fake.most_streams = 500

    loop.advance(KEEPALIVE_S - DEADLINE_S)

    assert isinstance(loop.send(), Sent)
    assert len(loop.channel.connections(sandbox=False)) == 1


def test_connection_that_allows_no_more_streams_is_replaced(loop: ApnsLoop) -> None:
    loop.fake.script("last", ApnsAction(most_streams=0))
    assert isinstance(loop.send("last"), Sent)

    loop.advance(KEEPALIVE_S)

    assert loop.channel.connections(sandbox=False) == ()
    assert isinstance(loop.send(), Sent)


def test_hanging_pushes_of_one_device_replace_no_connection(loop: ApnsLoop) -> None:
    loop.fake.script("hanging", *[SILENT] * 1_000)
    hanging = []
    for _ in range(300):
        hanging.append(loop.start("hanging"))
        assert isinstance(loop.send("other"), Sent)
        loop.advance(1)

    assert {type(each.result()) for each in hanging if each.done()} == {Unknown}
    assert loop.fake.connections == 1


def test_slow_provider_keeps_its_connection(loop: ApnsLoop) -> None:
    """Half of the pushes time out; the responses to the others show that the connection serves requests."""
    loop.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=DEADLINE_S - 1), SILENT] * 150)
    pushes = []
    for _ in range(300):
        pushes.append(loop.start())
        loop.advance(1)

    loop.advance(DEADLINE_S)
    assert [type(each.result()) for each in pushes] == [Sent, Unknown] * 150
    assert loop.fake.connections == 1


def test_replaced_connection_still_answers(loop: ApnsLoop) -> None:
    loop.fake.script("lost", SILENT)
    loop.fake.script("slow", ApnsAction(delay_s=5.0))
    lost = loop.start("lost")
    loop.advance(DEADLINE_S - 2)
    slow = loop.start("slow")
    loop.advance(2)
    assert isinstance(lost.result(), Unknown)

    assert isinstance(loop.send(), Sent)
    assert loop.fake.connections == 2
    loop.advance(3)

    assert isinstance(slow.result(), Sent)
    assert loop.fake.connections == 2
    assert len(loop.channel.connections(sandbox=False)) == 1


def test_each_connection_lives_at_least_ten_seconds(loop: ApnsLoop) -> None:
    """Apple treats many connections in a short time as an attack, whatever the rate of pushes and their deadlines."""
    loop.fake.script(ANY_TOKEN, *[SILENT] * 10_000)
    for n in range(3_000):
        loop.start(f"t{n}", deadline_s=(0.5, DEADLINE_S)[n % 2])
        loop.advance(0.1)

    assert loop.fake.connections <= 300 / UNANSWERED_S + 1


def test_provider_that_pings_often_keeps_its_connection(loop: ApnsLoop) -> None:
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    loop.send()
    (connection,) = loop.channel.connections(sandbox=False)
    for _ in range(100):
        loop.inside(lambda: connection.data_received(500 * ping))
        loop.advance(KEEPALIVE_S)

    assert loop.channel.connections(sandbox=False) == (connection,)
