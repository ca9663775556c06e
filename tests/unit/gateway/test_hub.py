"""Fan-out from user channels to devices: frames, views, gaps, forks, resets, controls."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.core.items.announcement import Announcement, AnnouncementKind
from gregor.core.items.sync import Cursor
from gregor.store.contract.store import Unavailable
from gregor_gateway.protocol.hello import Hello, Position
from tests.support.resets import reset_all_users
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, LocalDevice, items, settle


async def test_fan_out_reaches_all_devices_of_the_user(gateway: Gateway) -> None:
    phone, laptop, other = await gateway.connect(), await gateway.connect("laptop"), await gateway.connect(uid="bob")

    await gateway.create("aa")
    await gateway.dismiss("aa")
    await settle()

    for device in (phone, laptop):
        assert device.kinds == ["create", "dismiss"]
        assert device.seqs == [1, 2]
    assert other.frames == []


async def test_connections_of_a_view_share_the_frame(gateway: Gateway) -> None:
    one, two = await gateway.connect(), await gateway.connect()
    one.writes.clear()
    two.writes.clear()

    await gateway.create("aa")
    await settle()

    assert one.writes[0][0] is two.writes[0][0]


async def test_view_gets_only_its_items(gateway: Gateway) -> None:
    filtered = await gateway.connect(hello=Hello(prefixes=("mail",)))
    limited = await gateway.connect("laptop", category_filter=("user",))

    await gateway.create("aa", category="mail.new")
    await gateway.create("bb", category="user.joined")
    await gateway.create("cc", category="web")
    await gateway.create("dd", category="user.left", for_device="laptop")
    await settle()

    assert [items(frame) for frame in filtered.frames] == [{"aa"}]
    assert [items(frame) for frame in limited.frames] == [{"bb"}, {"dd"}]


async def test_first_frame_of_a_view_has_the_new_cursor(
    gateway: Gateway,
) -> None:
    phone, laptop = await gateway.connect(), await gateway.connect("laptop")

    await gateway.create("own", for_device="phone")
    await gateway.create("aa")
    await gateway.create("bb")
    await settle()

    assert [items(frame) for frame in laptop.frames] == [{"aa"}, {"bb"}]
    assert ["cursor" in frame for frame in laptop.frames] == [True, False]
    assert ["cursor" in frame for frame in phone.frames] == [True, False, False]
    assert laptop.connection.cursor == laptop.frames[0]["cursor"].replace("-2", "-3")


async def test_external_message_reaches_its_systems(gateway: Gateway) -> None:
    all_of_them, some = await gateway.connect(), await gateway.connect(hello=Hello(systems=("kbfs",)))
    none = await gateway.connect("laptop", hello=Hello(systems=()))

    await gateway.send({"n": 1}, system="kbfs.favorites")
    await gateway.send({"n": 2}, system="chat")
    await settle()

    assert [frame["system"] for frame in all_of_them.frames] == ["kbfs.favorites", "chat"]
    assert [frame["system"] for frame in some.frames] == ["kbfs.favorites"]
    assert none.frames == []


async def test_sender_gets_a_frame_even_if_empty(gateway: Gateway) -> None:
    plain = await gateway.connect()
    filtered = await gateway.connect(hello=Hello(prefixes=("mail",), systems=()))
    other = await gateway.connect("laptop", hello=Hello(prefixes=("mail",)))

    plain.send(ref=1, system="gregor", body={"create": {"aa": {"category": "user.joined"}}})
    await plain.until("receipt")
    filtered.send(ref=2, system="kbfs", body={})
    await filtered.until("receipt")

    assert plain.kinds == ["create", "receipt", ""]
    assert [frame.get("body") for frame in filtered.frames] == [{}, {}, None]
    assert [frame["system"] for frame in other.frames] == ["kbfs"]


async def test_receipt_follows_the_frame_of_its_seq(gateway: Gateway) -> None:
    phone = await gateway.connect()

    for number in range(20):
        phone.send(ref=number, system="gregor", body={"create": {f"i{number}": {"category": "mail"}}})
    await phone.until("receipt", 20)

    for frame in phone.frames:
        if "receipt" in frame:
            seen = [each["seq"] for each in phone.frames[: phone.frames.index(frame)] if "seq" in each]
            assert frame["receipt"]["seq"] <= max(seen)
    assert [frame["ref"] for frame in phone.frames if "ref" in frame] == list(range(20))


async def test_gap_is_repaired_by_the_next_announcement(gateway: Gateway) -> None:
    phone, filtered = await gateway.connect(), await gateway.connect(hello=Hello(prefixes=("mail",)))
    await gateway.create("aa", category="mail")
    await settle()
    gateway.feed.drop_next(2)
    await gateway.create("bb", category="mail")
    await gateway.create("cc", category="web")
    await gateway.create("dd", category="web")

    await phone.until("delta")
    await filtered.until("delta")

    assert [items(frame) for frame in phone.frames] == [{"aa"}, {"bb", "cc", "dd"}]
    assert [items(frame) for frame in filtered.frames] == [{"aa"}, {"bb"}]
    assert gateway.context.metrics.gaps.labels("gap")._value.get() == 1
    await gateway.create("ee", category="mail")
    await settle()
    assert items(phone.frames[-1]) == items(filtered.frames[-1]) == {"ee"}


async def test_receipt_of_a_lost_frame_is_released(gateway: Gateway) -> None:
    await gateway.create("old")
    phone = await gateway.connect()
    gateway.feed.drop_next()
    phone.send(ref=1, system="gregor", body={"create": {"aa": {"category": "mail"}}})
    await settle()
    assert phone.frames == []

    gateway.pass_time(1.2)
    await phone.until("receipt")

    assert phone.kinds == ["delta", "receipt"]


def forged_announcement(seq: int, before: bytes, epoch: bytes, **members: Any) -> bytes:
    return Announcement(
        AnnouncementKind.EXTERNAL, epoch, seq, before, before, system="kbfs", body=b"{}", **members
    ).encode()


async def test_forked_announcement_causes_full_copies(gateway: Gateway) -> None:
    await gateway.create("aa")
    phone, filtered = await gateway.connect(), await gateway.connect(hello=Hello(prefixes=("mail",)))
    await gateway.create("bb")
    await settle()
    mark = gateway.context.hub.channels["alice"].tracker.position
    assert mark is not None

    gateway.feed.publish(gateway.store.channel_of("alice"), forged_announcement(mark.seq + 1, b"otherway", mark.epoch))
    await settle()

    copies = [device.frames[-1] for device in (phone, filtered)]
    assert [(copy["sync"], items(copy)) for copy in copies] == [("full", {"aa", "bb"}), ("full", set())]


async def test_lower_seq_is_reconciled_and_not_delivered(gateway: Gateway) -> None:
    phone = await gateway.connect()
    await gateway.create("aa")
    await gateway.create("bb")
    await settle()
    mark = gateway.context.hub.channels["alice"].tracker.position
    assert mark is not None

    gateway.feed.publish(gateway.store.channel_of("alice"), forged_announcement(mark.seq, b"otherway", mark.epoch))
    await settle()
    gateway.pass_time(3)
    await settle()

    assert phone.kinds == ["create", "create"]


async def test_joining_during_traffic_is_exactly_once(gateway: Gateway) -> None:
    for number in range(10):
        await gateway.create(f"a{number}")
    phone = gateway.dial()
    for number in range(30):
        await gateway.create(f"b{number}")
        await settle(1)
    await wait_until(lambda: phone.seqs and phone.seqs[-1] == 40, "everything")

    assert phone.kinds[0] == "full"
    copy = {name for frame in phone.frames for name in items(frame)}
    assert len(copy) == 40
    assert phone.seqs == sorted(set(phone.seqs))


async def test_device_resumes_from_its_cursor(gateway: Gateway) -> None:
    await gateway.create("aa")
    first = gateway.dial()
    cursor = (await first.until("full"))["cursor"]
    tag, _, seq = cursor.partition("-")
    await gateway.create("bb")

    again = gateway.dial(hello=Hello(Position(Cursor(tag, int(seq)))))

    assert items(await again.until("delta")) == {"bb"}


async def test_first_message_brings_a_valid_cursor(gateway: Gateway) -> None:
    phone = await gateway.connect()

    await gateway.create("aa")
    await settle()

    cursor = phone.frames[0]["cursor"]
    assert phone.connection.session.tag == cursor.partition("-")[0]


async def test_reset_sends_full_copies_within_the_spread(gateway: Gateway) -> None:
    phone = await gateway.connect()
    await gateway.create("aa")
    await gateway.send({"flush": True})
    flush = await phone.until("flush")
    await gateway.create("bb")
    await settle()

    gateway.pass_time(flush["spread"] + 0.2)
    full = await phone.until("full")

    assert phone.kinds == ["create", "flush", "create", "full"]
    assert items(full) == {"aa", "bb"}
    assert full["cursor"].endswith("-3")


async def test_reset_copies_each_device_once(gateway: Gateway) -> None:
    phone = await gateway.connect()
    await gateway.create("aa")
    await gateway.send({"flush": True})
    await phone.until("flush")
    phone.send(resync=True)
    await phone.until("full")

    gateway.pass_time(31)
    await settle()

    assert phone.kinds.count("full") == 1


async def test_reset_of_all_users_is_spread(gateway: Gateway) -> None:
    await gateway.create("aa")
    await gateway.create("bb", uid="bob")
    phone, bob = await gateway.connect(), await gateway.connect(uid="bob")

    await reset_all_users(gateway.store, 10)
    await settle()
    for _ in range(12):
        gateway.pass_time(1)
        await settle()

    for device in (phone, bob):
        assert device.kinds == ["flush", "full"]


async def test_last_device_unsubscribes_the_channel(gateway: Gateway) -> None:
    one, two = await gateway.connect(), await gateway.connect()

    one.connection.close(4001)
    assert "alice" in gateway.context.hub.channels
    two.connection.close(4001)

    assert gateway.context.hub.channels == {}
    assert not gateway.feed._channels.keys() & {(True, gateway.store.channel_of("alice").encode())}


async def test_control_closes_matching_connections(gateway: Gateway) -> None:
    phone = await gateway.connect(hello=Hello(session="one"))
    beside = await gateway.connect(hello=Hello(session="two"))
    laptop = await gateway.connect("laptop")

    await gateway.store.devices.publish_control("alice", {"close": {"device": "phone", "session": "one", "code": 4003}})
    await settle()

    assert (phone.closed, beside.closed, laptop.closed) == (4003, None, None)


@pytest.mark.parametrize("observes", [False, True], ids=["device", "observer"])
async def test_forgotten_device_gets_no_frame_that_its_cursor_survives(gateway: Gateway, observes: bool) -> None:
    """The item that it had hidden is in its view again: only a full copy can show that (L8)."""
    await gateway.create("each", for_device="*")
    await gateway.create("own", for_device="phone")
    laptop = await gateway.connect("laptop")
    phone = gateway.observe("phone") if observes else gateway.dial()
    await phone.until("full")
    await gateway.dismiss("each", device="phone")
    await phone.until("dismiss")
    tag, seen = phone.connection.session.tag, phone.seqs[-1]

    await gateway.store.devices.forget_device("alice", "phone", gateway.clock.now_us(), b"abc")
    await gateway.create("later")
    await laptop.until("create")
    again = gateway.dial(hello=Hello(position=Position(Cursor(tag, phone.seqs[-1]))))

    assert (phone.closed, phone.seqs[-1]) == (4003, seen)
    assert items(await again.until("full")) == {"each", "later"}


async def test_revocation_closes_older_tokens(gateway: Gateway) -> None:
    old = await gateway.connect()
    gateway.clock.advance(10)
    new = await gateway.connect()
    laptop = await gateway.connect("laptop")

    await gateway.store.devices.revoke("alice", "phone", gateway.clock.now_us() - 5_000_000, gateway.clock.now_us())
    await settle()

    assert (old.closed, new.closed, laptop.closed) == (4502, None, None)


async def test_forwarded_frames_reach_the_session(gateway: Gateway) -> None:
    phone = await gateway.connect(hello=Hello(session="one"))
    posted = {"session": "one", "device": "phone", "frames": [{"ping": 4}, {"foreground": True}]}

    await gateway.store.devices.publish_control("alice", {"frames": posted})
    await phone.until("pong")

    assert phone.connection.session.foreground


async def test_forwarded_frames_reach_no_observer(gateway: Gateway) -> None:
    observer = gateway.observe("phone")
    await wait_until(lambda: observer.frames, "the sync")
    posted = {"session": observer.connection.session_name, "device": "phone", "frames": [{"ping": 4}]}
    observer.frames.clear()

    await gateway.store.devices.publish_control("alice", {"frames": posted})
    await settle()

    assert observer.frames == []


async def test_failed_subscription_closes_with_4006(gateway: Gateway) -> None:
    await gateway.feed.close()

    device = gateway.dial()

    await wait_until(lambda: device.closed == 4006, "the close")
    assert gateway.context.hub.channels == {}


async def test_failed_subscription_raises_unavailable(gateway: Gateway) -> None:
    await gateway.feed.close()
    device = LocalDevice(gateway, "carol", "phone", Hello(), gateway.rules)

    with pytest.raises(Unavailable):
        await gateway.context.hub.enter("dave", device.connection, device.connection.session.view, None)
