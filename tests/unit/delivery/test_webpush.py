"""The Web Push channel against its fake: messages, verdicts, and refused endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gregor.auth.vapid import VapidKey
from gregor.clock import ManualClock, SystemClock
from gregor.dev.fakes.http1 import FakeResponse, ServerFault
from gregor.dev.fakes.keys import write_key
from gregor.dev.fakes.tls import CertificateAuthority
from gregor.dev.fakes.webpush import FakeWebPush
from gregor_delivery.channels.verdict import RecipientGone, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.channels.webpush.channel import MAX_TTL_S, WebPushChannel, WebPushConfig, topic_for
from tests.support.sample_pushes import NOW_US, push, withdrawal
from tests.support.wait import wait_until

SUBJECT = "mailto:ops@keybase.io"


@dataclass
class WebPushHarness:
    """One channel, its service, and the subscription of one browser."""

    channel: WebPushChannel
    fake: FakeWebPush
    token: dict[str, Any]
    key: VapidKey

    async def send(self, deadline_s: float = 5.0, **changes: Any) -> Verdict:
        return await self.channel.send(push(**{"token": self.token, **changes}), deadline_s)

    async def send_with_response(self, answer: FakeResponse | ServerFault, deadline_s: float = 5.0) -> Verdict:
        self.fake.script("firefox", answer)
        return await self.send(deadline_s)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[WebPushHarness]:
    fake = FakeWebPush(CertificateAuthority(tmp_path))
    await fake.start()
    write_key(tmp_path / "vapid.pem")
    config = WebPushConfig(tmp_path / "vapid.pem", SUBJECT, (fake.host,), fake.authority.ca_file)
    channel = WebPushChannel(config, ManualClock(NOW_US), SystemClock())
    await channel.open()
    key = VapidKey.read(tmp_path / "vapid.pem", SUBJECT)
    yield WebPushHarness(channel, fake, fake.subscribe("firefox", key.public_key), key)
    await channel.close()
    await fake.close()


async def test_browser_receives_the_payload(harness: WebPushHarness) -> None:
    assert await harness.send() == Sent("201")

    [received] = harness.fake.received
    assert received.message == {
        "title": "kbob just joined",
        "body": "You shared files with bob.",
        "gregor": dict(push().data),
    }
    assert received.headers["content-encoding"] == "aes128gcm"
    assert received.topic == "c0ffee"


async def test_largest_push_is_accepted(harness: WebPushHarness) -> None:
    assert isinstance(await harness.send(text="x" * 10_000), Sent)
    assert len(harness.fake.requests[0][0].body) == 4_096


async def test_encryption_is_fresh_for_each_message(harness: WebPushHarness) -> None:
    await asyncio.gather(harness.send(), harness.send())

    heads = [request.body[:86] for request, _ in harness.fake.requests]
    assert heads[0][:16] != heads[1][:16]
    assert heads[0][21:] != heads[1][21:]


@pytest.mark.parametrize(
    ("expires_us", "ttl"),
    [(None, MAX_TTL_S), (NOW_US + 90_500_000, 90), (NOW_US - 1, 0), (NOW_US + 10**15, MAX_TTL_S)],
)
async def test_ttl_follows_the_expiry(harness: WebPushHarness, expires_us: int | None, ttl: int) -> None:
    await harness.send(expires_us=expires_us)

    assert harness.fake.received[0].headers["ttl"] == str(ttl)


async def test_urgency_header(harness: WebPushHarness) -> None:
    for message in (push(), push(urgent=True), withdrawal()):
        await harness.send(kind=message.kind, urgent=message.urgent)

    assert [each.headers["urgency"] for each in harness.fake.received] == ["normal", "high", "low"]


def test_invalid_topic_is_hashed() -> None:
    assert topic_for("abc_DEF-123") == "abc_DEF-123"
    assert topic_for("a" * 32) == "a" * 32
    hashed = [topic_for("a" * 33), topic_for("a" * 34), topic_for("a.b"), topic_for("")]
    assert [len(each) for each in hashed] == [32] * 4
    assert len(set(hashed)) == 4


async def test_collapse_id_replaces_the_message(harness: WebPushHarness) -> None:
    await harness.send(title="1 new")
    await harness.send(title="2 new")

    assert [each["title"] for each in harness.fake.visible("firefox").values()] == ["2 new"]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (FakeResponse(200), Sent("200")),
        (FakeResponse(202), Sent("202")),
        (FakeResponse(404), RecipientGone("404", "the subscription is gone")),
        (FakeResponse(410), RecipientGone("410", "the subscription is gone")),
        (FakeResponse(413), Refused("413", "too large")),
        (FakeResponse(400), Refused("400", "answered 400")),
        (FakeResponse(401), Retry(None, "401", "localhost rejects the VAPID key")),
        (FakeResponse(403), Retry(None, "403", "localhost rejects the VAPID key")),
        (FakeResponse(429), Retry(None, "429", "throttled or unavailable")),
        (FakeResponse(429, headers={"Retry-After": "7"}), Retry(7, "429", "throttled or unavailable")),
        (FakeResponse(500, b"x" * 40_000), Retry(None, "500", "throttled or unavailable")),
        (
            FakeResponse(503, headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
            Retry(0, "503", "throttled or unavailable"),
        ),
    ],
)
async def test_verdict_of_each_response(harness: WebPushHarness, answer: FakeResponse, verdict: Verdict) -> None:
    assert await harness.send_with_response(answer) == verdict
    assert len(harness.fake.requests) == 1


async def test_redirect_is_not_followed(harness: WebPushHarness) -> None:
    away = FakeResponse(307, headers={"Location": harness.token["endpoint"]})

    assert await harness.send_with_response(away) == Refused("307", "answered 307")
    assert len(harness.fake.requests) == 1


async def test_subscription_of_another_key_is_refused(harness: WebPushHarness) -> None:
    await harness.send()
    other = harness.fake.subscribe("stranger", "another-key")

    verdict = await harness.send(token=other)

    assert verdict == Refused("403", "the subscription was made for another key")
    assert isinstance(await harness.send(), Sent)


async def test_expired_subscription_is_gone(harness: WebPushHarness) -> None:
    harness.fake.unsubscribe("firefox")

    assert isinstance(await harness.send(), RecipientGone)


@pytest.mark.parametrize("fault", [ServerFault.HANG, ServerFault.DROP])
async def test_missing_response_is_unknown(harness: WebPushHarness, fault: ServerFault) -> None:
    assert isinstance(await harness.send_with_response(fault, deadline_s=0.2), Unknown)
    assert len(harness.fake.requests) == 1
    assert isinstance(await harness.send(), Sent)


async def test_truncated_response_body_is_a_response(harness: WebPushHarness) -> None:
    assert isinstance(await harness.send_with_response(ServerFault.HALF), Sent)


async def test_unreachable_service_is_retried(harness: WebPushHarness) -> None:
    await harness.fake.close()

    verdict = await harness.send()

    assert isinstance(verdict, Retry)
    assert verdict.status is None


async def test_untrusted_certificate_is_retried(tmp_path: Path, harness: WebPushHarness) -> None:
    channel = WebPushChannel(WebPushConfig(tmp_path / "vapid.pem", SUBJECT, (harness.fake.host,)), SystemClock())
    await channel.open()

    verdict = await channel.send(push(token=harness.token), 5)

    assert verdict == Retry(None, None, "cannot connect: the certificate is not trusted")
    assert harness.fake.requests == []
    await channel.close()


async def test_hanging_service_does_not_delay_others(harness: WebPushHarness) -> None:
    harness.fake.script("firefox", *[ServerFault.HANG] * 20)
    other = harness.fake.subscribe("chrome", harness.key.public_key)
    hanging = [asyncio.create_task(harness.send(4)) for _ in range(20)]
    await wait_until(lambda: len(harness.fake.requests) == 20, "all hang")

    assert isinstance(await harness.send(token=other), Sent)
    assert not any(each.done() for each in hanging)
    assert {type(each) for each in await asyncio.gather(*hanging)} == {Unknown}


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://elsewhere.example/push/1",
        "http://localhost/push/1",
        "https://localhost/push/1",
        "https://127.0.0.1/push/1",
        "https://[::1]/push/1",
        "https://a:b@localhost/push/1",
        "https://localhost\r\n.example/",
        "",
    ],
)
async def test_endpoint_of_unlisted_host_is_refused(harness: WebPushHarness, endpoint: str) -> None:
    verdict = await harness.send(token={**harness.token, "endpoint": endpoint})

    assert verdict == Refused(None, "the endpoint's host is not in GREGOR_WEBPUSH_HOSTS")
    assert harness.fake.connections == 0


async def test_endpoint_of_a_host_with_a_dot_at_its_end_is_refused(harness: WebPushHarness) -> None:
    """It names the same host, but certificates are not valid for it: the push would fail again and again."""
    endpoint = harness.token["endpoint"].replace("localhost", "localhost.")
    verdict = await harness.send(token={**harness.token, "endpoint": endpoint})

    assert verdict == Refused(None, "the endpoint's host is not in GREGOR_WEBPUSH_HOSTS")
    assert harness.fake.connections == 0


async def test_listed_host_with_private_address_is_refused(tmp_path: Path, harness: WebPushHarness) -> None:
    config = WebPushConfig(tmp_path / "vapid.pem", SUBJECT, ("localhost",))
    channel = WebPushChannel(config, SystemClock())
    await channel.open()

    verdict = await channel.send(push(token={**harness.token, "endpoint": "https://localhost/push/firefox"}), 5)

    assert verdict == Refused(None, "the endpoint does not resolve to a public address")
    await channel.close()


@pytest.mark.parametrize(
    "token",
    [
        "a text",
        {},
        {"endpoint": "https://localhost/1"},
        {"endpoint": "https://localhost/1", "keys": {"p256dh": "AAAA", "auth": "AAAA"}},
        {"endpoint": "https://localhost/1", "keys": {"p256dh": "!", "auth": None}},
    ],
)
async def test_invalid_subscription_is_refused(harness: WebPushHarness, token: Any) -> None:
    assert await harness.send(token=token) == Refused(None, "not a Web Push subscription")


async def test_close_waits_for_requests_in_flight(harness: WebPushHarness) -> None:
    harness.fake.script("firefox", FakeResponse(201, delay_s=0.1))
    slow = asyncio.create_task(harness.send())
    await wait_until(lambda: harness.fake.requests, "it is in flight")

    await harness.channel.close()

    assert isinstance(await slow, Sent)


async def test_check_reads_the_key(tmp_path: Path, harness: WebPushHarness) -> None:
    assert await harness.channel.check() is None
    (tmp_path / "vapid.pem").write_text("nothing")
    said = await WebPushChannel(WebPushConfig(tmp_path / "vapid.pem", SUBJECT), SystemClock()).check()
    assert said is not None
    assert "GREGOR_VAPID_KEY_FILE" in said


async def test_open_checks_the_subject(tmp_path: Path) -> None:
    write_key(tmp_path / "vapid.pem")

    def channel(subject: str) -> WebPushChannel:
        return WebPushChannel(WebPushConfig(tmp_path / "vapid.pem", subject), SystemClock())

    for subject in ("", "http://keybase.io", "mailto:<a@keybase.io>"):
        with pytest.raises(ValueError, match="GREGOR_VAPID_SUBJECT"):
            await channel(subject).open()
    for subject, warnings in (("mailto:ops@localhost", 1), ("mailto:ops@keybase.io", 0)):
        with capture_logs() as lines:
            await channel(subject).open()
        assert [line["event"] for line in lines] == ["webpush.private_subject"] * warnings
