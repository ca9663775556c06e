"""Device tokens: JWTs that the application's own login service signs (http.md, "Who may call").

The claims are ``sub`` (the uid), ``device``, ``exp`` and ``iat``, and optionally ``nbf``, ``aud``, ``iss``, ``cats``
and ``systems``. The header ``kid`` selects a key of TOKEN_JWKS, and the key determines the algorithm: a token cannot
choose how it is verified. Without TOKEN_JWKS, a ``kid`` is ignored and the secret verifies the token. TOKEN_SECRET may
have several secrets during a rotation. Tokens and secrets are never logged, and never part of an error.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import HMACAlgorithm, OKPAlgorithm
from jwt.api_jws import PyJWS

from gregor.clock import Clock
from gregor.config.secret_strength import FIX, weakness_of
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from gregor.core.ids import (
    Prefixes,
    is_name,
    is_user_id,
    name_error,
    normalize_prefix,
    normalize_prefixes,
    user_id_error,
)
from gregor.core.limits import CLOCK_LEEWAY_US
from gregor.net.bounded_responses import UNCOMPRESSED, compression_fault
from gregor.net.outgoing.http_clients import bounded_client

log = structlog.get_logger(__name__)

LEEWAY_US: Final = CLOCK_LEEWAY_US
"""Tolerated difference between the clocks of the login service and this process."""
REFRESH_US: Final = 600_000_000
"""Interval between two loads of TOKEN_JWKS."""
WATCH_S: Final = 1.0
"""Interval between two checks whether TOKEN_JWKS is due."""
READ_TIMEOUT_S: Final = 10.0
"""Time for one load of TOKEN_JWKS in all: a key server that sends a byte now and then must not hold up tokens."""
UNKNOWN_KID_US: Final = 10_000_000
"""Shortest interval between two loads caused by an unknown ``kid``. Without it, any client could trigger requests.

A stranger can use up these loads. Meanwhile tokens of a new key get ``KeyNotLoaded``, so the interval is short.
"""
MAX_TOKEN_BYTES: Final = 8_192
"""Longer tokens are refused without parsing. An RS256 token with a few hundred prefixes takes half of this."""
MAX_JWKS_BYTES: Final = 1_048_576
MAX_JWKS_WORK: Final = 8 * MAX_JWKS_BYTES
"""Limit of the work for a response with TOKEN_JWKS: `MAX_JWKS_BYTES` in lines of 40 bytes (`bounded_streams`)."""
CACHE_SIZE: Final = 20_000
"""Size of the cache of verified tokens: about 12 MB when full. Verifying a signature takes 40–120 µs, a cached
token 1 µs.
"""

_KEY_TYPES: Final = {"HS256": "oct", "RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
_CURVES: Final = {"ES256": "P-256", "EdDSA": "Ed25519"}
_ED25519: Final = "Ed25519"
"""The name of EdDSA with this curve in RFC 9864; both names are accepted, in keys and in tokens."""
_COMPACT_JWS: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_MIN_RSA_BITS: Final = 2_048
# The y coordinates of all points of order 1, 2, 4 and 8 on Ed25519.
_ED25519_PRIME: Final = 2**255 - 19
_ORDER_8_Y: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_YS: Final = frozenset((0, 1, _ED25519_PRIME - 1, _ORDER_8_Y, _ED25519_PRIME - _ORDER_8_Y))
_MAX_REPORTED: Final = 100
_MARK_LENGTH: Final = 8
"""Hex digits of a mark: 32 bits distinguish the keys of a deployment, and are too few to confirm a guessed secret."""
_KEY_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e", "k")


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity in a valid device token. The category filter and ``systems`` are prefixes.

    ``key_mark``: identifies the key that verified the token; empty if it is unknown. ``claims_mark``: identifies the
    ``aud`` and ``iss`` that were required of it.
    """

    uid: str
    device: str
    exp_us: int
    iat_us: int = 0
    category_filter: Prefixes = None
    systems: Prefixes = None
    key_mark: str = field(default="", compare=False)
    claims_mark: str = field(default="", compare=False)


