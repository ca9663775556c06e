"""The weight of messages: ordinary ones weigh 1, expensive ones in proportion to their work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.items.read_cost import EXAMINED_NS, sync_charge_ns
from gregor.core.messages.cost import message_weight, text_weight
from gregor.core.messages.parse import parse_message
from tests.support.builders import LIMITS, RESET, Document, external, interval, item, message

REMINDERS = [f"+{n}" for n in range(1, 17)]


@pytest.mark.parametrize(
    ("document", "weight"),
    [
        (message({"a": item()}), 1),
        (message({"a": item(remind_at=REMINDERS[:5])}), 1),
        (message({f"i{n}": item() for n in range(9)}), 1),
        (message(ids=["a"]), 1),
        (message(intervals=[interval("news"), interval("mail")]), 2),
        (external(1), 1),
        (RESET, 1),
        (message({f"i{n}": item() for n in range(100)}), 11),
        (message({f"i{n}": item(remind_at=REMINDERS) for n in range(100)}), 171),
        (message(intervals=[interval(f"c{n}") for n in range(32)]), 6),
        (message(intervals=[interval("news", skip=[f"s{n}" for n in range(1_000)])]), 12),
        (message(ids=[f"i{n}" for n in range(1_000)]), 11),
    ],
)
def test_weight_grows_with_the_work(document: Document, weight: int) -> None:
    assert message_weight(parse_message(document, LIMITS)) == weight


@pytest.mark.parametrize(("size_bytes", "weight"), [(0, 1), (8_191, 1), (8_192, 2), (262_144, 33)])
def test_long_texts_weigh_more(size_bytes: int, weight: int) -> None:
    assert text_weight(size_bytes) == weight


def test_filtered_sync_is_charged_for_its_time_and_a_long_one_for_the_square() -> None:
    """All other commands wait for a long script. Below 2 µs a record, the charge for the records covers the time."""
    records = 500
    charges = [sync_charge_ns(records, ms * 1_000) for ms in (0, 1, 2, 4, 8)]

    assert charges == [2_000_000, 2_000_000, 5_000_000, 20_000_000, 86_000_000]


@given(st.integers(0, 20_000), st.integers(0, 100_000), st.integers(0, 100_000))
def test_charge_of_a_sync_grows_with_its_time(records: int, first_us: int, second_us: int) -> None:
    less_us, more_us = sorted((first_us, second_us))

    assert 0 <= sync_charge_ns(records, less_us) <= sync_charge_ns(records, more_us)
    assert sync_charge_ns(records, 0) == sync_charge_ns(records, records * EXAMINED_NS // 2_000)
