"""Sessions end to end: authentication, replaced connections, and the codes of closes."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.cluster import Cluster
from tests.support.stream_device import StreamDevice
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

DeviceOf = Callable[..., WireDevice]


async def test_revocation_closes_at_once(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, device_of: DeviceOf
) -> None:
    token = cluster.token(uid, "phone")
    async with (
        WireDevice(cluster.gateway_urls[0], token, {}) as phone,
        device_of("laptop", gateway=1) as laptop,
        StreamDevice(cluster.stream_urls[1], headers={"Authorization": f"Bearer {token}"}) as stream,
    ):
        await phone.synced()
        await laptop.synced()
        await stream.until('"sync"')
        revoked = {"device": "phone", "issued_before": cluster.now_s()}
        answer = await api.post(f"/v1/users/{uid}/revoke", json=revoked)

        assert answer.status_code == 200
        assert await phone.closed(timeout_s=2) == (4502, "revoked")
        close = (await stream.until('"close"'))["close"]
        assert (close["code"], close["reason"]) == (4502, "revoked")
        assert laptop.close_code is None
        async with cluster.api(token) as device_api:
            assert (await device_api.get(f"/v1/users/{uid}/state")).status_code == 401
        async with WireDevice(cluster.gateway_urls[1], token, {}) as again:
            assert (await again.closed())[0] in (4501, 4502)
        async with device_of("phone") as fresh:
            await fresh.synced()


async def test_deleted_user_is_closed_and_starts_again(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, device_of: DeviceOf
) -> None:
    message = {"system": "gregor", "body": {"create": {"a": {"category": "mail"}}}}
    await api.post(f"/v1/users/{uid}/messages", json=message)
    async with device_of("phone") as phone:
        await phone.synced()

        assert (await api.delete(f"/v1/users/{uid}")).status_code == 204

        assert (await phone.closed(timeout_s=2))[0] == 4502
    assert (await api.get(f"/v1/users/{uid}/state")).json()["items"] == {}
    receipt = (await api.post(f"/v1/users/{uid}/messages", json=message)).json()
    assert receipt["created"] == ["a"]


async def test_connection_replaces_only_its_own_session(uid: str, device_of: DeviceOf) -> None:
    async with (
        device_of("phone", hello={"session": "tab-1"}) as old,
        device_of("phone", gateway=1, hello={"session": "tab-2"}) as beside,
        device_of("phone") as unnamed,
    ):
        for device in (old, beside, unnamed):
            await device.synced()
        async with device_of("phone", gateway=1, hello={"session": "tab-1"}) as new:
            await new.synced()

            assert await old.closed() == (4504, "replaced")
            assert (beside.close_code, unnamed.close_code) == (None, None)


async def test_ninth_connection_closes_the_oldest(uid: str, device_of: DeviceOf) -> None:
    devices = [device_of("phone", gateway=number % 2) for number in range(9)]
    async with devices[0] as oldest:
        await oldest.synced()
        for device in devices[1:]:
            await device.__aenter__()
            await device.synced()

        assert await oldest.closed() == (4505, "too_many_connections")
        assert all(device.close_code is None for device in devices[1:])
        for device in devices[1:]:
            await device.__aexit__()


@pytest.mark.parametrize(
    ("first", "code"),
    [("no json", 4503), ('{"ack":1}', 4503), ('{"ref":1,"system":"gregor","body":{}}', 4503), ("[]", 4503)],
)
async def test_first_frame_must_be_hello(cluster: Cluster, uid: str, first: str, code: int) -> None:
    async with WireDevice(cluster.gateway_urls[0], cluster.token(uid, "phone")) as device:
        await device.send_text(first)

        assert (await device.closed())[0] == code


async def test_client_mistakes_are_problems_not_closes(uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        for frame in ({"nonsense": 1}, {"ack": "x"}, {"ref": 9, "system": "gregor", "body": {"creat": {}}}):
            await phone.send(frame)
        await phone.until(lambda frame: frame.get("ref") == 9, "a problem for the message")

        problems = [frame["problem"]["code"] for frame in phone.frames if "problem" in frame]
        assert len(problems) == 3
        assert problems[2] == "unknown_field"
        assert phone.close_code is None


async def test_invalid_token_is_closed_after_the_upgrade(cluster: Cluster) -> None:
    for token in ("eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "nothing"):
        async with WireDevice(cluster.gateway_urls[0], token, {}) as device:
            assert await device.closed() == (4501, "unauthorised")


async def test_token_may_be_a_subprotocol_or_in_hello(cluster: Cluster, uid: str) -> None:
    token = cluster.token(uid, "phone")
    offered = {"subprotocols": ["gregor.v1", token]}
    async with WireDevice(cluster.gateway_urls[0], None, {}, **offered) as by_subprotocol:
        await by_subprotocol.synced()
        assert by_subprotocol.socket.subprotocol == "gregor.v1"
    async with WireDevice(cluster.gateway_urls[0], None, {"token": token}) as by_hello:
        await by_hello.synced()


async def test_foreign_origin_is_refused_before_the_upgrade(cluster: Cluster, uid: str) -> None:
    token = cluster.token(uid, "phone")

    with pytest.raises(InvalidStatus) as refused:
        await WireDevice(cluster.gateway_urls[0], token, {}, origin="https://evil.example").__aenter__()

    assert refused.value.response.status_code == 403
    assert b"origin_not_allowed" in (refused.value.response.body or b"")


async def test_token_is_refreshed_on_an_open_connection(cluster: Cluster, uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone", lives_s=62) as phone:
        await phone.synced()
        await phone.until(lambda frame: "refresh" in frame, "a refresh, 60 s before the end")
        await phone.send({"token": cluster.token(uid, "phone")})
        answer = await phone.until(lambda frame: "token" in frame, "the new lifetime")
        assert answer["token"]["expires_in"] > 3_600

        await phone.send({"token": cluster.token(uid, "laptop")})
        assert await phone.closed() == (4003, "state_invalidated")


async def test_deleted_device_is_closed_and_loses_its_items(
    api: httpx.AsyncClient, uid: str, device_of: DeviceOf
) -> None:
    devices = {"own": "phone", "each": "*", "all": None}
    body = {"create": {name: {"category": "mail", "for_device": device} for name, device in devices.items()}}
    await api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": body})
    async with device_of("phone") as phone:
        await phone.synced()
        await phone.send({"system": "gregor", "body": {"dismiss": {"ids": ["each"]}}})
        await phone.until(lambda frame: "each" in str(frame.get("body", {}).get("dismiss")), "the dismissal")

        assert (await api.delete(f"/v1/users/{uid}/devices/phone")).status_code == 204

        assert await phone.closed() == (4003, "state_invalidated")
        # The last cursor that it had: none of them is valid for a copy without the item that it dismissed for itself.
        cursor = phone.mirror.cursor
    assert set((await api.get(f"/v1/users/{uid}/state")).json()["items"]) == {"each", "all"}
    gone = (await api.get(f"/v1/users/{uid}/items/own")).json()["gone"]
    assert gone["reason"] == "displaced"
    async with device_of("phone", hello={"cursor": cursor}) as phone:
        await phone.synced()
        assert phone.syncs[0]["sync"] == "full"
        assert set(phone.syncs[0]["body"]["create"]) == {"each", "all"}


async def test_frame_above_1_mib_closes_the_connection(uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        await phone.send_text("x" * (2**20 + 1))

        assert (await phone.closed())[0] == 1009


async def test_user_may_have_many_devices(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone, device_of("laptop", gateway=1) as laptop:
        await asyncio.gather(phone.synced(), laptop.synced())

        async def listed() -> dict[str, Any]:
            found: dict[str, Any] = (await api.get(f"/v1/users/{uid}/devices")).json()["devices"]
            return {name: device["online"] for name, device in found.items()}

        assert await listed() == {"phone": True, "laptop": True}
        await phone.socket.close()
        await wait_until(lambda: phone.close_code is not None, "the phone is gone")

        async def phone_is_away() -> bool:
            return await listed() == {"phone": False, "laptop": True}

        await wait_until(phone_is_away, "the phone is listed as away")


async def test_rate_limit_fields_on_every_process(cluster: Cluster, uid: str) -> None:
    token, path = cluster.token(uid, "phone"), f"/v1/users/{uid}/history"
    async with cluster.api(token) as first, cluster.api(token, ingest=len(cluster.ingest_urls) - 1) as last:
        read, refused = await first.get(path), await last.get(path)
        state = await first.get(f"/v1/users/{uid}/state")

    assert (read.status_code, refused.status_code, state.status_code) == (200, 429, 200)
    assert read.headers["ratelimit-policy"] == '"requests";q=500;w=10, "history";q=1;w=1'
    assert read.headers["ratelimit"] == '"requests";r=499;t=1, "history";r=0;t=1'
    assert refused.headers["ratelimit"].endswith('"history";r=0;t=1')
    assert refused.headers["retry-after"] == "1"
    assert state.headers["ratelimit-policy"] == '"requests";q=500;w=10'
