"""The worked examples of the original specification, word for word, at the time at which they play: March 2016."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.wire_device import WireDevice

JOINED_AT = 1457056447
KBOB = {
    "times": {"created": JOINED_AT, "expires": 1488592477, "remind_at": [1457402098]},
    "for_device": None,
    "category": "user.joined",
    "body": {
        "social_media_name": "bob@twitter",
        "keybase": "kbob",
        "uid": "f8da58e5a6d0d0800f361bc139015a19",
    },
}
INJECTED = {"system": "gregor", "body": {"create": {"5d44d2ad9aabab30": KBOB}, "dismiss": {}}}
DISMISSED = {"system": "gregor", "body": {"dismiss": {"ids": ["5d44d2ad9aabab30"]}}}
DELETED_FAVORITE = {"system": "kbfs.favorites", "body": {"action": "delete", "tlf": "/private/alice,max"}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose clocks are in the week in which bob joined."""
    offset_s = JOINED_AT + 60 - int(time.time())
    with Cluster(tmp_path_factory.mktemp("in-2016"), clock_offset=offset_s) as cluster:
        yield cluster


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with cluster.api() as client:
        yield client


def device_of(cluster: Cluster, uid: str, name: str, gateway: int = 0, **hello: Any) -> WireDevice:
    return WireDevice(cluster.gateway_urls[gateway], cluster.token(uid, name), hello)


async def send(api: httpx.AsyncClient, uid: str, message: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post(f"/v1/users/{uid}/messages", json=message)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def blob(api: httpx.AsyncClient, uid: str) -> dict[str, Any]:
    """Return the user's JSON state on the server."""
    items: dict[str, Any] = (await api.get(f"/v1/users/{uid}/state")).json()["items"]
    return items


def without_position(frame: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in frame.items() if name not in ("seq", "cursor")}


async def test_friend_joins_after_you_shared_with_them(cluster: Cluster, api: httpx.AsyncClient) -> None:
    async with device_of(cluster, "alice", "phone") as phone, device_of(cluster, "alice", "laptop", 1) as laptop:
        await phone.synced()
        await laptop.synced()

        receipt = await send(api, "alice", INJECTED)

        assert receipt["created"] == ["5d44d2ad9aabab30"]
        assert await blob(api, "alice") == {"5d44d2ad9aabab30": KBOB}
        for device in (phone, laptop):
            frame = await device.until(lambda frame: "create" in frame.get("body", {}), "the update of step 2")
            assert without_position(frame) == {
                "system": "gregor",
                "body": {"create": {"5d44d2ad9aabab30": KBOB}},
            }

        async with device_of(cluster, "alice", "tablet") as tablet:
            await tablet.synced()
            assert tablet.syncs[0]["body"]["create"] == {"5d44d2ad9aabab30": KBOB}

        answer = await phone.submit(1, DISMISSED["body"])

        assert answer["receipt"]["dismissed"] == ["5d44d2ad9aabab30"]
        assert await blob(api, "alice") == {}
        for device in (phone, laptop):
            frame = await device.until(lambda frame: "dismiss" in frame.get("body", {}), "the diff of step 7")
            assert without_position(frame) == DISMISSED
            assert device.mirror.items == {}
            assert len(device.live) == 2

        kept = (await api.get("/v1/users/alice/items/5d44d2ad9aabab30")).json()
        assert kept["item"] == KBOB
        assert (kept["gone"]["reason"], kept["gone"]["device"]) == ("dismissed", "phone")

        async with device_of(cluster, "alice", "tablet") as tablet:
            await tablet.synced()
            assert tablet.mirror.items == {}


async def test_new_followers_are_seen_in_one_glance(cluster: Cluster, api: httpx.AsyncClient) -> None:
    followers = {
        f"f{number}": {"times": {"created": JOINED_AT + number}, "category": "follow", "body": {"by": f"u{number}"}}
        for number in range(3)
    }
    async with device_of(cluster, "frank", "phone") as phone, device_of(cluster, "frank", "laptop", 1) as laptop:
        await phone.synced()
        await laptop.synced()
        for id_, follower in followers.items():
            await send(api, "frank", {"system": "gregor", "body": {"create": {id_: follower}}})
        await laptop.until(lambda _: len(laptop.mirror.items) == 3, "the badge shows three")
        assert (await api.get("/v1/users/frank/state?device=laptop")).json()["badge"] == 3

        await phone.submit(1, {"dismiss": {"ids": sorted(followers)}})

        await laptop.until(lambda _: not laptop.mirror.items, "the badge is gone")
        frame = laptop.live[-1]
        assert sorted(frame["body"]["dismiss"]["ids"]) == sorted(followers)
        assert (await api.get("/v1/users/frank/state")).json() | {"cursor": ""} == {
            "cursor": "",
            "digest": "0" * 64,
            "badge": 0,
            "items": {},
        }


async def test_shared_with_bob_who_needs_an_invite_code(cluster: Cluster, api: httpx.AsyncClient) -> None:
    invite = {**KBOB, "category": "invite.code", "body": {"social_media_name": "bob@twitter", "code": "c0de"}}
    await send(api, "grace", {"system": "gregor", "body": {"create": {"aabbccee": invite}}})

    async with device_of(cluster, "grace", "phone") as phone:
        await phone.synced()

        assert phone.mirror.items == {"aabbccee": invite}


async def test_alice_deleted_a_favourite_folder(cluster: Cluster, api: httpx.AsyncClient) -> None:
    async with device_of(cluster, "heidi", "phone") as phone, device_of(cluster, "heidi", "laptop", 1) as laptop:
        await phone.synced()
        await laptop.synced()
        before = await blob(api, "heidi")

        receipt = await send(api, "heidi", DELETED_FAVORITE)

        for device in (phone, laptop):
            frame = await device.until(lambda frame: frame.get("system") == "kbfs.favorites", "the external message")
            assert without_position(frame) == DELETED_FAVORITE
            assert frame["seq"] == receipt["seq"]
        assert await blob(api, "heidi") == before == {}

        async with device_of(cluster, "heidi", "tablet") as tablet:
            await tablet.synced()
            assert "external" not in tablet.syncs[0]


async def test_create_for_a_device_until_it_expires(cluster: Cluster, api: httpx.AsyncClient) -> None:
    item = {
        "times": {"created": 140000, "expires": 150000, "remind_at": [142000, 143000]},
        "for_device": "33aabb",
        "category": "user.joined",
        "body": {"social_media_name": "bob@twitter", "keybase": "kbob"},
    }

    receipt = await send(api, "ivan", {"system": "gregor", "body": {"create": {"aabbccee": item}}})

    assert receipt["ignored"] == {"aabbccee": "expired"}
    assert await blob(api, "ivan") == {}
    assert (await api.get("/v1/users/ivan/items/aabbccee")).json()["item"] == item
