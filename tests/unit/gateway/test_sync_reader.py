"""Single-flight reads of syncs."""

from __future__ import annotations

from contextlib import AsyncExitStack

from gregor_gateway.fanout.sync_reader import CONCURRENT_READS, READS_OF_USER
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, settle


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
    reader = gateway.context.sync_reader
    await gateway.connect("laptop")
    channel = gateway.context.hub.channels["alice"]

    async with AsyncExitStack() as held:
        for _ in range(READS_OF_USER):
            await held.enter_async_context(reader._turn(channel))
        waiting = [gateway.dial(f"d{n}") for n in range(READS_OF_USER)]
        await gateway.connect(uid="bob")
        assert all("full" not in device.kinds for device in waiting)
    for device in waiting:
        await device.until("full")
    assert not reader._turns


async def test_no_copy_is_read_for_clients_that_left(gateway: Gateway) -> None:
    await gateway.connect("laptop")
    reader, channel = gateway.context.sync_reader, gateway.context.hub.channels["alice"]
    reads = gateway.context.metrics.syncs.labels("full")._value

    async with AsyncExitStack() as held:
        for _ in range(READS_OF_USER):
            await held.enter_async_context(reader._turn(channel))
        before, gone = reads.get(), gateway.dial()
        await wait_until(lambda: reader.waiting == 1, "the read")
        gone.connection.end()
    await wait_until(lambda: reader.waiting == 0, "its end")

    assert reads.get() == before
