"""Syncs that are read for several, and for nobody else."""

from __future__ import annotations

from gregor_gateway.fanout.sync_reader import AT_ONCE
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import House, settle


async def test_who_comes_back_while_a_read_waits_its_turn_is_compared_too(house: House) -> None:
    await house.create("aa")
    slots = house.parts.reads._slots
    for _ in range(AT_ONCE):
        await slots.acquire()
    gone = house.dial()
    await settle(100)
    gone.connection.ended()
    back = house.dial()
    await settle(100)
    for _ in range(AT_ONCE):
        slots.release()
    await back.until("full")

    house.feed.cut(house.store.channel_of("alice"))
    await house.create("missed")
    await settle()
    for _ in range(40):
        house.pass_time(1)
        await settle(5)

    await wait_until(lambda: "missed" in str(back.frames), "what nobody announced")
