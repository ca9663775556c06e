"""Device tokens: JWTs that the application's own login service mints (http.md, "Who may call").

A token is ``sub`` (the uid), ``device`` and ``exp``, and optionally ``iat``, ``nbf``, ``aud``, ``iss``, ``cats``,
``systems``. Its key is chosen by ``kid`` and names its one algorithm: a token can never choose how it is checked.
Tokens and secrets are never logged and never in an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import msgspec
import structlog
from jwt.algorithms import HMACAlgorithm
from jwt.api_jws import PyJWS

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

log = structlog.get_logger(__name__)

LEEWAY_US: Final = 30_000_000
"""How far the clocks of who mints and who checks may be apart."""
REFRESH_US: Final = 600_000_000
"""Age at which the keys of TOKEN_JWKS are read again."""
UNKNOWN_KID_US: Final = 60_000_000
"""Least time between two readings that an unknown ``kid`` asks for: else strangers could make us fetch at will."""
MOST_BYTES: Final = 8_192
"""A longer token is refused unread; the largest that makes sense (RS256 with some hundred prefixes) is half of it."""
MOST_JWKS_BYTES: Final = 1_048_576
CACHED: Final = 20_000
"""Verified tokens that are remembered: a signature costs 40–120 µs, a remembered one 1 µs; about 12 MB when full."""

_SCHEMES: Final = {"HS256": "oct", "RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
_CURVES: Final = {"ES256": "P-256", "EdDSA": "Ed25519"}
_WEAKEST_RSA_BITS: Final = 2_048
_PUBLIC: Final = ("kty", "crv", "x", "y", "n", "e", "k")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a good device token speaks for. ``iat_us`` is 0 where absent; ``cats`` and ``systems`` are prefixes."""

    uid: str
    device: str
    exp_us: int
    iat_us: int = 0
    category_filter: Prefixes = None
    systems: Prefixes = None


class TokenExpired(Problem):
    """The token was good once: a new one is wanted (close 4004), where others can never be good (4501)."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A key and the one algorithm that it is for."""

    alg: str
    material: Any


