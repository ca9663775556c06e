"""PURE. Checks of push registrations: APNs tokens and topics, and the keys of Web Push subscriptions."""

import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from .vapid import from_base64url

_TOPIC: Final = re.compile(r"[!-~]{1,255}")
# Apple's tokens are hexadecimal, today 64 characters; those of fakes are not. 512 characters take up to 1,536 bytes of
# the path. Above 8,000 bytes of headers, a server may end the connection, which all users share.
_APNS_TOKEN: Final = re.compile(r"[!-~]{1,512}")
_POINT_BYTES: Final = 65
_SECRET_BYTES: Final = 16


def is_apns_topic(topic: str) -> bool:
    """Return whether a topic can be sent to APNs, in a header: 1 to 255 printable ASCII characters without spaces."""
    return _TOPIC.fullmatch(topic) is not None


def is_apns_token(token: str) -> bool:
    """Return whether a token can be sent to APNs, in the path: 1 to 512 printable ASCII characters without spaces."""
    return _APNS_TOKEN.fullmatch(token) is not None


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
