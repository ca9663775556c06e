"""The webhook channel against a strict receiver: signature, SSRF guard, and the verdict of each response."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gregor.clock import ManualClock
from gregor.core.notify.webhook_signature import encode_secret
from gregor.dev.fakes.http1 import FakeResponse, ServerFault
from gregor.dev.fakes.tls import CertificateAuthority
from gregor.dev.fakes.webhook import FakeWebhookReceiver
from gregor_delivery.channels.contract import WebhookCall
from gregor_delivery.channels.verdict import RecipientGone, Refused, Retry, Sent, Verdict
from gregor_delivery.channels.webhook import WebhookChannel
from tests.support.wait import wait_until

NOW_US = 1_457_056_447_000_000
SECRET, OLD = encode_secret(b"s" * 32), encode_secret(b"o" * 32)
CALL = WebhookCall("audit", "", (SECRET,), "evt-1", b'{"type":"item.dismissed"}')


@dataclass
class WebhookChannelHarness:
    """One channel that may call this machine, the receiver, and the clock of both."""

    channel: WebhookChannel
    receiver: FakeWebhookReceiver
    clock: ManualClock

    async def call(self, call_id: str = "evt-1", deadline_s: float = 5.0) -> Verdict:
        return await self.channel.send(replace(CALL, url=self.receiver.url, call_id=call_id), deadline_s)

    async def send_with_response(self, answer: FakeResponse | ServerFault, deadline_s: float = 5.0) -> Verdict:
        self.receiver.answers.append(answer)
        return await self.call(deadline_s=deadline_s)


@pytest.fixture
async def harness() -> AsyncIterator[WebhookChannelHarness]:
    clock = ManualClock(NOW_US)
    receiver = FakeWebhookReceiver(SECRET, clock.now_us)
    await receiver.start()
    channel = WebhookChannel(clock, is_loopback_allowed=True)
    await channel.open()
    yield WebhookChannelHarness(channel, receiver, clock)
    await channel.close()
    await receiver.close()


async def test_signed_calls_reuse_the_connection(harness: WebhookChannelHarness) -> None:
    verdicts = [await harness.call("evt-1"), await harness.call("evt-2")]

    assert verdicts == [Sent("204"), Sent("204")]
    assert harness.receiver.events == {key: {"type": "item.dismissed"} for key in ("evt-1", "evt-2")}
    assert harness.receiver.calls[0].headers["content-type"] == "application/json"
    assert harness.receiver.server.connections == 1


async def test_retry_has_the_same_id_and_a_new_timestamp(harness: WebhookChannelHarness) -> None:
    await harness.send_with_response(FakeResponse(500))
    harness.clock.advance(3_600)
    await harness.call()

    ids, times = zip(
        *((c.headers["webhook-id"], c.headers["webhook-timestamp"]) for c in harness.receiver.calls), strict=True
    )
    assert ids == ("evt-1", "evt-1")
    assert int(times[1]) - int(times[0]) == 3_600
    assert list(harness.receiver.events) == ["evt-1"]


async def test_rotation_signs_with_both_secrets(harness: WebhookChannelHarness) -> None:
    both = replace(CALL, url=harness.receiver.url, secrets=(OLD, SECRET))

    assert isinstance(await harness.channel.send(both, 5.0), Sent)
    assert isinstance(await harness.channel.send(replace(both, secrets=(OLD,)), 5.0), Retry)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (FakeResponse(200, b"ok"), Sent("200")),
        (FakeResponse(202), Sent("202")),
        (FakeResponse(200, b"x" * 100_000), Sent("200")),
        (FakeResponse(410), RecipientGone("410", "the receiver answered 410 Gone")),
        (FakeResponse(429, headers={"retry-after": "17"}), Retry(17.0, "429", "answered 429")),
        (
            FakeResponse(503, headers={"retry-after": "Fri, 04 Mar 2016 01:54:37 GMT"}),
            Retry(30.0, "503", "answered 503"),
        ),
        (FakeResponse(500), Retry(None, "500", "answered 500")),
        (FakeResponse(404), Retry(None, "404", "answered 404")),
        (FakeResponse(302, headers={"location": "http://127.0.0.1:1/"}), Retry(None, "302", "answered 302")),
        (ServerFault.DROP, Retry(None, None, "not reached: RemoteProtocolError", is_unanswered=True)),
        (ServerFault.HALF, Sent("200")),
    ],
)
async def test_verdict_of_each_response(
    harness: WebhookChannelHarness, answer: FakeResponse | ServerFault, verdict: Verdict
) -> None:
    assert await harness.send_with_response(answer) == verdict
    assert len(harness.receiver.calls) == 1


async def test_hanging_endpoint_is_retried(harness: WebhookChannelHarness) -> None:
    harness.receiver.answers.append(ServerFault.HANG)

    slow = asyncio.create_task(harness.call("slow", deadline_s=2))
    await wait_until(lambda: harness.receiver.calls, "the call that gets no answer")
    quick = await asyncio.gather(*(harness.call(f"quick-{n}", deadline_s=30) for n in range(10)))

    assert quick == [Sent("204")] * 10
    assert await slow == Retry(None, None, "no response before the deadline", is_unanswered=True)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://127.0.0.1/",
            "https://localhost/",
            "https://[::1]/",
            "https://10.0.0.1/",
            "https://169.254.169.254/",
        ),
        *("https://[::ffff:127.0.0.1]/", "https://192.168.1.1:8443/", "https://0.0.0.0/", "http://example.com/"),
    ],
)
async def test_private_addresses_are_refused(url: str) -> None:
    channel = WebhookChannel(ManualClock(NOW_US))
    await channel.open()

    verdict = await channel.send(replace(CALL, url=url), 5.0)
    await channel.close()

    assert isinstance(verdict, Refused)


async def test_loopback_is_allowed_for_development(harness: WebhookChannelHarness) -> None:
    verdict = await harness.channel.send(replace(CALL, url="https://10.0.0.1/"), 5.0)

    assert verdict == Refused(None, "the URL does not resolve to a public address")


async def test_untrusted_certificate_is_retried(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    receiver = FakeWebhookReceiver(SECRET, lambda: NOW_US, authority.server_context())
    await receiver.start()
    call = replace(CALL, url=receiver.url)
    verdicts = []
    for context in (None, ssl.create_default_context(cafile=authority.ca_file)):
        channel = WebhookChannel(ManualClock(NOW_US), is_loopback_allowed=True, context=context)
        await channel.open()
        verdicts.append(await channel.send(call, 5.0))
        await channel.close()
    await receiver.close()

    assert verdicts == [Retry(None, None, "not reached: the certificate is not trusted"), Sent("204")]


async def test_invalid_secret_is_refused(harness: WebhookChannelHarness) -> None:
    verdict = await harness.channel.send(replace(CALL, url=harness.receiver.url, secrets=("whsec_hunter2!",)), 5.0)

    assert isinstance(verdict, Refused)
    assert "hunter2" not in verdict.detail
    assert harness.receiver.calls == []


async def test_close_waits_for_calls_in_flight(harness: WebhookChannelHarness) -> None:
    harness.receiver.answers.append(FakeResponse(200, delay_s=0.2))
    calling = asyncio.create_task(harness.call())
    await wait_until(lambda: harness.receiver.calls, "the call is on its way")

    await harness.channel.close()

    assert calling.done()
    assert calling.result() == Sent("200")
    await harness.channel.open()
