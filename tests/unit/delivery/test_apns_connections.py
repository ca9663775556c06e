"""The connections to APNs: how many, whose turn, and what becomes of them when the provider comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gregor.dev.fakes.apns import ANY_TOKEN
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor_delivery.channels.apns.channel import ApnsChannel
from gregor_delivery.channels.apns.exchange import ApnsResponse, Lost
from gregor_delivery.channels.apns.pool import ApnsEndpoint, ApnsPool
from gregor_delivery.channels.apns.responses import spoils_connection
from gregor_delivery.channels.verdict import Misconfigured, Retry, Sent, Unknown
from tests.support.pushes import push
from tests.support.wait import wait_until
from tests.unit.delivery.apns_harness import World, apns_harness


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with apns_harness(tmp_path) as each:
        yield each


async def test_all_connections_share_one_provider_token(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, most_streams=2) as world:
        world.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=0.1)] * 8)

        await asyncio.gather(*(world.send() for _ in range(8)))
        world.fake.cut_connections()
        await wait_until(lambda: not world.connections, "the connections are gone")
        await world.send()

        assert world.fake.connections >= 3
        assert len(world.fake.provider_tokens) == 1


async def test_settings_that_shrink_are_obeyed(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, config={"most_connections": 1}) as world:
        await world.told(ApnsAction(most_streams=3))
        world.fake.script(ANY_TOKEN, *[ApnsAction(is_silent=True)] * 3)
        sends = [asyncio.create_task(world.send(push(token=f"t{n}"), 30)) for n in range(10)]
        await wait_until(lambda: len(world.fake.received) == 4, "three are in flight")
        assert [each.in_flight for each in world.connections] == [3]

        world.fake.cut_connections()

        verdicts = await asyncio.gather(*sends)
        assert [type(each) for each in verdicts] == [Unknown] * 3 + [Sent] * 7


async def test_who_waits_for_a_connection_gets_its_turn_in_order(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, most_streams=1, config={"most_connections": 1}) as world:
        await asyncio.gather(*(world.send(push(token=f"t{n}")) for n in range(20)))

        assert [each.token for each in world.fake.received] == [f"t{n}" for n in range(20)]


async def test_no_more_connections_are_opened_than_allowed(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, most_streams=1, config={"most_connections": 3}) as world:
        world.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=0.02)] * 30)

        verdicts = await asyncio.gather(*(world.send() for _ in range(30)))

        assert {type(each) for each in verdicts} == {Sent}
        assert world.fake.connections == 3


async def test_a_provider_that_is_not_there_is_tried_again_later(tmp_path: Path) -> None:
    async with apns_harness(tmp_path) as world:
        await world.fake.close()

        verdict = await world.send()

        assert isinstance(verdict, Retry)
        assert verdict.status is None
        assert verdict.detail.startswith("cannot connect")


async def test_a_sender_that_is_cancelled_while_there_is_no_connection_harms_nobody(tmp_path: Path) -> None:
    async with apns_harness(tmp_path) as world:
        await world.fake.close()
        cancelled, other = asyncio.create_task(world.send()), asyncio.create_task(world.send())
        await asyncio.sleep(0)

        cancelled.cancel()

        assert isinstance(await other, Retry)
        assert cancelled.cancelled()


async def test_a_provider_that_comes_back_is_found_again(tmp_path: Path) -> None:
    async with apns_harness(tmp_path) as world:
        await world.send()
        port = int(world.fake.url.rpartition(":")[2])
        await world.fake.close()
        await world.send()

        await world.fake.start(port)

        assert isinstance(await world.send(), Sent)


async def test_a_server_that_cannot_prove_who_it_is_gets_nothing(world: World) -> None:
    channel = ApnsChannel(replace(world.config, ca_file=None))
    await channel.open()

    verdict = await channel.send(push(), 5)

    assert isinstance(verdict, Misconfigured)
    assert "not trusted" in verdict.detail
    assert world.fake.received == []
    await channel.close()


async def test_a_dead_connection_is_found_by_its_silence(world: World) -> None:
    host, _, port = world.fake.url.removeprefix("https://").rpartition(":")
    pool = ApnsPool(ApnsEndpoint(host, int(port), world.channel.tls), 1, spoils_connection, keepalive_s=0.05)
    loop = asyncio.get_running_loop()
    headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/3/device/a"), (b":authority", b"x")]
    assert isinstance(await pool.exchange(headers, b"{}", loop.time() + 5), ApnsResponse)
    world.fake.freeze()

    outcome = await pool.exchange(headers, b"{}", loop.time() + 5)

    assert outcome == Lost("no sign of life")
    await pool.close()


async def test_closing_waits_for_what_is_in_flight(world: World) -> None:
    world.fake.script("slow", ApnsAction(delay_s=0.1))
    slow = asyncio.create_task(world.send(push(token="slow")))
    await wait_until(lambda: world.fake.received, "it is in flight")

    await world.channel.close()

    assert slow.done()
    assert isinstance(await slow, Sent)
    assert isinstance(await world.send(), Retry)
