"""The VAPID key, by which Web Push services identify the sender (RFC 8292)."""

import base64
import binascii
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


class VapidKey:
    """Signs VAPID tokens: one for each push service, cached until it is near its expiry."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, subject: str, clock: Clock | None = None) -> None:
        """``subject``: ``mailto:…`` or ``https://…``, a contact for the push service.

        ``clock``: wall time without offset.
        """
        if not subject.startswith(("mailto:", "https://")):
            raise ValueError(f"GREGOR_VAPID_SUBJECT: write {SUBJECT_HINT}, or the https URL of a contact page")
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
        content = _content(path)
        try:
            key = load_pem_private_key(content, None) if content.startswith(b"-----") else _key_from_scalar(content)
        except (TypeError, ValueError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError(f"GREGOR_VAPID_KEY_FILE: {path} must contain a private key of the curve P-256")
        return cls(key, subject, clock)

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


def subject_problem(subject: str) -> str | None:
    """Return a sentence with the fix if a push service could not reach the operator at `subject`, else None.

    Apple answers 403 `BadJwtToken` to a subject such as `mailto:ops@localhost`.
    """
    host = subject.rpartition("@")[2] if subject.startswith("mailto:") else urlsplit(subject).hostname or ""
    host = host.rstrip(".").lower()
    top_level = host.rpartition(".")[2]
    is_example = f".{host}".endswith(tuple(f".{domain}" for domain in _EXAMPLE_DOMAINS))
    is_private = "." not in host or top_level in _PRIVATE_DOMAINS or top_level.isdigit() or ":" in host
    if not is_example and not is_private:
        return None
    return (
        f"GREGOR_VAPID_SUBJECT: {subject!r} has no public domain, and Apple refuses such pushes; "
        f"write an address that you read, such as {SUBJECT_HINT}"
    )


def public_key_of(path: Path) -> str:
    """Return the public key of a file in the form of browsers. Raises ``ValueError`` with the fix.

    If a service only publishes the key, the file may contain the public key alone (PEM), which cannot sign.
    """
    content = _content(path)
    if not content.startswith(b"-----BEGIN PUBLIC KEY-----"):
        return VapidKey.read(path, "https://").public_key
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


def _browser_form(key: ec.EllipticCurvePublicKey) -> str:
    return base64url(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _key_from_scalar(content: bytes) -> ec.EllipticCurvePrivateKey:
    secret = from_base64url(content.decode("ascii"))
    if len(secret) != 32:
        raise ValueError("not 32 bytes")
    return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
