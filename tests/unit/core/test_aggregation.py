"""Bodies of summaries (semantics.md, "Aggregation"): any client can write the id and the body of a summary."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.items.codec import item_json
from gregor.core.items.sync import LiveItem
from gregor.core.json_text import MAX_INTEGER, MIN_INTEGER, canonical_json
from gregor.core.notify.aggregation import summary_body, summary_id
from tests.support.builders import LIMITS, NOW, NOW_US
from tests.support.cpu_time import fastest

NUMBERS = st.integers(MIN_INTEGER, MAX_INTEGER) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text("ab", max_size=3)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "body"]), inner))
MEMBERS = st.fixed_dictionaries({}, optional={"count": JSON, "since": JSON, "sample": JSON})


# Keys and texts with characters that sort differently by UTF-16, and numbers in all their notations.
TEXT = st.text('a"\\\n\uff5e\U0001f600,:[]', max_size=6)
ANY_NUMBER = NUMBERS | st.sampled_from([1e20, 1e21, -0.0, 1e-7])
BODIES = st.recursive(
    st.none() | st.booleans() | ANY_NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SAMPLES = st.lists(st.fixed_dictionaries({"body": BODIES, "id": TEXT}, optional={"a": BODIES, "more": BODIES}))
SUMMARIES = st.fixed_dictionaries(
    {"count": st.integers(2, MAX_INTEGER), "since": st.integers(0, NOW - 1), "sample": SAMPLES}
)


def live_item(item_id: str, body: Any, created_us: int = NOW_US) -> LiveItem:
    return live_item_of_json(item_id, canonical_json(body), created_us)


def live_item_of_json(item_id: str, body: bytes, created_us: int = NOW_US) -> LiveItem:
    text = item_json(body, "news", "", created_us, None, ())
    return LiveItem(item_id, "news", None, created_us, 1, None, (), text, frozenset())


@given(st.lists(st.fixed_dictionaries({"summary": MEMBERS | JSON}) | JSON, min_size=1, max_size=3))
@example([{"summary": {"count": 3, "since": 1e308, "sample": []}}])
@example([{"summary": {"count": MAX_INTEGER, "since": 1, "sample": []}}] * 2)
@example([{"summary": {"count": True, "since": True, "sample": [1, None, [[]], {"id": {}}]}}])
def test_any_body_under_the_id_of_a_summary_is_aggregated(bodies: list[Any]) -> None:
    items = [live_item(summary_id([str(number)]), body) for number, body in enumerate(bodies)]

    made = json.loads(summary_body([live_item("a", 1), *items], 20, LIMITS))["summary"]

    assert len(items) < made["count"] <= MAX_INTEGER and 0 <= made["since"] <= NOW
    assert all(sorted(sample) == ["body", "id"] and isinstance(sample["id"], str) for sample in made["sample"])


@given(
    st.lists(st.tuples(st.integers(0, 3), BODIES), max_size=6),
    st.lists(SUMMARIES, max_size=3),
    st.integers(1, 8),
    st.integers(0, 400),
)
def test_body_has_the_most_of_the_newest_samples_that_fit(
    plain: list[tuple[int, Any]], earlier: list[Any], keep: int, body_bytes: int
) -> None:
    items = [live_item(f"i{n}", body, NOW_US + age) for n, (age, body) in enumerate([*plain, (0, None)])]
    summaries = [live_item(summary_id([str(n)]), {"summary": made}, NOW_US + n) for n, made in enumerate(earlier)]
    newest_first = sorted(items, key=lambda item: (item.created_us, item.id), reverse=True)

    sample = [{"id": item.id, "body": json.loads(item.json)["body"]} for item in newest_first]
    for made in reversed(earlier):
        sample += [{"id": each["id"], "body": each["body"]} for each in made["sample"]]
    head = {
        "count": min(MAX_INTEGER, len(items) + sum(made["count"] for made in earlier)),
        "since": min([NOW, *(made["since"] for made in earlier)]),
    }
    longest_first = [
        canonical_json({"summary": {**head, "sample": sample[:taken]}})
        for taken in range(min(keep, len(sample)), -1, -1)
    ]
    expected = next((body for body in longest_first if len(body) <= body_bytes), longest_first[-1])

    limits = replace(LIMITS, body_bytes=body_bytes)
    assert summary_body([*items, *summaries], keep, limits) == expected


BRACKETS = b"[" + b",".join([b"[]"] * 5_332) + b"]"


@pytest.mark.parametrize(
    ("ids", "body"),
    [
        ([f"i{n}" for n in range(64)], BRACKETS),
        ([f"i{n}" for n in range(64)], '["😀"'.encode() + b",1e-9" * 3_190 + b"]"),
        ([summary_id([str(n)]) for n in range(64)], BRACKETS),
        (
            [summary_id([str(n)]) for n in range(64)],
            b'{"summary":{"count":2,"sample":[{"body":%b,"id":"a"}],"since":1}}' % BRACKETS,
        ),
    ],
    ids=["brackets", "numbers and an emoji", "under the ids of summaries", "in earlier summaries"],
)
def test_large_bodies_cost_little(ids: list[str], body: bytes) -> None:
    items = [live_item_of_json(item_id, body, NOW_US + n) for n, item_id in enumerate(ids)]

    # Together these are the 1 MiB that a user may have. To decode them takes 0.1 s, and the timers of all users wait.
    assert fastest(lambda: summary_body(items, 100, LIMITS)) < 0.02
