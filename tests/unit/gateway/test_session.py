"""The protocol session, by values alone: laws 1 to 3 of session.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gregor.core.items.sync import NO_EPOCH, Cursor, Delta, Full, StoredExternal, Unchanged, View
from gregor_gateway.protocol.effects import (
    ChargeBudget,
    CloseConnection,
    CommitMessage,
    ConfirmCursor,
    JoinChannel,
    ReadSync,
    SendLive,
    SendSync,
    VerifyToken,
)
from gregor_gateway.protocol.hello import VOID_POSITION, Hello, Position
from gregor_gateway.protocol.session import Session, SessionState
from tests.unit.gateway.session_builders import (
    EPOCH,
    PHONE,
    RULES,
    TAG,
    answer,
    frame,
    frames_of,
    fresh,
    full,
    joined,
    live,
)

# 1. The server does nothing for a client before its hello


@pytest.mark.parametrize(
    "raw", [b"no json", b"", b"[]", b"3", b'{"ack":1}', b'{"ping":1}', b'{"system":"a","body":{}}', b'{"a":1,"a":2}']
)
def test_bad_json_or_missing_hello_closes(raw: bytes) -> None:
    session = fresh()

    assert session.receive(raw, 0.0) == [CloseConnection(4503, "bad_protocol")]
    assert session.receive(b'{"hello":{}}', 0.0) == []


def test_second_invalid_hello_closes() -> None:
    session = fresh()

    assert frames_of(session.receive(b'{"hello":{"curser":"x"}}', 0.0))[0]["problem"]["code"] == "unknown_field"
    answer, close = session.receive(b'{"hello":{"session":"no name"}}', 1.0)
    assert frames_of([answer])[0]["problem"]["code"] == "invalid_id"
    assert close == CloseConnection(4503, "bad_protocol")


def test_hello_of_many_parts_is_not_decoded() -> None:
    """It is refused before its text is found to be no JSON."""
    session, text = fresh(), b'{"hello":{"x":[' + b"[0," * 500

    (answer,) = session.receive(text, 0.0)
    assert frames_of([answer])[0]["problem"]["code"] == "too_many"
    assert session.receive(text, 0.0)[1:] == [CloseConnection(4503, "bad_protocol")]


def test_longest_filters_fit_a_hello() -> None:
    names = ",".join(f'"{"x" * 30}.{number}"' for number in range(100))
    hello = f'{{"ref":[{"[]," * 120}0],"hello":{{"category_prefix":[{names}],"systems":[{names}],"token":"a.b.c"}}}}'

    assert fresh().receive(hello.encode(), 0.0) == [VerifyToken("a.b.c")]


@pytest.mark.parametrize("text", [b'{"ref":7,"system":"a","body":"', b'[1,"', b"\xff"])
def test_frame_above_the_limit_is_not_decoded(text: bytes) -> None:
    size = RULES.limits.message_bytes + 4_097
    too_large = text + b"x" * (size - len(text))

    assert live().receive(too_large, 1.0) == [CommitMessage(7 if b"ref" in text else None, b"", size)]


@pytest.mark.parametrize(("size_bytes", "units"), [(20, 1), (1_023, 1), (1_024, 2), (100_000, 98)])
def test_refused_text_is_charged_by_its_size(size_bytes: int, units: int) -> None:
    charge, answer = live().receive(b'{"ack":1e999}'.ljust(size_bytes), 1.0)

    assert charge == ChargeBudget(units)
    assert frames_of([answer])[0]["problem"]["code"] == "number_out_of_range"


def test_invalid_hello_may_be_repeated() -> None:
    session = fresh()

    (refusal,) = frames_of(session.receive(b'{"hello":{"curser":"x"}}', 0.0))
    assert refusal["problem"]["code"] == "unknown_field"
    assert session.receive(b'{"hello":{"token":"t"}}', 1.0) == [VerifyToken("t")]


def test_silent_client_is_closed_after_15_seconds() -> None:
    assert fresh().tick(14.9) == []
    assert fresh().tick(15.0) == [CloseConnection(4005, "hello_timeout")]
    assert joined().tick(15.0) == []


def test_client_without_token_is_closed() -> None:
    assert fresh().receive(b'{"hello":{}}', 0.0) == [CloseConnection(4501, "unauthorised")]


def test_hello_may_arrive_before_verification() -> None:
    session = fresh()
    assert session.offered("t") == [VerifyToken("t")]

    assert session.receive(b'{"hello":{}}', 0.0) == []
    assert session.admitted(PHONE, 3_600.0, 0.1) == [JoinChannel()]


def test_upgrade_token_precedes_the_hello_token() -> None:
    session = fresh()
    assert session.admitted(PHONE, 3_600.0, 0.0) == []

    assert session.receive(b'{"hello":{"token":"other"}}', 1.0) == [JoinChannel()]


def test_second_hello_is_a_problem() -> None:
    (refusal,) = frames_of(live().receive(b'{"hello":{}}', 1.0))

    assert refusal["problem"]["code"] == "invalid"


def test_view_is_token_and_hello_intersected() -> None:
    caller = replace(PHONE, category_filter=("user", "mail"), systems=("kbfs",))
    session = joined(caller=caller, hello=Hello(prefixes=("user.joined", "web"), systems=None, session="tab-1"))

    assert session.view == View("phone", ("user.joined",))
    assert session.systems == ("kbfs",)
    assert session.name == "tab-1"


def test_welcome_comes_before_the_read() -> None:
    session = fresh(replace(RULES, now_ms=lambda: 1_457_056_447_120))
    session.admitted(PHONE, 3_600.4, 0.0)
    position = Position(Cursor("k3f9", 10), bytes(32))
    session.greeted(Hello(position))

    welcome, read = session.joined(0.0)

    assert frames_of([welcome]) == [
        {
            "welcome": {
                "expires_in": 3600,
                "ping": 25,
                "max_frame": 1_048_576,
                "uncounted": [],
                "now": 1_457_056_447_120,
            }
        }
    ]
    assert read == ReadSync(position, 1)


def test_welcome_of_an_endless_stream_has_a_ticket() -> None:
    session = fresh()
    session.ticket = "next"
    session.admitted(PHONE, float("inf"), 0.0)
    session.greeted(Hello())

    (welcome,) = frames_of(session.joined(0.0))

    assert "expires_in" not in welcome["welcome"]
    assert welcome["welcome"]["ticket"] == "next"


def test_poll_gets_neither_welcome_nor_unchanged() -> None:
    session = joined(replace(RULES, welcomes=False, sends_unchanged=False))
    assert session.state is SessionState.SYNCING

    assert session.synced(1, Unchanged(EPOCH, 7, bytes(32)), b"{}") == [ConfirmCursor(TAG, 7)]


# 2. Frames committed between the subscription and the sync are held, and sent after it


def test_held_frames_follow_the_sync_in_order() -> None:
    session = joined()
    assert [session.deliver(seq, frame(seq)) for seq in (9, 10, 11, 12)] == [False] * 4

    out = session.synced(1, full(10), b"sync")

    assert out == [SendSync(TAG, 10, b"sync"), SendLive(11, frame(11)), SendLive(12, frame(12))]
    assert (session.tag, session.seq, session.state) == (TAG, 12, SessionState.LIVE)


def test_overflow_of_held_frames_repeats_the_read() -> None:
    session = joined()
    for seq in range(11, 40):
        session.deliver(seq, frame(seq))

    (read,) = session.synced(1, full(10), b"sync")

    assert read == ReadSync(Position(), 2)
    assert session.synced(2, full(39), b"sync") == [SendSync(TAG, 39, b"sync")]


def test_held_frames_of_a_new_user_wait_for_its_epoch() -> None:
    session = joined()
    session.deliver(1, frame(1))

    (read,) = session.synced(1, replace(full(0), epoch=NO_EPOCH), b"sync")

    assert read == ReadSync(Position(), 2)
    assert session.synced(2, full(1), b"sync") == [SendSync(TAG, 1, b"sync")]


# 3. After a sync, no live frame up to its seq is sent; each is sent at most once


def test_live_frame_is_sent_at_most_once() -> None:
    session = live(10)

    assert [session.deliver(seq, b"") for seq in (9, 10, 11, 11, 13, 12, 14)] == [
        False,
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_no_frame_below_a_sync_is_sent_after_it() -> None:
    session = live(10)
    (read,) = session.resync()
    assert read == ReadSync(Position(Cursor(TAG, 10)), 2)
    for seq in (11, 12, 13):
        session.deliver(seq, frame(seq))

    out = answer(session, read, Delta(EPOCH, 12, bytes(32), (), ("aa",)))

    assert [type(each) for each in out] == [SendSync, SendLive]
    assert not session.deliver(12, b"")
    assert session.deliver(14, b"")


def test_sync_requested_during_a_read_follows_it() -> None:
    session = live(10)
    (first,) = session.resync(Position())
    assert session.resync(Position()) == []

    (second,) = answer(session, first, full(12))

    assert second == ReadSync(Position(), 3)
    assert answer(session, second, full(13))[0] == SendSync(TAG, 13, b"{}")


def external(seq: int) -> bytes:
    return b'{"system":"kbfs.favorites","seq":%d,"body":null}' % seq


def item_frame(seq: int) -> bytes:
    return b'{"system":"gregor","seq":%d,"body":{}}' % seq


def test_full_copy_has_the_external_messages_of_the_meantime() -> None:
    """A copy without a cursor has no external messages (L13): a live session must not miss those of the meantime."""
    session = live(10, replace(RULES, queue_bytes=1_000))
    (first,) = session.resync(Position())
    session.deliver(11, external(11))
    session.resync(Position())
    (second,) = answer(session, first, full(11))
    for seq, live_frame in ((12, item_frame(12)), (13, external(13)), (14, external(14))):
        session.deliver(seq, live_frame)

    assert isinstance(second, ReadSync)

    out = session.synced(second.serial, full(13), b'{"sync":"full"}')

    copy = b'{"sync":"full","external":[%b,%b]}' % (external(11), external(13))
    assert out == [SendSync(TAG, 13, copy), SendLive(14, external(14))]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (None, Position()),
        (VOID_POSITION, Position()),
        (Position(), None),
        (Position(), VOID_POSITION),
        (Position(Cursor(TAG, 10)), Position()),
        (VOID_POSITION, Position(Cursor(TAG, 10))),
    ],
)
def test_full_copy_in_place_of_another_read_says_gap(first: Position | None, then: Position | None) -> None:
    """The read in flight would have had external messages that were lost on their way (L13)."""
    session = live(10)
    (read,) = session.resync(first)
    assert session.resync(then) == []

    assert answer(session, read, full(12)) == [ReadSync(VOID_POSITION, 3)]


def test_full_copy_says_gap_if_too_many_frames_come_during_it() -> None:
    session = live(10)
    (first,) = session.resync(Position())
    for seq in range(11, 40):
        session.deliver(seq, external(seq))

    assert answer(session, first, full(20)) == [ReadSync(VOID_POSITION, 3)]


def test_sync_of_another_history_may_lower_the_seq() -> None:
    session = live(10)
    (read,) = session.resync(Position())

    answer(session, read, Full(b"xyz", 4, bytes(32), ()))

    assert session.seq == 4
    assert session.tag != TAG
    assert session.deliver(5, b"")


def test_reached_seq_counts_for_the_next_read() -> None:
    assert live(10).resync(reached=17) == [ReadSync(Position(Cursor(TAG, 17)), 2)]
    assert live(10).resync(reached=3) == [ReadSync(Position(Cursor(TAG, 10)), 2)]


# positions that the client named before it had processed all frames

DIGEST = bytes(range(32))
EARLIER = Position(Cursor(TAG, 10), b"d" * 32)


def sent_up_to(seq: int, **more: Any) -> Session:
    """Return a session of a client that was at seq 10, and gets all later frames."""
    session = live(10, replace(RULES, **more))
    for each in range(11, seq + 1):
        assert session.deliver(each, frame(each))
    return session


def test_resync_begins_after_the_frames_that_were_sent() -> None:
    """From the named seq, an item created in one of these frames and dismissed now would be in no delta."""
    session = sent_up_to(12)

    assert session.resync(EARLIER, is_requested=True) == [ReadSync(Position(Cursor(TAG, 12)), 2)]


def test_resync_during_a_read_begins_after_the_frames_that_were_sent() -> None:
    session = sent_up_to(12)
    (read,) = session.resync()
    session.deliver(13, frame(13))
    session.resync(EARLIER, is_requested=True)

    assert answer(session, read, full(12)) == [ReadSync(Position(Cursor(TAG, 12)), 3)]


def test_resync_of_a_slow_consumer_begins_after_the_frames_that_were_written() -> None:
    session = sent_up_to(13)
    session.fall_behind()
    session.resync(EARLIER, is_requested=True)

    assert session.catch_up(TAG, 12) == [ReadSync(Position(Cursor(TAG, 12)), 2)]


@pytest.mark.parametrize("named", [EARLIER, Position(None, b"d" * 32)])
@pytest.mark.parametrize("sends_unchanged", [True, False])
def test_unchanged_has_a_digest_if_the_client_must_compare_it(named: Position, sends_unchanged: bool) -> None:
    session = sent_up_to(12, sends_unchanged=sends_unchanged)
    (read,) = session.resync(named, is_requested=True)

    proof = b'{"sync":"unchanged","digest":"%s"}' % DIGEST.hex().encode()
    assert isinstance(read, ReadSync)
    assert session.synced(read.serial, Unchanged(EPOCH, 13, DIGEST), b'{"sync":"unchanged"}') == [
        SendSync(TAG, 13, proof)
    ]


def test_store_compares_the_digest_of_a_view_with_a_filter() -> None:
    """The store does not keep the digest of such a view, so ``Unchanged.digest`` may be empty."""
    session = joined(caller=replace(PHONE, category_filter=("user",)))
    session.synced(1, full(10), b"{}")
    session.deliver(11, frame(11))
    digest = EARLIER.digest

    (read,) = session.resync(Position(Cursor(session.tag, 10), digest), is_requested=True)

    assert read == ReadSync(Position(Cursor(session.tag, 11), digest), 2)
    assert answer(session, read, Unchanged(EPOCH, 11, b"")) == [SendSync(session.tag, 11, b"{}")]


@pytest.mark.parametrize("named", [Position(Cursor(TAG, 12), DIGEST), Position(Cursor("k3f9", 10)), VOID_POSITION])
def test_other_positions_are_read_as_named(named: Position) -> None:
    assert sent_up_to(12).resync(named, is_requested=True) == [ReadSync(named, 2)]


# answers


def test_unchanged_is_sent_only_on_request() -> None:
    unasked, asked = live(10), live(10)
    (read,) = unasked.resync()
    _, question = asked.receive(b'{"resync":{"cursor":"k3f9-10"}}', 5.0)

    assert answer(unasked, read, Unchanged(EPOCH, 12, bytes(32))) == [ConfirmCursor(TAG, 12)]
    assert answer(asked, question, Unchanged(EPOCH, 12, bytes(32))) == [SendSync(TAG, 12, b"{}")]


def test_external_messages_count_as_changes() -> None:
    session = live(10)
    (read,) = session.resync()
    news = Unchanged(EPOCH, 12, bytes(32), (StoredExternal(11, "kbfs", b"{}"),))

    assert answer(session, read, news) == [SendSync(TAG, 12, b"{}")]


def test_result_of_an_older_read_is_ignored() -> None:
    session = live(10)
    (old,) = session.resync()
    session.fall_behind()
    (new,) = session.catch_up(TAG, 10)

    assert answer(session, old, full(11)) == []
    assert answer(session, new, full(12)) == [SendSync(TAG, 12, b"{}")]


def test_failed_read_is_retried_while_needed() -> None:
    session = live(10)
    session.resync()

    assert session.retry(2) == [ReadSync(Position(Cursor(TAG, 10)), 3)]
    assert session.retry(2) == []


# slow consumers


def test_slow_consumer_syncs_from_its_cursor() -> None:
    session = live(10)
    for seq in (11, 12, 13):
        session.deliver(seq, frame(seq))
    session.fall_behind()
    assert not session.deliver(14, frame(14))

    assert session.catch_up(TAG, 11) == [ReadSync(Position(Cursor(TAG, 11)), 2)]
    assert not session.deliver(15, frame(15))
    assert session.synced(2, full(14), b"sync") == [SendSync(TAG, 14, b"sync"), SendLive(15, frame(15))]
    assert session.catch_up(TAG, 15) == []


def test_full_copy_requested_while_behind_is_read() -> None:
    session = live(10)
    session.fall_behind()

    assert session.resync(Position()) == []
    # It dropped live frames, so the copy says external_gap.
    assert session.catch_up(TAG, 10) == [ReadSync(VOID_POSITION, 2)]


def test_slow_consumer_still_gets_its_first_sync() -> None:
    position = Position(Cursor("k3f9", 3))
    session = joined(hello=Hello(position))
    session.fall_behind()

    assert session.catch_up("", 0) == [ReadSync(position, 2)]
