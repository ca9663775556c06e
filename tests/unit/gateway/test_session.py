"""The life of one connection, by values alone. The numbers are those of the laws at the top of session.py."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.core.sync import Answer, Cursor, Delta, Full, StoredExternal, Unchanged, View, cursor_for
from gregor.tokens import Caller
from services.gateway import effects
from services.gateway.deadlines import Rules
from services.gateway.effects import Close, Effect, Join, Read, Send, SendLive, SendSync, Settle, Verify
from services.gateway.hello import Hello, Position
from services.gateway.session import Session, State

RULES = Rules(jitter=lambda low, high: high, queue_bytes=100)
PHONE = Caller("alice", "phone", exp_us=0)
EPOCH = b"abc"
VIEW = View("phone")
TAG = cursor_for(EPOCH, VIEW, 0).tag


def full(seq: int) -> Full:
    return Full(EPOCH, seq, bytes(32), ())


def frame(seq: int) -> bytes:
    return b'{"seq":%d}' % seq


def heard(out: list[Effect]) -> list[dict[str, Any]]:
    """The frames among effects, decoded."""
    return [json.loads(each.frame) for each in out if isinstance(each, Send | SendLive | SendSync)]


def fresh(rules: Rules = RULES) -> Session:
    return Session(rules, 0.0, "c1")


def joined(rules: Rules = RULES, caller: Caller = PHONE, hello: Hello | None = None) -> Session:
    """A session that waits for its first sync (its first read has the serial 1)."""
    session = fresh(rules)
    session.admitted(caller, 3_600.0, 0.0)
    session.greeted(hello or Hello())
    session.joined(0.0)
    return session


def live(seq: int = 10, rules: Rules = RULES) -> Session:
    session = joined(rules)
    session.synced(1, full(seq), b"{}")
    return session


def answer_to(session: Session, read: Effect, answer: Answer) -> list[Effect]:
    assert isinstance(read, Read)
    return session.synced(read.serial, answer, b"{}")


# 1. Nothing is done for a client before its hello


@pytest.mark.parametrize(
    "raw", [b"no json", b"", b"[]", b"3", b'{"ack":1}', b'{"ping":1}', b'{"system":"a","body":{}}', b'{"a":1,"a":2}']
)
def test_what_is_no_json_or_no_hello_first_ends_the_connection(raw: bytes) -> None:
    session = fresh()

    assert session.receive(raw, 0.0) == [Close(4503, "bad_protocol")]
    assert session.receive(b'{"hello":{}}', 0.0) == []


def test_a_hello_that_is_wrong_may_be_said_again() -> None:
    session = fresh()

    (refusal,) = heard(session.receive(b'{"hello":{"curser":"x"}}', 0.0))
    assert refusal["problem"]["code"] == "unknown_field"
    assert session.receive(b'{"hello":{"token":"t"}}', 1.0) == [Verify("t")]


def test_a_silent_client_is_closed_after_15_seconds() -> None:
    assert fresh().tick(14.9) == []
    assert fresh().tick(15.0) == [Close(4005, "hello_timeout")]
    assert joined().tick(15.0) == []


def test_a_client_without_any_token_is_closed() -> None:
    assert fresh().receive(b'{"hello":{}}', 0.0) == [Close(4501, "unauthorised")]


def test_hello_may_come_before_the_token_of_the_upgrade_is_known_to_be_good() -> None:
    session = fresh()
    assert session.offered("t") == [Verify("t")]

    assert session.receive(b'{"hello":{}}', 0.0) == []
    assert session.admitted(PHONE, 3_600.0, 0.1) == [Join()]


def test_hello_may_come_after_it_and_its_own_token_does_not_count_then() -> None:
    session = fresh()
    assert session.admitted(PHONE, 3_600.0, 0.0) == []

    assert session.receive(b'{"hello":{"token":"other"}}', 1.0) == [Join()]


def test_a_second_hello_is_a_problem() -> None:
    (refusal,) = heard(live().receive(b'{"hello":{}}', 1.0))

    assert refusal["problem"]["code"] == "invalid"


def test_a_view_is_what_the_token_allows_and_hello_asks_for() -> None:
    caller = replace(PHONE, cats=("user", "mail"), systems=("kbfs",))
    session = joined(caller=caller, hello=Hello(prefixes=("user.joined", "web"), systems=None, session="tab-1"))

    assert session.view == View("phone", ("user.joined",))
    assert session.systems == ("kbfs",)
    assert session.name == "tab-1"


def test_welcome_comes_first_and_then_the_read() -> None:
    session = fresh()
    session.admitted(PHONE, 3_600.4, 0.0)
    position = Position(Cursor("k3f9", 10), bytes(32))
    session.greeted(Hello(position))

    welcome, read = session.joined(0.0)

    assert heard([welcome]) == [{"welcome": {"expires_in": 3600, "ping": 25, "max_frame": 1_048_576, "uncounted": []}}]
    assert read == Read(position, 1)


def test_a_stream_that_never_ends_and_has_a_ticket_says_so() -> None:
    session = fresh()
    session.ticket = "next"
    session.admitted(PHONE, float("inf"), 0.0)
    session.greeted(Hello())

    (welcome,) = heard(session.joined(0.0))

    assert "expires_in" not in welcome["welcome"]
    assert welcome["welcome"]["ticket"] == "next"


def test_a_poll_is_not_welcomed_and_not_told_that_nothing_changed() -> None:
    session = joined(replace(RULES, welcomes=False, tells_unchanged=False))
    assert session.state is State.SYNCING

    assert session.synced(1, Unchanged(EPOCH, 7, bytes(32)), b"{}") == [Settle(TAG, 7)]


# 2. What is committed between the subscription and the sync is held, and goes out after it


def test_frames_that_come_before_the_sync_go_out_after_it_in_order_where_it_lacks_them() -> None:
    session = joined()
    assert [session.deliver(seq, frame(seq)) for seq in (9, 10, 11, 12)] == [False] * 4

    out = session.synced(1, full(10), b"sync")

    assert out == [SendSync(TAG, 10, b"sync"), SendLive(11, frame(11)), SendLive(12, frame(12))]
    assert (session.tag, session.seq, session.state) == (TAG, 12, State.LIVE)


def test_what_is_held_past_the_bound_is_forgotten_and_read_once_more() -> None:
    session = joined()
    for seq in range(11, 40):
        session.deliver(seq, frame(seq))

    (read,) = session.synced(1, full(10), b"sync")

    assert read == Read(Position(), 2)
    assert session.synced(2, full(39), b"sync") == [SendSync(TAG, 39, b"sync")]


# 3. A live frame up to the seq of a sync is never sent after it; each at most once


def test_a_frame_goes_out_once_and_none_goes_back() -> None:
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


def test_frames_up_to_a_later_sync_are_not_sent_after_it() -> None:
    session = live(10)
    (read,) = session.demand()
    assert read == Read(Position(Cursor(TAG, 10)), 2)
    for seq in (11, 12, 13):
        session.deliver(seq, frame(seq))

    out = answer_to(session, read, Delta(EPOCH, 12, bytes(32), (), ("aa",)))

    assert [type(each) for each in out] == [SendSync, SendLive]
    assert not session.deliver(12, b"")
    assert session.deliver(14, b"")


def test_a_sync_asked_for_during_another_is_read_after_it() -> None:
    session = live(10)
    (first,) = session.demand()
    assert session.demand(Position()) == []

    (second,) = answer_to(session, first, full(12))

    assert second == Read(Position(), 3)
    assert answer_to(session, second, full(13))[0] == SendSync(TAG, 13, b"{}")


def test_a_sync_may_take_the_position_back_where_the_history_is_another() -> None:
    session = live(10)
    (read,) = session.demand(Position())

    answer_to(session, read, Full(b"xyz", 4, bytes(32), ()))

    assert session.seq == 4
    assert session.tag != TAG
    assert session.deliver(5, b"")


def test_what_the_client_has_without_a_frame_of_its_own_counts_for_the_next_read() -> None:
    assert live(10).demand(reached=17) == [Read(Position(Cursor(TAG, 17)), 2)]
    assert live(10).demand(reached=3) == [Read(Position(Cursor(TAG, 10)), 2)]


def test_a_client_is_told_that_nothing_changed_only_where_it_asked() -> None:
    unasked, asked = live(10), live(10)
    (read,) = unasked.demand()
    (question,) = asked.receive(b'{"resync":{"cursor":"k3f9-10"}}', 5.0)

    assert answer_to(unasked, read, Unchanged(EPOCH, 12, bytes(32))) == [Settle(TAG, 12)]
    assert answer_to(asked, question, Unchanged(EPOCH, 12, bytes(32))) == [SendSync(TAG, 12, b"{}")]


def test_external_messages_are_news_though_the_view_did_not_change() -> None:
    session = live(10)
    (read,) = session.demand()
    news = Unchanged(EPOCH, 12, bytes(32), (StoredExternal(11, "kbfs", b"{}"),))

    assert answer_to(session, read, news) == [SendSync(TAG, 12, b"{}")]


def test_an_answer_to_an_older_question_is_not_taken() -> None:
    session = live(10)
    (old,) = session.demand()
    session.fall_behind()
    (new,) = session.catch_up(TAG, 10)

    assert answer_to(session, old, full(11)) == []
    assert answer_to(session, new, full(12)) == [SendSync(TAG, 12, b"{}")]


def test_a_read_that_failed_is_repeated_while_it_is_wanted() -> None:
    session = live(10)
    session.demand()

    assert session.retry(2) == [Read(Position(Cursor(TAG, 10)), 3)]
    assert session.retry(2) == []


# a slow client


def test_a_slow_client_gets_one_sync_from_where_it_really_is() -> None:
    session = live(10)
    for seq in (11, 12, 13):
        session.deliver(seq, frame(seq))
    session.fall_behind()
    assert not session.deliver(14, frame(14))

    assert session.catch_up(TAG, 11) == [Read(Position(Cursor(TAG, 11)), 2)]
    assert not session.deliver(15, frame(15))
    assert session.synced(2, full(14), b"sync") == [SendSync(TAG, 14, b"sync"), SendLive(15, frame(15))]
    assert session.catch_up(TAG, 15) == []


def test_a_full_copy_asked_for_while_behind_is_what_is_read_then() -> None:
    session = live(10)
    session.fall_behind()

    assert session.demand(Position()) == []
    assert session.catch_up(TAG, 10) == [Read(Position(), 2)]


def test_a_client_that_was_too_slow_before_its_first_sync_still_gets_what_it_asked_for() -> None:
    position = Position(Cursor("k3f9", 3))
    session = joined(hello=Hello(position))
    session.fall_behind()

    assert session.catch_up("", 0) == [Read(position, 2)]


# 4. The receipt of a message comes after the frame of its seq


def test_a_message_is_committed_and_its_receipt_follows_its_frame() -> None:
    session = live(10)
    message = b'{"ref":1,"system":"gregor","body":{"dismiss":{"ids":["aa"]}}}'

    (commit,) = session.receive(message, 1.0)
    assert commit == effects.Commit(1, {"system": "gregor", "body": {"dismiss": {"ids": ["aa"]}}}, len(message))
    assert session.committed(11, b"receipt", reached=10) == []
    assert session.awaits
    session.deliver(11, frame(11))

    assert session.release(11) == [Send(b"receipt")]
    assert not session.awaits


def test_a_receipt_that_comes_after_the_frame_goes_out_at_once() -> None:
    session = live(10)
    session.deliver(11, frame(11))

    assert session.committed(11, b"receipt", reached=11) == [Send(b"receipt")]


def test_a_receipt_waits_for_the_channel_where_the_view_has_no_frame() -> None:
    session = live(10)

    assert session.committed(12, b"receipt", reached=10) == []
    assert session.release(11) == []
    assert session.release(12) == [Send(b"receipt")]


def test_a_receipt_waits_for_the_sync_that_covers_its_frame() -> None:
    session = live(10)
    (read,) = session.demand()
    assert session.committed(12, b"receipt", reached=12) == []

    answer_to(session, read, full(12))

    assert session.release(0) == [Send(b"receipt")]


def test_a_refused_message_names_its_ref_and_one_without_is_a_problem_alone() -> None:
    refusal = Problem("rate_limited", "Wait.", retry_after_s=0.5)

    (named,) = heard(live().refused("a", refusal))
    (unnamed,) = heard(live().refused(None, refusal))

    assert named["ref"] == "a"
    assert named["problem"]["retry_after_ms"] == 500
    assert list(unnamed) == ["problem"]


# 5. What a client does wrong is a problem, and no more


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"nonsense":1}', "unknown_field"),
        (b'{"ref":9,"ack":"x"}', "invalid"),
        (b"[1]", "invalid"),
        (b'{"ack":1,"ack":2}', "malformed_json"),
        (b"[" * 100 + b"]" * 100, "malformed_json"),
        (b'{"ack":99999999999999999999}', "number_out_of_range"),
        (b'{"ack":"\\ud800"}', "malformed_json"),
    ],
)
def test_what_a_client_does_wrong_is_a_problem_and_never_a_close(raw: bytes, code: str) -> None:
    session = live()

    (refusal,) = heard(session.receive(raw, 1.0))

    assert refusal["problem"]["code"] == code
    assert session.state is State.LIVE


def test_no_json_ends_even_a_good_connection() -> None:
    assert live().receive(b"{", 1.0) == [Close(4503, "bad_protocol")]


def test_a_resync_may_be_asked_for_once_a_second_and_hello_does_not_count() -> None:
    session = live()

    (read,) = session.receive(b'{"resync":true}', 0.5)
    assert read == Read(Position(), 2)
    (refusal,) = heard(session.receive(b'{"ref":3,"resync":true}', 1.25))
    assert refusal["ref"] == 3
    assert refusal["problem"]["code"] == "rate_limited"
    assert refusal["problem"]["retry_after_ms"] == 250
    answer_to(session, read, full(10))
    assert isinstance(session.receive(b'{"resync":true}', 1.5)[0], Read)


def test_pings_are_answered_and_answers_keep_the_connection() -> None:
    session = live()

    assert session.receive(b'{"ping":7}', 1.0) == [Send(b'{"pong":7}')]
    for turn in range(1, 10):
        assert session.tick(27.6 * turn) == [Send(b'{"ping":%d}' % turn)]
        assert session.receive(b'{"pong":%d}' % turn, 27.6 * turn) == []


def test_two_unanswered_pings_end_it() -> None:
    session = live()
    session.tick(27.6)
    session.tick(55.2)

    assert session.tick(82.8) == [Close(4007, "ping_timeout")]


def test_an_ack_before_the_sync_waits_for_it() -> None:
    session = joined()
    assert session.receive(b'{"ack":8}', 0.1) == []
    assert session.receive(b'{"ack":7}', 0.1) == []

    assert session.synced(1, full(10), b"{}")[1:] == [effects.Acknowledge(8)]
    assert session.receive(b'{"ack":10}', 1.0) == [effects.Acknowledge(10)]


def test_foreground_is_told_on() -> None:
    session = live()

    assert session.receive(b'{"foreground":true}', 1.0) == [effects.Foreground(True)]
    assert session.foreground


def test_who_looks_on_is_no_presence_and_acknowledges_nothing() -> None:
    session = fresh()
    session.admitted(PHONE, float("inf"), 0.0, observes=True)
    session.greeted(Hello())
    session.joined(0.0)
    session.synced(1, full(10), b"{}")

    assert session.receive_document({"ack": 10}, 1.0) == []
    assert session.receive_document({"foreground": True}, 1.0) == []


# 6. Tokens


def test_a_token_that_ends_is_asked_for_anew_and_tolerated_a_while() -> None:
    session = live(rules=replace(RULES, pings=False))

    assert session.tick(3_540.0) == [Send(b'{"refresh":{"expires_in":60}}')]
    assert session.tick(3_624.0) == []
    assert session.tick(3_625.0) == [Close(4004, "token_expired")]


def test_a_new_token_of_the_same_device_is_taken() -> None:
    session = live(rules=replace(RULES, pings=False))
    assert session.receive(b'{"token":"t"}', 1.0) == [Verify("t", None, is_renewal=True)]

    assert session.renewed(PHONE, 7_200.0, 1.0) == [Send(b'{"token":{"expires_in":7200}}')]
    assert session.tick(3_700.0) == []


@pytest.mark.parametrize("change", [{"uid": "bob"}, {"device": "laptop"}, {"cats": ("user",)}])
def test_a_new_token_of_another_user_device_or_view_ends_the_connection(change: dict[str, Any]) -> None:
    session = live()

    assert session.renewed(replace(PHONE, **change), 3_600.0, 1.0) == [Close(4003, "state_invalidated")]


def test_a_new_token_may_hear_other_systems() -> None:
    session = live()

    out = session.renewed(replace(PHONE, systems=("kbfs",)), 3_600.0, 1.0)

    assert out[1:] == [effects.Regroup()]
    assert session.systems == ("kbfs",)


def test_a_connection_does_not_grow_too_old() -> None:
    session = live(rules=replace(RULES, pings=False, max_age_s=100.0))

    assert session.tick(99.0) == []
    assert session.tick(100.0) == [Close(4008, "max_age")]


def test_what_is_over_does_nothing_any_more() -> None:
    session = live()
    assert session.close(4502) == [Close(4502, "revoked")]

    assert session.close(4001) == []
    assert session.receive(b'{"ping":1}', 1.0) == []
    assert session.tick(1e9) == []
    assert session.demand(Position()) == []
    assert session.synced(1, full(11), b"{}") == []
    assert not session.deliver(11, b"")
    assert session.due == float("inf")
