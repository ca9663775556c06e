"""The provider token of APNs: one for a team, shared by all connections of a process."""

import jwt
from aioapns.connection import AuthorizationHeaderProvider
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gregor.clock import Clock

RENEW_AFTER_S = 45 * 60
"""Apple takes tokens of up to 60 minutes."""
NEVER_BEFORE_S = 20 * 60
"""Apple turns away who renews more often (429 TooManyProviderTokenUpdates)."""


class ProviderToken(AuthorizationHeaderProvider):
    """Signs the token when it is due, and only then.

    `clock` is the one that Apple compares with its own: without the offset that tests put on ours.
    """

    def __init__(self, key_pem: bytes, key_id: str, team_id: str, clock: Clock) -> None:
        """Raises ValueError where `key_pem` is not a private key of the curve P-256, as Apple gives it (.p8)."""
        try:
            key = load_pem_private_key(key_pem, None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError("not a private key of the curve P-256 in PEM, as Apple gives it (.p8)")
        self._key, self._key_id, self._team_id, self._clock = key, key_id, team_id, clock
        self._header = b""
        self._issued_s = 0
        self._signed_at: float | None = None

    def header(self) -> bytes:
        """The value of `authorization`; the same object until it is renewed."""
        age_s = self._age_s()
        if age_s is None or age_s >= RENEW_AFTER_S:
            self._sign()
        return self._header

    def get_header(self) -> str:
        """The same as text, as aioapns asks for it."""
        return self.header().decode()

    def renew(self, used: bytes) -> bool:
        """Whether there is another than `used`, which APNs calls expired: signed now, or meanwhile.

        False where the present one is too young to have expired: then the clocks differ.
        """
        if used != self._header:
            return True
        age_s = self._age_s()
        if age_s is not None and age_s < NEVER_BEFORE_S:
            return False
        self._sign()
        return True

    def _age_s(self) -> float | None:
        """Of the two clocks the one by which it is older: a wall clock that was set back must not keep it."""
        if self._signed_at is None:
            return None
        return max(self._clock.now_us() / 1e6 - self._issued_s, self._clock.monotonic() - self._signed_at)

    def _sign(self) -> None:
        self._issued_s = self._clock.now_us() // 1_000_000
        self._signed_at = self._clock.monotonic()
        claims = {"iss": self._team_id, "iat": self._issued_s}
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
        self._header = b"bearer " + token.encode()
