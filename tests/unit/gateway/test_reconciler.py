"""Reconciliation with the store finds lost announcements, and ignores those that are in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gregor.core.items.announcement import Announcement, AnnouncementKind
from gregor.core.items.sync import UserPosition
from gregor_gateway.fanout.reconciler import PAUSE_S, UNPROVEN_USERS
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, items, settle


async def test_lost_last_announcement_is_reconciled(
    gateway: Gateway,
) -> None:
    await gateway.create("old")
    phone = await gateway.connect()
    gateway.feed.drop_next()
    await gateway.create("aa")
    await settle()
    assert phone.frames == []

    for _ in range(40):
        gateway.pass_time(1)
        await settle()

    assert [items(frame) for frame in phone.frames] == [{"aa"}]
    assert phone.kinds == ["delta"]
    assert gateway.context.metrics.gaps.labels("compare")._value.get() == 1


async def test_user_of_an_absent_shard_delays_no_other(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    phone, bob = await gateway.connect(), await gateway.connect(uid="bob")
    heads, away = gateway.store.users.reachable_heads, {"alice"}

    async def partial_heads(uids: Sequence[str]) -> dict[str, UserPosition | None]:
        return {uid: head for uid, head in (await heads(uids)).items() if uid not in away}

    monkeypatch.setattr(gateway.store.users, "reachable_heads", partial_heads)
    for uid in ("alice", "bob"):
        gateway.feed.drop_next()
        await gateway.create("aa", uid=uid)

    async def wait_s(seconds: int) -> None:
        for _ in range(seconds):
            gateway.pass_time(1)
            await settle()

    await wait_s(40)
    assert (phone.kinds, bob.kinds) == ([], ["full"])
    away.clear()
    await wait_s(4)
    assert phone.kinds == ["full"], "the comparison is repeated within seconds"


async def test_equal_positions_send_nothing(gateway: Gateway) -> None:
    phone = await gateway.connect()
    await gateway.create("aa")

    for _ in range(100):
        gateway.pass_time(1)
        await settle(5)

    assert phone.kinds == ["create"]


async def test_announcements_in_flight_are_not_a_gap(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync in place of live frames would swallow their reminders, which no sync has."""
    phone = await gateway.connect()
    heads = gateway.store.users.reachable_heads

    async def just_written(uids: Sequence[str]) -> dict[str, UserPosition | None]:
        await gateway.create(f"n{gateway.seeds}")
        return await heads(uids)

    monkeypatch.setattr(gateway.store.users, "reachable_heads", just_written)
    for _ in range(100):
        gateway.pass_time(1)
        await settle(5)

    assert len(phone.kinds) >= 3 and set(phone.kinds) == {"create"}


async def test_pubsub_gap_sends_only_the_difference(gateway: Gateway) -> None:
    await gateway.create("old")
    phone, bob = await gateway.connect(), await gateway.connect(uid="bob")
    for channel in (gateway.store.channel_of("alice"), gateway.store.channel_of("bob")):
        gateway.feed.block(channel)
    await gateway.create("aa")
    await settle()

    gateway.feed.unblock()
    await phone.until("delta")

    assert items(phone.frames[0]) == {"aa"}
    assert bob.frames == []


async def test_lost_writes_cause_full_copies(gateway: Gateway) -> None:
    await gateway.create("aa")
    phone = await gateway.connect()
    await gateway.create("bb")
    await settle()
    channel = gateway.context.hub.channels["alice"]
    assert channel.tracker.position is not None
    channel.tracker.advance(
        Announcement(AnnouncementKind.EXTERNAL, channel.tracker.position.epoch, 9, b"x" * 8, b"y" * 8)
    )

    for _ in range(40):
        gateway.pass_time(1)
        await settle()

    assert phone.kinds == ["create", "full"]
    assert items(phone.frames[-1]) == {"aa", "bb"}
    await gateway.create("cc")
    await settle()
    assert items(phone.frames[-1]) == {"cc"}


async def test_unreadable_publication_is_reconciled(gateway: Gateway) -> None:
    await gateway.create("old")
    phone = await gateway.connect()
    gateway.feed.drop_next()
    await gateway.create("aa")

    gateway.feed.publish(gateway.store.channel_of("alice"), b"C?")
    await phone.until("delta")


async def test_copies_after_a_failover_are_paced(gateway: Gateway) -> None:
    """Users whose position is equal wait for the copies of others; a user that missed a message does not wait."""
    loop, count = asyncio.get_running_loop(), 5 * UNPROVEN_USERS
    equal = [await gateway.connect(uid=f"u{number}") for number in range(count)]
    late = await gateway.connect(uid="late")
    gateway.feed.interrupt()
    await gateway.create("aa", uid="late")

    def copied() -> int:
        return sum(phone.kinds == ["full"] for phone in equal)

    began = loop.time()
    gateway.feed.reconnect("other")
    await late.until("full")
    before = copied()
    await wait_until(lambda: copied() == count, "all copies")

    assert before < count
    assert loop.time() - began >= 4 * PAUSE_S, "each batch waits"
