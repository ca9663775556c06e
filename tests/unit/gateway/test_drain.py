"""Draining a gateway."""

from __future__ import annotations

import asyncio

from gregor_gateway.drain import RECONNECTS_PER_SECOND, Drain
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, LocalDevice


class Fleet:
    """The connected devices of a gateway."""

    def __init__(self, lines: list[LocalDevice]) -> None:
        self.lines = lines

    def open(self) -> list[object]:
        return [device.connection for device in self.lines if device.closed is None]


async def test_drain_asks_to_reconnect_then_closes(gateway: Gateway) -> None:
    lines = [await gateway.connect(f"d{number}") for number in range(10)]
    fleet = Fleet(lines)
    drain = Drain(gateway.context, fleet.open)  # type: ignore[arg-type]

    draining = asyncio.create_task(drain.run(25))
    await wait_until(lambda: all(device.frames for device in lines), "the hints")
    hints = [device.frames[0]["reconnect"] for device in lines]
    assert {hint["reason"] for hint in hints} == {"shutdown"}
    assert all(0 <= hint["after_ms"] <= 1_000 * 10 / RECONNECTS_PER_SECOND for hint in hints)
    assert {device.closed for device in lines} == {None}
    gateway.pass_time(0.4)
    await draining

    assert {device.closed for device in lines} == {4001}


async def test_drain_closes_the_rest_at_its_deadline(gateway: Gateway) -> None:
    lines = [await gateway.connect(f"d{number}") for number in range(3)]
    drain = Drain(gateway.context, lambda: [device.connection for device in lines])
    draining = asyncio.create_task(drain.run(5))
    await wait_until(lambda: all(device.frames for device in lines), "the hints")

    gateway.clock.advance(5.1)
    await draining

    assert {device.closed for device in lines} == {4001}


async def test_second_signal_closes_at_once(gateway: Gateway) -> None:
    device = await gateway.connect()
    drain = Drain(gateway.context, Fleet([device]).open)  # type: ignore[arg-type]
    draining = asyncio.create_task(drain.run(25))
    await wait_until(lambda: device.frames, "the hint")

    drain.close_now()
    await draining

    assert device.closed == 4001


async def test_drain_without_connections_ends_at_once(gateway: Gateway) -> None:
    await Drain(gateway.context, list).run(25)


async def test_drain_does_not_wait_for_connections_that_arrive_later(gateway: Gateway) -> None:
    """A stranger that opens connections, and does not answer their close, would prolong each drain."""
    fleet = Fleet([await gateway.connect()])
    draining = asyncio.create_task(Drain(gateway.context, fleet.open).run(25))  # type: ignore[arg-type]
    await wait_until(lambda: fleet.lines[0].frames, "the hint")

    fleet.lines.append(await gateway.connect("late"))
    gateway.pass_time(0.4)
    await asyncio.wait_for(draining, 5)

    assert {device.closed for device in fleet.lines} == {4001}
