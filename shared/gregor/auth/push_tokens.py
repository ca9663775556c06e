"""PURE. Checks of push registrations: APNs topics, and the keys of Web Push subscriptions."""

import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from .vapid import from_base64url

_TOPIC: Final = re.compile(r"[!-~]{1,255}")
_POINT_BYTES: Final = 65
_SECRET_BYTES: Final = 16


def is_apns_topic(topic: str) -> bool:
    """Return whether a topic can be sent to APNs, in a header: 1 to 255 printable ASCII characters without spaces."""
    return _TOPIC.fullmatch(topic) is not None


@dataclass(frozen=True, slots=True)
class SubscriptionKeys:
    """The keys of a subscription: the browser's public key (P-256 point, 65 bytes) and a secret of 16 bytes."""

    public: bytes
    secret: bytes

    @classmethod
    def read(cls, p256dh: str, auth: str) -> "SubscriptionKeys":
        """Parse the base64url strings of the browser. Raises ValueError for invalid keys."""
        keys = cls(from_base64url(p256dh), from_base64url(auth))
        if len(keys.public) != _POINT_BYTES:
            # A compressed point is valid, but a browser derives its keys from the 65 bytes.
            raise ValueError("p256dh is not 65 bytes")
        if len(keys.secret) != _SECRET_BYTES:
            raise ValueError("auth is not 16 bytes")
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), keys.public)
        return keys
