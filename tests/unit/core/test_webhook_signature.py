"""Webhook signatures against the example of the standard; valid URLs."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from gregor.core.notify.webhook_signature import (
    TOLERANCE_US,
    decode_secret,
    encode_secret,
    is_signed,
    signed_headers,
    webhook_url_error,
)

# The example that the libraries of Standard Webhooks are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
AT_US = 1_614_265_330_000_000
BODY = b'{"test": 2432232314}'
OTHER = encode_secret(bytes(range(32)))


def test_documented_check_accepts_our_signatures() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "webhooks.md").read_text("utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/how-to/webhooks.md", "exec"), names)
    old, new = encode_secret(b"o" * 32), encode_secret(b"n" * 32)
    headers = signed_headers((new, old), "evt_1", time.time_ns() // 1_000, b'{"a":1}')

    assert names["is_from_gregor"](old, headers, b'{"a":1}')
    assert names["is_from_gregor"](new, headers, b'{"a":1}')
    assert not names["is_from_gregor"](new, headers, b'{"a":2}')
    assert not names["is_from_gregor"](encode_secret(b"x" * 32), headers, b'{"a":1}')
    assert not names["is_from_gregor"](new, {**headers, "webhook-timestamp": "1457056500"}, b'{"a":1}')


def test_signature_equals_the_standards_example() -> None:
    headers = signed_headers([SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", AT_US, BODY)

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_both_secrets_verify_during_rotation() -> None:
    headers = signed_headers([OTHER, SECRET], "m", AT_US, BODY)

    assert is_signed(SECRET, headers, BODY, AT_US)
    assert is_signed(OTHER, headers, BODY, AT_US)
    assert not is_signed(encode_secret(b"x" * 32), headers, BODY, AT_US)


@pytest.mark.parametrize(
    "changed", [{"webhook-id": "n"}, {"webhook-timestamp": "1614265331"}, {"webhook-signature": ""}]
)
def test_modified_request_is_rejected(changed: dict[str, str]) -> None:
    headers = signed_headers([SECRET], "m", AT_US, BODY)

    assert not is_signed(SECRET, {**headers, **changed}, BODY, AT_US)
    assert not is_signed(SECRET, headers, BODY + b" ", AT_US)


def test_old_and_future_requests_are_rejected() -> None:
    headers = signed_headers([SECRET], "m", AT_US, BODY)

    assert is_signed(SECRET, headers, BODY, AT_US + TOLERANCE_US)
    assert not is_signed(SECRET, headers, BODY, AT_US + TOLERANCE_US + 1)
    assert not is_signed(SECRET, headers, BODY, AT_US - TOLERANCE_US - 1)


def test_secret_prefix_is_optional_on_input() -> None:
    assert OTHER.startswith("whsec_")
    assert decode_secret(OTHER) == decode_secret(OTHER.removeprefix("whsec_")) == bytes(range(32))


def test_malformed_secret_is_not_in_the_error() -> None:
    with pytest.raises(ValueError, match="24 to 64"):
        encode_secret(b"short")
    with pytest.raises(ValueError, match="whsec_ and base64") as caught:
        decode_secret("whsec_hunter2!")
    with pytest.raises(ValueError, match="needs a secret"):
        signed_headers([], "m", AT_US, BODY)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://a.example/hook?x=1", "https://a.example:8443/", "https://[2001:db8::1]/"])
def test_https_url_is_a_valid_webhook_url(url: str) -> None:
    assert webhook_url_error(url) is None


@pytest.mark.parametrize(
    "url",
    [
        *("", "a.example", "http://a.example/", "ftp://a.example/", "https://", "https:///x", "https://a.example:x/"),
        *("https://u:p@a.example/", "https://a.example/#x", "https://a.example/ x", "https://a.example/\r\nX: y"),
        *("https://ä.example/", "https://a.example/" + "x" * 2_048, "http://localhost/", "https://[::1/"),
    ],
)
def test_invalid_webhook_url_is_rejected(url: str) -> None:
    assert webhook_url_error(url) is not None


def test_loopback_url_is_allowed_in_development() -> None:
    assert webhook_url_error("http://localhost:9000/hook", is_loopback_allowed=True) is None
    assert webhook_url_error("http://10.0.0.1/hook", is_loopback_allowed=True) is not None
