"""Tasks of a connection wait until it has joined, and still run if the client disconnects."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.items.sync import View
from gregor_gateway.connection.tasks import MAX_TASKS
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.transports.ws_frames import Opcode
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, settle
from tests.unit.gateway.test_redis_turns import use_up
from tests.unit.gateway.test_websocket import UPGRADE, head, masked, raw

GOODBYE = masked(b"\x03\xe8", 0x80 | Opcode.CLOSE)


def message(*ids: str) -> bytes:
    """Return a frame that creates these items, with a ref."""
    names = ",".join(f'"{name}":{{"category":"mail"}}' for name in ids)
    return masked(b'{"ref":7,"system":"gregor","body":{"create":{%s}}}' % names.encode())


def stream_request(token: str, place: str) -> bytes:
    """Return all frames that a client sends before its welcome, in one write.

    The token is in the header or in `hello`.
    """
    if place == "header":
        return head(**UPGRADE, Authorization=f"Bearer {token}") + masked(b'{"hello":{}}')
    hello = b'{"hello":{"token":"%s"}}' % token.encode()
    return head(**UPGRADE) + bytes([0x81, 0xFE]) + len(hello).to_bytes(2, "big") + bytes(4) + hello


async def ids_of(gateway: Gateway) -> list[str]:
    full = await gateway.store.users.state("alice", View(), gateway.clock.now_us())
    return sorted(item.id for item in full.items)


@pytest.mark.parametrize("place", ["header", "hello"])
async def test_message_behind_hello_is_answered_later(gateway: Gateway, place: str) -> None:
    reader, writer = await raw(gateway, stream_request(gateway.token(), place) + message("aa"))

    frames_of = b""
    async with asyncio.timeout(10):
        while b'"receipt"' not in frames_of:
            frames_of += await reader.read(65_536)
    writer.close()

    assert frames_of.index(b'"welcome"') < frames_of.index(b'"sync"') < frames_of.index(b'{"ref":7')


@pytest.mark.parametrize("place", ["header", "hello"])
@pytest.mark.parametrize("is_gone", [False, True])
async def test_revoked_token_cannot_commit_behind_hello(gateway: Gateway, place: str, is_gone: bool) -> None:
    await gateway.store.devices.revoke("alice", None, gateway.clock.now_us() + 1, gateway.clock.now_us())

    said = stream_request(gateway.token(), place) + message("aa")
    reader, writer = await raw(gateway, said + (GOODBYE if is_gone else b""))
    frames_of = await reader.readuntil(b"\x03\xe8" if is_gone else b"revoked")
    await settle(200)
    writer.close()

    assert b"receipt" not in frames_of
    assert await ids_of(gateway) == []


async def test_message_before_a_disconnect_is_committed(gateway: Gateway) -> None:
    reader, writer = await raw(gateway, stream_request(gateway.token(), "header"))
    while b'"sync"' not in await reader.read(65_536):
        pass

    writer.write(b"".join(message(f"i{n}") for n in range(20)) + GOODBYE)
    await reader.read()
    await settle(200)
    writer.close()

    assert len(await ids_of(gateway)) == 20


async def test_message_after_a_close_is_dropped(gateway: Gateway) -> None:
    phone = await gateway.connect()
    phone.send(ref=1, system="gregor", body={"create": {"aa": {"category": "mail"}}})

    phone.connection.close(4502)
    await settle(200)

    assert await ids_of(gateway) == []


async def test_receipt_of_a_lost_frame_follows_a_position(gateway: Gateway) -> None:
    await gateway.create("old")
    phone = await gateway.connect(hello=Hello(prefixes=("user",)))
    gateway.feed.drop_next()
    phone.send(ref=1, system="gregor", body={"create": {"aa": {"category": "mail"}}})
    await settle()
    assert phone.frames == []

    gateway.pass_time(1.2)
    receipt = await phone.until("receipt")

    assert phone.kinds == ["unchanged", "receipt"]
    assert phone.seqs == [receipt["receipt"]["seq"]]


async def test_resync_behind_hello_joins_the_first_sync(gateway: Gateway) -> None:
    await gateway.create("aa")
    resync = masked(b'{"resync":{"cursor":"none-1"}}')
    reader, writer = await raw(gateway, stream_request(gateway.token(), "header") + resync + masked(b'{"ping":1}'))

    frames_of = b""
    async with asyncio.timeout(10):
        while b'"sync"' not in frames_of:
            frames_of += await reader.read(65_536)
    writer.close()

    assert b'"welcome"' in frames_of
    assert b'"sync":"full"' in frames_of


@pytest.mark.parametrize(("size", "most"), [(300_000, 4), (20, 65)])
async def test_queued_tasks_are_bounded_during_an_outage(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    phone = await gateway.connect()
    is_back = asyncio.Event()
    bucket = gateway.store.access.take

    async def away(*asked: Any) -> float:
        await is_back.wait()
        return await bucket(*asked)

    monkeypatch.setattr(gateway.store.access, "take", away)
    message = {"system": "gregor", "body": {"dismiss": {"ids": ["none"]}}, "id": "x" * size}
    phone.send(**message)
    await settle()
    said = 0
    while not phone.is_held:
        phone.send(**message)
        said += 1

    is_back.set()
    await wait_until(lambda: not phone.is_held, "that the client is read from again")

    assert said == most


@pytest.mark.parametrize("is_forwarded", [False, True])
async def test_posted_tokens_that_wait_are_bounded(gateway: Gateway, is_forwarded: bool) -> None:
    """Posted tokens do not come from the transport, so a pause in reading from it does not bound them."""
    gateway.rules = replace(gateway.rules, queue_bytes=1_000_000)
    phone = await gateway.connect(hello=Hello(session="one"))
    use_up(gateway, wait_s=1)
    queued = 0
    for number in range(200):
        frame = {"ref": number, "token": gateway.token()}
        if is_forwarded:
            phone.connection.receive_document(frame, 0)
        elif (answer := phone.connection.post(frame, 0)) is not None:
            phone.frames.append(json.loads(answer))
        queued = len(phone.connection._tasks._tasks)  # type: ignore[union-attr]
    await settle()

    refused = [frame["problem"] for frame in phone.frames]
    assert (queued, len(refused)) == (MAX_TASKS + 1, 200 - queued)
    assert {(each["code"], each["retry_after_ms"]) for each in refused} == {("rate_limited", 1_000)}
    phone.frames.clear()

    for _ in range(queued):
        gateway.pass_time(0.1)
        await settle()
    assert phone.kinds == ["token"] * queued
    assert phone.connection.post({"token": gateway.token()}, 0) is None


async def test_tasks_of_a_client_that_left_end_with_its_token(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No control message closes a connection that has left its channel: its tasks check the token themselves."""
    await gateway.create("aa")
    phone = await gateway.connect()
    is_back, bucket = asyncio.Event(), gateway.store.access.take

    async def away(*asked: Any) -> float:
        await is_back.wait()
        return await bucket(*asked)

    monkeypatch.setattr(gateway.store.access, "take", away)
    phone.send(system="gregor", body={"dismiss": {"ids": ["none"]}})  # waits for the store
    phone.send(ack=1)
    phone.connection.end()
    await gateway.store.users.delete_user("alice", gateway.clock.now_us())

    is_back.set()
    await settle()

    assert await gateway.store.devices.acknowledged("alice") == {}


