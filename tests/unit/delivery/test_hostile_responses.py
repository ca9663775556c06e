"""Responses of hostile or broken providers: any JSON is classified, and none deletes a token by mistake."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gregor.auth.device_tokens import parse_jwks
from gregor.clock import ManualClock
from gregor.dev.fakes.fcm import FakeFcm
from gregor.dev.fakes.http1 import FakeResponse
from gregor_delivery.channels.apns.exchange import ApnsResponse
from gregor_delivery.channels.apns.responses import is_connection_spoiled, is_expired_token
from gregor_delivery.channels.apns.responses import verdict_of as apns_verdict_of
from gregor_delivery.channels.fcm.google_token import AccessToken, TokenUnavailable, read_credentials
from gregor_delivery.channels.fcm.responses import is_token_rejected
from gregor_delivery.channels.fcm.responses import verdict_of as fcm_verdict_of
from gregor_delivery.channels.smtp.responses import SmtpStep, accepted, is_relay_denied, rejected
from gregor_delivery.channels.verdict import (
    MAX_RETRY_AFTER_S,
    Misconfigured,
    RecipientGone,
    Refused,
    Retry,
    Sent,
    Unknown,
    Verdict,
    parse_retry_after,
)
from gregor_delivery.channels.webhook import WebhookChannel
from tests.support.cpu_time import fastest
from tests.support.sample_pushes import push

NOW_US: Final = 1_457_056_447_000_000
MAX_DETAIL: Final = 500
STATUSES: Final = st.one_of(
    st.sampled_from([200, 302, 400, 401, 403, 404, 410, 413, 429, 500, 503]), st.integers(0, 999)
)
FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
WORDS: Final = (
    *("UNREGISTERED", "SENDER_ID_MISMATCH", "QUOTA_EXCEEDED", "INVALID_ARGUMENT", "THIRD_PARTY_AUTH_ERROR", FCM_ERROR),
    *("Unregistered", "ExpiredToken", "BadTopic", "ExpiredProviderToken", "IdleTimeout", "TooManyProviderTokenUpdates"),
)
NAMES: Final = (
    *("error", "details", "errorCode", "status", "code", "message", "@type", "reason", "fieldViolations", "field"),
    *("name", "timestamp"),
)
SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([1e300, 1e308, -1e308, 10**400, float("inf"), float("nan"), 1_457_056_447_123]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(WORDS),
)
JSON: Final = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
FCM_BODIES: Final = st.one_of(
    JSON,
    st.fixed_dictionaries({"error": JSON}),
    st.fixed_dictionaries({"error": st.fixed_dictionaries({"details": JSON, "status": JSON})}),
    st.fixed_dictionaries(
        {"error": st.fixed_dictionaries({"details": st.lists(st.dictionaries(st.sampled_from(NAMES), JSON))})}
    ),
)
APNS_BODIES: Final = st.one_of(JSON, st.fixed_dictionaries({"reason": SCALARS | JSON, "timestamp": SCALARS | JSON}))
DEEP: Final = b"[" * 2_000
RAW: Final = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"[" * 10_000, b'{"error":' * 10_000, b"\xff", b'{"reason":"\xff"}', b"<html>"]),
)
DATES: Final = st.from_regex(r"\A[A-Z][a-z]{2}, ?[0-9]{1,5} [A-Z][a-z]{2} -?[0-9]{1,12} [0-9:]{1,9} [-+A-Z0-9]{1,9}\Z")
TOKEN_BODIES: Final = JSON | st.fixed_dictionaries(
    {
        "access_token": JSON | st.sampled_from(["a\r\nb", "\ud800", "", "x" * 20_000, "token"]),
        "expires_in": SCALARS,
        "token_type": SCALARS,
    }
)
KEYS: Final = st.dictionaries(
    st.sampled_from(["kty", "kid", "alg", "k", "n", "e", "x", "y", "crv", "use", "key_ops"]),
    SCALARS | JSON | st.sampled_from(["oct", "RSA", "EC", "OKP", "HS256", "RS256", "P-256", "Ed25519", "AQAB", "sig"]),
)
JWKS_BODIES: Final = JSON | st.fixed_dictionaries({"keys": JSON | st.lists(KEYS | JSON, max_size=3)})
RETRY_AFTER: Final = st.one_of(
    st.none(), st.text(max_size=40), DATES, st.integers().map(str), st.floats().map(str), st.just("9" * 5_000)
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def check(verdict: Verdict) -> None:
    """Check the bounds of each verdict: of the pause, and of the text that is logged and stored."""
    if isinstance(verdict, Retry):
        assert verdict.after_s is None or 0 <= verdict.after_s <= MAX_RETRY_AFTER_S
    if isinstance(verdict, Retry | Refused | Misconfigured | Unknown | RecipientGone):
        assert verdict.detail and len(verdict.detail) <= MAX_DETAIL and verdict.detail.isprintable()
    if isinstance(verdict, Sent):
        assert verdict.provider_id is None or len(verdict.provider_id) <= MAX_DETAIL


@given(STATUSES, RETRY_AFTER, FCM_BODIES.map(encoded) | RAW)
def test_any_response_of_fcm_has_a_verdict(status: int, retry_after: str | None, body: bytes) -> None:
    verdict = fcm_verdict_of(status, retry_after, body, NOW_US)

    check(verdict)
    assert is_token_rejected(status, body) in ((True, False) if status == 401 else (False,))
    assert isinstance(verdict, Sent) <= (status == 200)
    if isinstance(verdict, RecipientGone):
        assert status == 404 and b'"UNREGISTERED"' in body


@given(STATUSES, RETRY_AFTER, APNS_BODIES.map(encoded) | RAW)
def test_any_response_of_apns_has_a_verdict(status: int, retry_after: str | None, body: bytes) -> None:
    headers = {} if retry_after is None else {b"retry-after": retry_after.encode("utf-8", "replace")}
    response = ApnsResponse(status, headers, body)

    verdict = apns_verdict_of(response, push(), NOW_US)

    check(verdict)
    assert is_expired_token(response) in (True, False) and is_connection_spoiled(response) in (True, False)
    assert isinstance(verdict, Sent) == (status == 200)
    if isinstance(verdict, RecipientGone):
        assert status == 410
        assert verdict.since_us is None or 0 <= verdict.since_us <= NOW_US


@given(STATUSES, RETRY_AFTER)
def test_any_status_of_a_receiver_has_a_verdict(status: int, retry_after: str | None) -> None:
    channel = WebhookChannel(ManualClock(NOW_US))

    verdict = channel._verdict(status, retry_after)

    check(verdict)
    assert isinstance(verdict, Sent) == (200 <= status < 300)
    assert isinstance(verdict, RecipientGone) == (status == 410)


@given(STATUSES, TOKEN_BODIES.map(encoded) | RAW)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_of_the_token_endpoint_is_a_token_or_a_documented_error(
    tmp_path: Path, status: int, body: bytes
) -> None:
    """An exception would become an unknown outcome, and the push would be lost although nothing was sent."""

    async def fetch() -> None:
        fake = FakeFcm()
        await fake.start()
        fake.token_script = lambda: FakeResponse(max(200, status), body)
        credentials, _ = read_credentials(fake.credentials_file(tmp_path / "account.json"))
        tokens = AccessToken(credentials, ManualClock(NOW_US))
        try:
            assert re.fullmatch("[!-~]+", await tokens.get(20.0))
        except TokenUnavailable as error:
            assert str(error).isprintable() and len(str(error)) < MAX_DETAIL
        finally:
            await tokens.close()
            await fake.close()

    asyncio.run(fetch())


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br"])
async def test_compressed_answer_of_the_token_endpoint_is_refused_before_it_is_read(
    tmp_path: Path, encoding: str
) -> None:
    fake = FakeFcm()
    await fake.start()
    fake.token_script = lambda: FakeResponse(200, b"no gzip", {"content-encoding": encoding})
    credentials, _ = read_credentials(fake.credentials_file(tmp_path / "account.json"))
    tokens = AccessToken(credentials, ManualClock(NOW_US))
    try:
        with pytest.raises(TokenUnavailable, match=f"compressed \\('{encoding}'\\), although"):
            await tokens.get(20.0)
    finally:
        await tokens.close()
        await fake.close()


@given(JWKS_BODIES.map(encoded) | RAW)
def test_any_key_set_is_read_or_a_documented_error(body: bytes) -> None:
    with suppress(ValueError, RecursionError):
        keys, unusable = parse_jwks(body)

        assert all(isinstance(kid, str) for kid in [*keys, *unusable])


@given(RETRY_AFTER, st.sampled_from([0, NOW_US, 1 << 62]))
def test_any_retry_after_is_bounded_or_ignored(value: str | None, now_us: int) -> None:
    seconds = parse_retry_after(value, now_us)

    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    "details", [7, True, "UNREGISTERED", {"errorCode": "UNREGISTERED"}, [7], [[]], [{"reason": []}]]
)
def test_quota_of_fcm_is_retried_with_any_details(details: Any) -> None:
    body = encoded({"error": {"status": "RESOURCE_EXHAUSTED", "details": details}})

    assert isinstance(fcm_verdict_of(429, "7", body, NOW_US), Retry)


@pytest.mark.parametrize("status", [200, 302, 400, 403, 410, 429, 500, 503])
def test_unregistered_with_another_status_deletes_no_token(status: int) -> None:
    body = encoded({"error": {"details": [{"@type": FCM_ERROR, "errorCode": "UNREGISTERED"}]}})

    assert not isinstance(fcm_verdict_of(status, None, body, NOW_US), RecipientGone)


@pytest.mark.parametrize("timestamp", ["x", None, [], 1e308, -7, 10**30, 10**400])
def test_reason_of_apns_counts_with_any_timestamp(timestamp: Any) -> None:
    expired = ApnsResponse(403, {}, encoded({"reason": "ExpiredProviderToken", "timestamp": timestamp}))
    gone = ApnsResponse(410, {}, encoded({"reason": "Unregistered", "timestamp": timestamp}))

    assert is_expired_token(expired)
    assert isinstance(apns_verdict_of(gone, push(), NOW_US), RecipientGone)


@given(st.sampled_from(SmtpStep), st.integers(200, 999), RAW)
def test_any_reply_of_a_relay_has_a_verdict(step: SmtpStep, code: int, reply: bytes) -> None:
    """A reply in Latin-1 could not be stored: the e-mail stayed claimed, and was tried again after 15 minutes."""
    text = reply.decode("utf-8", "surrogateescape")  # as aiosmtplib decodes it

    verdicts = [rejected(step, code, text, ("secret",)), accepted(code, text)]

    for verdict in verdicts:
        check(verdict)
        msgspec.json.encode(verdict)


@pytest.mark.parametrize("line", ["x" * 8_000, "relay " * 1_300])
def test_long_reply_of_a_relay_takes_no_long_time(line: str) -> None:
    """Half a second of the only event loop, before the search was limited."""
    text = "\n".join([line] * 4)

    assert fastest(lambda: rejected(SmtpStep.RECIPIENT, 550, text, ())) < 0.02
    assert fastest(lambda: is_relay_denied(SmtpStep.RECIPIENT, 550, text)) < 0.02
