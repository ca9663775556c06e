"""E-mail by SMTP: one mail to one recipient, over a pool of connections to the configured relay."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Final

from gregor.clock import Clock
from gregor.net.outgoing.tls import outgoing_context
from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.tls import limit_overhead
from gregor_delivery.channels.verdict import Refused, Verdict

from .mime import MailAddress, compose, parse_address
from .pool import CONNECTIONS, IDLE_S, ConnectFailed, SmtpConnection, SmtpPool, parse_relay
from .responses import RelayDenials
from .transaction import Envelope, TransactionResult, run_transaction

COMMANDS_SHARE: Final = 1 / 3
"""Share of a mail's deadline for the commands up to DATA; the rest is for the relay's reply to the mail. RFC 5321
§4.5.3.2 recommends 5 minutes and 10."""
CHECK_TIMEOUT_S: Final = 25.0
"""Timeout of `check`: servers delay the answer to a failed login."""
CHARACTERS_IN_LOOP: Final = 65_536
"""Characters of a mail above which it is encoded in a thread: 15 MB took 0.25 s."""
_LEADING_DOT: Final = re.compile(rb"(?m)^\.")


def mail_deadline_s(reply_timeout_s: float) -> float:
    """Return the deadline of one mail whose relay may take `reply_timeout_s` to accept it: see `EmailChannel.send`."""
    return reply_timeout_s / (1 - COMMANDS_SHARE)


class EmailChannel:
    """The channel `email`. `url`: GREGOR_SMTP_URL; `sender`: GREGOR_MAIL_FROM."""

    name: Final = "email"

    def __init__(
        self,
        url: str,
        sender: str,
        clock: Clock,
        *,
        hostname: str | None = None,
        connections: int = CONNECTIONS,
        idle_s: float = IDLE_S,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`hostname`: for EHLO, by default the host's own. `connections`: limit; each is kept `idle_s` unused.

        `context`: trusted authorities, by default the system's.
        """
        self._url = url
        self._from = sender
        self._clock = clock
        self._hostname = hostname
        self._connections = connections
        self._idle_s = idle_s
        self._context = context
        self._denials = RelayDenials()
        self._sender: MailAddress | None = None
        self._pool: SmtpPool | None = None

    async def open(self) -> None:
        """Read the settings, without network access. Raises ValueError that names the setting to correct."""
        try:
            relay = parse_relay(self._url)
        except ValueError as error:
            raise ValueError(f"GREGOR_SMTP_URL: {error}") from None
        try:
            self._sender = parse_address(self._from)
        except ValueError as error:
            raise ValueError(f"GREGOR_MAIL_FROM: {error}; write Name <name@example.com>") from None
        self._pool = SmtpPool(
            relay,
            self._hostname,
            self._clock,
            connections=self._connections,
            idle_s=self._idle_s,
            context=limit_overhead(self._context or outgoing_context()),
        )

    async def send(self, message: MailMessage, deadline_s: float) -> Verdict:
        """Send one mail; see `DeliveryChannel.send`."""
        if self._pool is None or self._sender is None:
            raise RuntimeError("the channel is not open")
        commands_until = self._clock.monotonic() + deadline_s * COMMANDS_SHARE
        try:
            to = parse_address(message.to)
            content = await _compose(message, self._sender, to, self._clock.now_us())
        except ValueError as error:
            return Refused(None, str(error))
        envelope = Envelope(self._sender, to, content)
        for is_fresh in (False, True):
            try:
                connection = await self._pool.acquire((commands_until - self._clock.monotonic()) / 2, is_fresh=is_fresh)
            except ConnectFailed as failure:
                return failure.verdict
            result = await self._run(connection, envelope, commands_until, deadline_s * (1 - COMMANDS_SHARE))
            if not result.was_stale:
                break
        if result.is_recipient_accepted:
            self._denials.accept()
        return self._denials.deny(to.smtp, result.verdict) if result.is_relay_denied else result.verdict

    async def close(self) -> None:
        """Wait for the mails in flight, then quit all connections."""
        if self._pool is not None:
            await self._pool.close()
        self._pool = None

    async def check(self) -> str | None:
        """Connect, secure the connection and log in, for `gregor doctor`."""
        if self._pool is None:
            await self.open()
        pool = self._open_pool()
        try:
            connection = await pool.acquire(CHECK_TIMEOUT_S)
        except ConnectFailed as failure:
            detail = getattr(failure.verdict, "detail", failure.verdict.name)
            return f"The relay cannot be used: {detail}; check GREGOR_SMTP_URL."
        pool.release(connection, is_reusable=True)
        return None

    def _open_pool(self) -> SmtpPool:
        if self._pool is None:
            raise RuntimeError("the channel is not open")
        return self._pool

    async def _run(
        self, connection: SmtpConnection, envelope: Envelope, commands_until: float, reply_timeout_s: float
    ) -> TransactionResult:
        """Run one transaction and release the connection; a cancelled transaction closes it."""
        is_reusable = False
        try:
            result = await run_transaction(
                connection, envelope, lambda: commands_until - self._clock.monotonic(), reply_timeout_s
            )
            is_reusable = result.is_reusable
            return result
        finally:
            self._open_pool().release(connection, is_reusable=is_reusable)


async def _compose(message: MailMessage, sender: MailAddress, to: MailAddress, now_us: int) -> bytes:
    """Return the mail, dot-stuffed, with the final dot line. Raises ValueError; see `compose`."""
    is_long = len(message.text) + len(message.html or "") > CHARACTERS_IN_LOOP
    if is_long:
        return await asyncio.to_thread(_stuffed, message, sender, to, now_us)
    return _stuffed(message, sender, to, now_us)


def _stuffed(message: MailMessage, sender: MailAddress, to: MailAddress, now_us: int) -> bytes:
    return _LEADING_DOT.sub(b"..", compose(message, sender, to, now_us)) + b".\r\n"
