"""A mail channel and the fake relay that it sends to."""

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
class MailChannelHarness:
    """A channel, its relay and its clock."""

    channel: EmailChannel
    relay: FakeSmtp
    clock: ManualClock

    async def send(self, to: str = "alice@example.com", deadline_s: float = 5.0) -> Verdict:
        """Send the sample mail to `to`."""
        return await self.channel.send(replace(MAIL, to=to), deadline_s)

    async def send_with_reply(
        self, step: str, reply: str | RelayFault, match: str = "", deadline_s: float = 5.0
    ) -> Verdict:
        """Send the sample mail; the relay gives `reply` at `step`, once."""
        self.relay.rules = [RelayRule(step, reply, 1, match)]
        return await self.send(deadline_s=deadline_s)


async def open_mail_channel(
    relay: FakeSmtp, clock: ManualClock, context: ssl.SSLContext | None = None, connections: int = 8
) -> MailChannelHarness:
    """Open a channel to a relay that is started."""
    channel = EmailChannel(relay.url, SENDER, clock, context=context, connections=connections)
    await channel.open()
    return MailChannelHarness(channel, relay, clock)
