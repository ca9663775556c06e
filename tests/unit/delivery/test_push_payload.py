"""Push payloads, and their truncation to the provider's limit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor_delivery.channels.push_payload import (
    APNS_MAX_BYTES,
    FCM_MAX_BYTES,
    WEBPUSH_MAX_BYTES,
    apns_payload,
    fcm_content,
    shortened,
    webpush_payload,
)
from tests.support.sample_pushes import DATA, push, withdrawal


def apns(**changes: Any) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(apns_payload(push(**changes)))
    return read


def test_fitting_push_is_unchanged() -> None:
    assert json.loads(webpush_payload(push())) == {
        "title": "kbob just joined",
        "body": "You shared files with bob.",
        "gregor": DATA,
    }


def test_long_text_fills_the_limit_and_ends_in_ellipsis() -> None:
    whole = apns_payload(push(text="x" * 5_000))

    assert APNS_MAX_BYTES - 4 < len(whole) <= APNS_MAX_BYTES
    shown = json.loads(whole)["aps"]["alert"]
    assert shown["body"].endswith("x…")
    assert shown["title"] == "kbob just joined"


def test_title_is_truncated_after_the_text() -> None:
    shown = apns(title="t" * 5_000, text="x" * 5_000)["aps"]["alert"]

    assert "body" not in shown
    assert shown["title"].endswith("t…")


def test_withdraw_list_is_truncated_after_the_texts() -> None:
    ids = [f"{n:032x}" for n in range(400)]

    pushed = json.loads(apns_payload(withdrawal(data={**DATA, "withdraw": ids})))["gregor"]

    assert pushed["withdraw"] == ids[: len(pushed["withdraw"])]
    assert 90 < len(pushed["withdraw"]) < 120
    assert {name: pushed[name] for name in DATA} == DATA


def test_ids_cursor_and_badge_are_never_truncated() -> None:
    data = {**DATA, "link": "app://" + "l" * 5_000, "withdraw": ["bb"] * 2_000}

    pushed = apns(title="t" * 5_000, text="x" * 5_000, data=data)

    assert {name: pushed["gregor"][name] for name in DATA} == DATA
    assert pushed["gregor"]["link"] is None
    assert pushed["aps"]["badge"] == 3
    assert len(json.dumps(pushed)) < APNS_MAX_BYTES


def test_oversized_push_is_sent_unchanged() -> None:
    assert apns(text="x", data={**DATA, "uid": "u" * 5_000})["gregor"]["uid"] == "u" * 5_000


def test_empty_members_are_omitted() -> None:
    assert apns(title="", text="", sound=None, badge=None)["aps"] == {"alert": {}}


def test_urgent_alert_is_time_sensitive() -> None:
    assert apns(urgent=True)["aps"]["interruption-level"] == "time-sensitive"


def test_alert_with_withdrawals_is_mutable() -> None:
    assert apns(data={**DATA, "withdraw": ["bb"]})["aps"]["mutable-content"] == 1
    assert "mutable-content" not in apns()["aps"]


def test_fcm_data_counts_towards_the_limit() -> None:
    parts = fcm_content(push(text="é" * 5_000))

    assert json.loads(parts.data["gregor"]) == DATA
    size = sum(len(each.encode()) for each in (parts.title, parts.text, *parts.data, *parts.data.values()))
    assert FCM_MAX_BYTES - 4 < size <= FCM_MAX_BYTES


@given(title=st.text(max_size=3_000), text=st.text(max_size=6_000), count=st.integers(0, 300))
def test_every_push_fits_every_provider(title: str, text: str, count: int) -> None:
    message = push(title=title, text=text, data={**DATA, "withdraw": ["0123456789abcdef"] * count})

    assert len(apns_payload(message)) <= APNS_MAX_BYTES
    assert len(webpush_payload(message)) <= WEBPUSH_MAX_BYTES
    assert sum(len(each.encode()) for each in (fcm_content(message).title, fcm_content(message).text)) <= FCM_MAX_BYTES


@pytest.mark.parametrize(
    ("text", "n", "kept"),
    [
        ("hello", 5, "hello"),
        ("hello", 3, "hel…"),
        ("hello world", 6, "hello…"),
        ("hello", 0, ""),
        ("e\u0301e\u0301e\u0301", 3, "e\u0301…"),
        ("ab👩\u200d👩\u200d👧cd", 4, "ab…"),
        ("a👍🏽b", 2, "a…"),
        ("❤\ufe0f❤\ufe0f", 3, "❤\ufe0f…"),
        ("🇮🇹🇫🇷🇩🇪", 3, "🇮🇹…"),
        ("🇮🇹🇫🇷🇩🇪", 4, "🇮🇹🇫🇷…"),
        ("e\u0301", 1, ""),
    ],
)
def test_grapheme_clusters_are_not_split(text: str, n: int, kept: str) -> None:
    assert shortened(text, n) == kept


def test_truncation_of_combining_marks_is_fast() -> None:
    assert len(shortened("a" + "\u0301" * 65_000, 60_000)) > 50_000
