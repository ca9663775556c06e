"""Connection pool for one SMTP relay. aiosmtplib offers one serial connection that a cancelled command desynchronizes.

A connection therefore serves one transaction at a time, and returns to the pool only if its transaction ended at a
known point. A timeout, a cancellation or a malformed reply closes it. Each command has its own timeout.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosmtplib

from gregor.clock import Clock
from gregor.net.os_errors import os_error_text
from gregor_delivery.channels.in_flight import InFlight
from gregor_delivery.channels.verdict import Misconfigured, Retry, Verdict

from .responses import SmtpStep, login_secrets, rejected

CONNECT_S: Final = 30.0
"""Timeout of the TCP connection, and of the greeting: some relays delay it to unmask spammers."""
IDLE_S: Final = 30.0
"""How long an idle connection is kept; relays close it after one to five minutes."""
MAX_MAILS: Final = 100
"""Mails over one connection. Many relays have such a limit, and behind a load balancer a new one spreads the load."""
CONNECTIONS: Final = 8
"""Concurrent connections; many relays accept ten of one client."""
MECHANISM_REJECTED: Final = frozenset({502, 504, 534, 538})
"""Replies to AUTH that reject the mechanism: another may work. 535 rejects the credentials: each further try would
count as a failed login and may lock the account."""
_DEFAULT_PORT: Final = {"starttls": 587, "implicit": 465, "none": 25}

Tls = Literal["starttls", "implicit", "none"]


# --- the relay ---


@dataclass(frozen=True, slots=True)
class Relay:
    """The relay of GREGOR_SMTP_URL."""

    host: str
    port: int
    tls: Tls
    user: str | None
    password: str | None


def parse_relay(url: str) -> Relay:
    """Parse `smtp://user:pass@host:port?tls=starttls|implicit|none`. The text of a ValueError omits the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
        query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise ValueError("not a URL; write smtp://user:password@host:587?tls=starttls") from None
    tls = query.pop("tls", "starttls")
    if parts.scheme != "smtp" or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError("not an SMTP URL; write smtp://user:password@host:587?tls=starttls")
    if tls not in _DEFAULT_PORT or query:
        raise ValueError("the only option after the host is ?tls=starttls, ?tls=implicit or ?tls=none")
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if (user is None) != (password is None):
        raise ValueError("give both a user and a password, or neither")
    return Relay(parts.hostname, port or _DEFAULT_PORT[tls], tls, user, password)  # type: ignore[arg-type]


