"""FCM messages to Apple devices: the same `aps` values as by the APNs channel."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from gregor_delivery.channels.fcm.channel import apns_config
from gregor_delivery.channels.push_payload import apns_payload
from tests.support.sample_pushes import DATA, NOW_US, push, withdrawal


def test_alert_equals_the_apns_channel() -> None:
    assert apns_config(push(expires_us=NOW_US + 90_000_000)) == {
        "headers": {
            "apns-push-type": "alert",
            "apns-priority": "10",
            "apns-collapse-id": "c0ffee",
            "apns-expiration": str(NOW_US // 1_000_000 + 90),
        },
        "payload": {"aps": {"sound": "default", "badge": 3}},
    }


def test_withdrawal_wakes_the_app() -> None:
    """Without these headers iOS does not wake the app."""
    assert apns_config(withdrawal()) == {
        "headers": {"apns-push-type": "background", "apns-priority": "5", "apns-collapse-id": "c0ffee"},
        "payload": {"aps": {"content-available": 1, "badge": 3}},
    }


@pytest.mark.parametrize("kind", ["alert", "background"])
@pytest.mark.parametrize(
    "changes", [{}, {"urgent": True}, {"badge": None, "sound": None}, {"data": {**DATA, "withdraw": ["aa"]}}]
)
def test_aps_equals_the_apns_channel(kind: Literal["alert", "background"], changes: dict[str, Any]) -> None:
    message = push(kind=kind, **changes)

    by_apns = json.loads(apns_payload(message))["aps"]

    by_apns.pop("alert", None)  # FCM takes title and text from the message's own notification
    assert apns_config(message)["payload"] == {"aps": by_apns}
