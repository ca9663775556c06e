"""The calls of a backend without I/O: deadline, retries and batches, on a simulated clock."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gregor.client import GregorError, calls
from gregor.client.calls import ApiResponse, Attempt, TransportFailure, Wait, with_retries

TIMEOUT_S = 5.0
RECEIPT = {"seq": 1}
OUTCOMES = st.one_of(
    st.just(TransportFailure("connection refused")),
    st.just(TransportFailure("timeout")),
    st.sampled_from([429, 500, 502, 503]).map(lambda status: ApiResponse(status, b"{}")),
    st.integers(0, 9).map(lambda after: ApiResponse(503, b"{}", {"retry-after": str(after)})),
    st.sampled_from([400, 404, 409]).map(lambda status: ApiResponse(status, b"{}")),
    st.just(ApiResponse(200, json.dumps(RECEIPT).encode())),
)


class Clock:
    """A clock that only `advance` moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@given(st.lists(st.tuples(OUTCOMES, st.floats(0, 6)), min_size=100, max_size=100))
def test_call_ends_within_its_deadline(outcomes: list[tuple[Any, float]]) -> None:
    clock, attempts = Clock(), 0
    steps = with_retries(calls.send("alice", {"system": "s", "body": 1}), TIMEOUT_S, clock)
    last: Any = None
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                clock.advance(step.seconds)
                step = next(steps)
            else:
                assert clock.now_s < 100 + TIMEOUT_S, "no attempt starts after the deadline"
                assert 0 < step.timeout_s <= TIMEOUT_S
                last, duration_s = outcomes[attempts]
                attempts += 1
                clock.advance(min(duration_s, step.timeout_s))
                step = steps.send(last)
    except StopIteration as done:
        assert last.status == 200 and done.value.seq == 1
    except GregorError:
        assert isinstance(last, TransportFailure) or last.status != 200

    assert clock.now_s <= 100 + TIMEOUT_S + 1e-6


@given(
    st.lists(st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), st.booleans()), max_size=8),
    st.randoms(use_true_random=False),
)
def test_send_many_gives_each_line_and_uid_one_outcome(lines: list[tuple[list[str], bool]], dice: Any) -> None:
    accepted: Counter[str] = Counter()
    refused: Counter[str] = Counter()

    def answer(attempt: Attempt) -> ApiResponse:
        assert attempt.request.content is not None
        documents = []
        for number, text in enumerate(attempt.request.content.splitlines()):
            message = json.loads(text)
            key = f"{message['uid']} {message['id']}"
            if refused[key] < 3 and dice.random() < 0.5:
                refused[key] += 1
                documents.append({"line": number, "uid": message["uid"], "problem": {"code": "unavailable"}})
            else:
                accepted[key] += 1
                documents.append({"line": number, "uid": message["uid"], "receipt": RECEIPT})
        return ApiResponse(200, b"\n".join(json.dumps(document).encode() for document in documents))

    clock = Clock()
    messages = [
        {("uids" if is_list else "uid"): uids if is_list else uids[0], "system": "s", "body": number}
        for number, (uids, is_list) in enumerate(lines)
    ]
    steps = with_retries(calls.send_many(messages), 1_000, clock)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                clock.advance(step.seconds)
                step = next(steps)
            else:
                step = steps.send(answer(step))
    except StopIteration as done:
        outcomes = done.value

    expected = [
        (number, uid) for number, (uids, is_list) in enumerate(lines) for uid in (uids if is_list else uids[:1])
    ]
    assert [(outcome["line"], outcome["uid"]) for outcome in outcomes] == expected
    assert all("receipt" in outcome for outcome in outcomes)
    assert all(count == 1 for key, count in accepted.items()) or len(expected) > len(set(expected))


@given(st.lists(st.integers(1, 3_000_000), max_size=40))
def test_groups_keep_order_and_size(sizes: list[int]) -> None:
    lines = [(place, b"x" * size) for place, size in enumerate(sizes)]

    groups = list(calls._groups(lines))

    assert [line for group in groups for line in group] == lines
    for group in groups:
        assert len(group) == 1 or sum(len(text) + 1 for _, text in group) <= calls.MAX_CALL_BYTES + 1
    assert all(len(group) <= calls.MAX_LINES for group in calls._groups([(n, b"x") for n in range(2_500)]))
