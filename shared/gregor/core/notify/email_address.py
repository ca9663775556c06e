"""E-mail addresses: validation, and their form in SMTP.

The rule is narrower than RFC 5321: no quoted local parts, comments or address literals. Any valid domain passes, also
one of a closed network: only a delivery can show whether it accepts mail.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

import idna

MAX_ADDRESS_CHARACTERS: Final = 254
"""Characters of an address (RFC 5321 §4.5.3.1.3, without the brackets)."""
MAX_LOCAL_BYTES: Final = 64

_ATOM: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+)*\Z"
)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address in its parts: ``domain`` in lower-case ASCII, ``local`` as written (NFC)."""

    local: str
    domain: str

    @property
    def smtp(self) -> str:
        """The address in an SMTP command."""
        return f"{self.local}@{self.domain}"

    @property
    def is_ascii(self) -> bool:
        """Whether every relay accepts it; other addresses need the extension SMTPUTF8 (RFC 6531)."""
        return self.local.isascii()


def parse_mailbox(text: str) -> Mailbox | None:
    """Return the address in ``text``, or None if it is not a valid address."""
    local, at, domain = text.rpartition("@")
    if not at or len(text) > MAX_ADDRESS_CHARACTERS:
        return None
    local = unicodedata.normalize("NFC", local)
    if _ATOM.match(local) is None or len(local.encode("utf-8", "replace")) > MAX_LOCAL_BYTES or not _is_visible(local):
        return None
    valid_domain = ascii_domain(domain)
    return Mailbox(local, valid_domain) if valid_domain else None


def normalize_mailbox(text: str) -> str:
    """Return a form that is equal for all spellings of one address.

    Case is ignored: no mail provider distinguishes it.
    """
    mailbox = parse_mailbox(text)
    return (mailbox.smtp if mailbox is not None else text).casefold()


def ascii_domain(domain: str) -> str | None:
    """Return a domain in lower-case ASCII, or None if it is not a valid domain name. IP addresses are refused."""
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            return None
    labels = domain.lower().split(".")
    if len(domain) > 253 or not all(_LABEL.match(label) for label in labels) or labels[-1].isdigit():
        return None
    return ".".join(labels)


def _is_visible(text: str) -> bool:
    """Return whether no control, format, separator or private character makes one address look like another."""
    return all(unicodedata.category(each)[0] not in "CZ" for each in text)
