"""Connections to one relay. aiosmtplib gives one, serial, and loses its place when a send is cancelled.

So: a connection is used by one mail at a time; only one that ended its dialogue well goes back; whatever else happens
(a time-out, a cancellation, a strange reply) closes it. Each step has its own time-out, and nothing is cancelled.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosmtplib

from gregor.clock import Clock
from gregor_delivery.channels.verdict import Misconfigured, Retry, Verdict

from .responses import SmtpStep, refused

CONNECT_S: Final = 10.0
IDLE_S: Final = 30.0
"""How long a connection is kept for the next mail; relays hang up after one to five minutes."""
MAILS_OF_A_CONNECTION: Final = 100
"""Then a new one is made: many relays have such a bound, and behind a balancer the load moves on."""
CONNECTIONS: Final = 8
"""At once; many relays take ten of one client."""
_PORT: Final = {"starttls": 587, "implicit": 465, "none": 25}

Tls = Literal["starttls", "implicit", "none"]


@dataclass(frozen=True, slots=True)
class Relay:
    """Where mail goes, and how: from GREGOR_SMTP_URL."""

    host: str
    port: int
    tls: Tls
    user: str | None
    password: str | None


def parse_relay(url: str) -> Relay:
    """`smtp://user:pass@host:port?tls=starttls|implicit|none`. ValueError with the mend, without the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
        query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise ValueError("not a URL; write smtp://user:password@host:587?tls=starttls") from None
    tls = query.pop("tls", "starttls")
    if parts.scheme != "smtp" or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError("not an SMTP URL; write smtp://user:password@host:587?tls=starttls")
    if tls not in _PORT or query:
        raise ValueError("after the host only ?tls=starttls, ?tls=implicit or ?tls=none may stand")
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if (user is None) != (password is None):
        raise ValueError("a user and a password go together")
    return Relay(parts.hostname, port or _PORT[tls], tls, user, password)  # type: ignore[arg-type]


