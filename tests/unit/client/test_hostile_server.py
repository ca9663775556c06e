"""Servers that are not Gregor, or hostile ones: each call ends with a documented error, and a device reconnects."""

from __future__ import annotations

import asyncio
import gzip
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from gregor.client import (
    GregorError,
    NotFound,
    Producer,
    Rejected,
    ServiceUnavailable,
    UnexpectedResponse,
    Unreachable,
    calls,
)
from gregor.client.device import Device
from gregor.client.messages import creation
from gregor.client.reconnect import DeviceTimings
from tests.support.dripping_server import KINDS, LIMIT_S, PERIOD_S, dripping_server
from tests.support.scripted_ingest import ScriptedIngest, scripted_ingest
from tests.support.wait import wait_until, wait_until_sync
from tests.unit.client.scripted_gateway import scripted_gateway
from tests.unit.client.test_producer import Call, awaited, blocking

QUICK = DeviceTimings(first_delay_s=0.01, max_delay_s=0.02)
ITEM = {"times": {"created": 5}, "for_device": None, "category": "mail", "body": None}
CALLS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("send", ("alice", {"system": "gregor", "body": {}})),
    ("create", ("alice", "mail")),
    ("snooze", ("alice", "a", 9e9)),
    ("send_many", ([{"uid": "alice", "system": "gregor", "body": {}}],)),
    ("broadcast", ("chat", 1)),
    ("job", ("j",)),
    ("state", ("alice",)),
    ("sync", ("alice",)),
    ("item", ("alice", "a")),
    ("history", ("alice",)),
)
STRANGE = (
    b"",
    b"<html>",
    b"\xff",
    b"[" * 100_000,
    b"7",
    b"[]",
    b"{}",
    b'{"entries": 7, "items": [], "digest": 7, "receipt": 7, "item": 7, "gone": null, "ignored": 7}',
    b'{"entries": [7], "items": {"a": 7}, "digest": "", "created": 7, "id": "a", "item": {"times": 7}, "seq": "x"}',
)


@pytest.fixture
def ingest() -> Iterator[ScriptedIngest]:
    with scripted_ingest() as server:
        yield server


@pytest.fixture(params=[blocking, awaited])
def call(request: pytest.FixtureRequest) -> Call:
    performer: Call = request.param
    return performer


@pytest.mark.parametrize(("method", "arguments"), CALLS, ids=[method for method, _ in CALLS])
def test_answer_of_another_shape_is_a_documented_error(
    ingest: ScriptedIngest, call: Call, method: str, arguments: tuple[Any, ...]
) -> None:
    for answer in STRANGE:
        ingest.answer = answer
        if answer == b"{}" and method in ("send", "create", "broadcast", "job", "sync"):
            continue  # the caller reads the members

        try:
            call(ingest.url, method, *arguments)
        except UnexpectedResponse as error:
            assert len(str(error)) < 1_000
        else:
            assert method in ("broadcast", "job", "sync") and answer.startswith(b"{"), answer


@pytest.mark.parametrize("status", [301, 302, 304, 307, 308])
def test_redirect_is_refused_and_not_followed(ingest: ScriptedIngest, call: Call, status: int) -> None:
    with scripted_ingest() as other:
        ingest.status, ingest.headers, ingest.answer = status, {"Location": f"{other.url}/v1/jobs/j"}, b""

        with pytest.raises(Rejected) as refused:
            call(ingest.url, "job", "j")

        assert refused.value.status == status
        assert other.asked == []


@pytest.mark.parametrize(
    "problem",
    [
        {"status": "x"},
        {"status": 1e300},
        {"status": None, "code": ["x"]},
        {"code": {}, "errors": 7, "detail": []},
        {"errors": [7, None, {"pointer": 7}]},
        {"status": 400, "code": "unavailable"},
    ],
)
def test_malformed_problem_is_the_family_of_its_status(
    ingest: ScriptedIngest, call: Call, problem: dict[str, Any]
) -> None:
    # The wait is longer than the deadline: the first answer is the last.
    ingest.status, ingest.answer, ingest.headers = 500, problem, {"Retry-After": "600"}

    with pytest.raises(ServiceUnavailable) as refused:
        call(ingest.url, "job", "j", timeout=30)

    assert refused.value.status == 500
    assert isinstance(refused.value.code, str) and isinstance(refused.value.errors, list)


@pytest.mark.parametrize("wanted", ["²", "9" * 400, "-7", "1e9", "Mon, 30 Nov 2026 15:00:00 GMT", ""])
def test_malformed_retry_after_is_ignored(ingest: ScriptedIngest, call: Call, wanted: str) -> None:
    ingest.status, ingest.headers = 404, {"Retry-After": wanted}

    with pytest.raises(NotFound) as refused:
        call(ingest.url, "job", "j", timeout=30)

    assert refused.value.retry_after is None


