"""PURE. Builds a mail as bytes: text and HTML alternatives, with the headers of automatic, unsubscribable mail.

No value can add a header: each must match a form without line breaks, or is encoded. Except for `Date` the mail is the
same at every attempt, byte by byte, so that a mail server can recognize a copy.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import (
    BaseHeader,
    HeaderRegistry,
    UniqueAddressHeader,
    UniqueUnstructuredHeader,
    UnstructuredHeader,
)
from email.message import EmailMessage
from email.policy import EmailPolicy, Policy
from email.utils import format_datetime
from functools import cache
from typing import Any, Final

from gregor.core.notify.email_address import parse_mailbox
from gregor_delivery.channels.contract import MailMessage

_MESSAGE_ID: Final = re.compile(r"<[!-;=?A-~]+@[!-;=?A-~]+>\Z")
_URL: Final = re.compile(r"https?://[!-;=?-~]{1,900}\Z")
_LOCALE: Final = re.compile(r"[A-Za-z0-9]{1,8}([_-][A-Za-z0-9]{1,8})*\Z")
_NAMED: Final = re.compile(r"([^<>]*)<([^<>]*)>\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_MAX_SUBJECT: Final = 500
"""Characters. RFC 5322 has no limit; mail clients show about 80."""


class _VerbatimHeader(UnstructuredHeader, BaseHeader):
    """A header that is written as it is. The default would fold a long List-Unsubscribe into encoded words."""

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        kwds["parse_tree"], kwds["decoded"] = None, value

    def fold(self, *, policy: Policy) -> str:
        return f"{self.name}: {self}{policy.linesep}"


class _CachedHeaderRegistry(HeaderRegistry):
    """A registry that creates each header class once; the default creates one per header (half the time of a mail)."""

    __getitem__ = cache(HeaderRegistry.__getitem__)


_HEADERS: Final = _CachedHeaderRegistry(default_class=_VerbatimHeader, use_default_map=False)
_HEADERS.map_to_type("subject", UniqueUnstructuredHeader)  # type: ignore[arg-type]
_HEADERS.map_to_type("from", UniqueAddressHeader)  # type: ignore[arg-type]
_HEADERS.map_to_type("to", UniqueAddressHeader)  # type: ignore[arg-type]
_SMTP: Final = EmailPolicy(header_factory=_HEADERS, linesep="\r\n", cte_type="7bit")
_SMTPUTF8: Final = _SMTP.clone(utf8=True)


@dataclass(frozen=True, slots=True)
class MailAddress:
    """An address for the SMTP envelope and for a header. `is_utf8`: the relay must support SMTPUTF8."""

    smtp: str
    header: str
    is_utf8: bool


def parse_address(text: str) -> MailAddress:
    """Parse `alice@example.com` or `Alice <alice@example.com>`. The text of a ValueError omits the address."""
    if _CONTROL.search(text):
        raise ValueError("an address contains a control character")
    named = _NAMED.match(text)
    name, bare = (named[1].strip(), named[2]) if named else ("", text)
    mailbox = parse_mailbox(bare)
    if mailbox is None:
        raise ValueError("an address is not valid")
    if name.startswith('"') and name.endswith('"') and len(name) > 1:
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    header = f'"{quoted}" <{mailbox.smtp}>' if name else mailbox.smtp
    return MailAddress(mailbox.smtp, header, not mailbox.is_ascii)


def compose(mail: MailMessage, sender: MailAddress, to: MailAddress, now_us: int) -> bytes:
    """Return the whole message with CRLF line ends, not dot-stuffed. Raises ValueError for a malformed id or URL.

    `now_us`: wall clock, for `Date`.
    """
    headers = [
        ("Date", format_datetime(datetime.fromtimestamp(now_us // 1_000_000, UTC))),
        ("From", sender.header),
        ("To", to.header),
        ("Subject", _CONTROL.sub(" ", mail.subject)[:_MAX_SUBJECT].strip()),
        ("Message-ID", _checked(_MESSAGE_ID, mail.message_id, "Message-ID")),
        ("Auto-Submitted", "auto-generated"),
        ("X-Auto-Response-Suppress", "All"),
        ("Precedence", "bulk"),
        ("MIME-Version", "1.0"),
    ]
    if mail.locale:
        headers.append(("Content-Language", _checked(_LOCALE, mail.locale, "locale").replace("_", "-")))
    if mail.in_reply_to is not None:
        earlier = _checked(_MESSAGE_ID, mail.in_reply_to, "In-Reply-To")
        headers += [("In-Reply-To", earlier), ("References", earlier)]
    if mail.unsubscribe_url is not None:
        url = _checked(_URL, mail.unsubscribe_url, "unsubscribe URL")
        domain = sender.smtp.rpartition("@")[2]
        headers += [
            ("List-Id", f"<notifications.{domain}>"),
            ("List-Unsubscribe", f"<{url}>"),
            ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ]
    message = EmailMessage(_SMTPUTF8 if to.is_utf8 or sender.is_utf8 else _SMTP)
    for name, value in headers:
        message[name] = value
    _set_body(message, mail)
    return message.as_bytes()


def _set_body(message: EmailMessage, mail: MailMessage) -> None:
    """Add the text, or both alternatives; the HTML comes last, because mail clients show the last one they support."""
    if mail.html is None:
        _set_text(message, "plain", mail.text)
        return
    # A quoted-printable line never begins with "--=_": "=" is followed by two hex digits or by the line end.
    boundary = "=_" + hashlib.sha256(mail.message_id.encode()).hexdigest()[:32]
    message["Content-Type"] = f'multipart/alternative; boundary="{boundary}"'
    for subtype, text in (("plain", mail.text), ("html", mail.html)):
        part = EmailMessage(_SMTP)
        _set_text(part, subtype, text)
        message.attach(part)


def _set_text(part: EmailMessage, subtype: str, text: str) -> None:
    # `set_content` encodes quoted-printable in Python: 2.8 ms a mail instead of 1.1 ms with binascii.
    plain = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace")
    if not plain.endswith(b"\n"):
        plain += b"\n"
    part["Content-Type"] = f'text/{subtype}; charset="utf-8"'
    part["Content-Transfer-Encoding"] = "quoted-printable"
    part.set_payload(binascii.b2a_qp(plain, istext=True).decode("ascii"))


def _checked(form: re.Pattern[str], value: str, name: str) -> str:
    if form.match(value) is None:
        raise ValueError(f"the {name} is malformed")
    return value
