"""The moving part of a device: it says hello, keeps in step, survives closes, and stops where it is told to."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gregor.client.changes import Created, Dismissed, FlushAnnounced, MessageRefused, Stopped, Synced
from gregor.client.device import Device
from gregor.client.errors import DeviceStopped, Rejected
from gregor.client.messages import creation
from gregor.client.mirror import digest_of
from gregor.client.reconnect import DeviceTimings
from tests.support.wait import wait_until
from tests.unit.client.scripted_gateway import ScriptedGateway, Visit, scripted_gateway

QUICK = DeviceTimings(first_delay_s=0.01, max_delay_s=0.02)
ITEM = {"times": {"created": 5}, "for_device": None, "category": "mail", "body": None}


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as running:
        yield running


def device_of(gateway: ScriptedGateway, **options: Any) -> Device:
    return Device(gateway.url, "a.b.c", timings=QUICK, **options)


def live(seq: int, **body: Any) -> dict[str, Any]:
    return {"system": "gregor", "seq": seq, "body": body}


async def synced(gateway: ScriptedGateway, device: Device, **sync: Any) -> Visit:
    visit = await gateway.next_visit()
    await visit.greets(**sync)
    await device.wait_until_synced()
    return visit


async def test_the_token_goes_in_the_header_and_the_first_hello_has_no_cursor(gateway: ScriptedGateway) -> None:
    async with device_of(gateway, foreground=True, category_prefix=["user"], systems=["kbfs"]):
        visit = await gateway.next_visit()
        hello = await visit.greets()

    assert visit.headers["Authorization"] == "Bearer a.b.c"
    session = hello.pop("session")
    assert session
    assert hello == {"foreground": True, "category_prefix": ["user"], "systems": ["kbfs"]}


async def test_after_a_lost_connection_it_resumes_with_cursor_digest_and_the_same_session(
    gateway: ScriptedGateway,
) -> None:
    async with device_of(gateway) as device:
        visit = await gateway.next_visit()
        first = await visit.greets()
        await visit.says(live(2, create={"a": ITEM}))
        await wait_until(lambda: device.items, "the item came")
        await visit.closes(4001, "shutdown")

        again = await (await gateway.next_visit()).greets(
            sync="unchanged", cursor="abcdef-2", digest=digest_of({"a": ITEM})
        )

        assert again["cursor"] == "abcdef-2"
        assert again["digest"] == digest_of({"a": ITEM})
        assert again["session"] == first["session"]
        assert device.state == {"a": ITEM}


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4001, 4002, 4003, 4005, 4006, 4007, 4008, 4009])
async def test_it_connects_again_after_a_passing_close(gateway: ScriptedGateway, code: int) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device)
        await visit.closes(code)

        await synced(gateway, device)

        assert device.stopped is None


@pytest.mark.parametrize("code", [4501, 4502, 4503, 4504, 4505])
async def test_it_stops_after_a_final_close_and_tells_everybody(gateway: ScriptedGateway, code: int) -> None:
    async with device_of(gateway) as device:
        changes = device.changes()
        visit = await synced(gateway, device)
        waiting = asyncio.create_task(device.send(creation("a", "mail")))
        await visit.hears("ref")
        await visit.closes(code, "because")

        told = [change async for change in changes]

        assert told == [Synced("full"), Stopped(code, "because")]
        assert device.stopped == Stopped(code, "because")
        with pytest.raises(DeviceStopped):
            await waiting
        with pytest.raises(DeviceStopped):
            await device.wait_until_synced()
    assert gateway.visits.empty()


async def test_an_expired_token_is_replaced_where_there_is_a_way_to_get_one(gateway: ScriptedGateway) -> None:
    tokens = iter(["t.1.x", "t.2.x"])
    async with Device(gateway.url, lambda: next(tokens), timings=QUICK) as device:
        visit = await synced(gateway, device)
        await visit.closes(4004, "token_expired")

        assert (await synced(gateway, device)).headers["Authorization"] == "Bearer t.2.x"


async def test_an_expired_token_that_cannot_be_replaced_stops_it(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        await (await synced(gateway, device)).closes(4004, "token_expired")

        await wait_until(lambda: device.stopped, "it stopped")


async def test_a_refresh_is_answered_with_a_fresh_token(gateway: ScriptedGateway) -> None:
    async def fresh() -> str:
        return "f.r.esh"

    async with Device(gateway.url, fresh, timings=QUICK) as device:
        visit = await synced(gateway, device)
        await visit.says({"refresh": {"expires_in": 60}})

        assert await visit.hears("token") == {"token": "f.r.esh"}


async def test_a_ping_is_answered_with_its_number(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device)
        await visit.says({"ping": 7})

        assert await visit.hears("pong") == {"pong": 7}


async def test_a_silent_server_is_left(gateway: ScriptedGateway) -> None:
    async with Device(
        gateway.url, "t", timings=DeviceTimings(first_delay_s=0.01, max_delay_s=0.02, silence_s=0.05)
    ) as device:
        await synced(gateway, device)

        await gateway.next_visit()


async def test_it_goes_on_taking_frames_until_the_moment_at_which_it_is_to_reconnect(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device)
        await visit.says({"reconnect": {"after_ms": 100, "reason": "shutdown"}}, live(2, create={"a": ITEM}))
        await wait_until(lambda: device.items, "the item came")

        hello = await (await gateway.next_visit()).greets(sync="unchanged", cursor="abcdef-2")

        assert hello["cursor"] == "abcdef-2"
        await asyncio.wait_for(visit.ended.wait(), 5)


async def test_of_several_urls_the_next_one_is_tried(gateway: ScriptedGateway) -> None:
    async with Device(["ws://127.0.0.1:1", gateway.url], "t", timings=QUICK) as device:
        await synced(gateway, device)

        assert device.last_error is not None


async def test_a_copy_that_is_not_proven_is_fetched_anew(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device, digest="f" * 64)
        assert await visit.hears("resync") == {"resync": True}
        await visit.says({"system": "gregor", "sync": "full", "cursor": "abcdef-3", "digest": "0" * 64})

        await wait_until(lambda: device.cursor == "abcdef-3", "the full copy came")


async def test_a_full_copy_that_proves_nothing_either_is_not_asked_for_again(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device, digest="f" * 64)
        await visit.hears("resync")
        await visit.says({"system": "gregor", "sync": "full", "cursor": "abcdef-3", "digest": "e" * 64}, {"ping": 1})

        assert await visit.hears("pong") == {"pong": 1}
        visit_frames = asyncio.create_task(visit.hears("resync"))
        await visit.says({"ping": 2})
        await asyncio.wait([visit_frames], timeout=0.05)
        assert not visit_frames.done()
        visit_frames.cancel()


async def test_a_message_is_shown_at_once_and_its_receipt_comes_back(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device)
        waiting = asyncio.create_task(device.send(creation("a", "mail")))
        ref = (await visit.hears("ref"))["ref"]
        assert list(device.state) == ["a"]
        assert device.items == {}

        await visit.says(live(2, create={"a": ITEM}), {"ref": ref, "receipt": {"seq": 2, "created": ["a"]}})

        assert (await waiting).created == ("a",)
        assert device.pending == 0
        assert device.state == {"a": ITEM}


async def test_a_refused_message_is_told_and_leaves_the_state(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        changes = device.changes()
        visit = await synced(gateway, device)
        waiting = asyncio.create_task(device.send(creation("a", "mail")))
        ref = (await visit.hears("ref"))["ref"]
        problem = {"code": "state_full", "status": 409, "detail": "full"}
        await visit.says({"ref": ref, "problem": problem})

        with pytest.raises(Rejected, match="state_full") as refused:
            await waiting

        assert (refused.value.code, refused.value.status) == ("state_full", 409)
        assert device.state == {}
        assert [await anext(changes), await anext(changes)] == [Synced("full"), MessageRefused(ref, problem)]


async def test_what_was_not_answered_is_said_again_on_the_next_connection(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device)
        device.post({"system": "kbfs", "body": 1})
        said = await visit.hears("ref")
        await visit.closes(1011)

        visit = await synced(gateway, device)

        assert await visit.hears("ref") == said
        await visit.says({"system": "kbfs", "seq": 2, "body": 1}, {"ref": said["ref"], "receipt": {"seq": 2}})
        await device.wait_until_sent()


async def test_a_flush_keeps_outbox_and_screen(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        changes = device.changes()
        visit = await synced(gateway, device)
        await visit.says(live(2, create={"a": ITEM}))
        device.post(creation("mine", "mail"))
        await visit.hears("ref")
        await visit.says({**live(3, flush=True), "spread": 1}, {"ping": 1})
        await visit.hears("pong")
        assert sorted(device.state) == ["a", "mine"]

        full = {"system": "gregor", "sync": "full", "cursor": "fedcba-3", "digest": digest_of({"a": ITEM})}
        await visit.says({**full, "body": {"create": {"a": ITEM}}}, {"ping": 2})
        await visit.hears("pong")

        assert sorted(device.state) == ["a", "mine"]
        told = [await anext(changes) for _ in range(4)]
        assert told == [Synced("full"), Created("a", ITEM), FlushAnnounced(1), Synced("full")]


async def test_what_was_kept_is_resumed_by_the_next_process_and_its_outbox_is_said(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device)
        await visit.says(live(2, create={"a": ITEM}))
        await wait_until(lambda: device.items, "the item came")
        device.post(creation("mine", "mail"))
        kept = device.snapshot()

    async with device_of(gateway, restore=kept) as device:
        visit = await gateway.next_visit()
        hello = await visit.greets(sync="unchanged", cursor="abcdef-2", digest=digest_of({"a": ITEM}))

        assert hello["cursor"] == "abcdef-2"
        assert list((await visit.hears("ref"))["body"]["create"]) == ["mine"]


async def test_a_copy_kept_under_another_filter_is_not_resumed(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        await synced(gateway, device)
        kept = device.snapshot()

    async with device_of(gateway, restore=kept, category_prefix=["user"]):
        assert "cursor" not in await (await gateway.next_visit()).greets()


async def test_a_refused_hello_stops_it_with_the_servers_words(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await gateway.next_visit()
        await visit.hears("hello")
        await visit.says({"problem": {"code": "invalid_id", "detail": "no prefix", "status": 422}})

        with pytest.raises(DeviceStopped, match="invalid_id: no prefix"):
            await device.wait_until_synced()


async def test_ack_and_foreground_are_told(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device)

        device.ack()
        device.set_foreground(True)

        assert await visit.hears("ack") == {"ack": 1}
        assert await visit.hears("foreground") == {"foreground": True}


async def test_a_dismissed_item_is_told_with_what_it_was(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device)
        changes = device.changes()
        await visit.says(live(2, create={"a": ITEM}), live(3, dismiss={"ids": ["a"], "reason": "expired"}))

        assert [await anext(changes), await anext(changes)] == [Created("a", ITEM), Dismissed("a", ITEM, "expired")]


async def test_a_snooze_dismisses_only_after_the_copy_was_accepted(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device, sync="full", body={"create": {"a": ITEM}})
        snoozing = asyncio.create_task(device.snooze("a", 900))
        first = await visit.hears("ref")
        assert first["not_before"] == 900 and "a" in device.state
        await visit.says({"ref": first["ref"], "receipt": {"id": first["id"], "not_before": 900}})
        second = await visit.hears("ref")
        assert second["body"] == {"dismiss": {"ids": ["a"]}}
        await visit.says({"ref": second["ref"], "receipt": {"seq": 2, "dismissed": ["a"]}})
        await visit.says(live(2, dismiss={"ids": ["a"]}))

        assert await snoozing == first["id"]
        assert device.state == {}


async def test_a_snooze_that_is_refused_leaves_the_item(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        visit = await synced(gateway, device, sync="full", body={"create": {"a": ITEM}})
        snoozing = asyncio.create_task(device.snooze("a", 900))
        first = await visit.hears("ref")
        await visit.says({"ref": first["ref"], "problem": {"code": "state_full", "status": 409}})

        with pytest.raises(Rejected):
            await snoozing
        assert "a" in device.state and device.pending == 0
