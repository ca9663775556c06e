"""The fake providers as a process, as `gregor dev --fake-providers` runs them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from gregor.clock import SystemClock
from gregor_delivery.channels.apns.channel import ApnsChannel, ApnsConfig
from gregor_delivery.channels.contract import DeliveryChannel, MailMessage, PushMessage
from gregor_delivery.channels.fcm.channel import FcmChannel
from gregor_delivery.channels.smtp.channel import EmailChannel
from gregor_delivery.channels.verdict import Sent
from gregor_delivery.channels.webpush.channel import WebPushChannel, WebPushConfig
from tests.support.sample_pushes import push

T = TypeVar("T")
MAIL = MailMessage("alice@example.com", "en", "kbob just joined", "Hello", None, "<1@example.com>", None)


@asynccontextmanager
async def opened(channel: DeliveryChannel[T]) -> AsyncIterator[DeliveryChannel[T]]:
    await channel.open()
    yield channel
    await channel.close()


@asynccontextmanager
async def running_fakes(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run all fakes; closing standard input stops the process."""
    fakes = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gregor.dev.fakes", str(directory)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield fakes
    finally:
        assert fakes.stdin is not None
        fakes.stdin.close()
        assert await fakes.wait() == 0


async def test_printed_settings_reach_the_fakes(tmp_path: Path) -> None:
    lines = []
    async with running_fakes(tmp_path) as fakes:
        assert fakes.stdout is not None
        told = json.loads(await fakes.stdout.readline())
        given = {name.removeprefix("GREGOR_"): value for name, value in told["settings"].items()}
        pushes: list[tuple[DeliveryChannel[PushMessage], Any]] = [
            (apns_channel(given), "a1b2c3"),
            (FcmChannel(Path(given["FCM_CREDENTIALS_FILE"]), SystemClock(), given["FCM_URL"]), "registration"),
            (webpush_channel(given), told["subscription"]),
        ]
        for channel, token in pushes:
            async with opened(channel) as ready:
                assert isinstance(await ready.send(push(token=token), 10), Sent)
            lines.append(json.loads(await fakes.stdout.readline()))
        async with opened(EmailChannel(given["SMTP_URL"], given["MAIL_FROM"], SystemClock())) as mailer:
            assert isinstance(await mailer.send(MAIL, 10), Sent)
        lines.append(json.loads(await fakes.stdout.readline()))

    shown = {"title": "kbob just joined", "text": "You shared files with bob.", "user": "alice", "kind": "item"}
    known = {"id": "aa", "link": None, "badge": 3, "withdraw": None, "collapse": "c0ffee"}
    assert lines[:3] == [{"channel": channel, **shown, **known} for channel in ("apns", "fcm", "webpush")]
    assert (lines[3]["channel"], lines[3]["title"], lines[3]["text"]) == ("email", "kbob just joined", None)


def apns_channel(given: dict[str, str]) -> ApnsChannel:
    names = {name: given[f"APNS_{name.upper()}"] for name in ("key_id", "team_id", "topic", "url")}
    files = {name: Path(given[f"APNS_{name.upper()}"]) for name in ("key_file", "ca_file")}
    return ApnsChannel(ApnsConfig(**names, **files))  # type: ignore[arg-type]


def webpush_channel(given: dict[str, str]) -> WebPushChannel:
    hosts = tuple(given["WEBPUSH_HOSTS"].split(","))
    key_file, ca_file = Path(given["VAPID_KEY_FILE"]), Path(given["WEBPUSH_CA_FILE"])
    return WebPushChannel(WebPushConfig(key_file, given["VAPID_SUBJECT"], hosts, ca_file), SystemClock())
