"""A deployment that is not Gregor, or a hostile one: each round ends with a failure, and reads a bounded answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gregor.canary import receivers
from gregor.canary.failure import MAX_DETAIL, Stage
from gregor.canary.round import MAX_RESPONSE_BYTES, CheckedDeployment, RoundResult, run_round
from tests.support.scripted_ingest import ScriptedIngest, scripted_ingest

DEEP = b"[" * 100_000
SYNC = {"system": "gregor", "sync": "full", "seq": 1, "cursor": "abcdef-1", "items": {}, "digest": "0" * 64}


@pytest.fixture
def server() -> Iterator[ScriptedIngest]:
    """Ingest and the streams of the gateway in one server."""
    with scripted_ingest() as made:
        yield made


async def round_over_sse(server: ScriptedIngest, events: bytes) -> RoundResult:
    """Perform one round; the stream has these events, and all other requests get the answer of the server."""
    server.next = [(200, events)]
    target = CheckedDeployment(server.url, server.url, server.url, "canary", lambda: ("gk_a_b", "token"), 10, 5)
    return await run_round(target, "sse")


def event(frame: Any) -> bytes:
    return b"data:" + json.dumps(frame).encode() + b"\n\n"


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"[]", b"\xff", DEEP, b"x" * (MAX_RESPONSE_BYTES + 1)],
    ids=["html", "list", "bytes", "deep", "long"],
)
async def test_answer_of_another_server_is_a_failure(server: ScriptedIngest, answer: bytes) -> None:
    server.answer = answer

    failure = (await round_over_sse(server, event(SYNC))).failure

    assert failure is not None and failure.stage is Stage.PUBLISH_REFUSED
    assert "is it Gregor?" in failure.detail


@pytest.mark.parametrize(
    "events",
    [b"data:<html>\n\n", b"data:" + DEEP + b"\n\n", event([]), event({"welcome": {"now": None}}), event({"close": 1})],
    ids=["html", "deep", "list", "welcome", "close"],
)
async def test_event_of_another_server_is_a_failure(server: ScriptedIngest, events: bytes) -> None:
    failure = (await round_over_sse(server, events)).failure

    assert failure is not None and failure.stage is Stage.WRONG_BODY


async def test_infinite_server_time_is_a_failure(server: ScriptedIngest) -> None:
    endless = b'data:{"welcome":{"now":Infinity}}\n\n'

    failure = (await round_over_sse(server, endless + event(SYNC))).failure

    assert failure is not None and failure.stage is Stage.WRONG_BODY


async def test_endless_event_is_cut(server: ScriptedIngest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "MAX_FRAME_BYTES", 1 << 20)

    failure = (await round_over_sse(server, b"data:" + b"x" * (3 << 20))).failure

    assert failure is not None and "more than 1 MiB" in failure.detail


async def test_compressed_stream_is_refused_before_it_is_read(server: ScriptedIngest) -> None:
    server.headers = {"Content-Encoding": "gzip"}

    failure = (await round_over_sse(server, event(SYNC))).failure

    assert failure is not None and "compressed ('gzip'), although" in failure.detail


async def test_long_answer_is_cut_in_the_failure(server: ScriptedIngest) -> None:
    server.status, server.answer = 500, b"x" * (MAX_RESPONSE_BYTES - 1)

    failure = (await round_over_sse(server, event(SYNC))).failure

    assert failure is not None and len(failure.detail) <= MAX_DETAIL
