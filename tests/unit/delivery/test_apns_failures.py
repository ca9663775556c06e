"""Failures of APNs and of the network: each push gets its own verdict, and none is sent twice."""

from __future__ import annotations

import asyncio
import gc
import struct
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded
from h2.settings import SettingCodes
from hpack import Encoder

from gregor.dev.fakes.apns import ANY_TOKEN
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor_delivery.channels.apns.connection import IDLE_EVENTS, REQUEST_EVENTS, ApnsConnection
from gregor_delivery.channels.apns.exchange import ApnsRequest, Lost
from gregor_delivery.channels.verdict import MAX_TEXT, RecipientGone, Refused, Retry, Sent, Unknown
from tests.support.sample_pushes import push
from tests.support.wait import wait_until
from tests.unit.delivery.apns_harness import ApnsHarness, apns_harness

NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 0, 2, 7, 11


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ApnsHarness]:
    async with apns_harness(tmp_path) as each:
        yield each


async def test_timeout_does_not_affect_other_pushes(harness: ApnsHarness) -> None:
    harness.fake.script("late", ApnsAction(delay_s=0.3))
    harness.fake.script("slow", ApnsAction(delay_s=0.4))

    late, slow = await asyncio.gather(harness.send(push(token="late"), 0.1), harness.send(push(token="slow"), 5))
    after = await harness.send(push(token="after"))

    assert isinstance(late, Unknown)
    assert isinstance(slow, Sent)
    assert isinstance(after, Sent)
    assert [harness.copies(token) for token in ("late", "slow", "after")] == [1, 1, 1]
    assert harness.fake.connections == 1


async def test_late_response_is_ignored(harness: ApnsHarness) -> None:
    harness.fake.script("late", ApnsAction(503, "ServiceUnavailable", delay_s=0.15, is_split=True))
    harness.fake.script("slow", ApnsAction(delay_s=0.3))

    late, slow = await asyncio.gather(harness.send(push(token="late"), 0.1), harness.send(push(token="slow"), 5))

    assert isinstance(late, Unknown)
    assert isinstance(slow, Sent)
    assert harness.fake.connections == 1


async def test_cancelled_send_does_not_affect_others(harness: ApnsHarness) -> None:
    harness.fake.script("cancelled", ApnsAction(delay_s=0.1))
    harness.fake.script("slow", ApnsAction(delay_s=0.2))
    cancelled = asyncio.create_task(harness.send(push(token="cancelled")))
    slow = asyncio.create_task(harness.send(push(token="slow")))
    await wait_until(lambda: len(harness.fake.received) == 2, "both are in flight")

    cancelled.cancel()

    assert isinstance(await slow, Sent)
    assert cancelled.cancelled()
    assert [harness.copies("cancelled"), harness.copies("slow")] == [1, 1]


async def test_slow_provider_gets_one_copy(harness: ApnsHarness) -> None:
    verdict = await harness.send_with_action(ApnsAction(delay_s=0.4))

    assert isinstance(verdict, Sent)
    assert len(harness.fake.received) == 1
    assert [each.inactivity_timer for each in harness.connections] == [None]


async def test_missing_response_is_unknown(harness: ApnsHarness) -> None:
    await harness.send()  # the connection is open

    verdict = await harness.send_with_action(ApnsAction(is_silent=True), deadline_s=0.5)

    assert verdict == Unknown("no response before the deadline")
    assert len(harness.fake.received) == 2


async def test_silent_connection_is_not_reused(harness: ApnsHarness) -> None:
    await harness.send()
    harness.fake.freeze()

    assert isinstance(await harness.send(deadline_s=0.1), Unknown)
    assert isinstance(await harness.send(), Sent)
    assert harness.fake.connections == 2


async def test_timed_out_stream_is_reset(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, most_streams=1, config={"max_connections": 1}) as harness:
        await harness.send_with_action(ApnsAction(is_silent=True), deadline_s=0.1)
        await wait_until(lambda: harness.connections[0].has_capacity, "the ping was answered")

        assert isinstance(await harness.send(), Sent)
        assert harness.fake.connections == 1