def test_pages_of_a_history_are_read_from_the_same_server_only(ingest: ScriptedIngest, call: Call) -> None:
    with scripted_ingest() as other:
        for link in (f"{other.url}/v1/users/alice/history", f"//{other.url.removeprefix('http://')}/", "http://[/"):
            ingest.answer, ingest.links = {"entries": []}, [link]

            with pytest.raises(UnexpectedResponse, match="another server"):
                call(ingest.url, "history", "alice")

        assert other.asked == [] and other.authorization is None


def test_repeated_page_of_a_history_is_an_error(ingest: ScriptedIngest, call: Call) -> None:
    ingest.answer, ingest.links = {"entries": []}, ["/v1/users/alice/history?before=7"] * 9

    with pytest.raises(UnexpectedResponse, match="does not end"):
        call(ingest.url, "history", "alice")

    assert len(ingest.asked) == 2


def test_long_response_is_cut(ingest: ScriptedIngest, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_RESPONSE_BYTES", 1 << 20)
    ingest.answer, ingest.headers = b'"' + b"x" * (3 << 20) + b'"', {"Content-Encoding": "identity"}

    with pytest.raises(UnexpectedResponse, match="more than 1 MiB"):
        call(ingest.url, "job", "j")


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "br", "\x80" * 2_000])
@pytest.mark.parametrize("status", [200, 500])
def test_compressed_response_is_refused_before_it_is_read(
    ingest: ScriptedIngest, call: Call, encoding: str, status: int
) -> None:
    ingest.answer, ingest.headers = gzip.compress(gzip.compress(b'{"id": "j"}')), {"Content-Encoding": encoding}
    ingest.status = status

    with pytest.raises(UnexpectedResponse, match=r"compressed \('.{2,130}'\), .* gzip off") as refused:
        call(ingest.url, "job", "j", timeout=30)

    assert ingest.encodings == ["identity"] and str(refused.value).isascii()


# Responses that never end.


@pytest.mark.parametrize("kind", KINDS)
def test_call_ends_at_its_deadline_if_the_response_arrives_slowly(call: Call, kind: str) -> None:
    with dripping_server(kind) as server:
        began_s = time.monotonic()
        # A server that answered 503 is unavailable, any other is unreachable.
        with pytest.raises((Unreachable, ServiceUnavailable)):
            call(server.url, "create", "alice", "mail", timeout=0.4)

        assert time.monotonic() - began_s < LIMIT_S / 2


