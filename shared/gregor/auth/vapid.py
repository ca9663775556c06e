"""The key by which Web Push services know us (VAPID, RFC 8292)."""

import base64
import binascii
from pathlib import Path

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
"""How long a signed claim is good; services take at most 24 hours."""
RENEW_BEFORE_S = 3_600


class VapidKey:
    """Signs who we are, one claim a push service, kept until it nears its end."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, subject: str, clock: Clock | None = None) -> None:
        """`subject`: `mailto:…` or `https://…`, whom the service may write to. `clock`: without the offset of tests."""
        if not subject.startswith(("mailto:", "https://")):
            raise ValueError("GREGOR_VAPID_SUBJECT: write mailto:ops@example.com or https://example.com")
        self._key, self._subject, self._clock = key, subject, clock or SystemClock()
        self.public_key = _as_browsers_take_it(key.public_key())
        """As browsers take it for `applicationServerKey`."""
        self._claims: dict[str, tuple[int, str]] = {}

    @classmethod
    def read(cls, path: Path, subject: str, clock: Clock | None = None) -> "VapidKey":
        """The key of a file: PEM, or its 32 bytes in base64url as other tools write it. ValueError: the mend."""
        content = _content(path)
        try:
            key = load_pem_private_key(content, None) if content.startswith(b"-----") else _of_scalar(content)
        except (TypeError, ValueError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError(f"GREGOR_VAPID_KEY_FILE: {path} holds no private key of the curve P-256")
        return cls(key, subject, clock)

    def authorization(self, origin: str) -> str:
        """The header for a push service; `origin` as in `https://push.example`."""
        now_s = self._clock.now_us() // 1_000_000
        until_s, header = self._claims.get(origin, (0, ""))
        if not now_s + RENEW_BEFORE_S <= until_s <= now_s + VALID_S:
            until_s = now_s + VALID_S
            token = jwt.encode({"aud": origin, "exp": until_s, "sub": self._subject}, self._key, algorithm="ES256")
            header = f"vapid t={token}, k={self.public_key}"
            self._claims[origin] = (until_s, header)
        return header


def public_key_of(path: Path) -> str:
    """The public half of the key in a file, as browsers take it; ValueError: the mend.

    For who only tells it the file may hold the public key alone (PEM), so that it can sign nothing.
    """
    content = _content(path)
    if not content.startswith(b"-----BEGIN PUBLIC KEY-----"):
        return VapidKey.read(path, "https://").public_key
    try:
        key = load_pem_public_key(content)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ValueError(f"GREGOR_VAPID_KEY_FILE: {path} holds no key of the curve P-256")
    return _as_browsers_take_it(key)


def base64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """The bytes of base64url, with or without padding; ValueError for what is none."""
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64url") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"GREGOR_VAPID_KEY_FILE: {path} cannot be read: {error.strerror}") from error


def _as_browsers_take_it(key: ec.EllipticCurvePublicKey) -> str:
    return base64url(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _of_scalar(content: bytes) -> ec.EllipticCurvePrivateKey:
    secret = from_base64url(content.decode("ascii"))
    if len(secret) != 32:
        raise ValueError("not 32 bytes")
    return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
