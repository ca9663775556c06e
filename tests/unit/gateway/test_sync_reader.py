"""Single-flight reads of syncs."""

from __future__ import annotations

from gregor_gateway.fanout.sync_reader import CONCURRENT_READS
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
