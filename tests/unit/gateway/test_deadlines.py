"""Deadlines of one connection."""

from __future__ import annotations

import pytest

from gregor_gateway.protocol.deadlines import DeadlinePassed, Deadlines, Ping, Refresh, SessionRules

RULES = SessionRules(jitter=lambda low, high: high)
SILENT = SessionRules(jitter=lambda low, high: high, pings=False)


def joined(lives_s: float = 3_600, rules: SessionRules = RULES, now: float = 0.0) -> Deadlines:
    deadlines = Deadlines(rules, now)
    deadlines.greeted()
    deadlines.expires(lives_s, now)
    deadlines.joined(now)
    return deadlines


def test_hello_timeout_is_15_seconds() -> None:
    deadlines = Deadlines(RULES, 100.0)

    assert deadlines.due == 115.0
    assert deadlines.tick(114.9) == []
    assert deadlines.tick(115.0) == [DeadlinePassed(4005)]


def test_pings_come_every_25_seconds() -> None:
    early = joined(rules=SessionRules(jitter=lambda low, high: low))

    assert joined().due == pytest.approx(27.5)
    assert early.due == pytest.approx(22.5)
    assert joined().tick(27.4) == []
    assert joined().tick(27.6) == [Ping(1)]


def test_two_unanswered_pings_close() -> None:
    silent, lively = joined(), joined()
    for n in (1, 2):
        assert silent.tick(27.6 * n) == [Ping(n)]
        assert lively.tick(27.6 * n) == [Ping(n)]
    lively.answered()

    assert silent.tick(82.8) == [DeadlinePassed(4007)]
    assert lively.tick(82.8) == [Ping(3)]


def test_transport_without_pings_sends_none() -> None:
    assert joined(rules=SILENT).tick(1_000.0) == []


def test_refresh_is_sent_once_60_s_before_expiry() -> None:
    deadlines = joined(rules=SILENT)

    assert deadlines.tick(3_539.9) == []
    assert deadlines.tick(3_540.0) == [Refresh()]
    assert deadlines.tick(3_541.0) == []
    assert deadlines.left_s(3_541.0) == 59


def test_short_token_is_refreshed_at_once() -> None:
    assert joined(lives_s=30, rules=SILENT).tick(0.0) == [Refresh()]


def test_expired_token_has_25_seconds_of_grace() -> None:
    deadlines = joined(rules=SILENT)
    deadlines.tick(3_540.0)

    assert deadlines.tick(3_624.9) == []
    assert deadlines.left_s(3_624.9) == 0
    assert deadlines.tick(3_625.0) == [DeadlinePassed(4004)]


def test_new_token_extends_the_deadline() -> None:
    deadlines = joined(rules=SILENT)
    deadlines.tick(3_540.0)
    deadlines.expires(3_600, 3_550.0)
    deadlines.joined(3_550.0)

    assert deadlines.tick(7_089.0) == []
    assert deadlines.tick(7_090.0) == [Refresh()]


def test_endless_token_has_no_expiry() -> None:
    deadlines = joined(lives_s=float("inf"), rules=SILENT)

    assert deadlines.left_s(0.0) is None
    assert deadlines.due == 21_600.0


def test_maximum_age_is_spread() -> None:
    early = joined(lives_s=float("inf"), rules=SessionRules(jitter=lambda low, high: low, pings=False))

    assert early.tick(10_800.0) == [DeadlinePassed(4008)]
    assert joined(lives_s=float("inf"), rules=SILENT).tick(10_800.0) == []
    assert joined(lives_s=float("inf"), rules=SILENT).tick(21_600.0) == [DeadlinePassed(4008)]
