"""The keys of a browser's Web Push subscription (RFC 8291): judged where it is registered, used where it is sent to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from .vapid import from_base64url

PUBLIC_BYTES: Final = 65
SECRET_BYTES: Final = 16
_UNCOMPRESSED: Final = b"\x04"


@dataclass(frozen=True, slots=True)
class SubscriptionKeys:
    """Its public key (an uncompressed point of P-256, 65 bytes) and 16 bytes of secret."""

    public: bytes
    secret: bytes

    @classmethod
    def read(cls, p256dh: str, auth: str) -> SubscriptionKeys:
        """Of the base64url that the browser gave; ValueError where it is no such."""
        return cls(public_of(p256dh), secret_of(auth))


def public_of(p256dh: str) -> bytes:
    """The point that ``p256dh`` says. ValueError: the mend."""
    try:
        public = from_base64url(p256dh)
        if len(public) == PUBLIC_BYTES and public.startswith(_UNCOMPRESSED):
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
            return public
    except ValueError:
        pass
    raise ValueError(
        "This is no point of the curve P-256 (65 bytes, base64url): send what the subscription's toJSON() has."
    )


def secret_of(auth: str) -> bytes:
    """The secret that ``auth`` says. ValueError: the mend."""
    try:
        secret = from_base64url(auth)
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise ValueError("This is no secret of 16 bytes in base64url: send what the subscription's toJSON() has.")
    return secret
