"""The FCM channel against its fake: requests, verdicts, and the failures that pyfcm handles badly."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from gregor.clock import ManualClock
from gregor.dev.fakes.fcm import EMAIL, PROJECT, FakeFcm, error, quota_exceeded, unavailable, unregistered
from gregor.dev.fakes.http1 import FakeResponse, ServerFault
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.fcm import google_token
from gregor_delivery.channels.fcm.channel import FcmChannel, apns_config, messages_url
from gregor_delivery.channels.fcm.google_token import MAX_ANSWER_BYTES, RENEW_BEFORE_S, read_credentials
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.worker import MAX_IN_FLIGHT
from tests.support.machine import Waiting
from tests.support.wait import wait_until

NOW_US = 1_457_056_447_000_000
PUSH = PushMessage(
    uid="alice",
    device="phone",
    token="device-token-1",
    topic=None,
    sandbox=False,
    kind="alert",
    title="Bob joined",
    text="You shared files with bob.",
    sound="default",
    badge=3,
    collapse_id="c0ffee",
    expires_us=NOW_US + 90_000_000,
    urgent=False,
    data={"v": 1, "uid": "alice", "kind": "item", "id": "aa", "badge": 3},
)


@dataclass
class FcmHarness:
    """One channel, its fake server, and the clock of both."""

    channel: FcmChannel
    fake: FakeFcm
    clock: ManualClock
    file: Path

    async def send(self, push: PushMessage = PUSH, deadline_s: float = 5.0) -> Verdict:
        return await self.channel.send(push, deadline_s)

    async def send_with_response(self, *answers: FakeResponse | ServerFault) -> Verdict:
        self.fake.answers.extend(answers)
        return await self.send(deadline_s=1.0)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[FcmHarness]:
    fake = FakeFcm()
    await fake.start()
    clock = ManualClock(NOW_US)
    file = fake.credentials_file(tmp_path / "account.json")
    channel = FcmChannel(file, clock, fake.url)
    await channel.open()
    yield FcmHarness(channel, fake, clock, file)
    await channel.close()
    await fake.close()


async def test_alert_message(harness: FcmHarness) -> None:
    verdict = await harness.send()

    assert verdict == Sent("200", f"projects/{PROJECT}/messages/0:1")
    assert harness.fake.accepted == [
        {
            "token": "device-token-1",
            "notification": {"title": "Bob joined", "body": "You shared files with bob."},
            "data": {"gregor": json.dumps(dict(PUSH.data), separators=(",", ":"))},
            "android": {
                "collapse_key": "c0ffee",
                "priority": "HIGH",
                "ttl": "90s",
                "notification": {"tag": "c0ffee", "sound": "default", "notification_count": 3},
            },
            "apns": apns_config(PUSH),
        }
    ]


async def test_background_message_is_data_only(harness: FcmHarness) -> None:
    await harness.send(replace(PUSH, kind="background", title="", text="", expires_us=None))

    message = harness.fake.accepted[0]
    assert "notification" not in message
    assert message["android"] == {"priority": "NORMAL"}
    assert json.loads(message["data"]["gregor"])["kind"] == "item"


async def test_ttl_is_clamped(harness: FcmHarness) -> None:
    await harness.send(replace(PUSH, expires_us=NOW_US - 5))
    await harness.send(replace(PUSH, expires_us=NOW_US + 400 * 86_400_000_000))

    assert [m["android"]["ttl"] for m in harness.fake.accepted] == ["0s", f"{28 * 86_400}s"]


async def test_long_text_is_truncated(harness: FcmHarness) -> None:
    verdict = await harness.send(replace(PUSH, text="ò" * 5_000))

    assert isinstance(verdict, Sent)


async def test_collapse_id_replaces_the_notification(harness: FcmHarness) -> None:
    await harness.send()
    await harness.send(replace(PUSH, title="Bob and Eve joined"))

    assert [m["notification"]["title"] for m in harness.fake.shown().values()] == ["Bob and Eve joined"]


# --- failures that pyfcm handles badly ---


async def test_retry_after_is_returned_without_sleeping(harness: FcmHarness) -> None:
    begun = time.monotonic()

    assert await harness.send_with_response(unavailable("30")) == Retry(30.0, "503", "UNAVAILABLE")
    assert await harness.send_with_response(quota_exceeded("7")) == Retry(7.0, "429", "QUOTA_EXCEEDED")

    assert time.monotonic() - begun < 5
    assert harness.fake.count == 2


async def test_retry_after_may_be_an_http_date(harness: FcmHarness) -> None:
    at = datetime.fromtimestamp(NOW_US / 1e6 + 45, UTC)

    verdict = await harness.send_with_response(unavailable(format_datetime(at, usegmt=True)))

    assert verdict == Retry(45.0, "503", "UNAVAILABLE")


async def test_quota_without_retry_after_waits_a_minute(harness: FcmHarness) -> None:
    assert await harness.send_with_response(quota_exceeded()) == Retry(60.0, "429", "QUOTA_EXCEEDED")


async def test_overload_is_one_request_per_attempt(harness: FcmHarness) -> None:
    harness.fake.script = lambda _message: unavailable()

    verdicts = [await harness.send() for _ in range(3)]

    assert verdicts == [Retry(None, "503", "UNAVAILABLE")] * 3
    assert harness.fake.count == 3


async def test_missing_response_is_unknown(harness: FcmHarness) -> None:
    harness.fake.answers.append(ServerFault.HANG)

    verdict = await harness.send(deadline_s=0.3)

    assert isinstance(verdict, Unknown)
    assert len(harness.fake.requests) == 1


async def test_no_push_waits_for_a_connection(harness: FcmHarness) -> None:
    """Otherwise it would count as one that could not reach FCM, and one hanging device would open the breaker."""
    await harness.send()
    harness.fake.answers += [ServerFault.HANG] * MAX_IN_FLIGHT

    verdicts = await asyncio.gather(*(harness.send(deadline_s=2.0) for _ in range(MAX_IN_FLIGHT)))

    assert {type(each) for each in verdicts} == {Unknown}


async def test_late_response_is_ignored(harness: FcmHarness) -> None:
    harness.fake.script = lambda m: FakeResponse(200, b'{"name":"x"}', delay_s=1.2 if m["token"] == "slow" else 0.0)

    await harness.send(replace(PUSH, token="first"))

    slow, *quick = await asyncio.gather(
        harness.send(replace(PUSH, token="slow"), deadline_s=0.8),
        *(harness.send(replace(PUSH, token=f"quick-{n}")) for n in range(20)),
    )

    assert isinstance(slow, Unknown)
    assert quick == [Sent("200", "x")] * 20
    assert len(harness.fake.requests) == 22


@pytest.mark.parametrize("fault", [ServerFault.DROP, ServerFault.HALF])
async def test_dropped_connection_is_unknown(harness: FcmHarness, fault: ServerFault) -> None:
    assert isinstance(await harness.send_with_response(fault), Unknown)
    assert len(harness.fake.requests) == 1
    assert isinstance(await harness.send(), Sent)


async def test_only_unregistered_is_gone(harness: FcmHarness) -> None:
    assert await harness.send_with_response(unregistered()) == RecipientGone("404", "UNREGISTERED")
    assert await harness.send_with_response(error(404, "NOT_FOUND")) == Misconfigured("404", "NOT_FOUND")
    assert isinstance(await harness.send_with_response(FakeResponse(404, b"<html>")), Misconfigured)


async def test_wrong_project_is_misconfigured(harness: FcmHarness, tmp_path: Path) -> None:
    file = harness.fake.credentials_file(tmp_path / "other.json", project_id="somebody-elses")
    channel = FcmChannel(file, harness.clock, harness.fake.url)
    await channel.open()

    verdict = await channel.send(PUSH, 5.0)
    await channel.close()

    assert verdict == Misconfigured("404", "NOT_FOUND")


async def test_sender_id_mismatch_and_disabled_api(harness: FcmHarness) -> None:
    mismatch = error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH")
    disabled = error(403, "PERMISSION_DENIED", reason="SERVICE_DISABLED")

    assert await harness.send_with_response(mismatch) == Refused("403", "SENDER_ID_MISMATCH")
    assert await harness.send_with_response(disabled) == Misconfigured("403", "PERMISSION_DENIED SERVICE_DISABLED")


async def test_third_party_auth_error_is_refused(harness: FcmHarness) -> None:
    verdict = await harness.send_with_response(error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"))

    assert verdict == Refused("401", "THIRD_PARTY_AUTH_ERROR")
    assert (harness.fake.count, harness.fake.token_fetches) == (1, 1)


async def test_invalid_argument_names_the_field(harness: FcmHarness) -> None:
    verdict = await harness.send_with_response(
        error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", fieldViolations=[{"field": "message.token"}])
    )

    assert verdict == Refused("400", "INVALID_ARGUMENT message.token")


async def test_proxy_page_is_not_a_receipt(harness: FcmHarness) -> None:
    assert isinstance(await harness.send_with_response(FakeResponse(200, b"")), Unknown)
    assert isinstance(await harness.send_with_response(FakeResponse(200, b"<html>")), Unknown)
    assert isinstance(await harness.send_with_response(FakeResponse(502, b"<html>")), Unknown)
    assert isinstance(
        await harness.send_with_response(FakeResponse(302, b"", {"location": "http://127.0.0.1:1/"})), Misconfigured
    )


async def test_verdict_omits_the_message_text(harness: FcmHarness) -> None:
    body = b'{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"device-token-1 is bad"}}'

    assert "device-token-1" not in repr(await harness.send_with_response(FakeResponse(400, body)))


async def test_unreachable_server_is_retried(harness: FcmHarness) -> None:
    channel = FcmChannel(harness.file, harness.clock, "http://127.0.0.1:1")
    await channel.open()

    verdict = await channel.send(PUSH, 1.0)
    await channel.close()

    assert isinstance(verdict, Retry)
    assert verdict.status is None


# --- the access token ---


async def test_concurrent_sends_share_one_access_token(harness: FcmHarness) -> None:
    verdicts = await asyncio.gather(*(harness.send(replace(PUSH, token=f"t{n}")) for n in range(50)))

    assert all(isinstance(verdict, Sent) for verdict in verdicts)
    assert harness.fake.token_fetches == 1


async def test_rejected_access_token_is_renewed_once(harness: FcmHarness) -> None:
    await harness.send()
    harness.fake.revoke_tokens()

    verdicts = await asyncio.gather(*(harness.send(replace(PUSH, token=f"t{n}")) for n in range(20)))

    assert all(isinstance(verdict, Sent) for verdict in verdicts)
    assert harness.fake.token_fetches == 2
    assert len(harness.fake.accepted) == 21


async def test_access_token_rejected_twice_is_misconfigured(harness: FcmHarness) -> None:
    harness.fake.script = lambda _message: error(401, "UNAUTHENTICATED")

    assert await harness.send() == Misconfigured("401", "UNAUTHENTICATED")
    assert harness.fake.count == 2


async def test_access_token_is_renewed_in_background(harness: FcmHarness) -> None:
    await harness.send()
    harness.fake.token_script = lambda: ServerFault.HANG
    harness.clock.advance(harness.fake.token_lifetime_s - RENEW_BEFORE_S + 2)

    assert isinstance(await harness.send(), Sent)
    await wait_until(lambda: harness.fake.token_fetches == 2, "the renewal is asked for")
    harness.fake.server.drop_all()


async def test_access_token_with_a_short_life_is_not_renewed_for_each_push(harness: FcmHarness) -> None:
    harness.fake.token_lifetime_s = int(RENEW_BEFORE_S) - 100
    for n in range(50):
        await harness.send(replace(PUSH, token=f"t{n}"))
    assert harness.fake.token_fetches == 1

    harness.clock.advance(harness.fake.token_lifetime_s / 2 + 1)
    await harness.send()

    await wait_until(lambda: harness.fake.token_fetches == 2, "the renewal is asked for")


async def test_token_endpoint_down_is_retried(harness: FcmHarness) -> None:
    harness.fake.token_script = lambda: FakeResponse(503, b"")
    waiting, begun = Waiting(), time.monotonic()

    verdict = await harness.send()

    assert verdict == Retry(None, None, "Google's token endpoint cannot be reached: it answered 503")
    assert harness.fake.token_fetches == 1
    assert time.monotonic() - begun < 1 + waiting.lost_s()


async def test_hanging_token_endpoint_times_out(harness: FcmHarness) -> None:
    harness.fake.token_script = lambda: ServerFault.HANG

    sending = asyncio.create_task(harness.send(deadline_s=0.3))
    ticks = 0
    while not sending.done():
        await asyncio.sleep(0)
        ticks += 1

    assert isinstance(sending.result(), Retry)
    assert ticks > 100
    harness.fake.server.drop_all()


async def test_long_token_answer_is_not_read(harness: FcmHarness) -> None:
    harness.fake.token_script = lambda: FakeResponse(200, b" " * (MAX_ANSWER_BYTES + 1))

    verdict = await harness.send()

    said = f"Google's token endpoint cannot be reached: its answer is longer than {MAX_ANSWER_BYTES} bytes"
    assert verdict == Retry(None, None, said)


async def test_slow_token_answer_has_a_total_time(
    harness: FcmHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte now and then would otherwise occupy the only thread for good, and no token would be fetched again."""
    monkeypatch.setattr(google_token, "FETCH_TIMEOUT_S", 0.2)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    file = harness.fake.credentials_file(tmp_path / "slow.json", token_uri=uri)
    channel = FcmChannel(file, harness.clock, harness.fake.url)
    await channel.open()

    verdict = await channel.send(PUSH, 5.0)
    await channel.close()
    await ended.wait()
    server.close()

    assert isinstance(verdict, Retry)
    assert "its answer takes longer than 0.2 s" in verdict.detail