class ConnectFailed(Exception):
    """No connection is available, so no mail was sent; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.name)
        self.verdict = verdict


@dataclass(slots=True, eq=False)
class SmtpConnection:
    """A connection after greeting, TLS and login. `mails`: transactions so far; 0 if it was opened for this one."""

    smtp: aiosmtplib.SMTP
    secrets: tuple[str, ...] = ()
    """Texts that a quoted reply must not contain."""
    mails: int = 0
    idle_since: float = 0.0

    @property
    def has_unsolicited_reply(self) -> bool:
        """Whether bytes follow the last reply. The relay has then sent a reply that no command asked for.

        aiosmtplib would take it as the reply to the next command, and each later reply as that to another command.
        """
        # A private attribute, without a public alternative. If a release of aiosmtplib has no such attribute,
        # `test_unsolicited_reply_ends_a_mail_before_it_is_written` fails.
        return bool(getattr(self.smtp.protocol, "_buffer", b""))


class _SmtpClient(aiosmtplib.SMTP):
    """An SMTP client that ends its connection at once, however it is closed: aiosmtplib itself closes it on errors."""

    def close(self) -> None:
        # A closed transport keeps its unsent bytes until the relay has read them, without a time limit. With TLS, it
        # also waits up to 30 s for the relay's close_notify. No reply is expected any more, so nothing is lost.
        transport = self.transport
        super().close()
        if transport is not None:
            cast(asyncio.WriteTransport, transport).abort()


# --- the pool ---


class SmtpPool:
    """Up to `connections` connections to one relay."""

    def __init__(
        self,
        relay: Relay,
        hostname: str | None,
        clock: Clock,
        *,
        connections: int = CONNECTIONS,
        idle_s: float = IDLE_S,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`hostname`: for EHLO, by default the host's own. `context`: trusted authorities, by default the system's."""
        self._idle_s = idle_s
        self._sweep: asyncio.TimerHandle | None = None
        self._quitting: set[asyncio.Task[None]] = set()
        self._relay = relay
        self._secrets = () if relay.user is None else login_secrets(relay.user, relay.password or "")
        self._hostname = hostname
        self._clock = clock
        self._context = context
        self._free = asyncio.Semaphore(connections)
        self._idle: list[SmtpConnection] = []
        self._in_use = InFlight()

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        return len(self._idle)

    async def acquire(self, timeout_s: float, *, is_fresh: bool = False) -> SmtpConnection:
        """Return a connection for one transaction; the caller must `release` it. Raises `ConnectFailed`.

        `is_fresh`: open a new one, because the relay has closed an idle one and so probably all.
        """
        until = self._clock.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):  # cancels only the wait for the semaphore, never a command
                await self._free.acquire()
        except TimeoutError:
            raise ConnectFailed(Retry(None, None, "all connections to the relay are busy")) from None
        self._in_use.enter()
        try:
            kept = None if is_fresh else self._take_idle()
            return kept or await self._connect(max(0.01, until - self._clock.monotonic()))
        except BaseException:
            self._leave()
            raise

    def release(self, connection: SmtpConnection, *, is_reusable: bool) -> None:
        """Return a connection to the pool, or close it."""
        connection.mails += 1
        connection.idle_since = self._clock.monotonic()
        if is_reusable and connection.smtp.is_connected and connection.mails < MAX_MAILS:
            self._idle.append(connection)
            self._schedule_sweep()
        else:
            connection.smtp.close()
        self._leave()

    async def close(self) -> None:
        """Wait until all connections are released, then quit them."""
        await self._in_use.drain()
        if self._sweep is not None:
            self._sweep.cancel()
        idle, self._idle = self._idle, []
        self._quit(idle)
        await asyncio.gather(*self._quitting)

    def _leave(self) -> None:
        self._in_use.leave()
        self._free.release()

    # --- idle connections ---

    def _take_idle(self) -> SmtpConnection | None:
        """Return the connection used last: surplus ones stay idle and are closed."""
        while self._idle:
            connection = self._idle.pop()
            if connection.smtp.is_connected and self._clock.monotonic() - connection.idle_since < self._idle_s:
                return connection
            connection.smtp.close()
        return None

    def _schedule_sweep(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._quit_idle)

    def _quit_idle(self) -> None:
        self._sweep, now = None, self._clock.monotonic()
        old = [connection for connection in self._idle if now - connection.idle_since >= self._idle_s]
        self._idle = [connection for connection in self._idle if connection not in old]
        self._quit(old)
        if self._idle:
            self._schedule_sweep()

    def _quit(self, connections: list[SmtpConnection]) -> None:
        for connection in connections:
            task = asyncio.create_task(_quit(connection), name="smtp-quit")
            self._quitting.add(task)
            task.add_done_callback(self._quitting.discard)

    # --- new connections ---

    async def _connect(self, timeout_s: float) -> SmtpConnection:
        relay = self._relay
        smtp = _SmtpClient(
            hostname=relay.host,
            port=relay.port,
            local_hostname="localhost",  # never sent: `_ehlo` gives the name
            timeout=timeout_s,
            use_tls=relay.tls == "implicit",
            start_tls=False,
            tls_context=None if relay.tls == "none" else self._context,
        )
        try:
            await self._handshake(smtp, timeout_s)
        except BaseException:
            smtp.close()
            raise
        return SmtpConnection(smtp, self._secrets)

    async def _handshake(self, smtp: aiosmtplib.SMTP, timeout_s: float) -> None:
        """Connect, secure the connection and log in; a failure is classified by its step."""
        step = SmtpStep.GREETING
        try:
            async with asyncio.timeout(timeout_s):  # aiosmtplib has one timeout for each reply
                await smtp.connect(timeout=min(CONNECT_S, timeout_s))
                step = SmtpStep.HELLO
                await self._ehlo(smtp)
                if self._relay.tls == "starttls":
                    step = SmtpStep.TLS
                    if not smtp.supports_extension("starttls"):
                        raise ConnectFailed(
                            Misconfigured(None, "the relay does not offer STARTTLS; set tls= in GREGOR_SMTP_URL")
                        )
                    await smtp.starttls()
                    await self._ehlo(smtp)
                if self._relay.user is not None:
                    step = SmtpStep.LOGIN
                    await self._log_in(smtp, self._relay.user, self._relay.password or "")
        except aiosmtplib.SMTPResponseException as error:
            raise ConnectFailed(rejected(step, error.code, error.message, self._secrets)) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise ConnectFailed(_connect_verdict(step, error)) from None

    async def _ehlo(self, smtp: aiosmtplib.SMTP) -> None:
        if self._hostname is None:
            self._hostname = await asyncio.to_thread(socket.getfqdn)  # may ask DNS
        hostname = self._hostname
        if "." not in hostname and not hostname.startswith("["):
            # RFC 5321 §4.1.4: a client without a full domain name sends its address.
            address = str(smtp.get_transport_info("sockname")[0])
            hostname = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        await smtp.ehlo(hostname=hostname)

    async def _log_in(self, smtp: aiosmtplib.SMTP, user: str, password: str) -> None:
        """Log in with the first mechanism that the relay accepts; aiosmtplib's `login` repeats a wrong password."""
        mechanisms = {"plain": smtp.auth_plain, "login": smtp.auth_login, "cram-md5": smtp.auth_crammd5}
        names = ["cram-md5", "plain", "login"] if self._relay.tls == "none" else ["plain", "login", "cram-md5"]
        offered = [mechanisms[name] for name in names if name in smtp.server_auth_methods]
        rejection: aiosmtplib.SMTPAuthenticationError | None = None
        for log_in in offered:
            try:
                await log_in(user, password)
            except aiosmtplib.SMTPAuthenticationError as error:
                rejection = error
                if error.code not in MECHANISM_REJECTED:
                    break
            else:
                return
        raise rejection or aiosmtplib.SMTPException("no mechanism in common")


def _connect_verdict(step: SmtpStep, error: Exception) -> Verdict:
    """Classify a failure without a reply: an untrusted certificate or a missing AUTH is a misconfiguration."""
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return Misconfigured(None, "the relay's certificate is not trusted")
    is_connection_lost = isinstance(error, aiosmtplib.SMTPTimeoutError | aiosmtplib.SMTPServerDisconnected | OSError)
    if step is SmtpStep.LOGIN and not is_connection_lost:
        return Misconfigured(None, "the relay offers no AUTH mechanism that is supported (PLAIN, LOGIN, CRAM-MD5)")
    if isinstance(error, aiosmtplib.SMTPConnectError) and isinstance(error.__cause__, OSError):
        return Retry(None, None, f"connect: {os_error_text(error.__cause__)}"[:160])
    words = re.sub(r" on port \d+.*", "", str(error)) if not isinstance(error, OSError) else error.strerror
    return Retry(None, None, f"{step.value}: {type(error).__name__} {words or ''}".strip()[:160])


async def _quit(connection: SmtpConnection) -> None:
    with suppress(aiosmtplib.SMTPException, OSError):
        await connection.smtp.quit(timeout=2.0)
    connection.smtp.close()
