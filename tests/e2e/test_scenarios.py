"""Scenarios of the original system and of the seed document, over the wire."""

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gregor.client.mirror import digest_of
from tests.support.cluster import Cluster
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

DeviceOf = Callable[..., WireDevice]
SEED_TIME = int(time.time()) - 86_400
"""A time well within the retention, in Unix seconds."""


def item(category: str = "mail", **members: Any) -> dict[str, Any]:
    return {"category": category, **members}


async def send(api: httpx.AsyncClient, uid: str, body: dict[str, Any], **members: Any) -> dict[str, Any]:
    answer = await api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": body, **members})
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def state(api: httpx.AsyncClient, uid: str, **query: Any) -> dict[str, Any]:
    answer = await api.get(f"/v1/users/{uid}/state", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["digest"] == digest_of(found["items"])
    return found


async def live_ids(api: httpx.AsyncClient, uid: str, **query: Any) -> list[str]:
    return sorted((await state(api, uid, **query))["items"])


async def test_items_of_one_message_share_one_frame(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        await send(api, uid, {"create": {"a": item(), "b": item(), "c": item()}})

        frame = await phone.until(lambda frame: "create" in frame.get("body", {}), "the items")

        assert sorted(frame["body"]["create"]) == ["a", "b", "c"]


async def test_interval_includes_begin_and_end(api: httpx.AsyncClient, uid: str) -> None:
    create = {f"i{n}": item(times={"created": SEED_TIME + n}) for n in range(5)}
    await send(api, uid, {"create": create | {"other": item("post", times={"created": SEED_TIME + 2})}})

    interval = {"category": "mail", "begin": SEED_TIME + 1, "end": SEED_TIME + 3, "skip": ["i2"]}
    receipt = await send(api, uid, {"dismiss": {"intervals": [interval]}})

    assert sorted(receipt["dismissed"]) == ["i1", "i3"]
    assert await live_ids(api, uid) == ["i0", "i2", "i4", "other"]


async def test_summary_replaces_items_in_one_frame(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        await send(api, uid, {"create": {"a": item(), "b": item()}})
        await send(api, uid, {"create": {"all": item(body={"count": 2})}, "dismiss": {"ids": ["a", "b"]}})

        frame = await phone.until(lambda frame: "dismiss" in frame.get("body", {}), "the fold")

        assert list(frame["body"]["create"]) == ["all"]
        assert sorted(frame["body"]["dismiss"]["ids"]) == ["a", "b"]


async def test_repeated_replacement_leaves_one_item(api: httpx.AsyncClient, uid: str) -> None:
    await send(api, uid, {"create": {"old": item()}})
    replace = {"create": {"new": item()}, "dismiss": {"intervals": [{"category": "mail"}]}}

    first = await send(api, uid, replace)
    await send(api, uid, {"create": {"newer": item()}})
    repeat = await send(api, uid, replace)

    assert (first["created"], first["dismissed"]) == (["new"], ["old"])
    assert repeat["unchanged"] is True
    assert await live_ids(api, uid) == ["new", "newer"]


async def test_reset_sends_full_copy_without_empty_screen(
    api: httpx.AsyncClient, uid: str, device_of: DeviceOf
) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        await send(api, uid, {"create": {"a": item()}})
        before = (await state(api, uid))["cursor"]
        answer = await api.post(f"/v1/users/{uid}/flush")
        assert answer.status_code == 200

        told = await phone.until(lambda frame: frame.get("body", {}).get("flush"), "the flush")
        full = await phone.until(
            lambda frame: frame.get("sync") == "full" and frame["seq"] >= told["seq"], "a full copy"
        )

        assert told["spread"] == 1
        assert list(full["body"]["create"]) == ["a"]
        assert answer.json()["cursor"].partition("-")[0] != before.partition("-")[0]
        assert list(phone.mirror.items) == ["a"]


async def test_state_with_current_etag_is_304(api: httpx.AsyncClient, uid: str) -> None:
    await send(api, uid, {"create": {"a": item()}})
    first = await api.get(f"/v1/users/{uid}/state")
    etag = first.headers["ETag"]
    assert etag == f'W/"{first.json()["digest"]}"'

    same = await api.get(f"/v1/users/{uid}/state", headers={"If-None-Match": etag})
    await send(api, uid, {"create": {"b": item()}})
    other = await api.get(f"/v1/users/{uid}/state", headers={"If-None-Match": etag})

    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["Gregor-Cursor"] == first.json()["cursor"]
    assert other.status_code == 200
    assert sorted(other.json()["items"]) == ["a", "b"]


async def test_items_of_one_device_are_dismissed_separately(api: httpx.AsyncClient, uid: str) -> None:
    devices = ["phone", "laptop", "tablet"]
    await send(api, uid, {"create": {f"for-{name}": item(for_device=name) for name in devices}})

    await send(api, uid, {"dismiss": {"ids": ["for-phone"]}}, device="phone")

    assert await live_ids(api, uid, device="phone") == []
    assert await live_ids(api, uid, device="laptop") == ["for-laptop"]
    assert await live_ids(api, uid) == ["for-laptop", "for-tablet"]


async def test_item_for_each_device_reaches_later_devices(
    api: httpx.AsyncClient, uid: str, device_of: DeviceOf
) -> None:
    await send(api, uid, {"create": {"a": item(for_device="*")}})
    async with device_of("phone") as phone, device_of("laptop", gateway=1) as laptop:
        await phone.synced()
        await laptop.synced()
        await phone.submit(1, {"dismiss": {"ids": ["a"]}})
        await phone.until(lambda _: not phone.mirror.items, "hidden on the phone")

        async with device_of("tablet") as tablet:
            await tablet.synced()
            assert list(tablet.mirror.items) == ["a"]
        assert list(laptop.mirror.items) == ["a"]
        assert laptop.live == []

        await send(api, uid, {"dismiss": {"ids": ["a"]}})
        await laptop.until(lambda _: not laptop.mirror.items, "ended by the backend")
    assert await live_ids(api, uid) == []


async def test_repeated_message_sends_no_frame(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        message = {"create": {"a": item(body={"n": 1})}}
        first = await send(api, uid, message)
        again = await send(api, uid, message)
        conflict = await send(api, uid, {"create": {"a": item(body={"n": 2})}})
        await send(api, uid, {"create": {"last": item()}})
        await phone.until(lambda frame: "last" in frame.get("body", {}).get("create", {}), "the last one")

        assert again["unchanged"] is True
        assert again["seq"] == first["seq"]
        assert again["ignored"] == {"a": "duplicate"}
        assert conflict["ignored"] == {"a": "conflict"}
        assert [frame["seq"] for frame in phone.live] == [first["seq"], first["seq"] + 1]
        assert phone.mirror.items["a"]["body"] == {"n": 1}


async def test_message_order_does_not_matter(api: httpx.AsyncClient, uid: str) -> None:
    messages: list[dict[str, Any]] = [
        {"create": {"a": item(times={"created": SEED_TIME + 1})}},
        {"create": {"b": item(times={"created": SEED_TIME + 2}), "c": item("post", times={"created": SEED_TIME + 3})}},
        {"create": {"d": item(times={"created": SEED_TIME + 9})}},
        {"dismiss": {"ids": ["c", "never"]}},
        {"dismiss": {"intervals": [{"category": "mail", "end": SEED_TIME + 1}]}},
    ]
    orders = list(itertools.permutations(range(len(messages))))
    dice = random.Random(7)
    seen = set()
    for number, order in enumerate(dice.sample(orders, 24)):
        for place in [*order, dice.choice(order)]:
            await send(api, f"{uid}.{number}", messages[place])
        seen.add((await state(api, f"{uid}.{number}"))["digest"])
        assert await live_ids(api, f"{uid}.{number}") == ["b", "d"]

    assert len(seen) == 1


async def test_dismissal_before_creation_holds(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        early = await send(api, uid, {"dismiss": {"ids": ["x"]}})
        late = await send(api, uid, {"create": {"x": item()}})

        assert early["unchanged"] is True
        assert late["ignored"] == {"x": "dismissed"}
        assert await live_ids(api, uid) == []
        assert phone.live == []


async def test_interval_dismisses_late_creations(api: httpx.AsyncClient, uid: str) -> None:
    await send(api, uid, {"dismiss": {"intervals": [{"category": "mail", "end": SEED_TIME + 5}]}})

    receipt = await send(
        api,
        uid,
        {
            "create": {
                "in": item(times={"created": SEED_TIME + 5}),
                "out": item(times={"created": SEED_TIME + 5.000001}),
            }
        },
    )

    assert receipt["created"] == ["out"]
    assert receipt["ignored"] == {"in": "dismissed"}


async def test_concurrent_replacements_leave_the_later_item(
    api: httpx.AsyncClient, uid: str, device_of: DeviceOf
) -> None:
    def replace(id_: str, created: int) -> dict[str, Any]:
        return {
            "create": {id_: item(times={"created": created})},
            "dismiss": {"intervals": [{"category": "mail"}]},
        }

    for number, order in enumerate([("a", "b"), ("b", "a")]):
        for id_ in order:
            await send(api, f"{uid}.{number}", replace(id_, SEED_TIME + 10 + (id_ == "b")))
        assert await live_ids(api, f"{uid}.{number}") == ["b"]


async def test_resync_keeps_item_times(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        cursor, digest = phone.mirror.cursor, phone.mirror.digest
    times = {"created": SEED_TIME, "expires": "+999999999", "remind_at": ["+60", SEED_TIME + 30]}
    await send(api, uid, {"create": {"a": item(times=times)}, "dismiss": {"ids": ["b"]}})

    async with device_of("phone", hello={"cursor": cursor, "digest": digest}) as phone:
        await phone.synced()

        assert phone.mirror.items["a"]["times"] == {
            "created": SEED_TIME,
            "expires": SEED_TIME + 999_999_999,
            "remind_at": [SEED_TIME + 30, SEED_TIME + 60],
        }
        assert phone.syncs[0]["digest"] == phone.mirror.digest


async def test_delta_omits_items_created_and_dismissed(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    await send(api, uid, {"create": {f"old{n}": item(body="x" * 300) for n in range(30)}})
    async with device_of("phone") as phone:
        await phone.synced()
        hello = {"cursor": phone.mirror.cursor, "digest": phone.mirror.digest}
        kept = phone.mirror
    await send(api, uid, {"create": {"passing": item(), "new": item()}})
    await send(api, uid, {"dismiss": {"ids": ["passing", "old0"]}})

    async with device_of("phone", hello=hello) as phone:
        await phone.synced()

        sync = phone.syncs[0]
        assert "passing" not in str(sync)
        kept.apply(sync)
        assert sorted(kept.items) == await live_ids(api, uid)
        assert kept.digest == sync["digest"]


async def test_past_state_shows_later_dismissed_items(cluster: Cluster, api: httpx.AsyncClient, uid: str) -> None:
    await send(api, uid, {"create": {"a": item()}})
    created = (await state(api, uid))["items"]["a"]["times"]["created"]
    await wait_until(lambda: cluster.now_s() > created + 0.02, "a moment in between")
    between = cluster.now_s()
    await wait_until(lambda: cluster.now_s() > between + 0.02, "a moment after")
    await send(api, uid, {"dismiss": {"ids": ["a"]}})

    assert await live_ids(api, uid, at=between) == ["a"]
    assert await live_ids(api, uid) == []
    history = (await api.get(f"/v1/users/{uid}/history")).json()["entries"]
    assert [(entry["id"], entry["gone"]["reason"]) for entry in history] == [("a", "dismissed")]


async def test_repeated_creation_of_dismissed_item_is_ignored(
    api: httpx.AsyncClient, uid: str, device_of: DeviceOf
) -> None:
    message = {"create": {"a": item()}}
    await send(api, uid, message)
    await send(api, uid, {"dismiss": {"ids": ["a"]}})
    async with device_of("phone") as phone:
        await phone.synced()
        again = await send(api, uid, message)

        assert again["unchanged"] is True
        assert again["ignored"] == {"a": "dismissed"}
        assert phone.live == []


async def test_refused_device_message_blocks_nothing(uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        await phone.send({"ref": 1, "system": "gregor", "body": {"create": {"a": {"body": 1}}}})
        await phone.send({"ref": 2, "system": "gregor", "body": {"create": {"b": item()}}})
        bad = await phone.until(lambda frame: frame.get("ref") == 1, "the problem")
        good = await phone.until(lambda frame: frame.get("ref") == 2, "the receipt")

        assert bad["problem"]["code"] == "missing_field"
        assert good["receipt"]["created"] == ["b"]
        places = [number for number, frame in enumerate(phone.frames) if "create" in frame.get("body", {})]
        assert places[-1] < phone.frames.index(good), "the receipt comes after the frame of its seq"


@pytest.mark.parametrize("prefix", ["a_", "a%", "us", "a"])
async def test_prefix_matches_whole_segments(api: httpx.AsyncClient, uid: str, prefix: str) -> None:
    categories = ["ab", "user.joined", "a_.b", "a.b", "a"]
    await send(api, uid, {"create": {f"i{n}": item(category) for n, category in enumerate(categories)}})
    answer = await api.get(f"/v1/users/{uid}/state", params={"category_prefix": prefix})

    expected = {"a_": ["a_.b"], "us": [], "a": ["a", "a.b"]}.get(prefix)
    if expected is None:
        assert answer.json()["code"] == "invalid_id"
    else:
        assert sorted(found["category"] for found in answer.json()["items"].values()) == expected


async def test_view_has_its_categories_and_cursor(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    async with device_of("phone", hello={"category_prefix": ["user"]}) as phone, device_of("laptop") as laptop:
        await phone.synced()
        await laptop.synced()
        await send(api, uid, {"create": {"in": item("user.joined"), "out": item("mail")}})
        await send(api, uid, {"create": {"out2": item("users")}})
        await send(api, uid, {"create": {"in2": item("user")}})
        await phone.until(lambda _: "in2" in phone.mirror.items, "the last item")
        await laptop.until(lambda _: "in2" in laptop.mirror.items, "the last item")

        assert sorted(phone.mirror.items) == ["in", "in2"]
        assert [frame["seq"] for frame in phone.live] == [1, 3]
        assert sorted(laptop.mirror.items) == ["in", "in2", "out", "out2"]
        assert phone.mirror.cursor is not None
        assert laptop.mirror.cursor is not None
        assert phone.mirror.cursor.partition("-")[0] != laptop.mirror.cursor.partition("-")[0]
        filtered = await state(api, uid, device="phone", category_prefix="user")
        assert phone.mirror.digest == filtered["digest"]


async def test_resume_delivers_missed_external_messages(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    await send(api, uid, {"create": {"a": item()}})
    async with device_of("phone") as phone:
        await phone.synced()
        hello = {"cursor": phone.mirror.cursor, "digest": phone.mirror.digest, "systems": ["kbfs"]}
    for system in ("kbfs.favorites", "tracker"):
        await api.post(f"/v1/users/{uid}/messages", json={"system": system, "body": {"n": 1}})

    async with device_of("phone", hello=hello) as phone:
        await phone.synced()

        assert phone.syncs[0]["sync"] == "unchanged"
        assert [external["system"] for external in phone.syncs[0]["external"]] == ["kbfs.favorites"]
        assert "external_gap" not in phone.syncs[0]


async def test_first_frame_of_an_epoch_has_the_cursor(api: httpx.AsyncClient, uid: str, device_of: DeviceOf) -> None:
    unseen = await state(api, uid)
    assert unseen["cursor"].endswith("-0")
    async with device_of("phone") as phone:
        await phone.synced()
        await send(api, uid, {"create": {"a": item()}})
        frame = await phone.until(lambda frame: "create" in frame.get("body", {}), "the first frame")

        assert frame["cursor"].endswith("-1")
        await phone.send({"resync": {"cursor": frame["cursor"], "digest": phone.mirror.digest}})
        answer = await phone.until(lambda frame: "sync" in frame and frame["seq"] == 1, "the answer")
        assert answer["sync"] == "unchanged"
        assert len(phone.raw[phone.frames.index(answer)]) <= 100
