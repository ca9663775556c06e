"""The APNs provider token: the same for all connections and processes of a team, even after a restart.

Apple rejects teams that present too many tokens. Tokens are therefore dated by fixed periods and signed
deterministically (RFC 6979): processes that sign in the same period get the same token without coordination.
"""

import msgspec
from aioapns.connection import AuthorizationHeaderProvider
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gregor.auth.vapid import base64url
from gregor.clock import Clock

RENEW_AFTER_S = 45 * 60
"""Apple accepts tokens that are up to 60 minutes old."""
PERIOD_S = RENEW_AFTER_S // 2
"""A token is dated by the start of a period, and used for the rest of it and for the next one."""
MIN_RENEWAL_S = 20 * 60
"""Apple rejects more frequent renewals (429 TooManyProviderTokenUpdates)."""
MAX_AHEAD_S = 30
"""A token that is dated further ahead was signed before the clock was set back. Apple rejects it."""


class ProviderToken(AuthorizationHeaderProvider):
    """Signs the token when it is due.

    `clock`: compared by Apple with its own clock, so without the offset of GREGOR_CLOCK_OFFSET.
    """

    def __init__(self, key_pem: bytes, key_id: str, team_id: str, clock: Clock) -> None:
        """Raises ValueError unless `key_pem` is a P-256 private key, as Apple issues it (.p8)."""
        try:
            key = load_pem_private_key(key_pem, None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError("not a P-256 private key in PEM format, as Apple issues it (.p8)")
        self._key, self._key_id, self._team_id, self._clock = key, key_id, team_id, clock
        self._header = b""
        self._issued_s = 0
        self._signed_at: float | None = None

    def header(self) -> bytes:
        """Return the value of `authorization`: the same object until the token is renewed."""
        age_s, now_s = self._age_s(), self._clock.now_us() // 1_000_000
        if age_s is None or age_s >= RENEW_AFTER_S or self._issued_s > now_s + MAX_AHEAD_S:
            self._sign(now_s - now_s % PERIOD_S)
        return self._header

    def get_header(self) -> str:
        """Return the value as text, for aioapns."""
        return self.header().decode()

    def renew(self, used: bytes) -> bool:
        """Replace `used`, which APNs reports as expired; return whether there is a different token now.

        Returns false if the token is too young to have expired: then the clocks differ.
        """
        if used != self.header():
            return True
        if self._signed_at is not None and self._clock.monotonic() - self._signed_at < MIN_RENEWAL_S:
            return False
        self._sign(self._clock.now_us() // 1_000_000)
        return True

    def _age_s(self) -> float | None:
        """Return the greater age by wall clock and monotonic clock: setting the wall clock back must not extend it."""
        if self._signed_at is None:
            return None
        return max(self._clock.now_us() / 1e6 - self._issued_s, self._clock.monotonic() - self._signed_at)

    def _sign(self, issued_s: int) -> None:
        self._issued_s = issued_s
        self._signed_at = self._clock.monotonic()
        head = {"alg": "ES256", "kid": self._key_id, "typ": "JWT"}
        parts = (head, {"iss": self._team_id, "iat": issued_s})
        signed = ".".join(base64url(msgspec.json.encode(part)) for part in parts)
        r, s = decode_dss_signature(self._signature(signed.encode()))
        self._header = f"bearer {signed}.{base64url(r.to_bytes(32) + s.to_bytes(32))}".encode()

    def _signature(self, content: bytes) -> bytes:
        try:
            return self._key.sign(content, ec.ECDSA(SHA256(), deterministic_signing=True))
        except UnsupportedAlgorithm:  # OpenSSL before 3.2: each process has its own token
            return self._key.sign(content, ec.ECDSA(SHA256()))
