"""The send queue of one connection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gregor_gateway.connection.send_queue import NO_SEQ, EnqueueResult, SendQueue


def test_frames_are_taken_in_order() -> None:
    queue = SendQueue(100)
    queue.put(b"plain")
    queue.put(b"live", 7)

    assert queue.take(1_000) == [b"plain", b"live"]
    assert (queue.written_seq, queue.entries) == (7, None)
    assert queue.take(1_000) == []


PUTS = st.tuples(st.just("put"), st.sampled_from(("live", "plain", "renamed", "sync")))
TAKES = st.tuples(st.just("take"), st.sampled_from((1, 8, 1_000)))


@given(st.lists(PUTS | TAKES, max_size=12))
def test_cursor_equals_the_frames_written(
    steps: list[tuple[str, str | int]],
) -> None:
    queue = SendQueue(1_000)
    waiting: list[tuple[bytes, int, str | None]] = []
    tag, seq = "", 0
    for number, (step, what) in enumerate(steps, 1):
        packed = b"%04d" % number
        if step == "take":
            taken = queue.take(int(what))
            assert taken == [frame for frame, _, _ in waiting[: len(taken)]]
            for _, position, name in waiting[: len(taken)]:
                seq = seq if position == NO_SEQ else position
                tag = name or tag
            waiting = waiting[len(taken) :]
            assert taken or not waiting
            assert (queue.written_tag, queue.written_seq) == (tag, seq)
        elif what == "renamed":
            queue.set_next_tag(f"t{number}")
            assert not queue.is_idle
            queue.put(packed, number)
            waiting.append((packed, number, f"t{number}"))
        elif what == "sync":
            queue.put_sync(packed, f"t{number}", number)
            waiting.append((packed, number, f"t{number}"))
        else:
            queue.put(packed, NO_SEQ if what == "plain" else number)
            waiting.append((packed, NO_SEQ if what == "plain" else number, None))
        assert queue.is_idle is (not waiting)


def test_frame_with_a_cursor_changes_the_tag() -> None:
    queue = SendQueue(100)
    queue.put_sync(b"sync", "none", 0)
    queue.set_next_tag("tag")
    queue.put(b"first", 1)
    queue.put(b"second", 2)

    assert queue.take(1_000) == [b"sync"]
    assert (queue.written_tag, queue.written_seq) == ("none", 0)
    assert queue.take(1_000) == [b"first", b"second"]
    assert (queue.written_tag, queue.written_seq) == ("tag", 2)


def test_write_size_is_bounded() -> None:
    queue = SendQueue(1_000)
    for seq in range(5):
        queue.put(b"x" * 10, seq)

    assert [len(queue.take(25)), len(queue.take(25)), len(queue.take(25))] == [3, 2, 0]


def test_overflow_drops_only_live_frames() -> None:
    queue = SendQueue(20)
    queue.put(b"receipt")
    queue.put_sync(b"s" * 1_000, "tag", 5)

    assert queue.put(b"x" * 13, 6) is EnqueueResult.QUEUED
    assert queue.put(b"y", 7) is EnqueueResult.DROPPED
    assert queue.take(1_000) == [b"receipt"]
    assert (queue.written_tag, queue.written_seq) == ("", 0)


def test_receipt_behind_a_dropped_frame_waits() -> None:
    queue = SendQueue(20)
    queue.put(b"ping")
    queue.put(b"x" * 10, 6)
    queue.put(b"receipt")
    assert queue.put(b"y" * 10, 7) is EnqueueResult.DROPPED
    queue.put(b"more")
    assert queue.take(100) == [b"ping", b"more"]
    assert not queue.is_idle

    queue.put_sync(b"sync", "tag", 7)

    assert [*queue.take(100), *queue.take(100)] == [b"sync", b"receipt"]


def test_late_receipts_come_after_a_confirmed_cursor() -> None:
    queue = SendQueue(20)
    queue.put(b"x" * 10, 6)
    queue.put(b"receipt")
    queue.put(b"y" * 10, 7)

    queue.confirm_cursor("tag", 7)

    assert queue.take(100) == [b"receipt"]


def test_undroppable_frames_can_overflow() -> None:
    queue = SendQueue(10)

    assert queue.put(b"x" * 6) is EnqueueResult.QUEUED
    assert queue.put(b"x" * 6) is EnqueueResult.FULL


def test_sync_is_unbounded_and_written_alone() -> None:
    queue = SendQueue(10)
    queue.put_sync(b"s" * 1_000, "tag", 5)
    assert queue.put(b"x" * 10, 6) is EnqueueResult.QUEUED

    assert queue.take(1_000_000) == [b"s" * 1_000]
    assert (queue.written_tag, queue.written_seq) == ("tag", 5)
    assert queue.take(1_000_000) == [b"x" * 10]
    assert (queue.written_tag, queue.written_seq) == ("tag", 6)


def test_bound_counts_only_queued_bytes() -> None:
    queue = SendQueue(10)
    for seq in range(20):
        assert queue.put(b"x" * 10, seq) is EnqueueResult.QUEUED
        queue.take(1_000)


def test_confirmed_cursor_needs_no_frame() -> None:
    queue = SendQueue(10)
    queue.confirm_cursor("tag", 5)
    queue.put(b"x", 6)
    queue.take(10)

    queue.confirm_cursor("other", 9)

    assert (queue.written_tag, queue.written_seq) == ("tag", 6)
