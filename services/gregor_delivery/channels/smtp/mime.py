"""PURE. A mail as bytes: multipart text and HTML, with the headers of what is sent by itself and may be unsubscribed.

Written here and not by `email.message`: that folds a long List-Unsubscribe into encoded words that no reader follows.
No value can add a header: each is encoded, or must have a form that holds no line break. But for its Date the mail is
the same at each attempt, byte by byte, so that who compares sees one mail.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime
from typing import Final

from gregor.core.notify.email_address import parse_mailbox
from gregor_delivery.channels.contract import MailMessage

_ID: Final = re.compile(r"<[!-;=?A-~]+@[!-;=?A-~]+>\Z")
_URL: Final = re.compile(r"https?://[!-;=?-~]{1,900}\Z")
_LOCALE: Final = re.compile(r"[A-Za-z0-9]{1,8}([_-][A-Za-z0-9]{1,8})*\Z")
_NAMED: Final = re.compile(r"([^<>]*)<([^<>]*)>\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_LONGEST_SUBJECT: Final = 500
"""Characters; RFC 5322 has no bound, readers show some 80."""


@dataclass(frozen=True, slots=True)
class MailAddress:
    """Where a mail goes or comes from: as SMTP names it, and as a header shows it. `is_utf8`: needs SMTPUTF8."""

    smtp: str
    header: str
    is_utf8: bool


def parse_address(text: str) -> MailAddress:
    """`alice@example.com`, or `Alice <alice@example.com>`. ValueError where it is none, without its text."""
    if _CONTROL.search(text):
        raise ValueError("an address holds a control character")
    named = _NAMED.match(text)
    name, bare = (named[1].strip(), named[2]) if named else ("", text)
    mailbox = parse_mailbox(bare)
    if mailbox is None:
        raise ValueError("an address is not well formed")
    if name.startswith('"') and name.endswith('"') and len(name) > 1:
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return MailAddress(mailbox.smtp, f"{_name(name)} <{mailbox.smtp}>" if name else mailbox.smtp, not mailbox.is_ascii)


def compose(mail: MailMessage, sender: MailAddress, to: MailAddress, now_us: int) -> bytes:
    """The whole message, lines ended by CR LF, dots not yet doubled. ValueError: an id, URL or locale has no good form.

    `now_us`: wall clock, for Date.
    """
    date = format_datetime(datetime.fromtimestamp(now_us // 1_000_000, UTC))
    headers = [
        ("Date", date),
        ("From", sender.header),
        ("To", to.header),
        ("Subject", _words(_CONTROL.sub(" ", mail.subject)[:_LONGEST_SUBJECT].strip())),
        ("Message-ID", _formed(_ID, mail.message_id, "Message-ID")),
        ("Auto-Submitted", "auto-generated"),
        ("X-Auto-Response-Suppress", "All"),
        ("Precedence", "bulk"),
        ("MIME-Version", "1.0"),
    ]
    if mail.locale:
        headers.append(("Content-Language", _formed(_LOCALE, mail.locale, "locale").replace("_", "-")))
    if mail.in_reply_to is not None:
        earlier = _formed(_ID, mail.in_reply_to, "In-Reply-To")
        headers += [("In-Reply-To", earlier), ("References", earlier)]
    if mail.unsubscribe_url is not None:
        url = _formed(_URL, mail.unsubscribe_url, "unsubscribe URL")
        headers += [("List-Unsubscribe", f"<{url}>"), ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")]
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return head.encode("utf-8" if to.is_utf8 or sender.is_utf8 else "ascii") + _body(mail)


def _body(mail: MailMessage) -> bytes:
    """The rest of the headers, and the parts: text first, so that who can shows the last, the HTML."""
    if mail.html is None:
        return _part("text/plain", mail.text)
    # No line of quoted-printable text begins "--=": after an "=" two hex digits stand, or its end.
    boundary = "=_" + hashlib.sha256(mail.message_id.encode()).hexdigest()[:32]
    line = b"--" + boundary.encode()
    return b"".join(
        (
            f'Content-Type: multipart/alternative; boundary="{boundary}"\r\n\r\n'.encode(),
            *(line, b"\r\n", _part("text/plain", mail.text)),
            *(line, b"\r\n", _part("text/html", mail.html)),
            *(line, b"--\r\n"),
        )
    )


def _part(kind: str, text: str) -> bytes:
    plain = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace")
    if not plain.endswith(b"\n"):
        plain += b"\n"
    quoted = binascii.b2a_qp(plain, istext=True).replace(b"\n", b"\r\n")
    head = f'Content-Type: {kind}; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
    return head.encode() + quoted


def _words(text: str) -> str:
    """A text as a header has it: plain where it is short ASCII, else RFC 2047, folded."""
    if text.isascii() and len(text) <= 60 and "=?" not in text:
        return text
    return Header(text, "utf-8", maxlinelen=75, header_name="Subject").encode(linesep="\r\n")


def _name(text: str) -> str:
    """The name in front of an address."""
    if text.isascii():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return Header(text, "utf-8").encode(linesep="\r\n")


def _formed(form: re.Pattern[str], value: str, what: str) -> str:
    if form.match(value) is None:
        raise ValueError(f"the {what} has no good form")
    return value