async def test_request_before_goaway_is_written() -> None:
    written: list[bytes] = []
    connection = ApnsConnection(lambda: None, lambda _: None)
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    connection.connection_made(RecordingTransport(written))
    connection.data_received(server.data_to_send())
    server.receive_data(b"".join(written))
    headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/3/device/a"), (b":authority", b"x")]
    written.clear()

    connection.start(ApnsRequest(headers, b"{}", asyncio.get_running_loop().time() + 60))
    connection.data_received(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + b"\x7f\xff\xff\xff" + bytes(4))

    assert any(isinstance(event, StreamEnded) for event in server.receive_data(b"".join(written)))
    connection.end("over")


@pytest.mark.parametrize("excess", [0, 1])
async def test_provider_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch, excess: int) -> None:
    written: list[bytes] = []
    ended: list[ApnsConnection] = []
    connection = ApnsConnection(lambda: None, ended.append)
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    transport = RecordingTransport(written)
    connection.connection_made(transport)
    connection.data_received(server.data_to_send())
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    answers = 100 * len(ping)
    limit = transport.get_write_buffer_size() + answers - excess
    monkeypatch.setattr("gregor_delivery.channels.apns.connection.MAX_UNSENT_BYTES", limit)

    connection.data_received(100 * ping)

    assert (ended, transport.is_closing()) == (([connection], True) if excess else ([], False))
    connection.end("over")


SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
WINDOW_UPDATE = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + b"\x00\x00\x00\x01"
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)


@pytest.mark.parametrize("frame", [SETTINGS, WINDOW_UPDATE, PING], ids=["settings", "window update", "ping"])
async def test_provider_that_floods_with_frames_is_cut_off(frame: bytes) -> None:
    connection, server, request = sent_request()
    connection.data_received(server.data_to_send() + IDLE_EVENTS * frame)
    assert connection.is_usable

    connection.data_received(REQUEST_EVENTS * frame)

    assert await request.outcome == Lost("the provider sends too many frames")
    assert not connection.is_usable


def frame_of(kind: int, flags: int, stream_id: int, body: bytes) -> bytes:
    """Return the bytes of an HTTP/2 frame."""
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + body


INFORMATIONAL = b"\x08\x03103"
INDEXED = frame_of(1, 4, 1, INFORMATIONAL + 1_800 * b"\x95")
HUFFMAN = frame_of(1, 4, 1, INFORMATIONAL + Encoder().encode([(b"x", 15_000 * b"y")], huffman=True))
ALL_SETTINGS = frame_of(4, 0, 0, b"".join(struct.pack(">HI", 0x100 + each, 0) for each in range(2_700)))


@pytest.mark.parametrize("frame", [INDEXED, HUFFMAN, ALL_SETTINGS], ids=["1,800 headers", "huffman", "2,700 settings"])
async def test_provider_that_sends_frames_with_costly_contents_is_cut_off(frame: bytes) -> None:
    """Each frame is one event but takes h2 3 to 14 ms, 100 times as long as a small one."""
    connection, server, request = sent_request()
    connection.data_received(server.data_to_send() + frame)
    assert connection.is_usable

    connection.data_received(20 * frame)

    assert request.outcome.result() == Lost("the provider sends too many frames")


@pytest.mark.parametrize("frame", [frame_of(1, 4, 1, INFORMATIONAL), frame_of(8, 0, 1, b"\x00\x00\x00\x01")])
async def test_provider_that_floods_a_closed_stream_is_cut_off(frame: bytes) -> None:
    """h2 decodes each frame and answers with a reset, but reports no event."""
    connection, server, request = sent_request()
    connection.data_received(server.data_to_send())
    connection.cancel(request)
    connection.conn.drop_ended_streams()

    connection.data_received((IDLE_EVENTS + REQUEST_EVENTS) * frame)

    assert not connection.is_usable