class _Secret(HMACAlgorithm):
    """HMAC with a secret that was looked at when it was loaded: not again, and no warning, for each token."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> str | None:
        return None


def _jws() -> PyJWS:
    jws = PyJWS(algorithms=list(_SCHEMES))
    jws.unregister_algorithm("HS256")
    jws.register_algorithm("HS256", _Secret(HMACAlgorithm.SHA256))
    return jws


_JWS: Final = _jws()


class TokenVerifier:
    """Checks device tokens against the keys of the settings; keeps the keys of TOKEN_JWKS fresh."""

    def __init__(self, settings: Settings, read: Callable[[str], Awaitable[bytes]] | None = None) -> None:
        """``read``: gives the bytes of TOKEN_JWKS (an https URL or a path); may raise ``OSError``, ``HTTPError``."""
        secret = settings.token_secret.get_secret_value() if settings.token_secret else ""
        self._secret = _Key("HS256", secret.encode()) if secret else None
        self._jwks = settings.token_jwks
        self._aud = settings.token_aud
        self._iss = settings.token_iss
        self._max_age_us = round(settings.token_max_age_s * 1_000_000)
        self._read = read or fetch_jwks
        self._keys: Mapping[str, _Key] = {}
        self._read_at_us: int | None = None
        self._reading: asyncio.Task[None] | None = None
        self._known: dict[bytes, Caller] = {}

    async def verify(self, token: str, now_us: int) -> Caller:
        """Who the token speaks for. Raises ``Problem``: ``unauthorised`` with the reason (``TokenExpired`` where that
        is all that is wrong), ``unavailable`` without keys.

        Revocation is not looked at: it is the store's to know (``Devices.revoked_before``).
        """
        raw = token.encode("utf-8", "surrogatepass")
        if len(raw) > MOST_BYTES:
            raise _refused("The token is too long.")
        self._refresh_when_old(now_us)
        fingerprint = hashlib.sha256(raw).digest()
        caller = self._known.get(fingerprint)
        if caller is not None:
            if caller.exp_us + LEEWAY_US <= now_us:
                del self._known[fingerprint]
                raise TokenExpired("unauthorised", "The token has expired.")
            return caller
        caller = self._caller(_verified(raw, await self._key_for(raw, now_us)), now_us)
        if len(self._known) >= CACHED:
            del self._known[next(iter(self._known))]
        self._known[fingerprint] = caller
        return caller

    async def load(self, now_us: int) -> None:
        """Read TOKEN_JWKS once more; where that fails, log why and keep the keys that are there."""
        if self._jwks is None:
            return
        self._read_at_us = now_us
        try:
            keys = parse_jwks(await self._read(self._jwks))
        except (OSError, httpx.HTTPError, ValueError) as error:
            log.warning("The keys of TOKEN_JWKS cannot be read.", reason=type(error).__name__, detail=str(error)[:200])
            return
        if keys != self._keys:
            self._known.clear()
        self._keys = keys

    def _refresh_when_old(self, now_us: int) -> None:
        # The distance either way: a clock that was set back must not stop the reading.
        if self._read_at_us is not None and abs(now_us - self._read_at_us) >= REFRESH_US:
            self._start_reading(now_us)

    def _start_reading(self, now_us: int) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self.load(now_us))
        return self._reading

    async def _key_for(self, raw: bytes, now_us: int) -> _Key:
        try:
            kid = _JWS.get_unverified_header(raw).get("kid")
        except jwt.InvalidTokenError as error:
            raise _refused("The token is no JWT.") from error
        if kid is None or self._jwks is None:
            if self._secret is None:
                raise _refused("The token names no key." if self._jwks else "No keys for device tokens are set.")
            return self._secret
        if kid not in self._keys:
            await self._read_for_unknown_kid(now_us)
        if kid not in self._keys:
            if not self._keys:
                raise Problem("unavailable", "The keys of device tokens cannot be read.", retry_after_s=5)
            raise _refused("The token's key is not known.")
        return self._keys[kid]

    async def _read_for_unknown_kid(self, now_us: int) -> None:
        reading = self._reading
        if reading is not None and not reading.done():
            await asyncio.shield(reading)
        elif self._read_at_us is None or abs(now_us - self._read_at_us) >= UNKNOWN_KID_US:
            # Shielded: a caller that hangs up must not end the reading that others wait for.
            await asyncio.shield(self._start_reading(now_us))

    def _caller(self, claims: Mapping[str, Any], now_us: int) -> Caller:
        exp_us = _moment_us(claims, "exp")
        if exp_us is None:
            raise _refused("The token has no exp.")
        if exp_us + LEEWAY_US <= now_us:
            raise TokenExpired("unauthorised", "The token has expired.")
        if exp_us > now_us + self._max_age_us + LEEWAY_US:
            raise _refused(f"The token's exp is more than {self._max_age_us / 86_400e6:g} days ahead.")
        if (_moment_us(claims, "nbf") or 0) > now_us + LEEWAY_US:
            raise _refused("The token is not good yet (nbf).")
        iat_us = _moment_us(claims, "iat") or 0
        # One from the future would outlive every revocation until then.
        if iat_us > now_us + LEEWAY_US:
            raise _refused("The token's iat is in the future.")
        # A revocation is kept for as long as a token of its time may live, and no longer.
        if iat_us and exp_us > iat_us + self._max_age_us + LEEWAY_US:
            raise _refused(f"The token lives longer than {self._max_age_us / 86_400e6:g} days, from iat to exp.")
        self._check_addressee(claims)
        uid, device = claims.get("sub"), claims.get("device")
        if not is_user_id(uid):
            raise _refused(f"The token's sub is not a valid uid. {user_id_error(uid)}")
        if not is_name(device):
            raise _refused(f"The token's device is not a valid name. {name_error(device)}")
        return Caller(str(uid), str(device), exp_us, iat_us, _prefixes(claims, "cats"), _prefixes(claims, "systems"))

    def _check_addressee(self, claims: Mapping[str, Any]) -> None:
        aud = claims.get("aud")
        if self._aud is not None and self._aud not in (aud if isinstance(aud, list) else [aud]):
            raise _refused("The token's aud is not this service.")
        if self._iss is not None and claims.get("iss") != self._iss:
            raise _refused("The token's iss is not the one expected.")


async def fetch_jwks(place: str) -> bytes:
    """The bytes of a JWKS: of an https URL (5 s, no redirect, 1 MiB at most), or of a file."""
    if not place.startswith("https://"):
        return await asyncio.to_thread(Path(place).read_bytes)
    async with httpx.AsyncClient(timeout=5, follow_redirects=False) as client, client.stream("GET", place) as answer:
        answer.raise_for_status()
        read = b""
        async for chunk in answer.aiter_bytes():
            read += chunk
            if len(read) > MOST_JWKS_BYTES:
                raise ValueError("the document is over 1 MiB")
        return read


def parse_jwks(raw: bytes) -> dict[str, _Key]:
    """``kid`` -> key of a JWKS (RFC 7517). Keys that cannot be used here are left out; ``ValueError`` for no JWKS.

    A key without ``alg`` is for the one algorithm of its kind that there is; of a repeated ``kid`` the first counts.
    """
    document = msgspec.json.decode(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("the document has no list named keys")
    keys: dict[str, _Key] = {}
    for entry in document["keys"]:
        kid = entry.get("kid") if isinstance(entry, dict) else None
        if isinstance(kid, str) and kid not in keys and (key := _usable(entry)) is not None:
            keys[kid] = key
    return keys


def _usable(entry: Mapping[str, Any]) -> _Key | None:
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ("verify",)):
        return None
    alg = entry.get("alg") or next((name for name, kind in _SCHEMES.items() if kind == entry.get("kty")), None)
    if alg not in _SCHEMES or entry.get("kty") != _SCHEMES[alg] or entry.get("crv") != _CURVES.get(alg):
        return None
    try:
        material = jwt.PyJWK({name: entry[name] for name in _PUBLIC if name in entry}, alg).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        log.warning("A key of TOKEN_JWKS is broken and left out.", kid=entry.get("kid"))
        return None
    if alg == "RS256" and material.key_size < _WEAKEST_RSA_BITS:
        log.warning("An RSA key of TOKEN_JWKS is under 2048 bits and left out.", kid=entry.get("kid"))
        return None
    return _Key(alg, material)


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
    """A device token signed with HS256 and ``secret``, good for ``lives_s`` seconds from ``now_us``.

    ``iat`` keeps its fraction: a token minted right after a revocation is newer than it.
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


def _verified(raw: bytes, key: _Key) -> Mapping[str, Any]:
    try:
        claims = msgspec.json.decode(_JWS.decode_complete(raw, key.material, [key.alg])["payload"])
    except jwt.InvalidAlgorithmError as error:
        raise _refused("The token's alg is not the one of its key.") from error
    except (jwt.InvalidTokenError, jwt.InvalidKeyError) as error:
        raise _refused("The token's signature is not good.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused("The token's claims are no JSON.") from error
    if not isinstance(claims, dict):
        raise _refused("The token's claims are no JSON object.")
    return claims


def _moment_us(claims: Mapping[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise _refused(f"The token's {name} is no time in seconds.")
    return round(min(value, 1 << 40) * 1_000_000)


def _prefixes(claims: Mapping[str, Any], name: str) -> Prefixes:
    value = claims.get(name)
    if value is None:
        return None
    normal = [normalize_prefix(entry) for entry in value] if isinstance(value, list) else [None]
    if None in normal:
        raise _refused(f"The token's {name} is no list of prefixes.")
    return normalize_prefixes(prefix for prefix in normal if prefix is not None)


def _refused(reason: str) -> Problem:
    return Problem("unauthorised", reason)
