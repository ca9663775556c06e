"""`python -m gregor.dev.fakes DIRECTORY`: run all fake providers until standard input is closed.

Prints one JSON line when they listen: `settings` (environment variables that point Gregor to them; keys and the
certificate authority are written into DIRECTORY) and `subscription` (of a browser that the fake Web Push service
knows). Then prints one line for each push or mail that arrives, without tokens or addresses: `{"channel","title",
"text","user","kind","id","link","badge","withdraw","collapse"}`. For a mail, `title` is the subject and the other
members are null.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

from gregor.auth.vapid import VapidKey
from gregor.config.settings import WEBPUSH_SERVICES

from .apns import FakeApns
from .fcm import FakeFcm
from .keys import write_key
from .smtp import FakeSmtp
from .tls import CertificateAuthority
from .webpush import FakeWebPush

POLL_INTERVAL_S = 0.1
KEY_ID, TEAM_ID, TOPIC = "FAKEKEY001", "FAKETEAM01", "com.example.app"
SUBJECT = "mailto:gregor@fake-providers.dev"
"""The checks of the subject refuse domains that are reserved for examples; nothing is sent to this one."""


@dataclass(frozen=True, slots=True)
class Fakes:
    """One fake of each provider, listening on loopback."""

    directory: Path
    apns: FakeApns
    fcm: FakeFcm
    webpush: FakeWebPush
    smtp: FakeSmtp

    @classmethod
    async def start(cls, directory: Path) -> "Fakes":
        """Start all four; write their keys into `directory`, which must exist."""
        authority = CertificateAuthority(directory)
        apns = FakeApns(authority, keys={KEY_ID: write_key(directory / "apns.p8")}, team_id=TEAM_ID)
        fakes = cls(directory, apns, FakeFcm(), FakeWebPush(authority), FakeSmtp())
        write_key(directory / "vapid.pem")
        for each in (fakes.apns, fakes.fcm, fakes.webpush, fakes.smtp):
            await each.start()
        fakes.fcm.credentials_file(directory / "fcm.json")
        return fakes

    def settings(self) -> dict[str, str]:
        """Return the environment variables that point Gregor to the fakes."""
        return {
            "GREGOR_APNS_KEY_FILE": str(self.directory / "apns.p8"),
            "GREGOR_APNS_KEY_ID": KEY_ID,
            "GREGOR_APNS_TEAM_ID": TEAM_ID,
            "GREGOR_APNS_TOPIC": TOPIC,
            "GREGOR_APNS_URL": self.apns.url,
            "GREGOR_APNS_CA_FILE": str(self.apns.authority.ca_file),
            "GREGOR_FCM_CREDENTIALS_FILE": str(self.directory / "fcm.json"),
            "GREGOR_FCM_URL": self.fcm.url,
            "GREGOR_VAPID_KEY_FILE": str(self.directory / "vapid.pem"),
            "GREGOR_VAPID_SUBJECT": SUBJECT,
            "GREGOR_WEBPUSH_HOSTS": ",".join((self.webpush.host, *WEBPUSH_SERVICES)),
            "GREGOR_WEBPUSH_CA_FILE": str(self.webpush.authority.ca_file),
            "GREGOR_SMTP_URL": self.smtp.url,
            "GREGOR_MAIL_FROM": "Gregor <gregor@example.com>",
        }

    def take_arrived(self) -> Iterator[dict[str, Any]]:
        """Yield a line for each message since the last call, and forget them."""
        for push in self.apns.delivered():
            yield _line("apns", push.payload["aps"].get("alert", {}), push.payload["gregor"], push.collapse_id)
        for message in self.fcm.accepted:
            tag = message.get("android", {}).get("notification", {}).get("tag")
            yield _line("fcm", message.get("notification", {}), json.loads(message["data"]["gregor"]), tag)
        for received in self.webpush.received:
            yield _line("webpush", received.message, received.message["gregor"], received.topic)
        for mail in self.smtp.mails:
            subject = message_from_bytes(mail.content, policy=default)["subject"]
            yield _line("email", {"title": subject}, {}, None)
        for recorded in (
            self.apns.received,
            self.fcm.accepted,
            self.fcm.requests,
            self.webpush.received,
            self.webpush.requests,
        ):
            recorded.clear()
        self.smtp.mails.clear()

    async def close(self) -> None:
        """Stop all four."""
        for each in (self.apns, self.fcm, self.webpush, self.smtp):
            await each.close()


def _line(channel: str, shown: dict[str, Any], data: dict[str, Any], collapse: str | None) -> dict[str, Any]:
    return {
        "channel": channel,
        "title": shown.get("title") or None,
        "text": shown.get("body") or None,
        "user": data.get("uid"),
        **{name: data.get(name) for name in ("kind", "id", "link", "badge", "withdraw")},
        "collapse": collapse,
    }


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


async def serve(directory: Path) -> None:
    """Run the fakes until standard input is closed; print what arrives."""
    fakes = await Fakes.start(directory)
    public_key = VapidKey.read(directory / "vapid.pem", SUBJECT).public_key
    _print({"settings": fakes.settings(), "subscription": fakes.webpush.subscribe("browser", public_key)})
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not ended.done():
        await asyncio.wait([ended], timeout=POLL_INTERVAL_S)
        for line in fakes.take_arrived():
            _print(line)
    await fakes.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