def blocked_requests(count: int) -> tuple[ApnsConnection, H2Connection, list[ApnsRequest]]:
    """Start requests on a connection whose provider has a window of 0: their headers are sent, their bodies wait."""
    connection = ApnsConnection(lambda: None, lambda _: None)
    server = H2Connection(H2Configuration(client_side=False))
    server.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = 0
    server.local_settings.acknowledge()
    server.initiate_connection()
    written: list[bytes] = []
    connection.connection_made(RecordingTransport(written))
    connection.data_received(server.data_to_send())
    headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/3/device/a"), (b":authority", b"x")]
    requests = [ApnsRequest(headers, b"{}", asyncio.get_running_loop().time() + 60) for _ in range(count)]
    for each in requests:
        connection.start(each)
    connection.flush()
    assert [each.rest for each in requests] == [b"{}"] * count
    server.receive_data(b"".join(written))
    return connection, server, requests


async def test_window_update_beside_a_reset_of_a_blocked_request() -> None:
    """The provider widens the windows of two requests and resets one of them in the same read."""
    connection, server, requests = blocked_requests(2)

    server.increment_flow_control_window(10, 1)
    server.increment_flow_control_window(10, 3)
    server.reset_stream(1, INTERNAL_ERROR)
    connection.data_received(server.data_to_send())

    assert requests[0].outcome.done()
    assert requests[1].rest == b""
    connection.end("over")


@pytest.mark.parametrize("is_reset", [False, True], ids=["response", "response and reset"])
async def test_response_before_the_body_frees_its_stream(is_reset: bool) -> None:
    """Each such stream was kept, with 0.5 KB, for as long as the connection."""
    connection, server, requests = blocked_requests(100)

    for stream_id in range(1, 200, 2):
        server.send_headers(stream_id, [(":status", "403")], end_stream=True)
        if is_reset:  # RFC 9113 §8.1: the server may ask so for the end of the request
            server.reset_stream(stream_id, NO_ERROR)
    connection.data_received(server.data_to_send())

    assert all(each.outcome.done() for each in requests)
    connection.conn.drop_ended_streams()
    assert connection.kept_streams == 0
    assert connection.is_usable
    connection.end("over")


async def test_promised_stream_ends_the_connection() -> None:
    """h2 keeps 0.5 KB for each promised stream until the connection closes."""
    connection, server, [request] = blocked_requests(1)
    assert server.remote_settings.enable_push == 0

    server.remote_settings[SettingCodes.ENABLE_PUSH] = 1
    server.remote_settings.acknowledge()
    server.push_stream(1, 2, [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "x")])
    connection.data_received(server.data_to_send())

    assert request.outcome.done() and not connection.is_usable
    assert connection.kept_streams <= 1


async def test_keepalive_timer_ends_with_the_connection() -> None:
    collected: list[bool] = []
    connection, _, request = sent_request()
    weakref.finalize(connection, collected.append, True)
    connection.end("over")

    del connection, request
    await asyncio.sleep(0)
    gc.collect()

    assert collected


async def test_abort_timer_ends_with_the_connection() -> None:
    collected: list[bool] = []
    connection = ApnsConnection(lambda: None, lambda _: None)
    transport = RecordingTransport([])
    weakref.finalize(transport, collected.append, True)
    connection.connection_made(transport)
    connection.ready.cancel()
    connection.end("over")
    connection.connection_lost(None)

    del connection, transport
    await asyncio.sleep(0)
    gc.collect()

    assert collected


def sent_request() -> tuple[ApnsConnection, H2Connection, ApnsRequest]:
    """Return a connection, the other end of it, and a request on its stream 1."""
    connection = ApnsConnection(lambda: None, lambda _: None)
    # The server of a test may send what no correct server sends.
    server = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
    server.initiate_connection()
    written: list[bytes] = []
    connection.connection_made(RecordingTransport(written))
    connection.data_received(server.data_to_send())
    headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/3/device/a"), (b":authority", b"x")]
    request = ApnsRequest(headers, b"{}", asyncio.get_running_loop().time() + 60)
    connection.start(request)
    connection.flush()
    server.receive_data(b"".join(written))
    return connection, server, request


