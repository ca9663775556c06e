"""How many may go out a second."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gregor.reference.store import MemoryQueueReader
from gregor_delivery.throttle.pace import BURST_S, Pace
from gregor_delivery.worker import Worker
from tests.support.wait import wait_until
from tests.unit.delivery.house import House


@given(rate=st.floats(0.01, 500), waits_s=st.lists(st.floats(0, 1), max_size=30), most=st.integers(1, 60))
def test_never_more_goes_out_than_the_rate_allows(rate: float, waits_s: list[float], most: int) -> None:
    """Over any time: the rate, and what may go at once."""
    pace, now_s = Pace(rate), 1_000.0
    sent: list[tuple[float, int]] = []
    for wait_s in waits_s:
        now_s += wait_s
        room = pace.room(most, now_s)
        assert 0 <= room <= most
        for _ in range(room):
            pace.began(now_s)
        sent.append((now_s, room))
    for first, (since_s, _) in enumerate(sent):
        count = 0
        for at_s, room in sent[first:]:
            count += room
            assert count <= (at_s - since_s) * rate + max(1, int(rate * BURST_S)) + 0.001


@given(rate=st.floats(0.01, 5_000), used=st.integers(0, 1_000))
def test_who_waits_as_long_as_is_said_finds_room(rate: float, used: int) -> None:
    pace = Pace(rate)
    for _ in range(used):
        pace.began(50.0)

    wait_s = pace.wait_s(50.0)
    assert pace.room(10, 50.0 + wait_s) >= 1
    assert wait_s == 0 or pace.room(10, 50.0 + wait_s - 0.01 / rate) == 0


def test_without_a_rate_there_is_no_bound() -> None:
    pace = Pace(None)
    for _ in range(10_000):
        pace.began(0.0)

    assert (pace.room(250, 0.0), pace.wait_s(0.0)) == (250, 0.0)


async def test_a_worker_takes_no_more_than_its_pace_and_leaves_the_rest_to_others(house: House) -> None:
    queue = MemoryQueueReader(house.clock.monotonic)
    worker = Worker(replace(house.trade, pace=Pace(0.5)), queue)
    await queue.enqueue([await house.create(f"i{n}") for n in range(3)])
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(house.provider.pushes) == 1, "the first goes")

    house.clock.advance(2.0)
    await wait_until(lambda: len(house.provider.pushes) == 2, "the next goes")
    worker.stop()
    await running
    assert [each.intent.item for each in await queue.claim(10, 0.0)] == ["i2"]
