"""From the channels of users to their devices: frames, views, what was missed, forks, flushes, controls."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.core.items.announcement import Announcement, AnnouncementKind
from gregor.core.items.sync import Cursor
from gregor.store.contract.store import Unavailable
from gregor_gateway.protocol.hello import Hello, Position
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import House, Line, items, settle


async def test_every_device_of_a_user_gets_each_change_at_once_and_no_other_user_does(house: House) -> None:
    phone, laptop, other = await house.connect(), await house.connect("laptop"), await house.connect(uid="bob")

    await house.create("aa")
    await house.dismiss("aa")
    await settle()

    for line in (phone, laptop):
        assert line.kinds == ["create", "dismiss"]
        assert line.seqs == [1, 2]
    assert other.frames == []


async def test_the_same_bytes_go_to_every_connection_of_a_view(house: House) -> None:
    one, two = await house.connect(), await house.connect()
    one.writes.clear()
    two.writes.clear()

    await house.create("aa")
    await settle()

    assert one.writes[0][0] is two.writes[0][0]


async def test_a_view_gets_what_is_its_own(house: House) -> None:
    filtered = await house.connect(hello=Hello(prefixes=("mail",)))
    limited = await house.connect("laptop", category_filter=("user",))

    await house.create("aa", category="mail.new")
    await house.create("bb", category="user.joined")
    await house.create("cc", category="web")
    await house.create("dd", category="user.left", for_device="laptop")
    await settle()

    assert [items(frame) for frame in filtered.frames] == [{"aa"}]
    assert [items(frame) for frame in limited.frames] == [{"bb"}, {"dd"}]


async def test_a_view_that_did_not_see_its_users_epoch_being_made_has_the_cursor_with_its_first_frame(
    house: House,
) -> None:
    phone, laptop = await house.connect(), await house.connect("laptop")

    await house.create("own", for_device="phone")
    await house.create("aa")
    await house.create("bb")
    await settle()

    assert [items(frame) for frame in laptop.frames] == [{"aa"}, {"bb"}]
    assert ["cursor" in frame for frame in laptop.frames] == [True, False]
    assert ["cursor" in frame for frame in phone.frames] == [True, False, False]
    assert laptop.connection.cursor == laptop.frames[0]["cursor"].replace("-2", "-3")


async def test_an_external_message_goes_to_who_hears_its_system(house: House) -> None:
    all_of_them, some = await house.connect(), await house.connect(hello=Hello(systems=("kbfs",)))
    none = await house.connect("laptop", hello=Hello(systems=()))

    await house.send({"n": 1}, system="kbfs.favorites")
    await house.send({"n": 2}, system="chat")
    await settle()

    assert [frame["system"] for frame in all_of_them.frames] == ["kbfs.favorites", "chat"]
    assert [frame["system"] for frame in some.frames] == ["kbfs.favorites"]
    assert none.frames == []


async def test_every_connection_of_the_sender_gets_its_frame_even_an_empty_one(house: House) -> None:
    plain = await house.connect()
    filtered = await house.connect(hello=Hello(prefixes=("mail",), systems=()))
    other = await house.connect("laptop", hello=Hello(prefixes=("mail",)))

    plain.say(ref=1, system="gregor", body={"create": {"aa": {"category": "user.joined"}}})
    await plain.until("receipt")
    filtered.say(ref=2, system="kbfs", body={})
    await filtered.until("receipt")

    assert plain.kinds == ["create", "receipt", ""]
    assert [frame.get("body") for frame in filtered.frames] == [{}, {}, None]
    assert [frame["system"] for frame in other.frames] == ["kbfs"]


async def test_a_receipt_comes_after_the_frame_of_its_seq(house: House) -> None:
    phone = await house.connect()

    for number in range(20):
        phone.say(ref=number, system="gregor", body={"create": {f"i{number}": {"category": "mail"}}})
    await phone.until("receipt", 20)

    for frame in phone.frames:
        if "receipt" in frame:
            seen = [each["seq"] for each in phone.frames[: phone.frames.index(frame)] if "seq" in each]
            assert frame["receipt"]["seq"] <= max(seen)
    assert [frame["ref"] for frame in phone.frames if "ref" in frame] == list(range(20))


async def test_an_announcement_that_was_lost_is_made_up_for_by_the_next_one(house: House) -> None:
    phone, filtered = await house.connect(), await house.connect(hello=Hello(prefixes=("mail",)))
    await house.create("aa", category="mail")
    await settle()
    house.feed.drop_next(2)
    await house.create("bb", category="mail")
    await house.create("cc", category="web")
    await house.create("dd", category="web")

    await phone.until("delta")
    await filtered.until("delta")

    assert [items(frame) for frame in phone.frames] == [{"aa"}, {"bb", "cc", "dd"}]
    assert [items(frame) for frame in filtered.frames] == [{"aa"}, {"bb"}]
    assert house.parts.metrics.gaps.labels("gap")._value.get() == 1
    await house.create("ee", category="mail")
    await settle()
    assert items(phone.frames[-1]) == items(filtered.frames[-1]) == {"ee"}


async def test_a_receipt_whose_frame_was_lost_is_not_kept_waiting(house: House) -> None:
    await house.create("old")
    phone = await house.connect()
    house.feed.drop_next()
    phone.say(ref=1, system="gregor", body={"create": {"aa": {"category": "mail"}}})
    await settle()
    assert phone.frames == []

    house.pass_time(1.2)
    await phone.until("receipt")

    assert phone.kinds == ["delta", "receipt"]


def forged(seq: int, before: bytes, epoch: bytes, **members: Any) -> bytes:
    return Announcement(
        AnnouncementKind.EXTERNAL, epoch, seq, before, before, system="kbfs", body=b"{}", **members
    ).encode()


async def test_an_announcement_of_another_history_has_everybody_copied_anew(house: House) -> None:
    await house.create("aa")
    phone, filtered = await house.connect(), await house.connect(hello=Hello(prefixes=("mail",)))
    await house.create("bb")
    await settle()
    mark = house.parts.hub.rooms["alice"].track.mark
    assert mark is not None

    house.feed.publish(house.store.channel_of("alice"), forged(mark.seq + 1, b"otherway", mark.epoch))
    await phone.until("full")
    await filtered.until("full")

    assert items(phone.frames[-1]) == {"aa", "bb"}


async def test_a_seq_that_went_back_is_verified_and_late_news_are_none(house: House) -> None:
    phone = await house.connect()
    await house.create("aa")
    await house.create("bb")
    await settle()
    mark = house.parts.hub.rooms["alice"].track.mark
    assert mark is not None

    house.feed.publish(house.store.channel_of("alice"), forged(mark.seq, b"otherway", mark.epoch))
    await settle()
    house.pass_time(3)
    await settle()

    assert phone.kinds == ["create", "create"]


async def test_a_device_that_comes_during_traffic_misses_nothing_and_hears_nothing_twice(house: House) -> None:
    for number in range(10):
        await house.create(f"a{number}")
    phone = house.dial()
    for number in range(30):
        await house.create(f"b{number}")
        await settle(1)
    await wait_until(lambda: phone.seqs and phone.seqs[-1] == 40, "everything")

    assert phone.kinds[0] == "full"
    copy = {name for frame in phone.frames for name in items(frame)}
    assert len(copy) == 40
    assert phone.seqs == sorted(set(phone.seqs))


async def test_a_device_resumes_from_its_cursor(house: House) -> None:
    await house.create("aa")
    first = house.dial()
    cursor = (await first.until("full"))["cursor"]
    tag, _, seq = cursor.partition("-")
    await house.create("bb")

    again = house.dial(hello=Hello(Position(Cursor(tag, int(seq)))))

    assert items(await again.until("delta")) == {"bb"}


async def test_the_first_message_of_a_user_brings_a_cursor_that_counts(house: House) -> None:
    phone = await house.connect()

    await house.create("aa")
    await settle()

    cursor = phone.frames[0]["cursor"]
    assert phone.connection.session.tag == cursor.partition("-")[0]


async def test_a_flush_is_told_at_once_and_the_copy_comes_within_the_spread(house: House) -> None:
    phone = await house.connect()
    await house.create("aa")
    await house.send({"flush": True})
    flush = await phone.until("flush")
    await house.create("bb")
    await settle()

    house.pass_time(flush["spread"] + 0.2)
    full = await phone.until("full")

    assert phone.kinds == ["create", "flush", "create", "full"]
    assert items(full) == {"aa", "bb"}
    assert full["cursor"].endswith("-3")


async def test_a_device_that_was_copied_meanwhile_is_not_copied_again_for_a_flush(house: House) -> None:
    phone = await house.connect()
    await house.create("aa")
    await house.send({"flush": True})
    await phone.until("flush")
    phone.say(resync=True)
    await phone.until("full")

    house.pass_time(31)
    await settle()

    assert phone.kinds.count("full") == 1


async def test_a_flush_of_all_reaches_each_connected_user_within_the_spread(house: House) -> None:
    await house.create("aa")
    await house.create("bb", uid="bob")
    phone, bob = await house.connect(), await house.connect(uid="bob")

    await house.store.users.reset_all_users(10)
    await settle()
    for _ in range(12):
        house.pass_time(1)
        await settle()

    for line in (phone, bob):
        assert line.kinds == ["flush", "full"]


async def test_with_its_last_device_a_user_is_heard_no_more(house: House) -> None:
    one, two = await house.connect(), await house.connect()

    one.connection.shut(4001)
    assert "alice" in house.parts.hub.rooms
    two.connection.shut(4001)

    assert house.parts.hub.rooms == {}
    assert not house.feed._channels.keys() & {(True, house.store.channel_of("alice").encode())}


async def test_a_control_closes_who_is_meant(house: House) -> None:
    phone = await house.connect(hello=Hello(session="one"))
    beside = await house.connect(hello=Hello(session="two"))
    laptop = await house.connect("laptop")

    await house.store.devices.publish_control("alice", {"close": {"device": "phone", "session": "one", "code": 4003}})
    await settle()

    assert (phone.closed, beside.closed, laptop.closed) == (4003, None, None)


async def test_a_revocation_closes_the_tokens_that_it_voids(house: House) -> None:
    old = await house.connect()
    house.clock.advance(10)
    new = await house.connect()
    laptop = await house.connect("laptop")

    await house.store.devices.revoke("alice", "phone", house.clock.now_us() - 5_000_000, house.clock.now_us())
    await settle()

    assert (old.closed, new.closed, laptop.closed) == (4502, None, None)


async def test_frames_for_a_session_held_here_come_by_the_channel(house: House) -> None:
    phone = await house.connect(hello=Hello(session="one"))
    posted = {"session": "one", "device": "phone", "frames": [{"ping": 4}, {"foreground": True}]}

    await house.store.devices.publish_control("alice", {"frames": posted})
    await phone.until("pong")

    assert phone.connection.session.foreground


async def test_a_channel_that_cannot_be_heard_sends_the_device_away(house: House) -> None:
    await house.feed.close()

    line = house.dial()

    await wait_until(lambda: line.closed == 4006, "the close")
    assert house.parts.hub.rooms == {}


async def test_hearing_is_refused_as_unavailable(house: House) -> None:
    await house.feed.close()
    line = Line(house, "carol", "phone", Hello(), house.rules)

    with pytest.raises(Unavailable):
        await house.parts.hub.enter("dave", line.connection, line.connection.session.view, None)