def test_call_ends_at_its_deadline_if_the_server_reads_slowly(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = threading.Thread(target=_read_slowly, args=(listener,))
        reader.start()
        began_s = time.monotonic()
        with pytest.raises(Unreachable):
            call(f"http://127.0.0.1:{listener.getsockname()[1]}", "create", "alice", "mail", "x" * 2**25, timeout=1)

        took_s = time.monotonic() - began_s
        reader.join()
    assert took_s < LIMIT_S - 0.5  # the text of the message takes a part of it


def _read_slowly(listener: socket.socket) -> None:
    """Read a little of one request now and then, until its client or the patience of the test ends."""
    connection, _ = listener.accept()
    limit_s = time.monotonic() + LIMIT_S
    with connection, suppress(OSError):
        while connection.recv(2**18) and time.monotonic() < limit_s:
            select.select([], [], [connection], PERIOD_S)


def test_threads_of_a_shared_producer_have_their_own_deadlines() -> None:
    with dripping_server("headers") as server, Producer(server.url, "gk_a_b", timeout=0.4) as producer:
        took_s: list[float] = []

        def perform() -> None:
            began_s = time.monotonic()
            with pytest.raises(Unreachable):
                producer.state("alice")
            took_s.append(time.monotonic() - began_s)

        threads = [threading.Thread(target=perform) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(took_s) == 8 and max(took_s) < LIMIT_S / 2


def test_call_through_a_proxy_ends_at_its_deadline(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with dripping_server("headers") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        began_s = time.monotonic()
        with pytest.raises(Unreachable):
            call("http://gregor.example", "state", "alice", timeout=0.4)

        assert time.monotonic() - began_s < LIMIT_S / 2


def test_calls_end_at_their_deadline_if_the_name_server_does_not_answer(
    ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, is_answered = socket.getaddrinfo, threading.Event()
    lookups: list[str] = []

    def look_up(host: str, port: int, *arguments: Any, flags: int = 0, **options: Any) -> list[Any]:
        if host == "gregor.example" and not flags & socket.AI_NUMERICHOST:
            lookups.append(host)
            is_answered.wait(LIMIT_S)
            host = "127.0.0.1"
        return answers(host, port, *arguments, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ingest.answer = {"id": "j"}
    with Producer(f"http://gregor.example:{ingest.server_address[1]}", "gk_a_b", timeout=0.4) as producer:
        began_s = time.monotonic()
        for _ in range(3):
            with pytest.raises(Unreachable):
                producer.job("j")

        # All attempts wait for one look-up: a silent name server must not hold a thread for each.
        assert time.monotonic() - began_s < LIMIT_S / 2
        assert len(lookups) == 1
        is_answered.set()
        wait_until_sync(lambda: _is_found(producer), "the name is found")


def _is_found(producer: Producer) -> bool:
    with suppress(Unreachable):
        return bool(producer.job("j"))
    return False


# A device.

FRAMES = (
    "7",
    "[]",
    "<html>",
    "[" * 100_000,
    '"\\ud800"',
    '{"reconnect": 7}',
    '{"reconnect": {"after_ms": "x"}}',
    '{"reconnect": {"after_ms": 1e300}}',
    '{"ping": 1e999}',
    '{"welcome": {"uncounted": 7}}',
    '{"welcome": {"uncounted": [7]}}',
    '{"sync": 7, "cursor": "abcdef-1"}',
    '{"sync": "full", "cursor": 7}',
    '{"sync": "full", "cursor": "abcdef"}',
    '{"sync": "full", "cursor": "\\ud800-1"}',
    '{"sync": "full", "cursor": "' + "x" * 63 + '-1"}',
    '{"sync": "full", "cursor": "abcdef-1\\n"}',
    '{"system": "gregor", "seq": 9, "cursor": "\\ud800-9", "body": {}}',
    '{"sync": "full", "cursor": "abcdef-1", "body": 7}',
    '{"sync": "full", "cursor": "abcdef-1", "body": {"create": {"a": 7}}}',
    '{"sync": "full", "cursor": "abcdef-1", "body": {"create": {"a": {"times": {"created": "x"}}}}}',
    '{"sync": "full", "cursor": "abcdef-1", "external": [7]}',
    '{"system": "gregor", "seq": "x", "body": {}}',
    '{"system": "gregor", "seq": 9, "body": ' + "9" * 400 + "}",
    '{"system": "gregor", "seq": 9, "body": 7}',
    '{"system": "gregor", "seq": 9, "body": {"dismiss": {"ids": 7}}}',
    '{"system": "gregor", "seq": 9, "body": {"remind": {"a": []}}}',
    '{"ref": [], "receipt": {}}',
    '{"ref": 1}',
    '{"ref": 1, "receipt": 7}',
    '{"ref": 1, "receipt": {"seq": "x"}}',
    '{"ref": 1, "receipt": {"created": 7}}',
    '{"ref": 1, "problem": {"code": []}}',
    '{"ref": 1, "problem": {"code": "unavailable", "retry_after_ms": "x"}}',
    '{"ref": 1, "problem": {"code": "unavailable", "retry_after_ms": 1e300}}',
    '{"problem": 7}',
    '{"problem": {"status": 503, "retry_after_ms": []}}',
)


@pytest.mark.parametrize("frame", FRAMES, ids=[frame[:60] for frame in FRAMES])
async def test_malformed_frame_ends_the_connection_and_the_device_reconnects(frame: str) -> None:
    async with scripted_gateway() as gateway, Device(gateway.url, "a.b.c", timings=QUICK) as device:
        first = await gateway.next_connection()
        await first.accept_hello()
        await device.wait_until_synced()
        sending = asyncio.create_task(device.send(creation("a", "mail")))
        await first.receive("ref")
        await first.send_text(frame)

        # The state is as before: the next connection synchronizes, and sends the message again.
        second = await gateway.next_connection()
        hello = await second.accept_hello()
        ref = (await second.receive("ref"))["ref"]
        await second.send({"ref": ref, "receipt": {"seq": 1, "unchanged": True, "created": [], "ignored": {}}})

        assert (await sending).unchanged
        assert hello["cursor"] == "abcdef-1" and device.stopped is None
        assert "malformed" in (device.last_error or "")
        assert device.state == {} and device.badge == 0


@pytest.mark.parametrize(
    "item",
    [
        {**ITEM, "times": {"created": 1e300}},
        {**ITEM, "times": {"created": 5, "expires": "x"}},
        {**ITEM, "times": {"created": 5, "remind_at": 7}},
        {**ITEM, "category": 7},
        {**ITEM, "body": "\ud800"},
        {"category": "mail"},
    ],
)
async def test_malformed_item_never_enters_the_copy(item: dict[str, Any]) -> None:
    async with scripted_gateway() as gateway, Device(gateway.url, "a.b.c", timings=QUICK) as device:
        first = await gateway.next_connection()
        await first.accept_hello()
        await device.wait_until_synced()
        await first.send_text(json.dumps({"system": "gregor", "seq": 2, "body": {"create": {"a": item}}}))
        await (await gateway.next_connection()).accept_hello()
        await wait_until(lambda: device.is_synced, "the device is synchronized again")

        assert dict(device.items) == {} and device.state == {} and device.badge == 0 and device.due == {}


async def test_redirect_of_a_gateway_is_not_followed() -> None:
    async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {other.url}/v1/connect\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(redirect, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, scripted_gateway() as other, Device(url, "a.b.c", timings=QUICK) as device:
        await wait_until(lambda: device.last_error is not None, "the connection failed")

        assert "refused the connection" in (device.last_error or "")
        assert other.connections.empty() and device.stopped is None


def test_every_error_is_a_gregor_error() -> None:
    assert issubclass(UnexpectedResponse, GregorError)
