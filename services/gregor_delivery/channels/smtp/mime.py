"""PURE. Builds a mail as bytes: text and HTML alternatives, with the headers of automatic, unsubscribable mail.

No value can add a header: each must match a form without line breaks, or is encoded. Except for `Date` the mail is the
same at every attempt, byte by byte: mail servers recognize a copy.

`email.message` writes the mail (docs/decisions/0007): `EmailMessage` with the default policies parses each header by
the grammar of RFC 5322 and costs ten times as much.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.generator import Generator
from email.header import Header
from email.message import Message
from email.policy import SMTP, SMTPUTF8, Compat32, EmailPolicy
from email.utils import format_datetime
from functools import lru_cache
from io import StringIO
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


_MAX_PLAIN_HEADER: Final = 60
"""Characters of an ASCII subject or name that is written as it is; a longer one is encoded and folded."""
_MAX_PLAIN_LINE: Final = 990
"""Characters of a line that needs no transfer encoding; RFC 5322 §2.1.1 allows 998."""


class _VerbatimPolicy(Compat32):
    """Writes header values as they are. The default folds a long List-Unsubscribe into encoded words."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value

    def fold(self, name: str, value: str) -> str:
        return f"{name}: {value}\r\n"


class _BodyGenerator(Generator):
    """Writes bodies whose lines already end in CRLF. The default writes line by line: 35 µs of 125 µs a mail."""

    def _write_lines(self, lines: str) -> None:
        self.write(lines)


class _Part(Message):
    """A message or a part that knows its type and boundary. The default parses Content-Type for them: 18 µs a mail."""

    content_type = "text/plain"
    boundary = ""

    def get_content_type(self) -> str:
        return self.content_type

    def get_boundary(self, failobj: Any = None) -> Any:
        return self.boundary or failobj


_POLICY: Final = _VerbatimPolicy(linesep="\r\n", mangle_from_=False, max_line_length=None)


@dataclass(frozen=True, slots=True)
class MailAddress:
    """An address for the SMTP envelope and for a header. `is_utf8`: the relay must support SMTPUTF8."""

    smtp: str
    header: str
    is_utf8: bool
    encoded: str
    """The header value as a mail has it: a long or non-ASCII name is encoded and folded."""


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
    encoded = header if _is_plain_header(name) else _folded_address(header, SMTP if mailbox.is_ascii else SMTPUTF8)
    return MailAddress(mailbox.smtp, header, not mailbox.is_ascii, encoded)


def compose(mail: MailMessage, sender: MailAddress, to: MailAddress, now_us: int) -> bytes:
    """Return the whole message with CRLF line ends, not dot-stuffed. Raises ValueError for a malformed id or URL.

    `now_us`: wall clock, for `Date`.
    """
    message = _Part(_POLICY)
    message["Date"] = _date(now_us // 1_000_000)
    _set_body(message, mail)
    headers = [
        ("From", sender.encoded),
        ("To", to.encoded),
        ("Subject", _encoded_subject(_CONTROL.sub(" ", mail.subject)[:_MAX_SUBJECT].strip())),
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
    for name, value in headers:
        message[name] = value
    written = StringIO()
    _BodyGenerator(written, policy=_POLICY).flatten(message)
    return written.getvalue().encode("utf-8" if to.is_utf8 or sender.is_utf8 else "ascii")


# --- bodies ---


def _set_body(message: _Part, mail: MailMessage) -> None:
    """Add the text, or both alternatives; the HTML comes last, because mail clients show the last one they support."""
    if mail.html is None:
        _set_text(message, "plain", mail.text)
        return
    # A quoted-printable line never begins with "--=_": "=" is followed by two hex digits or by the line end.
    # `_set_text` also encodes plain lines that begin so.
    message.boundary = "=_" + hashlib.sha256(mail.message_id.encode()).hexdigest()[:24]
    message.content_type = "multipart/alternative"
    message["Content-Type"] = f'multipart/alternative; boundary="{message.boundary}"'
    for subtype, text in (("plain", mail.text), ("html", mail.html)):
        part = _Part(_POLICY)
        _set_text(part, subtype, text)
        message.attach(part)


def _set_text(part: _Part, subtype: str, text: str) -> None:
    """Set the text of a part: as it is if it is ASCII with lines of bounded length, else in quoted-printable."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    if not plain.endswith("\n"):
        plain += "\n"
    part.content_type = f"text/{subtype}"
    part["Content-Type"] = f'{part.content_type}; charset="utf-8"'
    if _is_plain(plain):
        encoding, encoded = "7bit", plain
    else:
        # `set_content` encodes quoted-printable in Python: 1.7 ms more a mail than binascii.
        encoding = "quoted-printable"
        encoded = binascii.b2a_qp(plain.encode("utf-8", "replace"), istext=True).decode("ascii")
    part["Content-Transfer-Encoding"] = encoding
    part.set_payload(encoded.replace("\n", "\r\n"))


def _is_plain(text: str) -> bool:
    if not text.isascii() or "\0" in text or "--=_" in text:
        return False
    return max(map(len, text.split("\n"))) <= _MAX_PLAIN_LINE


# --- headers ---


@lru_cache(maxsize=4)
def _date(now_s: int) -> str:
    return format_datetime(datetime.fromtimestamp(now_s, UTC))


def _folded_address(header: str, policy: EmailPolicy[Any]) -> str:
    # `Header` knows no phrases: some mail clients show a space too many between its encoded words.
    return str(policy.header_factory("From", header).fold(policy=policy)).removeprefix("From: ").removesuffix("\r\n")


def _encoded_subject(text: str) -> str:
    """Return `text` as a header has it: as it is if it is short ASCII, else encoded by RFC 2047 and folded."""
    if _is_plain_header(text):
        return text
    text = text.encode("utf-8", "replace").decode()
    return Header(text, "utf-8", maxlinelen=75, header_name="Subject").encode(linesep="\r\n")


def _is_plain_header(text: str) -> bool:
    return text.isascii() and len(text) <= _MAX_PLAIN_HEADER and "=?" not in text


def _checked(form: re.Pattern[str], value: str, name: str) -> str:
    if form.match(value) is None:
        raise ValueError(f"the {name} is malformed")
    return value
