"""PURE. What a reply of a relay means, by where in the dialogue it came and what its codes say.

The same number means different things: 550 to RCPT speaks of the addressee, to MAIL of us. What one addressee's server
can cause never stops the relay for all: only what is said before RCPT, or of our login, is our set-up.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Verdict

_ENHANCED: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_ADDRESS: Final = re.compile(r"\S+@\S+")
_QUEUED: Final = re.compile(r"queued as ([A-Za-z0-9._-]{1,64})")
_LONGEST_DETAIL: Final = 160
_DEAD: Final = frozenset({"5.1.1", "5.1.10"})
"""No such mailbox; the domain takes no mail. Others (a policy, a full mailbox, a moved one) may pass again one day."""
_LOGIN: Final = frozenset({530, 534, 535, 538})
"""Authentication wanted, or refused (RFC 4954)."""
_TOO_LARGE: Final = frozenset({552, 555})


class SmtpStep(Enum):
    """Where in the dialogue a reply came."""

    GREETING = "greeting"
    HELLO = "EHLO"
    TLS = "STARTTLS"
    LOGIN = "AUTH"
    SENDER = "MAIL"
    RECIPIENT = "RCPT"
    DATA = "DATA"
    END = "the mail"


BEFORE_THE_ADDRESSEE: Final = frozenset(
    {SmtpStep.GREETING, SmtpStep.HELLO, SmtpStep.TLS, SmtpStep.LOGIN, SmtpStep.SENDER}
)


def accepted(code: int, text: str) -> Sent:
    """The relay has the mail; `provider_id` is the name of its queue entry, where it says one."""
    found = _QUEUED.search(text)
    return Sent(str(code), found[1] if found else None)


def refused(step: SmtpStep, code: int, text: str) -> Verdict:
    """The verdict on a reply that is not a good one."""
    status, detail = str(code), detail_of(step, text)
    if code in _LOGIN and step in (SmtpStep.SENDER, SmtpStep.RECIPIENT, SmtpStep.LOGIN, SmtpStep.HELLO, SmtpStep.TLS):
        return Misconfigured(status, detail)
    if 400 <= code < 500:
        return Retry(None, status, detail)
    if not 500 <= code < 600:
        return Retry(None, status, f"{step.value}: no reply that SMTP has")
    if step is SmtpStep.SENDER and code in _TOO_LARGE:
        return Refused(status, detail)
    if step in BEFORE_THE_ADDRESSEE:
        return Misconfigured(status, detail)
    if enhanced(text) in _DEAD:
        return RecipientGone(status, detail)
    return Refused(status, detail)


def enhanced(text: str) -> str:
    """The enhanced status code at the beginning of a reply's text (RFC 3463): `5.1.1`; "" where there is none."""
    found = _ENHANCED.match(text)
    return found[0] if found else ""


def detail_of(step: SmtpStep, text: str) -> str:
    """What was said, where: without addresses, on one line, short."""
    said = _ADDRESS.sub("…", " ".join(text.split()))
    return f"{step.value}: {said}"[:_LONGEST_DETAIL]
