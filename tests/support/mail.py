"""A mail channel with the relay that it sends to, for its tests."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace

from gregor.clock import ManualClock
from gregor.dev.fakes.smtp import FakeSmtp, RelayFault, RelayRule
from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.smtp.channel import EmailChannel
from gregor_delivery.channels.verdict import Verdict

NOW_US = 1_457_056_447_000_000
SENDER = "Gregor <no-reply@gregor.example>"
MAIL = MailMessage(
    to="alice@example.com",
    locale="it-IT",
    subject="Bob si è iscritto",
    text="Ciao.\n.Questa riga comincia con un punto.\n",
    html="<p>Ciao.</p>",
    message_id="<abc123@gregor.example>",
    unsubscribe_url="https://gregor.example/v1/unsubscribe/token",
)


@dataclass
class World:
    """One channel, the relay that it sends to, and the clock."""

    channel: EmailChannel
    relay: FakeSmtp
    clock: ManualClock

    async def send(self, to: str = "alice@example.com", deadline_s: float = 5.0) -> Verdict:
        return await self.channel.send(replace(MAIL, to=to), deadline_s)

    async def ruled(self, step: str, said: str | RelayFault, match: str = "", deadline_s: float = 5.0) -> Verdict:
        """The verdict on one mail where the relay says this once, and on a line that is new."""
        self.relay.rules = [RelayRule(step, said, 1, match)]
        return await self.send(deadline_s=deadline_s)


async def opened(relay: FakeSmtp, clock: ManualClock, context: ssl.SSLContext | None = None, **more: int) -> World:
    channel = EmailChannel(relay.url, SENDER, clock, context=context, **more)
    await channel.open()
    return World(channel, relay, clock)
