"""Publications of one event-loop iteration are delivered together; devices get the same frames as one by one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.core.items.announcement import Announcement, AnnouncementKind
from gregor_gateway.fanout.user_channel import MAX_PENDING_BYTES
from gregor_gateway.protocol.hello import Hello
from tests.unit.gateway.conftest import Gateway, LocalDevice, items, open_gateway, settle
from tests.unit.gateway.test_websocket import Phone, dial

CREATES = st.tuples(st.just("create"), st.sampled_from(("mail.new", "user.joined", "web")))
STEPS = CREATES | st.sampled_from(
    [
        ("own", ""),
        ("dismiss", ""),
        ("external", ""),
        ("say", ""),
        ("ping", ""),
        ("pause", ""),
        ("resume", ""),
        ("resync", ""),
        ("lose", ""),
    ]
)


async def take(gateway: Gateway, phone: LocalDevice, number: int, step: str, category: str) -> None:
    match step:
        case "create":
            await gateway.create(f"i{number}", category=category)
        case "own":
            await gateway.create(f"i{number}", category="mail", for_device="laptop")
        case "dismiss":
            await gateway.dismiss(f"i{number - 1}")
        case "external":
            await gateway.send({"n": number}, system="kbfs")
        case "say":
            phone.send(ref=number, system="gregor", body={"create": {f"i{number}": {"category": "mail"}}})
            await settle()  # the event loop decides when it is committed
        case "ping":
            phone.send(ping=number)
        case "pause":
            phone.connection.pause()
        case "resume":
            phone.connection.resume()
        case "resync":
            phone.send(resync=True)
            await settle()
        case "lose":
            gateway.feed.drop_next()
            await gateway.create(f"i{number}")


async def play(steps: list[tuple[str, str]], *, one_by_one: bool) -> list[LocalDevice]:
    """Play steps to connected devices, each delivered before the next or all together; return the devices."""
    async with open_gateway() as gateway:
        await gateway.create("aa")
        phone = await gateway.connect()
        lines = [
            phone,
            await gateway.connect("laptop", hello=Hello(prefixes=("mail",))),
            await gateway.connect("tablet"),
        ]
        for number, (step, category) in enumerate(steps):
            await take(gateway, phone, number, step, category)
            if one_by_one:
                await settle()
        await gateway.create("last", category="mail")
        await settle()
        phone.connection.resume()
        await settle()
        gateway.pass_time(1.2)
        await settle()
        return lines


def items_of(device: LocalDevice) -> set[str]:
    """Return the items of a device's copy, from the frames since ``aa`` was created."""
    live = {"aa"}
    for frame in device.frames:
        live = items(frame) if frame.get("sync") == "full" else live | items(frame)
        live -= set(frame.get("body", {}).get("dismiss", {}).get("ids", ()))
    return live


def frames_of(device: LocalDevice) -> list[dict[str, Any]]:
    return [frame for frame in device.frames if "seq" in frame]


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_fast_and_general_delivery_are_equal(
    steps: list[tuple[str, str]],
) -> None:
    together = asyncio.run(play(steps, one_by_one=False))
    apart = asyncio.run(play(steps, one_by_one=True))

    for one, other in zip(together, apart, strict=True):
        assert items_of(one) == items_of(other)
        for number, frame in enumerate(frames_of(one)):
            is_new = "sync" in frame or all(each["seq"] < frame["seq"] for each in frames_of(one)[:number])
            assert is_new, "a live frame at or below an earlier one"
        assert one.connection.cursor == other.connection.cursor
        if ("lose", "") not in steps and ("resync", "") not in steps:
            assert frames_of(one) == frames_of(other)
    receipts = [frame for frame in together[0].frames if "receipt" in frame]
    assert len(receipts) == steps.count(("say", ""))
    for frame in receipts:
        before = together[0].frames[: together[0].frames.index(frame)]
        assert frame["receipt"]["seq"] <= max(each["seq"] for each in before if "seq" in each)


async def test_run_is_one_write_for_each_view(gateway: Gateway) -> None:
    await gateway.create("aa")
    phone, filtered = await gateway.connect(), await gateway.connect(hello=Hello(prefixes=("mail",)))
    phone.writes.clear()
    filtered.writes.clear()

    for name, category in (("bb", "mail"), ("cc", "web"), ("dd", "mail")):
        await gateway.create(name, category=category)
    await settle()

    assert [len(write) for write in phone.writes] == [3]
    assert [len(write) for write in filtered.writes] == [2]
    assert [items(frame) for frame in filtered.frames] == [{"bb"}, {"dd"}]
    assert filtered.connection.cursor.endswith("-4")


async def test_users_of_one_sweep_get_their_own_frames(gateway: Gateway) -> None:
    for uid in ("alice", "bob"):
        await gateway.create("aa", uid=uid)
    async with dial(gateway) as alice, dial(gateway, gateway.token("bob")) as bob, dial(gateway) as tablet:
        phones = [Phone(alice), Phone(bob), Phone(tablet)]
        for phone in phones:
            await phone.send(hello={})
            while "sync" not in await phone.receive():
                pass

        for number in range(3):
            await gateway.create(f"a{number}")
            await gateway.create(f"b{number}", uid="bob")

        received = [[items(await phone.receive()) for _ in range(3)] for phone in phones]
    assert received == [[{f"{name}{number}"} for number in range(3)] for name in "aba"]


async def test_reading_the_tracker_writes_nothing(gateway: Gateway) -> None:
    await gateway.create("aa")
    phone = await gateway.connect()
    channel = gateway.context.hub.channels["alice"]

    await gateway.create("bb")
    await asyncio.sleep(0)  # pub/sub delivers now; the sweep runs in the next iteration
    assert (channel.tracker.seq, phone.frames) == (1, [])
    assert channel.process_pending().seq == 2

    assert phone.kinds == ["create"]
    await settle()
    assert phone.kinds == ["create"]


async def test_large_publications_do_not_wait_for_the_sweep(gateway: Gateway) -> None:
    await gateway.create("aa")
    phone = await gateway.connect()
    mark = gateway.context.hub.channels["alice"].tracker.position
    assert mark is not None
    large = json.dumps("x" * MAX_PENDING_BYTES).encode()
    announcement = Announcement(AnnouncementKind.EXTERNAL, mark.epoch, 2, bytes(8), bytes(8), system="kbfs", body=large)

    gateway.context.hub.channels["alice"].receive(announcement.encode())

    assert phone.connection.session.seq == 2


async def test_unreadable_publication_stops_no_other(gateway: Gateway) -> None:
    await gateway.create("aa")
    phone = await gateway.connect()

    gateway.feed.publish(gateway.store.channel_of("alice"), b'K{"revoke":{}}')
    gateway.feed.publish(gateway.store.channel_of("alice"), b"C" + bytes(8) + b"u\0" + bytes(17) + b"\0\0\1+\0\xff")
    await gateway.create("bb")
    await settle()

    assert items(phone.frames[-1]) == {"bb"}
