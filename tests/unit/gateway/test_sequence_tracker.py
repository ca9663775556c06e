"""Sequence tracking: gaps and forks in a user's history."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gregor.core.items.announcement import Announcement, AnnouncementKind
from gregor.core.items.sync import NO_EPOCH, ZERO_DIGEST, UserPosition
from gregor_gateway.fanout.sequence_tracker import Continuity, SequenceTracker, StreamPosition

EPOCH, OTHER = b"abc", b"xyz"


def link(n: int) -> bytes:
    return n.to_bytes(8, "big")


def announced(seq: int, epoch: bytes = EPOCH, **members: object) -> Announcement:
    plain = Announcement(AnnouncementKind.UPDATE, epoch, seq, link(seq - 1), link(seq))
    return replace(plain, **members)  # type: ignore[arg-type]


def tracker_at(seq: int, epoch: bytes = EPOCH, known: bool = True) -> SequenceTracker:
    tracker = SequenceTracker()
    tracker.position = StreamPosition(epoch, seq, link(seq) if known else None)
    return tracker


@pytest.mark.parametrize(
    ("announcement", "continuity"),
    [
        (announced(11), Continuity.NEXT),
        (announced(10), Continuity.LATE),
        (announced(3), Continuity.LATE),
        (announced(12), Continuity.GAP),
        (announced(11, before=link(99)), Continuity.FORK),
        (announced(11, OTHER), Continuity.FORK),
        (announced(12, OTHER), Continuity.FORK),
        (announced(11, OTHER, kind=AnnouncementKind.RESET), Continuity.NEXT),
        (announced(11, OTHER, kind=AnnouncementKind.RESET, before=link(99)), Continuity.FORK),
        (announced(11, OTHER, is_new_epoch=True), Continuity.FORK),
    ],
)
def test_announcement_is_classified(announcement: Announcement, continuity: Continuity) -> None:
    assert tracker_at(10).classify(announcement) is continuity


def test_first_message_sets_the_epoch() -> None:
    tracker = SequenceTracker()
    tracker.position = StreamPosition.of(None)

    assert tracker.classify(announced(1, is_new_epoch=True, before=ZERO_DIGEST[:8])) is Continuity.NEXT


def test_first_announcement_sets_the_position() -> None:
    tracker = SequenceTracker()
    assert tracker.classify(announced(7)) is Continuity.NEXT

    tracker.advance(announced(7))

    assert tracker.position == StreamPosition(EPOCH, 7, link(7))
    assert tracker.confirm_sync(EPOCH, 6, None) is Continuity.SAME
    assert tracker.confirm_sync(EPOCH, 5, None) is Continuity.GAP


def test_unknown_link_leaves_the_seq_to_decide() -> None:
    assert tracker_at(10, known=False).classify(announced(11, before=link(99))) is Continuity.NEXT


def test_first_sync_sets_the_position() -> None:
    tracker = SequenceTracker()

    assert tracker.confirm_sync(EPOCH, 10, None) is Continuity.SAME
    assert tracker.position == StreamPosition(EPOCH, 10)
    assert tracker.seq == 10


@pytest.mark.parametrize(
    ("epoch", "seq", "continuity"),
    [
        (EPOCH, 10, Continuity.SAME),
        (EPOCH, 15, Continuity.SAME),
        (EPOCH, 9, Continuity.FORK),
        (OTHER, 10, Continuity.FORK),
    ],
)
def test_later_sync_of_another_history_is_a_fork(epoch: bytes, seq: int, continuity: Continuity) -> None:
    tracker = tracker_at(10)

    assert tracker.confirm_sync(epoch, seq, tracker.position) is continuity


THEN = StreamPosition(EPOCH, 10, link(10))


@pytest.mark.parametrize(
    ("there", "now", "continuity"),
    [
        (THEN, THEN, Continuity.SAME),
        (StreamPosition(EPOCH, 12, link(12)), THEN, Continuity.GAP),
        (
            StreamPosition(EPOCH, 12, link(12)),
            StreamPosition(EPOCH, 12, link(12)),
            Continuity.SAME,
        ),  # the announcements arrived while the store was asked
        (StreamPosition(EPOCH, 9, link(9)), THEN, Continuity.FORK),
        (StreamPosition(EPOCH, 9, link(9)), StreamPosition(EPOCH, 11, link(11)), Continuity.FORK),
        (StreamPosition(EPOCH, 10, link(99)), THEN, Continuity.FORK),
        (StreamPosition(OTHER, 11, link(11)), THEN, Continuity.FORK),
        (
            StreamPosition(OTHER, 11, link(11)),
            StreamPosition(OTHER, 11, link(11)),
            Continuity.SAME,
        ),  # a reset that was announced meanwhile
        (StreamPosition.of(None), THEN, Continuity.FORK),
    ],
)
def test_store_is_compared_with_the_earlier_position(
    there: StreamPosition, now: StreamPosition, continuity: Continuity
) -> None:
    tracker = SequenceTracker()
    tracker.position = now

    assert tracker.compare(there, THEN) is continuity


def test_missed_first_message_is_a_gap() -> None:
    tracker = SequenceTracker()
    tracker.position = StreamPosition(NO_EPOCH, 0, ZERO_DIGEST[:8])

    assert tracker.compare(StreamPosition(EPOCH, 1, link(1)), tracker.position) is Continuity.GAP


def test_comparison_learns_the_link() -> None:
    tracker = tracker_at(10, known=False)
    assert tracker.position is not None

    assert (
        tracker.compare(StreamPosition.of(UserPosition(EPOCH, 10, link(10) + bytes(24))), tracker.position)
        is Continuity.SAME
    )
    assert tracker.position == THEN


# ---- interruptions: the subscription may belong to another server

AHEAD = StreamPosition(EPOCH, 12, link(12))


def old_tracker() -> SequenceTracker:
    """Return a tracker whose position was reached before the last two marks."""
    tracker = tracker_at(10)
    tracker.mark()
    tracker.mark()
    return tracker


def test_gap_is_a_fork_until_another_server_was_compared() -> None:
    tracker = old_tracker()
    tracker.interrupt()
    assert tracker.compare(AHEAD, THEN) is Continuity.FORK

    tracker.resume(same_server=False)
    assert tracker.classify(announced(12)) is Continuity.FORK
    assert tracker.compare(AHEAD, THEN) is Continuity.FORK

    tracker.trust()
    assert tracker.classify(announced(12)) is Continuity.GAP
    assert tracker.compare(AHEAD, THEN) is Continuity.GAP


def test_gap_on_the_same_server_is_no_fork() -> None:
    tracker = tracker_at(10)
    tracker.interrupt()
    tracker.resume(same_server=True)

    assert tracker.classify(announced(12)) is Continuity.GAP
    assert tracker.compare(AHEAD, THEN) is Continuity.GAP


def test_recent_position_is_in_doubt_on_another_server() -> None:
    """Its link may be equal although it belongs to another history: links do not cover items of one device."""
    tracker = tracker_at(10)
    tracker.mark()
    tracker.interrupt()
    tracker.resume(same_server=False)
    tracker.mark()  # a mark after the interruption makes it no older

    assert tracker.compare(THEN, THEN) is Continuity.UNPROVEN
    assert tracker.compare(AHEAD, THEN) is Continuity.FORK


def test_old_position_is_compared_on_another_server() -> None:
    tracker = old_tracker()
    tracker.interrupt()
    tracker.resume(same_server=False)

    assert tracker.compare(THEN, THEN) is Continuity.SAME
    assert tracker.compare(StreamPosition(EPOCH, 10, link(99)), THEN) is Continuity.FORK


def test_move_is_remembered_over_a_second_interruption() -> None:
    tracker = old_tracker()
    tracker.resume(same_server=False)
    tracker.interrupt()
    tracker.trust()  # no effect while the subscription is interrupted
    tracker.resume(same_server=True)

    assert tracker.compare(AHEAD, THEN) is Continuity.FORK


def test_empty_copy_continues_every_history() -> None:
    tracker = SequenceTracker()
    tracker.position = StreamPosition.of(None)
    tracker.mark()
    tracker.mark()
    tracker.resume(same_server=False)

    assert tracker.compare(StreamPosition(EPOCH, 1, link(1)), tracker.position) is Continuity.GAP
