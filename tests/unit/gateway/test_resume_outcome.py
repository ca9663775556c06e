"""Resume outcomes in the metrics: what the first sync sends, and why a full copy was needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gregor.core.items.sync import NO_EPOCH, Cursor, Delta, Full, Unchanged, View, cursor_for
from gregor_gateway.protocol.hello import Hello, Position
from gregor_gateway.protocol.resume import resume_outcome

from .conftest import Gateway

EPOCH = b"\x01\x02\x03"
VIEW = View("phone")
FULL = Full(EPOCH, 10, bytes(32), ())


def at(seq: int, epoch: bytes = EPOCH, view: View = VIEW) -> Position:
    return Position(cursor_for(epoch, view, seq))


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        (Position(), "new"),
        (at(0, NO_EPOCH), "new"),
        (Position(None, bytes(32)), "digest"),
        (at(10), "digest"),
        (at(3), "behind"),
        (at(11), "ahead"),
        (at(3, b"\x09\x02\x03"), "epoch"),
        (at(3, view=View("tablet")), "view"),
        (at(3, view=replace(VIEW, category_filter=("chat",))), "view"),
        (Position(Cursor("", 0)), "epoch"),
    ],
)
def test_reason_of_a_full_copy(position: Position, reason: str) -> None:
    assert resume_outcome(position, VIEW, FULL) == ("full", reason)


def test_unchanged_and_delta_need_no_reason() -> None:
    assert resume_outcome(at(10), VIEW, Unchanged(EPOCH, 10, bytes(32))) == ("unchanged", "none")
    assert resume_outcome(at(3), VIEW, Delta(EPOCH, 10, bytes(32), (), ("a",))) == ("delta", "none")


async def test_each_connection_counts_one_resume(gateway: Gateway) -> None:
    await gateway.create("a")
    first = await gateway.connect()
    cursor = first.connection.cursor
    first.connection.end()
    await gateway.create("b")
    second = await gateway.connect(hello=Hello(position=Position(Cursor(*_parts(cursor)))))
    second.connection.resync(None, 0)

    exposition = gateway.context.metrics.exposition().decode()

    assert 'gregor_resumes_total{outcome="full",reason="new",transport="test"} 1.0' in exposition
    assert 'gregor_resumes_total{outcome="delta",reason="none",transport="test"} 1.0' in exposition
    assert 'gregor_resyncs_total{reason="missed"} 1.0' in exposition
    assert 'gregor_connections_opened_total{transport="test"} 2.0' in exposition
    assert 'gregor_connections_ended_total{by="client",transport="test"} 1.0' in exposition
    second.connection.close(4001)
    assert b'gregor_connections_ended_total{by="gateway",transport="test"} 1.0' in gateway.context.metrics.exposition()


def _parts(cursor: str) -> tuple[str, int]:
    tag, seq = cursor.rsplit("-", 1)
    return tag, int(seq)