async def test_unknown_key_is_misconfigured(harness: FcmHarness, tmp_path: Path) -> None:
    other = FakeFcm()
    await other.start()
    file = other.credentials_file(tmp_path / "strange.json", token_uri=f"{harness.fake.url}/token")
    channel = FcmChannel(file, harness.clock, harness.fake.url)
    await channel.open()

    verdict = await channel.send(PUSH, 5.0)
    told = await channel.check()
    await channel.close()
    await other.close()

    assert isinstance(verdict, Misconfigured)
    assert "invalid_grant" in verdict.detail
    assert told is not None and "GREGOR_FCM_CREDENTIALS_FILE" in told


async def test_check_sends_only_a_validation(harness: FcmHarness) -> None:
    assert await harness.channel.check() is None
    assert harness.fake.accepted == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "is not valid JSON"),
        ("[]", 'has no "type"'),
        ('{"type":"service_account"}', "is not a valid Google credentials file"),
        ('{"type":"nonsense"}', "is not a valid Google credentials file"),
    ],
)
async def test_invalid_credentials_name_their_setting(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "account.json"
    if content is not None:
        file.write_text(content)

    with pytest.raises(ValueError, match=said) as caught:
        await FcmChannel(file, ManualClock(NOW_US)).open()

    assert str(caught.value).startswith("GREGOR_FCM_CREDENTIALS_FILE: ")


def test_credentials_name_account_and_project(harness: FcmHarness) -> None:
    credentials, project = read_credentials(harness.file)

    assert (getattr(credentials, "service_account_email", None), project) == (EMAIL, PROJECT)


@pytest.mark.parametrize(
    "url", ["https://h", "https://h/", "https://h/v1/projects", "https://h/v1/projects/p/messages:send"]
)
def test_url_with_or_without_path(url: str) -> None:
    assert messages_url(url, "p") == "https://h/v1/projects/p/messages:send"


async def test_close_waits_for_sends_in_flight(harness: FcmHarness) -> None:
    harness.fake.script = lambda _message: FakeResponse(200, b'{"name":"late"}', delay_s=0.2)
    sending = asyncio.create_task(harness.send())
    await wait_until(lambda: harness.fake.count, "the push is on its way")

    await harness.channel.close()

    assert sending.done()
    assert sending.result() == Sent("200", "late")
    await harness.channel.open()


async def test_fake_rejects_invalid_messages(harness: FcmHarness) -> None:
    bad: list[dict[str, Any]] = []
    harness.fake.script = lambda message: bad.append(message)

    verdict = await harness.send(replace(PUSH, token=""))

    assert verdict == Refused("400", "INVALID_ARGUMENT message.token")
    assert bad == []