async def test_client_that_left_early_replaces_none(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe, is_heard = gateway.feed.subscribe, asyncio.Event()

    async def slow(*asked: Any) -> None:
        await is_heard.wait()
        await subscribe(*asked)

    with monkeypatch.context() as held:
        held.setattr(gateway.feed, "subscribe", slow)
        first = gateway.dial(hello=Hello(session="tab"))
        await settle()
    first.connection.end()
    second = await gateway.connect(hello=Hello(session="tab"))

    is_heard.set()
    await settle(200)

    assert second.closed is None
    assert await gateway.store.devices.session("alice", "phone", "tab", gateway.clock.now_us()) is not None


@pytest.mark.parametrize("comes_back", [True, False])
async def test_drained_client_gets_pending_answers_first(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    phone, idle = await gateway.connect(), await gateway.connect("laptop")
    commit, is_back = gateway.store.users.commit, asyncio.Event()

    async def slow(*asked: Any) -> Any:
        await is_back.wait()
        return await commit(*asked)

    monkeypatch.setattr(gateway.store.users, "commit", slow)
    phone.send(ref=1, system="gregor", body={"create": {"aa": {"category": "mail"}}})
    await settle()
    for device in (phone, idle):
        device.connection.drain(0, "shutdown")
    gateway.pass_time(0.1)
    assert (phone.closed, idle.closed) == (None, 4001)

    if comes_back:
        is_back.set()
        await phone.until("receipt")
        await settle()
    gateway.pass_time(0.1 if comes_back else 1.1)

    assert phone.closed == 4001
    assert ("receipt" in phone.kinds) is comes_back
