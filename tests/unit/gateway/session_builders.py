"""Builders of sessions in the states at which tests start."""

from __future__ import annotations

import json
from typing import Any

from gregor.auth.device_tokens import Caller
from gregor.core.items.sync import Full, SyncResult, View, cursor_for
from gregor_gateway.protocol.deadlines import SessionRules
from gregor_gateway.protocol.effects import Effect, ReadSync, Send, SendLive, SendSync
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.protocol.session import Session

RULES = SessionRules(jitter=lambda low, high: high, queue_bytes=100)
PHONE = Caller("alice", "phone", exp_us=0)
EPOCH = b"abc"
VIEW = View("phone")
TAG = cursor_for(EPOCH, VIEW, 0).tag


def full(seq: int) -> Full:
    return Full(EPOCH, seq, bytes(32), ())


def frame(seq: int) -> bytes:
    return b'{"seq":%d}' % seq


def frames_of(out: list[Effect]) -> list[dict[str, Any]]:
    """Return the decoded frames among effects."""
    return [json.loads(each.frame) for each in out if isinstance(each, Send | SendLive | SendSync)]


def fresh(rules: SessionRules = RULES) -> Session:
    return Session(rules, 0.0, "c1")


def joined(rules: SessionRules = RULES, caller: Caller = PHONE, hello: Hello | None = None) -> Session:
    """Return a session that waits for its first sync, which has serial 1."""
    session = fresh(rules)
    session.admitted(caller, 3_600.0, 0.0)
    session.greeted(hello or Hello())
    session.joined(0.0)
    return session


def live(seq: int = 10, rules: SessionRules = RULES) -> Session:
    session = joined(rules)
    session.synced(1, full(seq), b"{}")
    return session


def answer(session: Session, read: Effect, answer: SyncResult) -> list[Effect]:
    assert isinstance(read, ReadSync)
    return session.synced(read.serial, answer, b"{}")