class ConnectFailed(Exception):
    """No connection could be had, so that no mail was on the way; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.name)
        self.verdict = verdict


@dataclass(slots=True, eq=False)
class SmtpConnection:
    """One connection, past greeting, TLS and login. `mails`: how many went through it; 0 is made for this very one."""

    smtp: aiosmtplib.SMTP
    mails: int = 0
    idle_since: float = 0.0


class SmtpPool:
    """Up to `connections` lines to one relay."""

    def __init__(
        self,
        relay: Relay,
        hello: str,
        clock: Clock,
        *,
        connections: int = CONNECTIONS,
        idle_s: float = IDLE_S,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`hello`: the name that we say in EHLO. `context`: whom to trust; the system's where it is not given."""
        self._idle_s = idle_s
        self._sweep: asyncio.TimerHandle | None = None
        self._goodbyes: set[asyncio.Task[None]] = set()
        self._relay = relay
        self._hello = hello
        self._clock = clock
        self._context = context
        self._free = asyncio.Semaphore(connections)
        self._idle: list[SmtpConnection] = []
        self._taken = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def take(self, timeout_s: float, *, is_fresh: bool = False) -> SmtpConnection:
        """A line, for one mail; it must be given back. NotConnected where none is to be had within `timeout_s`.

        `is_fresh`: none that was idle, since the relay has given up one of these, so probably all.
        """
        try:
            async with asyncio.timeout(timeout_s):  # cancels the waiting for a line only: no dialogue
                await self._free.acquire()
        except TimeoutError:
            raise ConnectFailed(Retry(None, None, "all connections to the relay are busy")) from None
        self._taken += 1
        self._quiet.clear()
        try:
            kept = None if is_fresh else self._kept()
            return kept or await self._dial(min(CONNECT_S, timeout_s))
        except BaseException:
            self._release()
            raise

    def give_back(self, line: SmtpConnection, *, is_well: bool) -> None:
        """The mail is through. `is_well`: the dialogue is where it began; else the line is closed."""
        line.mails += 1
        line.idle_since = self._clock.monotonic()
        if is_well and line.smtp.is_connected and line.mails < MAILS_OF_A_CONNECTION:
            self._idle.append(line)
            self._sweep_later()
        else:
            line.smtp.close()
        self._release()

    async def close(self) -> None:
        """Wait for the mails on their way, then say goodbye on all lines."""
        await self._quiet.wait()
        if self._sweep is not None:
            self._sweep.cancel()
        lines, self._idle = self._idle, []
        self._say_goodbye(lines)
        await asyncio.gather(*self._goodbyes)

    @property
    def idle(self) -> int:
        """Lines that wait for a mail."""
        return len(self._idle)

    def _kept(self) -> SmtpConnection | None:
        """The line used last, if it is still good: the others grow old and are closed."""
        while self._idle:
            line = self._idle.pop()
            if line.smtp.is_connected and self._clock.monotonic() - line.idle_since < self._idle_s:
                return line
            line.smtp.close()
        return None

    def _sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._give_up_old)

    def _give_up_old(self) -> None:
        """Leave the lines that were not used for long: the relay may want them for others."""
        self._sweep, now = None, self._clock.monotonic()
        old = [line for line in self._idle if now - line.idle_since >= self._idle_s]
        self._idle = [line for line in self._idle if line not in old]
        self._say_goodbye(old)
        if self._idle:
            self._sweep_later()

    def _say_goodbye(self, lines: list[SmtpConnection]) -> None:
        for line in lines:
            goodbye = asyncio.create_task(_leave(line), name="smtp-goodbye")
            self._goodbyes.add(goodbye)
            goodbye.add_done_callback(self._goodbyes.discard)

    def _release(self) -> None:
        self._taken -= 1
        if not self._taken:
            self._quiet.set()
        self._free.release()

    async def _dial(self, timeout_s: float) -> SmtpConnection:
        relay = self._relay
        smtp = aiosmtplib.SMTP(
            hostname=relay.host,
            port=relay.port,
            local_hostname=self._hello,
            timeout=timeout_s,
            use_tls=relay.tls == "implicit",
            start_tls=False,
            tls_context=None if relay.tls == "none" else self._context,
        )
        try:
            await self._greet(smtp)
        except BaseException:
            smtp.close()
            raise
        return SmtpConnection(smtp)

    async def _greet(self, smtp: aiosmtplib.SMTP) -> None:
        """Connect, secure, log in: step by step, so that a failure has a place."""
        step = SmtpStep.GREETING
        try:
            await smtp.connect()
            step = SmtpStep.HELLO
            await smtp.ehlo()
            if self._relay.tls == "starttls":
                step = SmtpStep.TLS
                if not smtp.supports_extension("starttls"):
                    raise ConnectFailed(
                        Misconfigured(None, "the relay offers no STARTTLS; GREGOR_SMTP_URL may say tls=")
                    )
                await smtp.starttls()
                await smtp.ehlo()
            if self._relay.user is not None:
                step = SmtpStep.LOGIN
                await smtp.login(self._relay.user, self._relay.password or "")
        except aiosmtplib.SMTPResponseException as error:
            raise ConnectFailed(refused(step, error.code, error.message)) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise ConnectFailed(_unreached(step, error)) from None


def _unreached(step: SmtpStep, error: Exception) -> Verdict:
    """No reply, and why: a certificate that is not trusted and a login that is not known are ours to mend."""
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return Misconfigured(None, "the certificate of the relay is not trusted")
    if step is SmtpStep.LOGIN and not isinstance(
        error, aiosmtplib.SMTPTimeoutError | aiosmtplib.SMTPServerDisconnected
    ):
        return Misconfigured(None, "the relay offers no way to log in")
    said = re.sub(r" on port \d+.*", "", str(error)) if not isinstance(error, OSError) else error.strerror
    return Retry(None, None, f"{step.value}: {type(error).__name__} {said or ''}".strip()[:160])


async def _leave(line: SmtpConnection) -> None:
    with suppress(aiosmtplib.SMTPException, OSError):
        await line.smtp.quit(timeout=2.0)
    line.smtp.close()
