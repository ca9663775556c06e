"""Streams and polls that reconnect although they were closed for good."""

from __future__ import annotations

import asyncio

import httpx

from gregor_gateway.protocol.hello import Hello
from tests.support.stream_device import StreamDevice
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, settle


def auth(gateway: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.token()}"}


async def test_terminal_close_is_remembered(gateway: Gateway, streams: str) -> None:
    headers = auth(gateway)
    async with StreamDevice(streams, {"session": "one"}, headers) as stream:
        await stream.until('"sync"')
        await gateway.store.devices.publish_control("alice", {"close": {"device": "phone", "code": 4502}})
        await wait_until(lambda: stream.is_ended, "the end")
        assert stream.frames[-1] == {"close": {"code": 4502, "reason": "revoked"}}
    async with StreamDevice(streams, {"session": "one"}, headers) as again, StreamDevice(streams, {}, headers) as other:
        assert (again.status, other.status) == (204, 200)
    async with httpx.AsyncClient(base_url=streams, headers=headers, trust_env=False) as client:
        answer = await client.get("/v1/poll", params={"session": "one"})

    assert (answer.status_code, answer.json()) == (410, {"close": {"code": 4502, "reason": "revoked"}})


async def test_replaced_stream_may_return_later(gateway: Gateway, streams: str) -> None:
    headers = auth(gateway)
    async with StreamDevice(streams, {"session": "one"}, headers) as old:
        await old.until('"sync"')
        newer = await gateway.connect(hello=Hello(session="one"))
        await old.until("4504")
        async with StreamDevice(streams, {"session": "one"}, headers) as again:
            assert again.status == 204
        newer.connection.close(4001)
        await settle()
        async with StreamDevice(streams, {"session": "one"}, headers) as again:
            assert again.status == 200


async def test_late_request_counts_as_the_newer_client(gateway: Gateway, streams: str) -> None:
    headers = auth(gateway)
    async with StreamDevice(streams, {"session": "one"}, headers) as old:
        await old.until('"sync"')
        async with StreamDevice(streams, {"session": "one"}, headers) as newer:
            await newer.until('"sync"')
            await old.until("4504")
            gateway.clock.advance(15)
            async with StreamDevice(streams, {"session": "one"}, headers) as newest:
                assert newest.status == 200
                await newer.until("4504")


async def test_oldest_named_stream_is_closed_for_a_while(gateway: Gateway, streams: str) -> None:
    """An attacker with nine sessions must not lock the user out for an hour."""
    headers = auth(gateway)
    async with StreamDevice(streams, {"session": "one"}, headers) as named, StreamDevice(streams, {}, headers) as other:
        for stream in (named, other):
            await stream.until('"sync"')
        for _ in range(8):
            gateway.clock.advance(0.001)
            await gateway.connect()
        for stream in (named, other):
            await stream.until("4505")
        async with StreamDevice(streams, {"session": "one"}, headers) as again:
            assert again.status == 204
        async with StreamDevice(streams, {}, headers) as fresh:
            assert fresh.status == 200
        gateway.clock.advance(15)
        async with StreamDevice(streams, {"session": "one"}, headers) as again:
            assert again.status == 200


async def test_next_poll_replaces_a_lost_one(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.create("aa")
    cursor = (await api.get("/v1/poll", params={"session": "one"})).json()["cursor"]
    query = {"session": "one", "cursor": cursor}
    lost = asyncio.create_task(api.get("/v1/poll", params=query | {"wait": "30"}))
    await wait_until(lambda: gateway.context.hub.channels, "the poll waits")
    await settle()

    following = asyncio.create_task(api.get("/v1/poll", params=query | {"wait": "30"}))
    assert (await lost).json()["frames"] == [{"close": {"code": 4504, "reason": "replaced"}}]
    while_it_waits = await api.get("/v1/poll", params=query)
    await gateway.create("bb")

    assert while_it_waits.status_code == 410
    assert list((await following).json()["frames"][0]["body"]["create"]) == ["bb"]
    assert (await api.get("/v1/poll", params=query | {"wait": "0"})).status_code == 200
