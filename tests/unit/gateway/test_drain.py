"""The end of a process."""

from __future__ import annotations

import asyncio

from gregor_gateway.runtime.drain import Drain
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import House, Line


class Fleet:
    """Connected devices, as a drain sees them."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines

    def open(self) -> list[object]:
        return [line.connection for line in self.lines if line.closed is None]


async def test_devices_are_asked_to_go_elsewhere_and_then_closed(house: House) -> None:
    lines = [await house.connect(f"d{number}") for number in range(10)]
    fleet = Fleet(lines)
    drain = Drain(house.parts, fleet.open)  # type: ignore[arg-type]

    draining = asyncio.create_task(drain.run(25))
    await wait_until(lambda: all(line.frames for line in lines), "the hints")
    hints = [line.frames[0]["reconnect"] for line in lines]
    assert {hint["reason"] for hint in hints} == {"shutdown"}
    assert all(0 <= hint["after_ms"] <= 20 for hint in hints)
    assert house.parts.readiness.draining
    assert {line.closed for line in lines} == {None}
    house.pass_time(0.3)
    await draining

    assert {line.closed for line in lines} == {4001}


async def test_at_the_deadline_the_rest_is_closed(house: House) -> None:
    lines = [await house.connect(f"d{number}") for number in range(3)]
    drain = Drain(house.parts, lambda: [line.connection for line in lines])
    draining = asyncio.create_task(drain.run(5))
    await wait_until(lambda: all(line.frames for line in lines), "the hints")

    house.clock.advance(5.1)
    await draining

    assert {line.closed for line in lines} == {4001}


async def test_told_twice_it_closes_at_once(house: House) -> None:
    line = await house.connect()
    drain = Drain(house.parts, Fleet([line]).open)  # type: ignore[arg-type]
    draining = asyncio.create_task(drain.run(25))
    await wait_until(lambda: line.frames, "the hint")

    drain.hurry()
    await draining

    assert line.closed == 4001


async def test_without_devices_it_is_over_at_once(house: House) -> None:
    await Drain(house.parts, list).run(25)
