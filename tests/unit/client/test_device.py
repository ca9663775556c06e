"""A device against a scripted gateway: hello, synchronization, closes, outbox, snapshot."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gregor.client.changes import Created, Dismissed, FlushAnnounced, MessageRefused, Stopped, Synced
from gregor.client.device import Device
from gregor.client.errors import DeviceStopped, Rejected
from gregor.client.messages import creation
from gregor.client.mirror import digest_of
from gregor.client.reconnect import DeviceTimings
from gregor.clock import ManualClock
from tests.support.wait import wait_until
from tests.unit.client.scripted_gateway import ScriptedConnection, ScriptedGateway, scripted_gateway

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


async def synced(gateway: ScriptedGateway, device: Device, **sync: Any) -> ScriptedConnection:
    connection = await gateway.next_connection()
    await connection.accept_hello(**sync)
    await device.wait_until_synced()
    return connection


async def test_first_hello_has_no_cursor(gateway: ScriptedGateway) -> None:
    async with device_of(gateway, foreground=True, category_prefix=["user"], systems=["kbfs"]):
        connection = await gateway.next_connection()
        hello = await connection.accept_hello()

    assert connection.headers["Authorization"] == "Bearer a.b.c"
    session = hello.pop("session")
    assert session
    assert hello == {"foreground": True, "category_prefix": ["user"], "systems": ["kbfs"]}


async def test_reconnect_resumes_from_cursor_and_digest(
    gateway: ScriptedGateway,
) -> None:
    async with device_of(gateway) as device:
        connection = await gateway.next_connection()
        first = await connection.accept_hello()
        await connection.send(live(2, create={"a": ITEM}))
        await wait_until(lambda: device.items, "the item came")
        await connection.close(4001, "shutdown")

        again = await (await gateway.next_connection()).accept_hello(
            sync="unchanged", cursor="abcdef-2", digest=digest_of({"a": ITEM})
        )

        assert again["cursor"] == "abcdef-2"
        assert again["digest"] == digest_of({"a": ITEM})
        assert again["session"] == first["session"]
        assert device.state == {"a": ITEM}


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4001, 4002, 4003, 4005, 4006, 4007, 4008, 4009])
async def test_device_reconnects_after_a_temporary_close(gateway: ScriptedGateway, code: int) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)
        await connection.close(code)

        await synced(gateway, device)

        assert device.stopped is None


@pytest.mark.parametrize("code", [4501, 4502, 4503, 4504, 4505])
async def test_device_stops_after_a_final_close(gateway: ScriptedGateway, code: int) -> None:
    async with device_of(gateway) as device:
        changes = device.changes()
        connection = await synced(gateway, device)
        waiting = asyncio.create_task(device.send(creation("a", "mail")))
        await connection.receive("ref")
        await connection.close(code, "because")

        seen = [change async for change in changes]

        assert seen == [Synced("full"), Stopped(code, "because")]
        assert device.stopped == Stopped(code, "because")
        with pytest.raises(DeviceStopped):
            await waiting
        with pytest.raises(DeviceStopped):
            await device.wait_until_synced()
    assert gateway.connections.empty()


async def test_expired_token_is_replaced_by_the_function(gateway: ScriptedGateway) -> None:
    tokens = iter(["t.1.x", "t.2.x"])
    async with Device(gateway.url, lambda: next(tokens), timings=QUICK) as device:
        connection = await synced(gateway, device)
        await connection.close(4004, "token_expired")

        assert (await synced(gateway, device)).headers["Authorization"] == "Bearer t.2.x"


async def test_device_stops_when_a_fixed_token_expires(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        await (await synced(gateway, device)).close(4004, "token_expired")

        await wait_until(lambda: device.stopped, "it stopped")


async def test_refresh_is_answered_with_a_fresh_token(gateway: ScriptedGateway) -> None:
    async def fresh() -> str:
        return "f.r.esh"

    async with Device(gateway.url, fresh, timings=QUICK) as device:
        connection = await synced(gateway, device)
        await connection.send({"refresh": {"expires_in": 60}})

        assert await connection.receive("token") == {"token": "f.r.esh"}


async def test_ping_is_answered_with_its_number(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)
        await connection.send({"ping": 7})

        assert await connection.receive("pong") == {"pong": 7}


async def test_step_of_the_clock_does_not_extend_the_wait_of_the_outbox(gateway: ScriptedGateway) -> None:
    clock = ManualClock(1_700_000_000_000_000)
    async with device_of(gateway, clock=clock) as device:
        connection = await synced(gateway, device)
        first, second = device.post(creation("a", "mail")), device.post(creation("b", "mail"))
        await connection.receive("ref")
        await connection.receive("ref")
        problem = {"code": "rate_limited", "status": 429, "retry_after_ms": 20}
        await connection.send({"ref": first, "problem": problem}, {"ref": second, "receipt": {"unchanged": True}})
        await wait_until(lambda: device.pending == 1, "both answers came")

        clock.step(-3_600)
        third = device.post(creation("c", "mail"))
        clock.advance(0.02)

        assert [(await connection.receive("ref"))["ref"] for _ in range(2)] == [first, third]


async def test_step_of_the_clock_does_not_delay_the_comparison_of_the_digest(gateway: ScriptedGateway) -> None:
    clock = ManualClock(1_700_000_000_000_000)
    timings = DeviceTimings(first_delay_s=0.01, max_delay_s=0.02, check_s=0.02)
    async with Device(gateway.url, "a.b.c", clock=clock, timings=timings) as device:
        connection = await synced(gateway, device)

        clock.step(-3_600)
        clock.advance(0.02)

        assert await connection.receive("resync")


SILENT = DeviceTimings(first_delay_s=0.01, max_delay_s=0.02, silence_s=0.05, answer_s=0.2)


async def test_silent_connection_is_replaced(gateway: ScriptedGateway) -> None:
    async with Device(gateway.url, "t", timings=SILENT) as device:
        first = await synced(gateway, device)
        await first.receive("ping")

        await gateway.next_connection()
        assert device.last_error == "1006 a ping was not answered"


async def test_answered_ping_keeps_the_connection(gateway: ScriptedGateway) -> None:
    async with Device(gateway.url, "t", timings=SILENT) as device:
        connection = await synced(gateway, device)
        for _ in range(8):
            assert await connection.receive("ping") == {"ping": 1}
            await connection.send({"pong": 1})

        assert gateway.connections.empty()
        assert not connection.ended.is_set()


async def test_frames_are_processed_until_the_reconnect(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)
        await connection.send({"reconnect": {"after_ms": 100, "reason": "shutdown"}}, live(2, create={"a": ITEM}))
        await wait_until(lambda: device.items, "the item came")

        hello = await (await gateway.next_connection()).accept_hello(sync="unchanged", cursor="abcdef-2")

        assert hello["cursor"] == "abcdef-2"
        await asyncio.wait_for(connection.ended.wait(), 5)


async def test_requests_to_reconnect_without_end_have_a_growing_delay(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds_s: list[float] = []

    def at_once(_: float, bound_s: float) -> float:
        bounds_s.append(bound_s)
        return 0.0

    monkeypatch.setattr(random, "uniform", at_once)
    async with Device(gateway.url, "t") as device:
        for _ in range(5):
            await (await synced(gateway, device)).send({"reconnect": {"after_ms": 0}})
        await gateway.next_connection()

    assert bounds_s == [0.5, 1, 2, 4, 8]


async def test_device_reconnects_at_once_after_a_good_connection(gateway: ScriptedGateway) -> None:
    timings = DeviceTimings(first_delay_s=600, max_delay_s=600, good_s=0)
    async with Device(gateway.url, "t", timings=timings) as device:
        for _ in range(3):
            await (await synced(gateway, device)).send({"reconnect": {"after_ms": 0}})
        await synced(gateway, device)


async def test_next_url_is_tried_after_a_failure(gateway: ScriptedGateway) -> None:
    async with Device(["ws://127.0.0.1:1", gateway.url], "t", timings=QUICK) as device:
        await synced(gateway, device)

        assert device.last_error is not None


async def test_digest_mismatch_requests_a_full_copy(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device, digest="f" * 64)
        assert await connection.receive("resync") == {"resync": True}
        await connection.send({"system": "gregor", "sync": "full", "cursor": "abcdef-3", "digest": "0" * 64})

        await wait_until(lambda: device.cursor == "abcdef-3", "the full copy came")


async def test_mismatch_of_a_full_copy_is_not_repeated(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device, digest="f" * 64)
        await connection.receive("resync")
        await connection.send(
            {"system": "gregor", "sync": "full", "cursor": "abcdef-3", "digest": "e" * 64}, {"ping": 1}
        )

        assert await connection.receive("pong") == {"pong": 1}
        visit_frames = asyncio.create_task(connection.receive("resync"))
        await connection.send({"ping": 2})
        await asyncio.wait([visit_frames], timeout=0.05)
        assert not visit_frames.done()
        visit_frames.cancel()


async def test_message_is_shown_before_its_receipt(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)
        waiting = asyncio.create_task(device.send(creation("a", "mail")))
        ref = (await connection.receive("ref"))["ref"]
        assert list(device.state) == ["a"]
        assert device.items == {}

        await connection.send(live(2, create={"a": ITEM}), {"ref": ref, "receipt": {"seq": 2, "created": ["a"]}})

        assert (await waiting).created == ("a",)
        assert device.pending == 0
        assert device.state == {"a": ITEM}


async def test_refused_message_leaves_the_state(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        changes = device.changes()
        connection = await synced(gateway, device)
        waiting = asyncio.create_task(device.send(creation("a", "mail")))
        ref = (await connection.receive("ref"))["ref"]
        problem = {"code": "state_full", "status": 409, "detail": "full"}
        await connection.send({"ref": ref, "problem": problem})

        with pytest.raises(Rejected, match="state_full") as refused:
            await waiting

        assert (refused.value.code, refused.value.status) == ("state_full", 409)
        assert device.state == {}
        assert [await anext(changes), await anext(changes)] == [Synced("full"), MessageRefused(ref, problem)]


@pytest.mark.parametrize(
    ("body", "error"),
    [(float("nan"), ValueError), ({1, 2}, TypeError), ("cut \ud83d", ValueError), ("x" * 1_100_000, ValueError)],
)
async def test_message_that_cannot_be_sent_is_refused(
    gateway: ScriptedGateway, body: Any, error: type[Exception]
) -> None:
    """At its caller: in the outbox it would end every connection, and no other message would be sent (L11)."""
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)
        with pytest.raises(error):
            device.post(creation("a", "mail", body))
        device.post(creation("b", "mail"))

        assert list((await connection.receive("ref"))["body"]["create"]) == ["b"]
        assert (device.pending, device.stopped) == (1, None)


async def test_unanswered_message_is_resent_on_reconnect(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)
        device.post({"system": "kbfs", "body": 1})
        said = await connection.receive("ref")
        await connection.close(1011)

        connection = await synced(gateway, device)

        assert await connection.receive("ref") == said
        await connection.send({"system": "kbfs", "seq": 2, "body": 1}, {"ref": said["ref"], "receipt": {"seq": 2}})
        await device.wait_until_sent()


async def test_flush_keeps_outbox_and_state(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        changes = device.changes()
        connection = await synced(gateway, device)
        await connection.send(live(2, create={"a": ITEM}))
        device.post(creation("mine", "mail"))
        await connection.receive("ref")
        await connection.send({**live(3, flush=True), "spread": 1}, {"ping": 1})
        await connection.receive("pong")
        assert sorted(device.state) == ["a", "mine"]

        full = {"system": "gregor", "sync": "full", "cursor": "fedcba-3", "digest": digest_of({"a": ITEM})}
        await connection.send({**full, "body": {"create": {"a": ITEM}}}, {"ping": 2})
        await connection.receive("pong")

        assert sorted(device.state) == ["a", "mine"]
        seen = [await anext(changes) for _ in range(4)]
        assert seen == [Synced("full"), Created("a", ITEM), FlushAnnounced(1), Synced("full")]


async def test_snapshot_restores_copy_and_outbox(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)
        await connection.send(live(2, create={"a": ITEM}))
        await wait_until(lambda: device.items, "the item came")
        device.post(creation("mine", "mail"))
        kept = device.snapshot()

    async with device_of(gateway, restore=kept) as device:
        connection = await gateway.next_connection()
        hello = await connection.accept_hello(sync="unchanged", cursor="abcdef-2", digest=digest_of({"a": ITEM}))

        assert hello["cursor"] == "abcdef-2"
        assert list((await connection.receive("ref"))["body"]["create"]) == ["mine"]


async def test_snapshot_with_another_filter_is_not_resumed(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        await synced(gateway, device)
        kept = device.snapshot()

    async with device_of(gateway, restore=kept, category_prefix=["user"]):
        assert "cursor" not in await (await gateway.next_connection()).accept_hello()


async def test_refused_hello_stops_the_device(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await gateway.next_connection()
        await connection.receive("hello")
        await connection.send({"problem": {"code": "invalid_id", "detail": "no prefix", "status": 422}})

        with pytest.raises(DeviceStopped, match="invalid_id: no prefix"):
            await device.wait_until_synced()


async def test_ack_and_foreground_are_sent(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)

        device.ack()
        device.set_foreground(True)

        assert await connection.receive("ack") == {"ack": 1}
        assert await connection.receive("foreground") == {"foreground": True}


async def test_dismissed_change_has_the_item(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device)
        changes = device.changes()
        await connection.send(live(2, create={"a": ITEM}), live(3, dismiss={"ids": ["a"], "reason": "expired"}))

        assert [await anext(changes), await anext(changes)] == [Created("a", ITEM), Dismissed("a", ITEM, "expired")]


async def test_snooze_dismisses_after_the_copy_is_accepted(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device, sync="full", body={"create": {"a": ITEM}})
        snoozing = asyncio.create_task(device.snooze("a", 900))
        first = await connection.receive("ref")
        assert first["not_before"] == 900 and "a" in device.state
        await connection.send({"ref": first["ref"], "receipt": {"id": first["id"], "not_before": 900}})
        second = await connection.receive("ref")
        assert second["body"] == {"dismiss": {"ids": ["a"]}}
        await connection.send({"ref": second["ref"], "receipt": {"seq": 2, "dismissed": ["a"]}})
        await connection.send(live(2, dismiss={"ids": ["a"]}))

        assert await snoozing == first["id"]
        assert device.state == {}


async def test_refused_snooze_leaves_the_item(gateway: ScriptedGateway) -> None:
    async with device_of(gateway) as device:
        connection = await synced(gateway, device, sync="full", body={"create": {"a": ITEM}})
        snoozing = asyncio.create_task(device.snooze("a", 900))
        first = await connection.receive("ref")
        await connection.send({"ref": first["ref"], "problem": {"code": "state_full", "status": 409}})

        with pytest.raises(Rejected):
            await snoozing
        assert "a" in device.state and device.pending == 0
