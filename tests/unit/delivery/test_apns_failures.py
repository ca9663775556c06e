"""Failures of APNs and of the network, one by one: each push ends in its own verdict, none is handed over twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

from gregor.dev.fakes.apns import ANY_TOKEN
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor_delivery.channels.apns.connection import ApnsConnection
from gregor_delivery.channels.apns.exchange import ApnsRequest
from gregor_delivery.channels.verdict import RecipientGone, Refused, Retry, Sent, Unknown
from tests.support.pushes import push
from tests.support.wait import wait_until
from tests.unit.delivery.apns_harness import World, apns_harness

INTERNAL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 2, 7, 11


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with apns_harness(tmp_path) as each:
        yield each


async def test_a_deadline_that_passes_leaves_all_other_pushes_alone(world: World) -> None:
    world.fake.script("late", ApnsAction(delay_s=0.3))
    world.fake.script("slow", ApnsAction(delay_s=0.4))

    late, slow = await asyncio.gather(world.send(push(token="late"), 0.1), world.send(push(token="slow"), 5))
    after = await world.send(push(token="after"))

    assert isinstance(late, Unknown)
    assert isinstance(slow, Sent)
    assert isinstance(after, Sent)
    assert [world.copies(token) for token in ("late", "slow", "after")] == [1, 1, 1]
    assert world.fake.connections == 1


async def test_an_answer_after_the_deadline_disturbs_nobody(world: World) -> None:
    world.fake.script("late", ApnsAction(503, "ServiceUnavailable", delay_s=0.15, is_split=True))
    world.fake.script("slow", ApnsAction(delay_s=0.3))

    late, slow = await asyncio.gather(world.send(push(token="late"), 0.1), world.send(push(token="slow"), 5))

    assert isinstance(late, Unknown)
    assert isinstance(slow, Sent)
    assert world.fake.connections == 1


async def test_a_sender_that_is_cancelled_takes_nobody_with_it(world: World) -> None:
    world.fake.script("cancelled", ApnsAction(delay_s=0.1))
    world.fake.script("slow", ApnsAction(delay_s=0.2))
    cancelled = asyncio.create_task(world.send(push(token="cancelled")))
    slow = asyncio.create_task(world.send(push(token="slow")))
    await wait_until(lambda: len(world.fake.received) == 2, "both are in flight")

    cancelled.cancel()

    assert isinstance(await slow, Sent)
    assert cancelled.cancelled()
    assert [world.copies("cancelled"), world.copies("slow")] == [1, 1]


async def test_a_provider_slower_than_a_library_would_wait_gets_one_copy(world: World) -> None:
    verdict = await world.told(ApnsAction(delay_s=0.4))

    assert isinstance(verdict, Sent)
    assert len(world.fake.received) == 1
    assert [each.inactivity_timer for each in world.connections] == [None]


async def test_a_provider_that_never_answers_leaves_the_outcome_unknown(world: World) -> None:
    verdict = await world.told(ApnsAction(is_silent=True), deadline_s=0.1)

    assert verdict == Unknown("no answer before the deadline")
    assert len(world.fake.received) == 1


async def test_a_connection_that_was_silent_all_along_is_not_trusted_again(world: World) -> None:
    await world.send()
    world.fake.freeze()

    assert isinstance(await world.send(deadline_s=0.1), Unknown)
    assert isinstance(await world.send(), Sent)
    assert world.fake.connections == 2


async def test_a_push_that_was_given_up_makes_room_at_the_provider_too(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, most_streams=1, config={"most_connections": 1}) as world:
        await world.told(ApnsAction(is_silent=True), deadline_s=0.1)
        await wait_until(lambda: world.connections[0].has_room, "the ping was answered")

        assert isinstance(await world.send(), Sent)
        assert world.fake.connections == 1


async def test_a_push_that_began_just_before_goaway_came_still_leaves() -> None:
    written: list[bytes] = []
    connection = ApnsConnection(lambda: None, lambda _: None)
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    connection.connection_made(RenderedMail(written))
    connection.data_received(server.data_to_send())
    server.receive_data(b"".join(written))
    headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/3/device/a"), (b":authority", b"x")]
    written.clear()

    connection.begin(ApnsRequest(headers, b"{}", asyncio.get_running_loop().time() + 60))
    connection.data_received(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + b"\x7f\xff\xff\xff" + bytes(4))

    assert any(isinstance(event, StreamEnded) for event in server.receive_data(b"".join(written)))
    connection.end("over")


class RenderedMail(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self, written: list[bytes]) -> None:
        super().__init__()
        self._written = written

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append(bytes(data))

    def close(self) -> None:
        pass


async def test_a_connection_that_gives_a_sign_of_life_is_used_again(world: World) -> None:
    await world.told(ApnsAction(is_silent=True), deadline_s=0.1)
    await wait_until(lambda: world.connections[0].has_room, "the ping was answered")

    assert isinstance(await world.send(), Sent)
    assert world.fake.connections == 1


async def test_goaway_after_the_push_was_taken_waits_for_its_answer(world: World) -> None:
    verdict = await world.told(ApnsAction(goaway="taken", delay_s=0.1))

    assert isinstance(verdict, Sent)
    assert len(world.fake.received) == 1
    assert isinstance(await world.send(), Sent)
    assert world.fake.connections == 2


async def test_goaway_after_the_push_was_taken_and_no_answer_is_unknown(world: World) -> None:
    verdict = await world.told(ApnsAction(goaway="taken", is_silent=True), deadline_s=0.1)

    assert isinstance(verdict, Unknown)
    assert len(world.fake.received) == 1


async def test_goaway_before_the_push_was_taken_hands_it_to_another_connection(world: World) -> None:
    verdict = await world.told(ApnsAction(goaway="refused"))

    assert isinstance(verdict, Sent)
    assert len(world.fake.delivered()) == 1
    assert world.fake.connections == 2


async def test_what_was_written_behind_a_goaway_that_leaves_it_out_arrives_once(world: World) -> None:
    world.fake.script(ANY_TOKEN, ApnsAction(), ApnsAction(goaway="refused"))
    await world.send()

    verdicts = await asyncio.gather(*(world.send(push(token=f"t{n}")) for n in range(20)))

    assert {type(each) for each in verdicts} == {Sent}
    assert sorted(each.token for each in world.fake.delivered()[1:]) == sorted(f"t{n}" for n in range(20))


async def test_goaway_lets_all_that_is_in_flight_end(world: World) -> None:
    world.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=0.1)] * 20, ApnsAction(goaway="taken", delay_s=0.1))

    verdicts = await asyncio.gather(*(world.send(push(token=f"t{n}")) for n in range(21)))

    assert {type(each) for each in verdicts} == {Sent}
    assert len(world.fake.received) == 21


async def test_each_handover_has_a_name_of_its_own(world: World) -> None:
    world.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=0.05)] * 10)

    verdicts = await asyncio.gather(*(world.send() for _ in range(10)))

    names = {each.provider_id for each in verdicts if isinstance(each, Sent)}
    assert len(names) == 10
    assert names == {each.headers["apns-id"] for each in world.fake.received}


async def test_a_stream_that_is_refused_is_handed_over_once_more(world: World) -> None:
    verdict = await world.told(ApnsAction(reset=REFUSED_STREAM))

    assert isinstance(verdict, Sent)
    assert len(world.fake.delivered()) == 1


async def test_a_provider_that_refuses_every_stream_is_left_alone_for_now(world: World) -> None:
    world.fake.script("a1b2c3", *[ApnsAction(reset=REFUSED_STREAM)] * 10)

    assert await world.send() == Retry(None, None, "stream refused")
    assert world.copies("a1b2c3") == 3


@pytest.mark.parametrize("code", [INTERNAL_ERROR, ENHANCE_YOUR_CALM])
async def test_a_stream_that_is_reset_ends_at_once_while_others_go_on(world: World, code: int) -> None:
    world.fake.script("slow", ApnsAction(delay_s=0.2))
    slow = asyncio.create_task(world.send(push(token="slow")))

    verdict = await world.told(ApnsAction(reset=code))

    assert isinstance(verdict, Unknown)
    assert not slow.done()
    assert isinstance(await slow, Sent)
    assert world.fake.connections == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_an_error_without_a_body_is_an_answer(world: World, status: int) -> None:
    verdict = await world.told(ApnsAction(status, is_empty=True))

    assert verdict == Retry(None, str(status), f"{status} without a reason")
    assert len(world.fake.received) == 1


async def test_a_body_in_two_frames_is_read_whole(world: World) -> None:
    verdict = await world.told(ApnsAction(410, "Unregistered", timestamp_ms=1_457_056_447_001, is_split=True))

    assert verdict == RecipientGone("410", "Unregistered", since_us=1_457_056_447_001_000)
    assert isinstance(await world.send(), Sent)
    assert (world.copies("a1b2c3"), world.fake.connections) == (2, 1)


async def test_an_empty_frame_after_a_success_changes_nothing(world: World) -> None:
    assert isinstance(await world.told(ApnsAction(trails=True)), Sent)
    assert isinstance(await world.send(), Sent)
    assert world.fake.connections == 1


async def test_a_connection_that_breaks_tells_all_who_wait_even_beside_one_that_gave_up(world: World) -> None:
    world.fake.script(ANY_TOKEN, *[ApnsAction(is_silent=True)] * 5)
    waiting = [asyncio.create_task(world.send(push(token=f"t{n}"))) for n in range(5)]
    await wait_until(lambda: len(world.fake.received) == 5, "all are in flight")

    waiting[0].cancel()
    world.fake.cut_connections()

    assert {type(each) for each in await asyncio.gather(*waiting[1:])} == {Unknown}
    assert len(world.fake.received) == 5


async def test_a_connection_that_is_cut_under_a_push_leaves_the_outcome_unknown(world: World) -> None:
    assert isinstance(await world.told(ApnsAction(drops=True)), Unknown)
    assert isinstance(await world.send(), Sent)
    assert world.copies("a1b2c3") == 2


async def test_a_connection_keeps_nothing_of_what_is_over(world: World) -> None:
    for _ in range(10):
        await asyncio.gather(*(world.send() for _ in range(60)))

    assert [each.in_flight for each in world.connections] == [0]
    assert world.connections[0].kept_streams <= 64 + 60


async def test_many_errors_do_not_use_up_the_window_of_the_connection(world: World) -> None:
    world.fake.script(ANY_TOKEN, *[ApnsAction(400, "BadDeviceToken" + "x" * 9_000)] * 20)

    verdicts = [await world.send(deadline_s=2) for _ in range(20)]

    assert set(verdicts) == {Refused("400", "BadDeviceToken" + "x" * 9_000)}
    assert world.fake.connections == 1


async def test_a_narrow_window_makes_a_push_slower_and_not_lost(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, window_bytes=100) as world:
        verdicts = await asyncio.gather(*(world.send(push(text="x" * 3_000)) for _ in range(30)))

        assert {type(each) for each in verdicts} == {Sent}
        assert len(world.fake.received) == 30


async def test_a_push_that_never_left_whole_was_not_delivered(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, window_bytes=0) as world:
        assert isinstance(await world.send(deadline_s=0.1), Retry)
        assert world.fake.received == []
