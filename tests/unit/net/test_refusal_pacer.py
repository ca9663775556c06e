"""Refusals of a client behind a proxy are delayed to a rate, however many connections the client has."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor.net.refusal_pacer import BURST, MAX_WAIT_S, MAX_WAITING, MAX_WAITING_OF_CLIENT, REFUSALS_PER_S, RefusalPacer


class Sleeps:
    """Records the delays. The test ends them."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.delays.append(seconds)
        await self.over.wait()


@given(st.integers(1, 300))
def test_refusals_of_a_client_have_a_rate(count: int) -> None:
    async def check() -> None:
        sleeps = Sleeps()
        pacer = RefusalPacer(ManualClock(0), sleeps)
        waiting = [asyncio.create_task(pacer.wait("client")) for _ in range(count)]
        await asyncio.sleep(0)
        for second in range(int(MAX_WAIT_S)):
            assert sum(second <= delay < second + 1 for delay in sleeps.delays) <= REFUSALS_PER_S + BURST
        assert pacer.waiting == count
        sleeps.over.set()
        await asyncio.gather(*waiting)
        assert pacer.waiting == 0

    asyncio.run(check())


async def test_other_clients_are_not_delayed() -> None:
    sleeps = Sleeps()
    pacer = RefusalPacer(ManualClock(0), sleeps)
    waiting = [asyncio.create_task(pacer.wait("busy")) for _ in range(100)]
    await asyncio.sleep(0)

    waiting.append(asyncio.create_task(pacer.wait("other")))
    await asyncio.sleep(0)

    assert sleeps.delays[-1] == 0
    sleeps.over.set()
    await asyncio.gather(*waiting)


async def test_waiting_refusals_are_bounded_in_number_and_time() -> None:
    sleeps = Sleeps()
    pacer = RefusalPacer(ManualClock(0), sleeps)
    waiting = [asyncio.create_task(pacer.wait("client")) for _ in range(MAX_WAITING_OF_CLIENT + 1)]
    await asyncio.sleep(0)
    assert pacer.waiting == MAX_WAITING_OF_CLIENT
    assert max(sleeps.delays) == MAX_WAIT_S

    waiting += [asyncio.create_task(pacer.wait(f"client{n % 10}")) for n in range(MAX_WAITING)]
    await asyncio.sleep(0)

    assert pacer.waiting == MAX_WAITING
    assert waiting[MAX_WAITING_OF_CLIENT].done() and waiting[-1].done()
    sleeps.over.set()
    await asyncio.gather(*waiting)


async def test_idle_clients_are_forgotten() -> None:
    clock = ManualClock(0)
    pacer = RefusalPacer(clock)
    for number in range(1_000):
        await pacer.wait(f"client{number}")
        clock.advance(1)

    assert len(pacer._turns.clients) < 10
