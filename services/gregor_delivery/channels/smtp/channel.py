"""E-mail by SMTP: one mail to one address over a pool of connections, each reply read where it was given."""

from __future__ import annotations

import re
import ssl
from typing import Final

from gregor.clock import Clock
from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.verdict import Refused, Verdict

from .dialogue import Envelope, TransactionResult, hand_over
from .mime import MailAddress, compose, parse_address
from .pool import CONNECTIONS, IDLE_S, ConnectFailed, Relay, SmtpConnection, SmtpPool, parse_relay

_DOT: Final = re.compile(rb"(?m)^\.")


class EmailChannel:
    """Mail behind the contract of channels. `url`: GREGOR_SMTP_URL; `sender`: GREGOR_MAIL_FROM."""

    def __init__(
        self,
        url: str,
        sender: str,
        clock: Clock,
        *,
        connections: int = CONNECTIONS,
        idle_s: float = IDLE_S,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`connections`: most at once; each is kept `idle_s` unused. `context`: whom to trust, else the system's."""
        self._url = url
        self._from = sender
        self._clock = clock
        self._connections = connections
        self._idle_s = idle_s
        self._context = context
        self._sender: MailAddress | None = None
        self._relay: Relay | None = None
        self._pool: SmtpPool | None = None

    @property
    def name(self) -> str:
        """`email`."""
        return "email"

    async def open(self) -> None:
        """Read the settings. ValueError with the one to mend; the network is not touched."""
        try:
            self._relay = parse_relay(self._url)
        except ValueError as error:
            raise ValueError(f"GREGOR_SMTP_URL: {error}") from None
        try:
            self._sender = parse_address(self._from)
        except ValueError as error:
            raise ValueError(f"GREGOR_MAIL_FROM: {error}; write Name <name@example.com>") from None
        # The domain of the sender is a full name on every machine, where the host's own may be none, or slow to find.
        hello = self._sender.smtp.rpartition("@")[2]
        context = self._context or ssl.create_default_context()
        self._pool = SmtpPool(
            self._relay, hello, self._clock, connections=self._connections, idle_s=self._idle_s, context=context
        )

    async def send(self, message: MailMessage, deadline_s: float) -> Verdict:
        """Hand over one mail; see `contract.DeliveryChannel.send`."""
        if self._pool is None or self._sender is None:
            raise RuntimeError("the channel is not open")
        until = self._clock.monotonic() + deadline_s
        try:
            to = parse_address(message.to)
            content = compose(message, self._sender, to, self._clock.now_us())
        except ValueError as error:
            return Refused(None, str(error))
        letter = Envelope(self._sender, to, _DOT.sub(b"..", content) + b".\r\n")
        for is_fresh in (False, True):
            try:
                line = await self._pool.take((until - self._clock.monotonic()) / 2, is_fresh=is_fresh)
            except ConnectFailed as failure:
                return failure.verdict
            outcome = await self._over(line, letter, until)
            if not outcome.was_given_up:
                return outcome.verdict
        return outcome.verdict

    async def close(self) -> None:
        """Wait for the mails on their way, then say goodbye to the relay."""
        if self._pool is not None:
            await self._pool.close()
        self._pool = None

    async def check(self) -> str | None:
        """Whether the relay can be reached, secured and logged in to."""
        if self._pool is None:
            await self.open()
        pool = self._open_pool()
        try:
            line = await pool.take(10.0)
        except ConnectFailed as failure:
            detail = getattr(failure.verdict, "detail", failure.verdict.name)
            return f"The relay does not take us: {detail}; check GREGOR_SMTP_URL."
        pool.give_back(line, is_well=True)
        return None

    def _open_pool(self) -> SmtpPool:
        if self._pool is None:
            raise RuntimeError("the channel is not open")
        return self._pool

    async def _over(self, line: SmtpConnection, letter: Envelope, until: float) -> TransactionResult:
        """One mail over one line, which is given back whatever happens; a dialogue that is cancelled closes it."""
        is_well = False
        try:
            outcome = await hand_over(line, letter, lambda: until - self._clock.monotonic())
            is_well = outcome.is_well
            return outcome
        finally:
            self._open_pool().give_back(line, is_well=is_well)
