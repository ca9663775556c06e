"""The APNs channel: requests, and the verdict of each response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import jwt
import pytest

from gregor.clock import ManualClock, SystemClock
from gregor.dev.fakes.apns import ANY_TOKEN
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor.dev.fakes.keys import write_key
from gregor_delivery.channels.apns.channel import ApnsChannel, ApnsConfig
from gregor_delivery.channels.apns.token import PERIOD_S
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent
from gregor_delivery.decide.push_fold import collapse_hash
from tests.support.sample_pushes import push, withdrawal
from tests.unit.delivery.apns_harness import TOPIC, ApnsHarness, apns_harness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ApnsHarness]:
    async with apns_harness(tmp_path) as each:
        yield each


async def test_alert_headers_and_payload(harness: ApnsHarness) -> None:
    verdict = await harness.send(push(expires_us=1_457_402_098_900_000))

    [received] = harness.fake.received
    assert received.token == "a1b2c3"
    assert {name: received.headers[name] for name in received.headers if name.startswith("apns-")} == {
        "apns-topic": TOPIC,
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-collapse-id": "c0ffee",
        "apns-expiration": "1457402098",
        "apns-id": received.headers["apns-id"],
    }
    assert received.payload == {
        "aps": {
            "alert": {"title": "kbob just joined", "body": "You shared files with bob."},
            "sound": "default",
            "badge": 3,
        },
        "gregor": dict(push().data),
    }
    assert verdict == Sent("200", received.headers["apns-id"])


async def test_withdrawal_is_a_background_push(harness: ApnsHarness) -> None:
    await harness.send(withdrawal(badge=0))

    [received] = harness.fake.received
    assert (received.headers["apns-push-type"], received.headers["apns-priority"]) == ("background", "5")
    assert received.payload["aps"] == {"content-available": 1, "badge": 0}
    assert received.payload["gregor"]["withdraw"] == ["aa", "bb"]
    assert "apns-expiration" not in received.headers


async def test_topic_of_registration_overrides_the_setting(harness: ApnsHarness) -> None:
    await harness.send(push(topic="com.example.other"))

    assert harness.fake.received[0].headers["apns-topic"] == "com.example.other"


@pytest.mark.parametrize("topic", ["two words", "a\r\nb: c", "ü"])
async def test_topic_that_is_not_printable_is_refused(harness: ApnsHarness, topic: str) -> None:
    assert await harness.send(push(topic=topic)) == Refused(None, "BadTopic")
    assert harness.fake.received == []


async def test_device_token_is_escaped_in_the_path(harness: ApnsHarness) -> None:
    await harness.send(push(token="../x?y#z"))

    assert harness.fake.received[0].headers[":path"] == "/3/device/..%2Fx%3Fy%23z"


@pytest.mark.parametrize(
    "token",
    ["", "a b", "a\r\n", "\U0001f600" * 4_000, "\ud800", "a" * 513, {"endpoint": "https://push.example/1"}],
)
async def test_invalid_device_token_is_refused(harness: ApnsHarness, token: Any) -> None:
    assert await harness.send(push(token=token)) == Refused(None, "not an APNs token")
    assert harness.fake.received == []


async def test_headers_that_a_device_chooses_are_short(harness: ApnsHarness) -> None:
    """Apple accepts header lists of 8,000 bytes. Some servers end a connection with a longer one, for all its users."""
    await harness.send(push(token="/" * 512, topic="x" * 255, collapse_id=collapse_hash("x")))

    [received] = harness.fake.received
    assert sum(len(name) + len(value) + 32 for name, value in received.headers.items()) < 4_000


@pytest.mark.parametrize(
    ("act", "verdict"),
    [
        (
            ApnsAction(410, "Unregistered", timestamp_ms=1_457_056_447_123),
            RecipientGone("410", "Unregistered", 1_457_056_447_123_000),
        ),
        (ApnsAction(410, "ExpiredToken"), RecipientGone("410", "ExpiredToken")),
        (ApnsAction(400, "BadDeviceToken"), Refused("400", "BadDeviceToken")),
        (ApnsAction(400, "DeviceTokenNotForTopic"), Refused("400", "DeviceTokenNotForTopic")),
        (ApnsAction(413, "PayloadTooLarge"), Refused("413", "PayloadTooLarge")),
        (ApnsAction(404, "BadPath"), Refused("404", "BadPath")),
        (ApnsAction(405, is_empty=True), Refused("405", "405 without a reason")),
        (ApnsAction(400, "IdleTimeout"), Retry(None, "400", "IdleTimeout")),
        (ApnsAction(403, "InvalidProviderToken"), Misconfigured("403", "InvalidProviderToken")),
        (ApnsAction(403, "ExpiredProviderToken"), Misconfigured("403", "ExpiredProviderToken")),
        (ApnsAction(403, "BadCertificateEnvironment"), Misconfigured("403", "BadCertificateEnvironment")),
        (ApnsAction(403, "Forbidden"), Misconfigured("403", "Forbidden")),
        (ApnsAction(403, is_empty=True), Misconfigured("403", "403 without a reason")),
        (ApnsAction(400, "TopicDisallowed"), Misconfigured("400", "TopicDisallowed")),
        (ApnsAction(429, "TooManyRequests"), Retry(None, "429", "TooManyRequests")),
        (ApnsAction(429, "TooManyRequests", retry_after="30"), Retry(30, "429", "TooManyRequests")),
        (ApnsAction(429, "TooManyProviderTokenUpdates"), Retry(1_200, "429", "TooManyProviderTokenUpdates")),
        (ApnsAction(500, "InternalServerError"), Retry(None, "500", "InternalServerError")),
        (ApnsAction(503, "ServiceUnavailable", retry_after="120"), Retry(120, "503", "ServiceUnavailable")),
        (ApnsAction(503, "Shutdown", retry_after="soon"), Retry(None, "503", "Shutdown")),
        (ApnsAction(418, "Teapot"), Refused("418", "Teapot")),
    ],
)
async def test_verdict_of_each_response(harness: ApnsHarness, act: ApnsAction, verdict: Any) -> None:
    assert await harness.send_with_action(act) == verdict
    assert len(harness.fake.received) == 1


async def test_retry_after_may_be_a_date(harness: ApnsHarness) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)

    verdict = await harness.send_with_action(ApnsAction(503, "ServiceUnavailable", retry_after=later))

    assert isinstance(verdict, Retry)
    assert verdict.after_s == pytest.approx(90, abs=5)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("TopicDisallowed", {"topic": "com.example.mine"}),
        ("BadCertificateEnvironment", {"sandbox": True}),
        ("BadEnvironmentKeyIdInToken", {"sandbox": True}),
    ],
)
async def test_bad_registration_does_not_stop_the_channel(
    harness: ApnsHarness, reason: str, change: dict[str, Any]
) -> None:
    assert await harness.send_with_action(ApnsAction(400, reason), push(**change)) == Refused("400", reason)


async def test_key_of_another_environment_keeps_the_connection(harness: ApnsHarness) -> None:
    """A device chooses its environment, and Apple treats many connections in a short time as an attack."""
    for _ in range(3):
        await harness.send_with_action(ApnsAction(403, "BadEnvironmentKeyIdInToken"), push(sandbox=True))

    assert harness.fake.connections == 1


async def test_shutdown_drains_the_connection(harness: ApnsHarness) -> None:
    await harness.send_with_action(ApnsAction(503, "Shutdown"))

    assert isinstance(await harness.send(), Sent)
    assert harness.fake.connections == 2


async def test_provider_token_is_valid(harness: ApnsHarness) -> None:
    await harness.send()

    token = harness.fake.received[0].headers["authorization"].removeprefix("bearer ")
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "KEY1", "typ": "JWT"}
    assert set(jwt.decode(token, options={"verify_signature": False})) == {"iss", "iat"}


def clock_at_period_start() -> ManualClock:
    """Return a clock at the start of a token period."""
    now_us = SystemClock().now_us()
    return ManualClock(now_us - now_us % (PERIOD_S * 1_000_000))


async def test_provider_token_is_renewed_before_it_expires(tmp_path: Path) -> None:
    clock = clock_at_period_start()
    async with apns_harness(tmp_path, clock) as harness:
        await harness.send()
        clock.advance(44 * 60)
        await harness.send()
        assert len(harness.fake.provider_tokens) == 1

        clock.advance(2 * 60)
        harness.fake.clock_ahead_s = 46 * 60
        assert isinstance(await harness.send(), Sent)
        assert len(harness.fake.provider_tokens) == 2


async def test_expired_provider_token_is_renewed_and_resent(tmp_path: Path) -> None:
    clock = clock_at_period_start()
    async with apns_harness(tmp_path, clock) as harness:
        await harness.send()
        clock.advance(25 * 60)
        harness.fake.clock_ahead_s = 25 * 60
        harness.fake.script(ANY_TOKEN, *[ApnsAction(403, "ExpiredProviderToken")] * 3)

        verdicts = await asyncio.gather(*(harness.send() for _ in range(3)))

        assert {type(each) for each in verdicts} == {Sent}
        assert len(harness.fake.delivered()) == 4
        assert len(harness.fake.provider_tokens) == 2


async def test_fresh_token_reported_expired_is_not_renewed(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, clock_ahead_s=2 * 3_600.0) as harness:
        assert await harness.send() == Misconfigured("403", "ExpiredProviderToken")
        assert len(harness.fake.provider_tokens) == 1


async def test_unknown_key_is_misconfigured(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, config={"key_id": "OTHER"}) as harness:
        assert await harness.send() == Misconfigured("403", "InvalidProviderToken")


async def test_client_certificate_replaces_the_token(tmp_path: Path) -> None:
    async with apns_harness(tmp_path) as harness:
        certificate = harness.fake.authority.issue("push-client")
        config = replace(harness.config, key_file=None, key_id=None, team_id=None, cert_file=certificate)
        channel = ApnsChannel(config)
        await channel.open()

        assert isinstance(await channel.send(push(), 5), Sent)
        assert "authorization" not in harness.fake.received[0].headers
        await channel.close()


async def test_check_reaches_no_device(harness: ApnsHarness) -> None:
    assert await harness.channel.check() is None
    assert (harness.fake.connections, len(harness.fake.received), harness.fake.delivered()) == (1, 1, [])


async def test_check_reports_a_rejected_key(tmp_path: Path, harness: ApnsHarness) -> None:
    harness.fake.keys["KEY1"] = write_key(tmp_path / "other.p8")

    said = await harness.channel.check()

    assert said is not None
    assert said.startswith("APNs rejects the credentials: InvalidProviderToken; check key")


async def test_check_reports_a_missing_topic(harness: ApnsHarness) -> None:
    assert await ApnsChannel(replace(harness.config, topic=None)).check() == (
        "GREGOR_APNS_TOPIC is not set: devices without a topic in their registration get no push"
    )
    await harness.fake.close()
    said = await ApnsChannel(harness.config).check()
    assert said is not None
    assert said.startswith("APNs cannot be reached: cannot connect")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key_file": None}, "either GREGOR_APNS_KEY_FILE or GREGOR_APNS_CERT_FILE"),
        ({"cert_file": Path("both.pem")}, "either GREGOR_APNS_KEY_FILE or GREGOR_APNS_CERT_FILE"),
        ({"key_id": None}, "needs GREGOR_APNS_KEY_ID"),
        ({"team_id": ""}, "GREGOR_APNS_TEAM_ID"),
        ({"key_file": Path("missing.p8")}, "missing.p8 cannot be read"),
        ({"key_file": Path(__file__)}, "not a P-256 private key"),
        ({"key_file": None, "cert_file": Path(__file__)}, "GREGOR_APNS_CERT_FILE"),
        ({"ca_file": Path(__file__)}, "GREGOR_APNS_CA_FILE"),
        ({"url": "apns.example:443"}, "GREGOR_APNS_URL"),
    ],
)
async def test_invalid_credentials_name_their_setting(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_key(tmp_path / "key.p8")
    config = ApnsConfig(key_file=tmp_path / "key.p8", key_id="K", team_id="T", topic=TOPIC)

    with pytest.raises(ValueError, match=said):
        await ApnsChannel(replace(config, **change)).open()


async def test_repr_of_a_push_hides_the_token() -> None:
    assert "a1b2c3" not in repr(push())
