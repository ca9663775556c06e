"""What a process knows of a user's history, and how it notices what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gregor.core.items.announcement import Announcement, AnnouncementKind
from gregor.core.items.sync import NO_EPOCH, ZERO_DIGEST, UserPosition
from gregor_gateway.fanout.sequence_tracker import Mark, Track, Verdict

EPOCH, OTHER = b"abc", b"xyz"


def link(n: int) -> bytes:
    return n.to_bytes(8, "big")


def told(seq: int, epoch: bytes = EPOCH, **members: object) -> Announcement:
    plain = Announcement(AnnouncementKind.UPDATE, epoch, seq, link(seq - 1), link(seq))
    return replace(plain, **members)  # type: ignore[arg-type]


def track_at(seq: int, epoch: bytes = EPOCH, known: bool = True) -> Track:
    track = Track()
    track.mark = Mark(epoch, seq, link(seq) if known else None)
    return track


@pytest.mark.parametrize(
    ("announcement", "verdict"),
    [
        (told(11), Verdict.NEXT),
        (told(10), Verdict.LATE),
        (told(3), Verdict.LATE),
        (told(12), Verdict.GAP),
        (told(11, before=link(99)), Verdict.FORK),
        (told(11, OTHER), Verdict.FORK),
        (told(12, OTHER), Verdict.FORK),
        (told(11, OTHER, kind=AnnouncementKind.RESET), Verdict.NEXT),
        (told(11, OTHER, kind=AnnouncementKind.RESET, before=link(99)), Verdict.FORK),
        (told(11, OTHER, is_new_epoch=True), Verdict.FORK),
    ],
)
def test_an_announcement_is_judged_by_seq_epoch_and_link(announcement: Announcement, verdict: Verdict) -> None:
    assert track_at(10).judge(announcement) is verdict


def test_the_first_message_of_a_user_makes_its_epoch() -> None:
    track = Track()
    track.mark = Mark.of(None)

    assert track.judge(told(1, is_new_epoch=True, before=ZERO_DIGEST[:8])) is Verdict.NEXT


def test_where_nothing_is_known_the_first_announcement_begins() -> None:
    track = Track()
    assert track.judge(told(7)) is Verdict.NEXT

    track.follow(told(7))

    assert track.mark == Mark(EPOCH, 7, link(7))
    assert track.settle(EPOCH, 6, None) is Verdict.SAME
    assert track.settle(EPOCH, 5, None) is Verdict.GAP


def test_without_a_link_the_seq_alone_is_judged() -> None:
    assert track_at(10, known=False).judge(told(11, before=link(99))) is Verdict.NEXT


def test_the_first_read_is_where_a_track_begins() -> None:
    track = Track()

    assert track.settle(EPOCH, 10, None) is Verdict.SAME
    assert track.mark == Mark(EPOCH, 10)
    assert track.seq == 10


@pytest.mark.parametrize(
    ("epoch", "seq", "verdict"),
    [(EPOCH, 10, Verdict.SAME), (EPOCH, 15, Verdict.SAME), (EPOCH, 9, Verdict.FORK), (OTHER, 10, Verdict.FORK)],
)
def test_a_later_read_must_not_be_of_another_history(epoch: bytes, seq: int, verdict: Verdict) -> None:
    track = track_at(10)

    assert track.settle(epoch, seq, track.mark) is verdict


THEN = Mark(EPOCH, 10, link(10))


@pytest.mark.parametrize(
    ("there", "now", "verdict"),
    [
        (THEN, THEN, Verdict.SAME),
        (Mark(EPOCH, 12, link(12)), THEN, Verdict.GAP),
        (Mark(EPOCH, 12, link(12)), Mark(EPOCH, 12, link(12)), Verdict.SAME),  # told while the store was asked
        (Mark(EPOCH, 9, link(9)), THEN, Verdict.FORK),
        (Mark(EPOCH, 9, link(9)), Mark(EPOCH, 11, link(11)), Verdict.FORK),
        (Mark(EPOCH, 10, link(99)), THEN, Verdict.FORK),
        (Mark(OTHER, 11, link(11)), THEN, Verdict.FORK),
        (Mark(OTHER, 11, link(11)), Mark(OTHER, 11, link(11)), Verdict.SAME),  # a flush, told meanwhile
        (Mark.of(None), THEN, Verdict.FORK),
    ],
)
def test_the_store_is_compared_with_what_was_known_when_it_was_asked(there: Mark, now: Mark, verdict: Verdict) -> None:
    track = Track()
    track.mark = now

    assert track.compare(there, THEN) is verdict


def test_a_user_that_came_to_be_unheard_is_a_gap() -> None:
    track = Track()
    track.mark = Mark(NO_EPOCH, 0, ZERO_DIGEST[:8])

    assert track.compare(Mark(EPOCH, 1, link(1)), track.mark) is Verdict.GAP


def test_a_comparison_learns_the_link() -> None:
    track = track_at(10, known=False)
    assert track.mark is not None

    assert track.compare(Mark.of(UserPosition(EPOCH, 10, link(10) + bytes(24))), track.mark) is Verdict.SAME
    assert track.mark == THEN
