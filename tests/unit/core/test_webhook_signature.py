"""Signatures of webhooks, beside the example of the standard; URLs that may be called."""

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


def test_the_check_in_the_documentation_takes_what_we_sign_and_nothing_else() -> None:
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


def test_a_call_is_signed_as_the_standards_own_example() -> None:
    headers = signed_headers([SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", AT_US, BODY)

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_a_secret_is_rotated_either_is_good() -> None:
    headers = signed_headers([OTHER, SECRET], "m", AT_US, BODY)

    assert is_signed(SECRET, headers, BODY, AT_US)
    assert is_signed(OTHER, headers, BODY, AT_US)
    assert not is_signed(encode_secret(b"x" * 32), headers, BODY, AT_US)


@pytest.mark.parametrize(
    "changed", [{"webhook-id": "n"}, {"webhook-timestamp": "1614265331"}, {"webhook-signature": ""}]
)
def test_a_call_of_which_anything_was_changed_is_not_ours(changed: dict[str, str]) -> None:
    headers = signed_headers([SECRET], "m", AT_US, BODY)

    assert not is_signed(SECRET, {**headers, **changed}, BODY, AT_US)
    assert not is_signed(SECRET, headers, BODY + b" ", AT_US)


def test_an_old_call_and_one_of_the_future_are_not_taken() -> None:
    headers = signed_headers([SECRET], "m", AT_US, BODY)

    assert is_signed(SECRET, headers, BODY, AT_US + TOLERANCE_US)
    assert not is_signed(SECRET, headers, BODY, AT_US + TOLERANCE_US + 1)
    assert not is_signed(SECRET, headers, BODY, AT_US - TOLERANCE_US - 1)


def test_a_secret_is_shown_with_its_prefix_and_read_with_or_without_it() -> None:
    assert OTHER.startswith("whsec_")
    assert decode_secret(OTHER) == decode_secret(OTHER.removeprefix("whsec_")) == bytes(range(32))


def test_what_is_no_secret_is_refused_without_being_said() -> None:
    with pytest.raises(ValueError, match="24 to 64"):
        encode_secret(b"short")
    with pytest.raises(ValueError, match="whsec_ and base64") as caught:
        decode_secret("whsec_hunter2!")
    with pytest.raises(ValueError, match="needs a secret"):
        signed_headers([], "m", AT_US, BODY)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://a.example/hook?x=1", "https://a.example:8443/", "https://[2001:db8::1]/"])
def test_an_https_url_may_be_a_webhooks(url: str) -> None:
    assert webhook_url_error(url) is None


@pytest.mark.parametrize(
    "url",
    [
        *("", "a.example", "http://a.example/", "ftp://a.example/", "https://", "https:///x", "https://a.example:x/"),
        *("https://u:p@a.example/", "https://a.example/#x", "https://a.example/ x", "https://a.example/\r\nX: y"),
        *("https://ä.example/", "https://a.example/" + "x" * 2_048, "http://localhost/", "https://[::1/"),
    ],
)
def test_other_urls_may_not(url: str) -> None:
    assert webhook_url_error(url) is not None


def test_in_development_this_machine_may_be_called_too() -> None:
    assert webhook_url_error("http://localhost:9000/hook", is_loopback_allowed=True) is None
    assert webhook_url_error("http://10.0.0.1/hook", is_loopback_allowed=True) is not None
