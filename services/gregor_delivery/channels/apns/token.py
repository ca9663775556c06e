"""The provider token of APNs: one for a team, the same in all connections and all processes, also restarted ones.

Apple turns away teams that show it too many tokens. So tokens are dated by turns of time, and signed without chance
(RFC 6979): whoever signs in the same turn has the same token, and nobody need hand it round.
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
"""Apple takes tokens of up to 60 minutes."""
TURN_S = RENEW_AFTER_S // 2
"""A token is dated by the beginning of a turn, and used for what is left of it and for the next one."""
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
            now_s = self._clock.now_us() // 1_000_000
            self._sign(now_s - now_s % TURN_S)
        return self._header

    def get_header(self) -> str:
        """The same as text, as aioapns asks for it."""
        return self.header().decode()

    def renew(self, used: bytes) -> bool:
        """Whether there is another than `used`, which APNs calls expired: signed now, or meanwhile.

        False where the present one has been in use for too short a time to have expired: then the clocks differ.
        """
        if used != self._header:
            return True
        if self._signed_at is not None and self._clock.monotonic() - self._signed_at < NEVER_BEFORE_S:
            return False
        self._sign(self._clock.now_us() // 1_000_000)
        return True

    def _age_s(self) -> float | None:
        """Of the two clocks the one by which it is older: a wall clock that was set back must not keep it."""
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
        except UnsupportedAlgorithm:  # an OpenSSL older than 3.2: then each process has a token of its own
            return self._key.sign(content, ec.ECDSA(SHA256()))