class TokenExpired(Problem):
    """The token has expired: the client needs a new one (close code 4004). Other invalid tokens close with 4501."""


class KeyNotLoaded(Problem):
    """The key of the token is unknown, and the key set may be older than the token: try the token again (4006)."""


@dataclass(frozen=True, slots=True)
class _VerificationKey:
    """A key, its algorithm, and a short mark that identifies it."""

    alg: str
    material: Any
    mark: str

    @classmethod
    def of(cls, alg: str, material: Any) -> _VerificationKey:
        """Return the key of a secret or a public key."""
        public = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        raw = material if isinstance(material, bytes) else material.public_bytes(*public)
        mark = hashlib.sha256(b"gregor token key\0%s\0%s" % (alg.encode(), raw)).hexdigest()
        return cls(alg, material, mark[:_MARK_LENGTH])


class _UncheckedHmac(HMACAlgorithm):
    """HMAC without PyJWT's check of the secret, which would run, and warn, for every token."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> str | None:
        return None


def _jws() -> PyJWS:
    jws = PyJWS(algorithms=list(_KEY_TYPES))
    jws.unregister_algorithm("HS256")
    jws.register_algorithm("HS256", _UncheckedHmac(HMACAlgorithm.SHA256))
    jws.register_algorithm(_ED25519, OKPAlgorithm())
    return jws


_JWS: Final = _jws()


# ---- verification


class TokenVerifier:
    """Verifies device tokens with the keys of the settings, and refreshes the keys of TOKEN_JWKS."""

    def __init__(self, settings: Settings, read: Callable[[str], Awaitable[bytes]] | None = None) -> None:
        """``read`` returns the bytes of TOKEN_JWKS (an https URL or a path), or raises ``OSError`` or ``HTTPError``."""
        self._secrets = _secret_keys(settings)
        self._allows_weak = settings.allow_weak_secrets
        self._jwks = settings.token_jwks
        self._aud = settings.token_aud
        self._iss = settings.token_iss
        self._max_age_us = round(settings.token_max_age_s * 1_000_000)
        self._read = read or fetch_jwks
        self._keys: Mapping[str, _VerificationKey] = {}
        self._read_at_us: int | None = None
        self._loaded_at_us = 0
        self._reading: asyncio.Task[None] | None = None
        self._known: dict[bytes, Caller] = {}
        self._reported: set[str] = set()
        self._marks = frozenset(key.mark for key in self._secrets)
        required = msgspec.json.encode([self._aud, self._iss])
        self.claims_mark = hashlib.sha256(b"gregor token claims\0" + required).hexdigest()[:_MARK_LENGTH]
        """See ``Caller.claims_mark``."""
        self.removals = 0
        """How often keys were removed since the start. The connections of their tokens must then end."""

    async def verify(self, token: str, now_us: int) -> Caller:
        """Return the identity in the token.

        Raises ``Problem``: ``unauthorised`` with the reason, ``unavailable`` without keys.

        ``TokenExpired`` is raised if the expiry is the only error. The store checks revocations
        (``Devices.revoked_before``).
        """
        raw = token.encode("utf-8", "surrogatepass")
        if len(raw) > MAX_TOKEN_BYTES:
            raise _refused(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
        # PyJWT accepts padding and other characters, by which one signed token would have many spellings.
        if _COMPACT_JWS.fullmatch(raw) is None:
            raise _refused("The token is not a JWT: three base64url parts without padding, separated by dots.")
        self.refresh_when_old(now_us)
        fingerprint = hashlib.sha256(raw).digest()
        caller = self._known.get(fingerprint)
        if caller is not None:
            if caller.exp_us + LEEWAY_US <= now_us:
                del self._known[fingerprint]
                raise TokenExpired("unauthorised", "The token has expired.")
            return caller
        key, claims = _verified(raw, await self._keys_for(raw, now_us))
        caller = self._caller(claims, key.mark, now_us)
        # Evict the oldest entry: tokens are short-lived.
        if len(self._known) >= CACHE_SIZE:
            del self._known[next(iter(self._known))]
        self._known[fingerprint] = caller
        return caller

    async def use_secrets(self, settings: Settings) -> None:
        """Use TOKEN_SECRET and TOKEN_JWKS of these settings from now on."""
        secrets = _secret_keys(settings)
        if secrets != self._secrets:
            # A cached token may be signed with a secret that was removed.
            self._known.clear()
        self._secrets = secrets
        if settings.token_jwks != self._jwks:
            self._jwks, self._read_at_us = settings.token_jwks, 0  # the next token starts a load
        self._note_keys()

    async def load(self, now_us: int) -> None:
        """Load TOKEN_JWKS. If that fails, log the reason and keep the current keys."""
        if self._jwks is None:
            if not self._secrets:
                fix = "set GREGOR_TOKEN_SECRET or GREGOR_TOKEN_JWKS"
                log.warning("device_tokens.no_key", effect="every device is refused", fix=fix)
            return
        self._read_at_us = now_us
        try:
            raw = await self._read(self._jwks)
            keys, unusable = parse_jwks(raw, allows_weak=self._allows_weak)
        except (OSError, httpx.HTTPError, ValueError, RecursionError) as error:
            log.warning("jwks.load_failed", reason=type(error).__name__, detail=str(error)[:200])
            return
        for kid, reason in unusable.items():
            if kid not in self._reported and len(self._reported) < _MAX_REPORTED:
                self._reported.add(kid)
                log.warning("jwks.key_ignored", setting="GREGOR_TOKEN_JWKS", kid=kid, reason=reason)
        if keys != self._keys:
            self._known.clear()
        # The start of the load: a key that was published later may be missing.
        self._keys, self._loaded_at_us = keys, now_us
        self._note_keys()

    def has_key(self, mark: str) -> bool:
        """Return whether the key with this mark verifies tokens. True for an unknown key (``""``)."""
        return not mark or mark in self._marks

    async def check_key(self, mark: str, iat_us: int, now_us: int) -> None:
        """Check that the key with this mark verifies tokens; load TOKEN_JWKS again for an unknown mark.

        ``iat_us``: the ``iat`` of the token. Raises ``Problem``: ``unauthorised`` (or ``KeyNotLoaded``) if it does not,
        ``unavailable`` if the keys could not be loaded.
        """
        self.refresh_when_old(now_us)
        if self._jwks is not None and not self.has_key(mark):
            await self._read_for_unknown_kid(now_us)
        if self.has_key(mark):
            return
        if self._jwks is not None:
            self._raise_if_outdated(iat_us, now_us)
        raise removed_key()

    def check_claims(self, mark: str | None) -> None:
        """Check the mark of a ticket: it repeats neither ``aud`` nor ``iss``, so it must end when a setting changes.

        ``None``: a release before made the ticket. Raises ``Problem`` ``unauthorised``.
        """
        if mark is not None and mark != self.claims_mark:
            raise _refused("The required aud or iss has changed since the token was verified.")

    def _note_keys(self) -> None:
        """Store the marks of the current keys, and count a removal if a key is missing."""
        keys = self._secrets if self._jwks is None else (*self._secrets, *self._keys.values())
        marks = frozenset(key.mark for key in keys)
        self.removals += bool(self._marks - marks)
        self._marks = marks

    def refresh_when_old(self, now_us: int) -> None:
        """Start to load TOKEN_JWKS if the last load is longer ago than ``REFRESH_US``."""
        # abs(): a clock that was set back must not stop the refresh.
        if self._read_at_us is not None and abs(now_us - self._read_at_us) >= REFRESH_US:
            self._start_reading(now_us)

    async def watch(self, clock: Clock) -> None:
        """Load TOKEN_JWKS every ten minutes, also if no token arrives. Never returns."""
        while True:
            await asyncio.sleep(WATCH_S)
            self.refresh_when_old(clock.now_us())

    def _start_reading(self, now_us: int) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self.load(now_us))
        return self._reading

    async def _keys_for(self, raw: bytes, now_us: int) -> Sequence[_VerificationKey]:
        """Return the keys of which one must have signed the token."""
        try:
            kid = _JWS.get_unverified_header(raw).get("kid")
        except jwt.InvalidTokenError as error:
            raise _refused("The header of the token is not valid JSON.") from error
        if kid is None or self._jwks is None:
            if not self._secrets:
                raise _refused(
                    "The token has no kid, and no GREGOR_TOKEN_SECRET is set."
                    if self._jwks
                    else "No keys for device tokens are set: GREGOR_TOKEN_SECRET or GREGOR_TOKEN_JWKS."
                )
            return self._secrets
        if kid not in self._keys:
            await self._read_for_unknown_kid(now_us)
            if kid not in self._keys:
                self._raise_if_outdated(_unverified_iat_us(raw), now_us)
                raise _refused("The kid of the token is unknown.")
        return (self._keys[kid],)

    def _raise_if_outdated(self, iat_us: int, now_us: int) -> None:
        """Raise ``KeyNotLoaded`` for a token with an unknown key if the key set may be older than the token."""
        if not self._keys:
            raise _not_loaded()
        # A stranger can write any iat, but gains nothing: the request is refused in any case.
        if self._loaded_at_us < iat_us + LEEWAY_US and iat_us <= now_us + LEEWAY_US:
            detail = "The kid of the token is unknown, and the keys may be older than the token: try it again."
            wait_us = min(max(1_000_000, (self._read_at_us or 0) + UNKNOWN_KID_US - now_us), UNKNOWN_KID_US)
            raise KeyNotLoaded("unauthorised", detail, retry_after_s=wait_us / 1e6)

    async def _read_for_unknown_kid(self, now_us: int) -> None:
        reading = self._reading
        if reading is not None and not reading.done():
            await asyncio.shield(reading)
        elif self._read_at_us is None or abs(now_us - self._read_at_us) >= UNKNOWN_KID_US:
            # Shielded: other requests wait for this load, even if this client disconnects.
            await asyncio.shield(self._start_reading(now_us))

    def _caller(self, claims: Mapping[str, Any], key_mark: str, now_us: int) -> Caller:
        exp_us = _moment_us(claims, "exp")
        if exp_us is None:
            raise _refused("The token has no exp.")
        if exp_us + LEEWAY_US <= now_us:
            raise TokenExpired("unauthorised", "The token has expired.")
        if exp_us > now_us + self._max_age_us + LEEWAY_US:
            raise _refused(f"The token's exp is more than {self._max_age_us / 86_400e6:g} days ahead.")
        if (_moment_us(claims, "nbf") or 0) > now_us + LEEWAY_US:
            raise _refused("The token is not valid yet (nbf).")
        iat_us = _moment_us(claims, "iat")
        # Without iat, a long-lived token would be valid again as soon as its revocation is no longer stored.
        if iat_us is None:
            raise _refused("The token has no iat.")
        # A token with a future iat would survive every revocation until then.
        if iat_us > now_us + LEEWAY_US:
            raise _refused("The token's iat is in the future.")
        # A revocation is stored only for the longest life of a token.
        if exp_us > iat_us + self._max_age_us + LEEWAY_US:
            raise _refused(f"The token lives longer than {self._max_age_us / 86_400e6:g} days, from iat to exp.")
        self._check_addressee(claims)
        uid, device = claims.get("sub"), claims.get("device")
        if not is_user_id(uid):
            raise _refused(f"The token's sub is not a valid uid. {user_id_error(uid)}")
        if not is_name(device):
            raise _refused(f"The token's device is not a valid name. {name_error(device)}")
        category_filter, systems = _prefixes(claims, "cats"), _prefixes(claims, "systems")
        return Caller(str(uid), str(device), exp_us, iat_us, category_filter, systems, key_mark, self.claims_mark)

    def _check_addressee(self, claims: Mapping[str, Any]) -> None:
        aud = claims.get("aud")
        if self._aud is not None and self._aud not in (aud if isinstance(aud, list) else [aud]):
            raise _refused("The token's aud does not contain this service's audience.")
        if self._iss is not None and claims.get("iss") != self._iss:
            raise _refused("The token's iss is not the expected issuer.")


async def fetch_jwks(place: str) -> bytes:
    """Return the bytes of a JWKS from an https URL or from a file.

    A response may not redirect or be compressed, and is limited to 1 MiB, ``MAX_JWKS_WORK`` and ``READ_TIMEOUT_S``.
    Raises ``OSError``, ``ValueError`` or ``httpx.HTTPError``.
    """
    if not place.startswith("https://"):
        return await asyncio.to_thread(Path(place).read_bytes)
    try:
        url = httpx.URL(place)
    except httpx.InvalidURL:
        # The settings refuse other URLs, but do not know which names IDNA allows.
        raise ValueError("the URL of the key server is not valid") from None
    async with (
        asyncio.timeout(READ_TIMEOUT_S),
        bounded_client(MAX_JWKS_WORK, timeout=5, follow_redirects=False, headers=UNCOMPRESSED) as client,
        client.stream("GET", url) as answer,
    ):
        if not answer.is_success:
            # Not raise_for_status(): its error quotes the URL, which may be secret.
            raise ValueError(f"the key server answers {answer.status_code}")
        if (fault := compression_fault(answer.headers)) is not None:
            raise ValueError(fault)
        read = b""
        async for chunk in answer.aiter_raw():
            read += chunk
            if len(read) > MAX_JWKS_BYTES:
                raise ValueError("the document is over 1 MiB")
        return read


# ---- keys


def parse_jwks(raw: bytes, *, allows_weak: bool = False) -> tuple[dict[str, _VerificationKey], dict[str, str]]:
    """Return the keys of a JWKS (RFC 7517) by ``kid``, and the reasons why others are ignored.

    A key without ``alg`` gets the algorithm of its type. Of a repeated ``kid`` the first key counts. A symmetric key
    that can be guessed is ignored unless ``allows_weak``. Raises ``ValueError`` if the document is not a JWKS.
    """
    document = msgspec.json.decode(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("the document has no list named keys")
    keys: dict[str, _VerificationKey] = {}
    unusable: dict[str, str] = {}
    for entry in document["keys"]:
        kid = entry.get("kid") if isinstance(entry, dict) else None
        if not isinstance(kid, str) or kid in keys:
            continue
        try:
            key = _verification_key(entry, allows_weak)
        except Exception:  # a member of any other type than RFC 7517 says; the other keys must remain usable
            key = "the key is malformed"
        if isinstance(key, str):
            unusable[kid] = key
        else:
            keys[kid] = key
    return keys, unusable


def _verification_key(entry: Mapping[str, Any], allows_weak: bool) -> _VerificationKey | str:
    """Return the key of a JWK, or the reason why it cannot be used."""
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ("verify",)):
        return "it is not for verifying signatures (use, key_ops)"
    alg = entry.get("alg") or next((name for name, kind in _KEY_TYPES.items() if kind == entry.get("kty")), None)
    alg = "EdDSA" if alg == _ED25519 else alg
    if alg not in _KEY_TYPES:
        return f"alg {str(alg)[:32]!r} is not supported; supported are {', '.join(_KEY_TYPES)}, {_ED25519}"
    if entry.get("kty") != _KEY_TYPES[alg] or entry.get("crv") != _CURVES.get(alg):
        return f"kty or crv does not fit to alg {alg}"
    try:
        material = jwt.PyJWK({name: entry[name] for name in _KEY_MEMBERS if name in entry}, alg).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return "the key is malformed"
    if alg == "RS256" and material.key_size < _MIN_RSA_BITS:
        return f"the RSA key is shorter than {_MIN_RSA_BITS} bits; make one: openssl genrsa {_MIN_RSA_BITS}"
    if alg == "EdDSA" and _has_small_order(material):
        return (
            "the Ed25519 key has a small order: anybody can sign for it; make one: openssl genpkey -algorithm ed25519"
        )
    if alg == "HS256" and not allows_weak and (why := weakness_of(material)) is not None:
        return f"the oct key {why}; {FIX}"
    return _VerificationKey.of(alg, material)


def _has_small_order(key: Ed25519PublicKey) -> bool:
    """Return whether a public key is a point of order 1, 2, 4 or 8. OpenSSL accepts such keys."""
    # Without the sign bit, and reduced: a key may be encoded non-canonically.
    y = int.from_bytes(key.public_bytes_raw(), "little") % (1 << 255) % _ED25519_PRIME
    return y in _SMALL_ORDER_YS


def _secret_keys(settings: Settings) -> tuple[_VerificationKey, ...]:
    return tuple(_VerificationKey.of("HS256", secret.encode()) for secret in settings.token_secrets)


# ---- minting


def mint(
    secret: str,
    uid: str,
    device: str,
    lives_s: int,
    category_filter: Sequence[str] | None = None,
    systems: Sequence[str] | None = None,
    *,
    now_us: int,
    aud: str | None = None,
    iss: str | None = None,
) -> str:
    """Return a device token signed with HS256 and ``secret``, valid for ``lives_s`` seconds from ``now_us``.

    ``iat`` keeps its fraction of a second, so a token minted right after a revocation is newer than the revocation.
    """
    claims: dict[str, Any] = {"sub": uid, "device": device, "iat": now_us / 1_000_000}
    claims["exp"] = now_us // 1_000_000 + lives_s
    if aud is not None:
        claims["aud"] = aud
    if iss is not None:
        claims["iss"] = iss
    if category_filter is not None:
        claims["cats"] = list(category_filter)
    if systems is not None:
        claims["systems"] = list(systems)
    return _JWS.encode(msgspec.json.encode(claims), secret, "HS256")


def _verified(raw: bytes, keys: Sequence[_VerificationKey]) -> tuple[_VerificationKey, Mapping[str, Any]]:
    """Return the key that signed a token, and the claims of the token. Only secrets have several keys."""
    for key in keys[:-1]:
        try:
            _JWS.decode_complete(raw, key.material, [key.alg])
        except (jwt.InvalidTokenError, jwt.InvalidKeyError):
            continue
        return key, _claims(raw, key)
    return keys[-1], _claims(raw, keys[-1])


def _claims(raw: bytes, key: _VerificationKey) -> Mapping[str, Any]:
    try:
        algorithms = [key.alg, _ED25519] if key.alg == "EdDSA" else [key.alg]
        claims = msgspec.json.decode(_JWS.decode_complete(raw, key.material, algorithms)["payload"])
    except jwt.InvalidAlgorithmError as error:
        raise _refused("The token's alg differs from that of its key.") from error
    except (jwt.InvalidTokenError, jwt.InvalidKeyError) as error:
        raise _refused("The signature of the token is not valid.") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _refused("The claims of the token are not valid JSON.") from error
    if not isinstance(claims, dict):
        raise _refused("The claims of the token are not a JSON object.")
    return claims


# ---- claims


def _unverified_iat_us(raw: bytes) -> int:
    """Return the ``iat`` that a token claims to have; 0 if it cannot be read."""
    payload = raw.split(b".")[1]
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        return (_moment_us(claims, "iat") or 0) if isinstance(claims, dict) else 0
    except (ValueError, RecursionError, Problem):
        return 0


def _moment_us(claims: Mapping[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise _refused(f"The token's {name} is not a time in seconds.")
    return round(min(value, 1 << 40) * 1_000_000)


def _prefixes(claims: Mapping[str, Any], name: str) -> Prefixes:
    value = claims.get(name)
    if value is None:
        return None
    normal = [normalize_prefix(entry) for entry in value] if isinstance(value, list) else [None]
    if None in normal:
        raise _refused(f"The token's {name} is not a list of prefixes.")
    return normalize_prefixes(prefix for prefix in normal if prefix is not None)


def removed_key() -> Problem:
    """Return the problem of a token whose key was removed after it had been verified."""
    return _refused("The key that verified the token was removed.")


def _not_loaded() -> Problem:
    detail = "The keys of device tokens (GREGOR_TOKEN_JWKS) could not be loaded."
    return Problem("unavailable", detail, retry_after_s=5)


def _refused(reason: str) -> Problem:
    return Problem("unauthorised", reason)
