"""One subscription: which receivers get a gap after an interruption."""

from __future__ import annotations

import pytest

from gregor.redis.pubsub.channel import PubSubChannel, route
from tests.support.receivers import RecordingReceiver


def subscribed(channel: PubSubChannel, *receivers: RecordingReceiver) -> None:
    for receiver in receivers:
        channel.add(receiver)
    channel.confirm()


async def test_resubscribe_during_interruption_gets_gap() -> None:
    """A second device of a user joins while the subscription is interrupted: both have one receiver."""
    channel, room, newcomer = PubSubChannel(b"a", True), RecordingReceiver(), RecordingReceiver()
    subscribed(channel, room)
    channel.interrupt()

    waits = [channel.add(room), channel.add(newcomer), channel.add(newcomer)]
    channel.confirm()

    assert (room.heard, newcomer.heard) == (["gap"], [])
    assert all(future.done() for future in waits)


@pytest.mark.parametrize("asks_again", [False, True])
async def test_receiver_gets_gap_after_each_interruption(asks_again: bool) -> None:
    channel, room = PubSubChannel(b"a", True), RecordingReceiver()
    subscribed(channel, room)

    for _ in range(2):
        channel.interrupt()
        if asks_again:
            channel.add(room)
        channel.confirm()

    assert room.heard == ["gap", "gap"]


async def test_refused_channel_keeps_interrupted_receivers() -> None:
    channel, room, newcomer = PubSubChannel(b"a", True), RecordingReceiver(), RecordingReceiver()
    subscribed(channel, room)
    channel.interrupt()
    channel.add(room)
    channel.add(newcomer)

    assert channel.interrupted == (room,)


async def test_new_receiver_during_interruption_gets_no_gap() -> None:
    channel, room = PubSubChannel(b"a", True), RecordingReceiver()
    subscribed(channel, room, RecordingReceiver())
    channel.interrupt()

    channel.remove(room)
    channel.add(room)
    channel.confirm()

    assert room.heard == []


async def test_gap_says_whether_the_server_is_the_same() -> None:
    """Messages that were received may be unknown to another server, also to the same one after a restart."""
    channel, room = PubSubChannel(b"a", True), RecordingReceiver()
    channel.add(room)
    channel.confirm("one")

    for server_id in ("one", "two", "two", None, None):
        channel.interrupt()
        channel.confirm(server_id)

    assert room.servers == [True, False, True, False, False]
    assert room.losses == 5


async def test_interruption_is_reported_once() -> None:
    channel, room, newcomer = PubSubChannel(b"a", True), RecordingReceiver(), RecordingReceiver()
    subscribed(channel, room)

    channel.interrupt()
    channel.add(newcomer)
    channel.interrupt()

    assert (room.losses, newcomer.losses) == (1, 0)


@pytest.mark.parametrize("reply", [b"OK", None, 7, [], [b"message", b"c"], [b"smessage", [b"c"], b"x"]])
def test_reply_of_another_protocol_is_no_confirmation(reply: object) -> None:
    """The caller closes the connection. An exception would be logged with a traceback, once for each connection."""
    confirmed: list[tuple[bytes, bytes]] = []

    route([reply], {True: {}, False: {}}, lambda *each: confirmed.append(each), lambda error: None)

    assert confirmed == [(b"", b"")]