async def test_only_read_headers_are_kept() -> None:
    connection, server, request = sent_request()
    server.send_headers(1, [(":status", "200"), ("apns-id", "a"), ("x-padding", "y" * 10_000)])

    connection.data_received(server.data_to_send())

    assert request.response_headers == {b":status": b"200", b"apns-id": b"a"}
    connection.end("over")


@pytest.mark.parametrize("status", [b"abc", b"2_0_0", b"-20", b"99", b"9" * 5_000, b"\xb2\xb2\xb2"])
async def test_response_without_a_valid_status_is_lost(status: bytes) -> None:
    """A parser that raised here would leave the request without an outcome, and its place taken for good."""
    connection, server, request = sent_request()
    server.send_headers(1, [(b":status", status)], end_stream=True)

    connection.data_received(server.data_to_send())

    assert request.outcome.result() == Lost("the response has no valid status")
    assert connection.in_flight == 0
    connection.end("over")


class RecordingTransport(asyncio.Transport):
    """A transport that records the written bytes. Its peer does not read them."""

    def __init__(self, written: list[bytes]) -> None:
        super().__init__()
        self._written = written
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._written))

    def close(self) -> None:
        self._is_closing = True

    def abort(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing


async def test_connection_that_answers_ping_is_reused(harness: ApnsHarness) -> None:
    await harness.send_with_action(ApnsAction(is_silent=True), deadline_s=0.1)
    await wait_until(lambda: harness.connections[0].has_capacity, "the ping was answered")

    assert isinstance(await harness.send(), Sent)
    assert harness.fake.connections == 1


async def test_goaway_waits_for_accepted_streams(harness: ApnsHarness) -> None:
    verdict = await harness.send_with_action(ApnsAction(goaway="taken", delay_s=0.1))

    assert isinstance(verdict, Sent)
    assert len(harness.fake.received) == 1
    assert isinstance(await harness.send(), Sent)
    assert harness.fake.connections == 2


async def test_goaway_without_response_is_unknown(harness: ApnsHarness) -> None:
    verdict = await harness.send_with_action(ApnsAction(goaway="taken", is_silent=True), deadline_s=0.1)

    assert isinstance(verdict, Unknown)
    assert len(harness.fake.received) == 1


async def test_goaway_resends_excluded_streams(harness: ApnsHarness) -> None:
    verdict = await harness.send_with_action(ApnsAction(goaway="refused"))

    assert isinstance(verdict, Sent)
    assert len(harness.fake.delivered()) == 1
    assert harness.fake.connections == 2


async def test_stream_behind_goaway_arrives_once(harness: ApnsHarness) -> None:
    harness.fake.script(ANY_TOKEN, ApnsAction(), ApnsAction(goaway="refused"))
    await harness.send()

    verdicts = await asyncio.gather(*(harness.send(push(token=f"t{n}")) for n in range(20)))

    assert {type(each) for each in verdicts} == {Sent}
    assert sorted(each.token for each in harness.fake.delivered()[1:]) == sorted(f"t{n}" for n in range(20))


async def test_goaway_drains_all_streams(harness: ApnsHarness) -> None:
    harness.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=0.1)] * 20, ApnsAction(goaway="taken", delay_s=0.1))

    verdicts = await asyncio.gather(*(harness.send(push(token=f"t{n}")) for n in range(21)))

    assert {type(each) for each in verdicts} == {Sent}
    assert len(harness.fake.received) == 21


async def test_each_send_has_its_own_apns_id(harness: ApnsHarness) -> None:
    harness.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=0.05)] * 10)

    verdicts = await asyncio.gather(*(harness.send() for _ in range(10)))

    names = {each.provider_id for each in verdicts if isinstance(each, Sent)}
    assert len(names) == 10
    assert names == {each.headers["apns-id"] for each in harness.fake.received}


async def test_refused_stream_is_resent(harness: ApnsHarness) -> None:
    verdict = await harness.send_with_action(ApnsAction(reset=REFUSED_STREAM))

    assert isinstance(verdict, Sent)
    assert len(harness.fake.delivered()) == 1


