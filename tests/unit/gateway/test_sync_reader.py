"""Single-flight reads of syncs."""

from __future__ import annotations

import asyncio

import pytest

from gregor_gateway.fanout.sync_reader import CONCURRENT_READS, READS_OF_USER, SyncReader
from gregor_gateway.fanout.user_channel import ARRIVAL_TIMEOUT_S
from gregor_gateway.protocol.hello import Position
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, settle


async def occupied(reader: SyncReader) -> asyncio.Semaphore:
    """Return the limit of alice's reads, with no room left."""
    limit = reader._of_user.of("alice")
    for _ in range(READS_OF_USER):
        await limit.acquire()
    return limit


async def test_returning_user_gets_a_tracker_of_its_own_read(gateway: Gateway) -> None:
    await gateway.create("aa")
    slots = gateway.context.sync_reader._slots
    for _ in range(CONCURRENT_READS):
        await slots.acquire()
    gone = gateway.dial()
    await settle(100)
    gone.connection.end()
    back = gateway.dial()
    await settle(100)
    for _ in range(CONCURRENT_READS):
        slots.release()
    await back.until("full")

    gateway.feed.block(gateway.store.channel_of("alice"))
    await gateway.create("missed")
    await settle()
    for _ in range(40):
        gateway.pass_time(1)
        await settle(5)

    await wait_until(lambda: "missed" in str(back.frames), "the item of the lost announcement")


async def test_reads_of_one_user_leave_places_to_others(gateway: Gateway) -> None:
    await gateway.create("aa")
    limit = await occupied(gateway.context.sync_reader)
    waiting = [gateway.dial(f"d{n}") for n in range(READS_OF_USER)]
    await gateway.connect(uid="bob")
    assert all("full" not in device.kinds for device in waiting)

    limit.release()

    for device in waiting:
        await device.until("full")
    del limit
    await wait_until(lambda: len(gateway.context.sync_reader._of_user) == 0, "the end of the reads")


async def test_returning_user_gets_no_further_reads(gateway: Gateway) -> None:
    reader = gateway.context.sync_reader
    limit = await occupied(reader)
    for number in range(3):
        gone = gateway.dial()
        await wait_until(lambda number=number: reader.waiting == number + 1, "the read")
        gone.connection.end()
        await wait_until(lambda: "alice" not in gateway.context.hub.channels, "the end of the channel")

    await settle(100)

    assert reader.waiting == 3
    limit.release()


async def test_no_copy_is_read_for_clients_that_left(gateway: Gateway) -> None:
    await gateway.connect("laptop")
    reader = gateway.context.sync_reader
    limit = await occupied(reader)
    reads = gateway.context.metrics.syncs.labels("full")._value
    before, gone = reads.get(), gateway.dial()
    await wait_until(lambda: reader.waiting == 1, "the read")
    gone.connection.end()

    limit.release()

    await wait_until(lambda: reader.waiting == 0, "its end")
    assert reads.get() == before


@pytest.mark.parametrize("is_lost", [False, True])
async def test_full_copy_waits_for_external_messages(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """The store may contain a message before its publication arrives here. A copy without a cursor lacks it (L13)."""
    device = await gateway.connect()
    held: list[tuple[bytes, bytes]] = []
    with monkeypatch.context() as patch:
        patch.setattr(gateway.feed, "publish", lambda channel, payload, **_: held.append((channel, payload)))
        await gateway.send({"text": "hi"}, system="chat")
    device.connection.resync(Position(), 0)
    await settle(100)
    assert device.frames == []

    if not is_lost:
        gateway.feed.publish(*held[0])
    else:
        gateway.pass_time(2 * ARRIVAL_TIMEOUT_S)
    await wait_until(lambda: device.frames, "the copy")

    (frame,) = device.frames
    assert frame["sync"] == "full" and frame.get("external_gap", False) is is_lost
    assert [each["body"] for each in frame.get("external", ())] == ([] if is_lost else [{"text": "hi"}])
