"""The VAPID key, by which Web Push services identify the sender (RFC 8292)."""

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from gregor.clock import Clock, SystemClock
from gregor.core.notify.email_address import ascii_domain, parse_mailbox

VALID_S = 12 * 3_600
"""Validity of a signed token; push services accept at most 24 hours."""
RENEW_BEFORE_S = 3_600
MAX_CACHED = 256
"""Origins whose tokens are cached: a device chooses the origin of its endpoint."""

_PRIVATE_DOMAINS = frozenset(
    {"corp", "example", "home", "internal", "invalid", "lan", "local", "localdomain", "localhost", "test"}
)
"""Top-level domains that the internet does not have (RFC 6761, RFC 6762)."""
_EXAMPLE_DOMAINS = ("example.com", "example.net", "example.org")
"""Domains reserved for documentation, without mailboxes (RFC 2606)."""
SUBJECT_HINT = "mailto:you@your-domain"
_GRAPHIC_ASCII = re.compile(r"[!-~]+")
_URI_LOCAL_PART = re.compile(r"[A-Za-z0-9!$'*+._~=-]+")
"""Local parts that mean the same in a `mailto:` URI as in an address: no `?`, `%`, `#` or `&` (RFC 6068)."""


class VapidKey:
    """Signs VAPID tokens: one for each push service, cached until it is near its expiry."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, subject: str, clock: Clock | None = None) -> None:
        """``subject``: ``mailto:…`` or ``https://…``, a contact for the push service.

        ``clock``: wall time without offset.
        """
        if problem := subject_problem(subject, allows_private=True):
            raise ValueError(problem)
        self._key, self._subject, self._clock = key, subject, clock or SystemClock()
        self.public_key = _browser_form(key.public_key())
        """The value of ``applicationServerKey`` in browsers."""
        self._claims: dict[str, tuple[int, str]] = {}

    @property
    def cached(self) -> int:
        """Number of cached tokens."""
        return len(self._claims)

    @classmethod
    def read(cls, path: Path, subject: str, clock: Clock | None = None) -> "VapidKey":
        """Read the key from a file: PEM, or its 32 bytes in base64url. Raises ``ValueError`` with the fix."""
        return cls(_private_key(path, _content(path)), subject, clock)

    def authorization(self, origin: str) -> str:
        """Return the ``Authorization`` header for a push service. ``origin``: such as ``https://push.example``."""
        now_s = self._clock.now_us() // 1_000_000
        until_s, header = self._claims.get(origin, (0, ""))
        # The second comparison renews the token after the clock was set back.
        if not now_s + RENEW_BEFORE_S <= until_s <= now_s + VALID_S:
            until_s = now_s + VALID_S
            token = jwt.encode({"aud": origin, "exp": until_s, "sub": self._subject}, self._key, algorithm="ES256")
            header = f"vapid t={token}, k={self.public_key}"
            self._claims.pop(origin, None)
            if len(self._claims) >= MAX_CACHED:
                del self._claims[next(iter(self._claims))]
            self._claims[origin] = (until_s, header)
        return header


def subject_problem(subject: str, *, allows_private: bool = False) -> str | None:
    """Return a sentence with the fix if a push service could not reach the operator at ``subject``, else None.

    ``allows_private``: also accept private domains, and those of documentation (example.com). Apple answers 403
    `BadJwtToken` to such a subject, for example `mailto:ops@localhost`.
    """
    if not subject:
        return f"GREGOR_VAPID_SUBJECT is missing, and push services need a contact; set it to {SUBJECT_HINT}"
    host = _contact_host(subject)
    if host is None:
        return (
            f"GREGOR_VAPID_SUBJECT: {subject!r} is not a contact; "
            f"write one plain address, such as {SUBJECT_HINT}, or the https:// URL of a contact page"
        )
    is_example = f".{host}".endswith(tuple(f".{domain}" for domain in _EXAMPLE_DOMAINS))
    is_private = "." not in host or host.rpartition(".")[2] in _PRIVATE_DOMAINS
    if allows_private or not (is_example or is_private):
        return None
    return (
        f"GREGOR_VAPID_SUBJECT: {subject!r} has no public domain, and Apple refuses such pushes; "
        f"write an address that you read, such as {SUBJECT_HINT}"
    )


def _contact_host(subject: str) -> str | None:
    """Return the domain of a contact in lower case, or None if it is neither an address nor a URL with a domain."""
    if _GRAPHIC_ASCII.fullmatch(subject) is None:
        return None
    if subject.startswith("mailto:"):
        mailbox = parse_mailbox(subject.removeprefix("mailto:"))
        return mailbox.domain if mailbox is not None and _URI_LOCAL_PART.fullmatch(mailbox.local) else None
    try:
        url = urlsplit(subject)
        # `url.port` raises ValueError for an invalid port.
        is_contact = subject.startswith("https://") and "@" not in url.netloc and url.port != 0
    except ValueError:
        return None
    return ascii_domain((url.hostname or "").removesuffix(".")) if is_contact else None


def public_key_of(path: Path) -> str:
    """Return the public key of a file in the form of browsers. Raises ``ValueError`` with the fix.

    If a service only publishes the key, the file may contain the public key alone (PEM), which cannot sign.
    """
    content = _content(path)
    if not content.startswith(b"-----BEGIN PUBLIC KEY-----"):
        return _browser_form(_private_key(path, content).public_key())
    try:
        key = load_pem_public_key(content)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ValueError(f"GREGOR_VAPID_KEY_FILE: {path} must contain a key of the curve P-256")
    return _browser_form(key)


def base64url(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Decode base64url, with or without padding. Raises ``ValueError``."""
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64url") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"GREGOR_VAPID_KEY_FILE: {path} cannot be read: {error.strerror}") from error


def _private_key(path: Path, content: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(content, None) if content.startswith(b"-----") else _key_from_scalar(content)
    except (TypeError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise ValueError(
            f"GREGOR_VAPID_KEY_FILE: {path} must contain a private key of the curve P-256 "
            "(PEM, or 32 bytes in base64url)"
        )
    return key


def _browser_form(key: ec.EllipticCurvePublicKey) -> str:
    return base64url(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _key_from_scalar(content: bytes) -> ec.EllipticCurvePrivateKey:
    secret = from_base64url(content.decode("ascii"))
    if len(secret) != 32:
        raise ValueError("not 32 bytes")
    return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
