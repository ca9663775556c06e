"""The protocol session: answers to the client, pings and tokens (laws 4 to 6 of session.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gregor.auth.device_tokens import MAX_TOKEN_BYTES
from gregor.core.errors import Problem
from gregor_gateway.protocol import effects
from gregor_gateway.protocol.effects import CloseConnection, LimitReached, ReadSync, ResyncRequested, Send, VerifyToken
from gregor_gateway.protocol.hello import Hello, Position
from gregor_gateway.protocol.session import RESYNC_BYTES, SessionState
from tests.unit.gateway.session_builders import PHONE, RULES, answer, frame, frames_of, fresh, full, joined, live

# 4. The receipt of a message follows the frame of its seq


def test_receipt_follows_the_frame_of_its_message() -> None:
    session = live(10)
    message = b'{"ref":1,"system":"gregor","body":{"dismiss":{"ids":["aa"]}}}'

    (commit,) = session.receive(message, 1.0)
    assert commit == effects.CommitMessage(1, message, len(message))
    assert session.committed(11, b"receipt", reached=10) == []
    assert session.has_waiting_receipts
    session.deliver(11, frame(11))

    assert session.release_receipts(11) == [Send(b"receipt")]
    assert not session.has_waiting_receipts


def test_late_receipt_is_sent_at_once() -> None:
    session = live(10)
    session.deliver(11, frame(11))

    assert session.committed(11, b"receipt", reached=11) == [Send(b"receipt")]


def test_receipt_without_frame_waits_for_the_channel() -> None:
    session = live(10)

    assert session.committed(12, b"receipt", reached=10) == []
    assert session.release_receipts(11) == []
    assert session.release_receipts(12) == [Send(b"receipt")]


def test_receipt_waits_for_the_covering_sync() -> None:
    session = live(10)
    (read,) = session.resync()
    assert session.committed(12, b"receipt", reached=12) == []

    answer(session, read, full(12))

    assert session.release_receipts(0) == [Send(b"receipt")]


def test_problem_carries_the_ref_if_there_is_one() -> None:
    refusal = Problem("rate_limited", "Wait.", retry_after_s=0.5)

    (named,) = frames_of(live().refused("a", refusal))
    (unnamed,) = frames_of(live().refused(None, refusal))

    assert named["ref"] == "a"
    assert named["problem"]["retry_after_ms"] == 500
    assert list(unnamed) == ["problem"]


# 5. A mistake of the client is answered with a problem


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
def test_client_mistakes_are_problems_not_closes(raw: bytes, code: str) -> None:
    session = live()

    (refusal,) = frames_of(session.receive(raw, 1.0))

    assert refusal["problem"]["code"] == code
    assert session.state is SessionState.LIVE


def test_refused_json_is_answered_with_its_ref() -> None:
    raw = b'{"ref":7,"system":"gregor","body":{"create":{"aa":{"category":"mail","body":9007199254740992}}}}'

    (refusal,) = frames_of(live().receive(raw, 1.0))

    assert (refusal["ref"], refusal["problem"]["code"]) == (7, "number_out_of_range")


def test_very_deep_json_is_answered_with_its_ref() -> None:
    raw = b'{"ref":7,"system":"gregor","body":%s}' % (b"[" * 20_000 + b"]" * 20_000)

    (refusal,) = frames_of(live().receive(raw, 1.0))

    assert (refusal["ref"], refusal["problem"]["code"]) == (7, "malformed_json")


def test_malformed_json_closes_a_live_connection() -> None:
    assert live().receive(b"{", 1.0) == [CloseConnection(4503, "bad_protocol")]


def test_resync_is_limited_to_one_a_second() -> None:
    session = live()

    counted, read = session.receive(b'{"resync":true}', 0.5)
    assert (counted, read) == (ResyncRequested(), ReadSync(Position(), 2))
    (refusal,) = frames_of(session.receive(b'{"ref":3,"resync":true}', 1.25))
    assert refusal["ref"] == 3
    assert refusal["problem"]["code"] == "rate_limited"
    assert refusal["problem"]["retry_after_ms"] == 250
    answer(session, read, full(10))
    assert isinstance(session.receive(b'{"resync":true}', 1.5)[1], ReadSync)


def test_resync_of_a_large_copy_counts_as_several() -> None:
    session = live()
    _, read = session.receive(b'{"resync":true}', 0.0)
    assert isinstance(read, ReadSync)
    session.synced(read.serial, full(10), b"x" * 2 * RESYNC_BYTES)

    refused = session.receive(b'{"resync":true}', 2.0)

    assert frames_of(refused)[0]["problem"]["retry_after_ms"] == 1_000
    assert LimitReached("resync") in refused
    assert isinstance(session.receive(b'{"resync":true}', 3.0)[1], ReadSync)


def test_pings_and_pongs_keep_the_connection() -> None:
    session = live()

    assert session.receive(b'{"ping":7}', 1.0) == [Send(b'{"pong":7}')]
    for turn in range(1, 10):
        assert session.tick(27.6 * turn) == [Send(b'{"ping":%d}' % turn)]
        assert session.receive(b'{"pong":%d}' % turn, 27.6 * turn) == []


def test_two_unanswered_pings_close_the_session() -> None:
    session = live()
    session.tick(27.6)
    session.tick(55.2)

    assert session.tick(82.8) == [CloseConnection(4007, "ping_timeout")]


def test_ack_before_the_sync_waits_for_it() -> None:
    session = joined()
    assert session.receive(b'{"ack":8}', 0.1) == []
    assert session.receive(b'{"ack":7}', 0.1) == []

    assert session.synced(1, full(10), b"{}")[1:] == [effects.Acknowledge(8)]
    assert session.receive(b'{"ack":10}', 1.0) == [effects.Acknowledge(10)]


def test_foreground_change_is_reported() -> None:
    session = live()

    assert session.receive(b'{"foreground":true}', 1.0) == [effects.ReportForeground(True)]
    assert session.foreground


def test_observer_has_no_presence_and_no_ack() -> None:
    session = fresh()
    session.admitted(PHONE, float("inf"), 0.0, observes=True)
    session.greeted(Hello())
    session.joined(0.0)
    session.synced(1, full(10), b"{}")

    assert session.receive_document({"ack": 10}, 1.0) == []
    assert session.receive_document({"foreground": True}, 1.0) == []


# 6. Tokens


def test_expiring_token_is_refreshed_with_grace() -> None:
    session = live(rules=replace(RULES, pings=False))

    assert session.tick(3_540.0) == [Send(b'{"refresh":{"expires_in":60}}')]
    assert session.tick(3_624.0) == []
    assert session.tick(3_625.0) == [CloseConnection(4004, "token_expired")]


def test_new_token_of_the_same_device_is_accepted() -> None:
    session = live(rules=replace(RULES, pings=False))
    assert session.receive(b'{"token":"t"}', 1.0) == [VerifyToken("t", None, is_renewal=True)]

    assert session.renewed(PHONE, 7_200.0, 1.0) == [Send(b'{"token":{"expires_in":7200}}')]
    assert session.tick(3_700.0) == []


def test_token_that_is_too_long_is_cut() -> None:
    """Such a token is refused later in any case: while it waits for its turn, a part of it is enough."""
    (verify,) = live().receive(b'{"token":"%s"}' % (b"t" * 100_000), 1.0)

    assert verify == VerifyToken("t" * (MAX_TOKEN_BYTES + 1), None, is_renewal=True)


@pytest.mark.parametrize("change", [{"uid": "bob"}, {"device": "laptop"}, {"category_filter": ("user",)}])
def test_new_token_of_another_device_closes(change: dict[str, Any]) -> None:
    session = live()

    assert session.renewed(replace(PHONE, **change), 3_600.0, 1.0) == [CloseConnection(4003, "state_invalidated")]


def test_new_token_may_change_the_systems() -> None:
    session = live()

    out = session.renewed(replace(PHONE, systems=("kbfs",)), 3_600.0, 1.0)

    assert out[1:] == [effects.Regroup()]
    assert session.systems == ("kbfs",)


def test_connection_is_closed_at_its_maximum_age() -> None:
    session = live(rules=replace(RULES, pings=False, max_age_s=100.0))

    assert session.tick(99.0) == []
    assert session.tick(100.0) == [CloseConnection(4008, "max_age")]


def test_closed_session_has_no_effects() -> None:
    session = live()
    assert session.close(4502) == [CloseConnection(4502, "revoked")]

    assert session.close(4001) == []
    assert session.receive(b'{"ping":1}', 1.0) == []
    assert session.tick(1e9) == []
    assert session.resync(Position()) == []
    assert session.synced(1, full(11), b"{}") == []
    assert not session.deliver(11, b"")
    assert session.due == float("inf")
