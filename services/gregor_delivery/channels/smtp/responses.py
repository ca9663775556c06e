"""PURE. Classification of a relay's replies, by SMTP step and reply code.

The same code means different things: 550 at RCPT is about the recipient, at MAIL about us. A single recipient's server
must not be able to stop the channel for everybody: only replies before RCPT, or about our login, count as
misconfiguration. If the relay denies several different recipients in a row, `RelayDenials` concludes the same.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Verdict, clean

_ENHANCED: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_ADDRESS: Final = re.compile(r"\S+@\S+")
_QUEUED: Final = re.compile(r"queued as ([A-Za-z0-9._-]{1,64})")
_RELAY_DENIED: Final = re.compile(r"(?i)relay(ing)?\b.*(denied|not (permitted|allowed))|client host (rejected|blocked)")
_MAX_DETAIL: Final = 160
_MAX_SEARCHED: Final = 1_000
"""Characters of a reply that are searched. The searches take a time that grows with the square of a long word."""
_MIN_SECRET: Final = 4
"""Shorter texts are parts of ordinary words, and protect nothing."""
_DEAD_MAILBOX: Final = frozenset({"5.1.1", "5.1.10"})
"""Unknown mailbox; domain without mail. Other codes (policy, mailbox full or moved) may be temporary."""
_LOGIN: Final = frozenset({530, 534, 535, 538})
"""Authentication required or rejected (RFC 4954)."""
_TOO_LARGE: Final = frozenset({552, 555})
SERVICE_CLOSING: Final = 421
"""The relay closes the connection (RFC 5321 §3.8)."""
GREYLIST_RETRY_S: Final = 60.0
"""Shortest delay after a temporary rejection of a recipient. Greylisting relays penalize quick retries, and RFC 5321
§4.5.4.1 speaks of 30 minutes; backoff adds to it."""
DENIED_RECIPIENTS: Final = 3
"""Different recipients in a row that the relay denies before the channel stops."""


class SmtpStep(Enum):
    """The step of the dialogue that a reply answers. Its value begins the `detail` of stored attempts."""

    GREETING = "greeting"
    HELLO = "EHLO"
    TLS = "STARTTLS"
    LOGIN = "AUTH"
    SENDER = "MAIL"
    RECIPIENT = "RCPT"
    DATA = "DATA"
    END = "the mail"


_BEFORE_RECIPIENT: Final = frozenset({SmtpStep.GREETING, SmtpStep.HELLO, SmtpStep.TLS, SmtpStep.LOGIN, SmtpStep.SENDER})


def accepted(code: int, text: str) -> Sent:
    """Return the verdict on an accepted mail; `provider_id` is the relay's queue id, if the reply names one."""
    found = _QUEUED.search(text)
    return Sent(str(code), found[1] if found else None)


def rejected(step: SmtpStep, code: int, text: str, secrets: Sequence[str]) -> Verdict:
    """Return the verdict on a reply that is not a success. `secrets`: see `reply_detail`."""
    status, detail = str(code), reply_detail(step, text, secrets)
    if code in _LOGIN and step is not SmtpStep.DATA and step is not SmtpStep.END:
        return Misconfigured(status, detail)
    if 400 <= code < 500:
        is_greylisted = step is SmtpStep.RECIPIENT and code != SERVICE_CLOSING
        return Retry(GREYLIST_RETRY_S if is_greylisted else None, status, detail)
    if not 500 <= code < 600:
        return Retry(None, status, f"{step.value}: not an SMTP reply code")
    if step is SmtpStep.SENDER and code in _TOO_LARGE:
        return Refused(status, detail)
    if step in _BEFORE_RECIPIENT:
        return Misconfigured(status, detail)
    if enhanced_code(text) in _DEAD_MAILBOX:
        return RecipientGone(status, detail)
    return Refused(status, detail)


def is_about_content(status: str | None, detail: str) -> bool:
    """Return whether a rejection is about the content or size of a mail: the relay may accept another mail.

    `status`, `detail`: of a verdict or a stored attempt.
    """
    step, _, text = detail.partition(": ")
    _, subject, reason = (enhanced_code(text) or "..").split(".")
    # x.1 is about the address and x.2 about the mailbox (RFC 3463): a full mailbox accepts no smaller mail either.
    # Only x.2.3 is about the mail: it is longer than the mailbox allows.
    if subject == "1" or (subject == "2" and reason != "3"):
        return False
    if step in (SmtpStep.SENDER.value, SmtpStep.DATA.value):
        return status is not None and status.isdecimal() and int(status) in _TOO_LARGE
    return step == SmtpStep.END.value


def is_relay_denied(step: SmtpStep, code: int, text: str) -> bool:
    """Return whether a permanent rejection of a recipient may be about us: by policy (5.7.x), or relaying denied.

    Postfix reports a missing login and a forbidden client here, too (`smtpd_delay_reject`).
    """
    if step is not SmtpStep.RECIPIENT or not 500 <= code < 600:
        return False
    return enhanced_code(text).startswith("5.7.") or _RELAY_DENIED.search(text[:_MAX_SEARCHED]) is not None


class RelayDenials:
    """Counts the different recipients that the relay denied since it last accepted one."""

    def __init__(self) -> None:
        self._recipients: set[str] = set()

    def accept(self) -> None:
        """Record that the relay accepted a recipient: it does relay for us."""
        self._recipients.clear()

    def deny(self, recipient: str, verdict: Verdict) -> Verdict:
        """Record a denial. Returns `verdict`, or `Misconfigured` once several different recipients were denied."""
        if len(self._recipients) < DENIED_RECIPIENTS:
            self._recipients.add(recipient)
        if isinstance(verdict, Refused) and len(self._recipients) >= DENIED_RECIPIENTS:
            return Misconfigured(verdict.status, verdict.detail)
        return verdict


def enhanced_code(text: str) -> str:
    """Return the enhanced status code that a reply begins with (RFC 3463), such as `5.1.1`; empty without one."""
    found = _ENHANCED.match(text)
    return found[0] if found else ""


def login_secrets(user: str, password: str) -> tuple[str, ...]:
    """Return the forms of a login that a reply may quote: the password, and the arguments of AUTH in base64."""
    parts = (f"\0{user}\0{password}", password, user)
    forms = (password, *(base64.b64encode(part.encode()).decode().rstrip("=") for part in parts))
    return tuple(form for form in forms if len(form) >= _MIN_SECRET)


def reply_detail(step: SmtpStep, text: str, secrets: Sequence[str]) -> str:
    """Return the step and the relay's text: one short line without addresses and without these secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    words = _ADDRESS.sub("…", " ".join(text[:_MAX_SEARCHED].split()))
    # aiosmtplib decodes bytes that are not UTF-8 as surrogates, which cannot be stored as JSON.
    return clean(f"{step.value}: {words}", _MAX_DETAIL)