async def test_always_refused_stream_is_retried_later(harness: ApnsHarness) -> None:
    harness.fake.script("a1b2c3", *[ApnsAction(reset=REFUSED_STREAM)] * 10)

    assert await harness.send() == Retry(None, None, "stream refused")
    assert harness.copies("a1b2c3") == 3


@pytest.mark.parametrize("code", [INTERNAL_ERROR, ENHANCE_YOUR_CALM])
async def test_reset_stream_does_not_affect_others(harness: ApnsHarness, code: int) -> None:
    harness.fake.script("slow", ApnsAction(delay_s=0.2))
    slow = asyncio.create_task(harness.send(push(token="slow")))

    verdict = await harness.send_with_action(ApnsAction(reset=code))

    assert isinstance(verdict, Unknown)
    assert not slow.done()
    assert isinstance(await slow, Sent)
    assert harness.fake.connections == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_error_without_a_body(harness: ApnsHarness, status: int) -> None:
    verdict = await harness.send_with_action(ApnsAction(status, is_empty=True))

    assert verdict == Retry(None, str(status), f"{status} without a reason")
    assert len(harness.fake.received) == 1


async def test_body_in_two_frames(harness: ApnsHarness) -> None:
    verdict = await harness.send_with_action(
        ApnsAction(410, "Unregistered", timestamp_ms=1_457_056_447_001, is_split=True)
    )

    assert verdict == RecipientGone("410", "Unregistered", since_us=1_457_056_447_001_000)
    assert isinstance(await harness.send(), Sent)
    assert (harness.copies("a1b2c3"), harness.fake.connections) == (2, 1)


async def test_trailing_empty_data_frame(harness: ApnsHarness) -> None:
    assert isinstance(await harness.send_with_action(ApnsAction(trails=True)), Sent)
    assert isinstance(await harness.send(), Sent)
    assert harness.fake.connections == 1


async def test_lost_connection_ends_all_requests(harness: ApnsHarness) -> None:
    harness.fake.script(ANY_TOKEN, *[ApnsAction(is_silent=True)] * 5)
    waiting = [asyncio.create_task(harness.send(push(token=f"t{n}"))) for n in range(5)]
    await wait_until(lambda: len(harness.fake.received) == 5, "all are in flight")

    waiting[0].cancel()
    harness.fake.cut_connections()

    assert {type(each) for each in await asyncio.gather(*waiting[1:])} == {Unknown}
    assert len(harness.fake.received) == 5


async def test_dropped_connection_is_unknown(harness: ApnsHarness) -> None:
    assert isinstance(await harness.send_with_action(ApnsAction(drops=True)), Unknown)
    assert isinstance(await harness.send(), Sent)
    assert harness.copies("a1b2c3") == 2


async def test_ended_streams_are_freed(harness: ApnsHarness) -> None:
    for _ in range(10):
        await asyncio.gather(*(harness.send() for _ in range(60)))

    assert [each.in_flight for each in harness.connections] == [0]
    assert harness.connections[0].kept_streams <= 64 + 60


async def test_error_bodies_do_not_exhaust_the_window(harness: ApnsHarness) -> None:
    harness.fake.script(ANY_TOKEN, *[ApnsAction(400, "BadDeviceToken" + "x" * 9_000)] * 20)

    verdicts = [await harness.send(deadline_s=2) for _ in range(20)]

    assert set(verdicts) == {Refused("400", ("BadDeviceToken" + "x" * 9_000)[:MAX_TEXT])}
    assert harness.fake.connections == 1


async def test_small_window_delays_the_body(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, window_bytes=100) as harness:
        verdicts = await asyncio.gather(*(harness.send(push(text="x" * 3_000)) for _ in range(30)))

        assert {type(each) for each in verdicts} == {Sent}
        assert len(harness.fake.received) == 30


async def test_partially_sent_push_is_not_delivered(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, window_bytes=0) as harness:
        assert isinstance(await harness.send(deadline_s=0.1), Retry)
        assert harness.fake.received == []
