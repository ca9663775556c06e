"""Bodies of summaries (semantics.md, "Aggregation"): any client can write the id and the body of a summary."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.items.sync import LiveItem
from gregor.core.json_text import MAX_INTEGER, MIN_INTEGER, canonical_json
from gregor.core.notify.aggregation import summary_body, summary_id
from tests.support.builders import LIMITS, NOW, NOW_US

NUMBERS = st.integers(MIN_INTEGER, MAX_INTEGER) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text("ab", max_size=3)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "body"]), inner))
MEMBERS = st.fixed_dictionaries({}, optional={"count": JSON, "since": JSON, "sample": JSON})


def live_item(item_id: str, body: Any) -> LiveItem:
    text = canonical_json({"body": body})
    return LiveItem(item_id, "news", None, NOW_US, 1, None, (), text, frozenset())


@given(st.lists(st.fixed_dictionaries({"summary": MEMBERS | JSON}) | JSON, min_size=1, max_size=3))
@example([{"summary": {"count": 3, "since": 1e308, "sample": []}}])
@example([{"summary": {"count": MAX_INTEGER, "since": 1, "sample": []}}] * 2)
@example([{"summary": {"count": True, "since": True, "sample": [1, None, [[]], {"id": {}}]}}])
def test_any_body_under_the_id_of_a_summary_is_aggregated(bodies: list[Any]) -> None:
    items = [live_item(summary_id([str(number)]), body) for number, body in enumerate(bodies)]

    made = json.loads(summary_body([live_item("a", 1), *items], 20, LIMITS))["summary"]

    assert len(items) < made["count"] <= MAX_INTEGER and 0 <= made["since"] <= NOW
    assert all(sorted(sample) == ["body", "id"] and isinstance(sample["id"], str) for sample in made["sample"])
