"""The text of a service key, ``gk_<id>_<secret>``: shown once, stored as a hash (http.md, "Who may call")."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_network
from typing import Final, Unpack

from gregor.core.ids import MAX_NAME_LENGTH, Prefixes, normalize_prefixes
from gregor.core.times import date_text, format_time
from gregor.net.client_address import IpAddress, IpNetwork
from gregor.telemetry import redact_text

from .contract.access import KeyLimits, ServiceKey

MAX_SECRETS: Final = 8
"""The most secrets of one key, or of one webhook, that are valid at once. Another rotation removes the oldest."""

MIN_RATE: Final = 0.001
MAX_RATE: Final = 1_000_000
"""The slowest and the fastest rate of a key, in messages a second: one in 17 minutes, and one a microsecond.

The buckets count microseconds, so they can hold no other rates.
"""

LIMITABLE_SCOPES: Final = frozenset({"ingest", "read"})
"""The scopes whose endpoints apply category prefixes and systems. The others act on whole users, or on all of them."""

_ID_LENGTH: Final = 12
_MARK_LENGTH: Final = 16
_ID_LETTERS: Final = string.ascii_lowercase + string.digits
_TEXT: Final = re.compile(r"gk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})\Z")
_ID: Final = re.compile(r"[a-z0-9]{12}")


def new_id() -> str:
    """Return a fresh key id."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))


def new_secret() -> str:
    """Return a fresh secret: 256 bits, URL-safe."""
    return secrets.token_urlsafe(32)


def text_of(key_id: str, secret: str) -> str:
    """Return the text that the backend sends as its bearer token."""
    return f"gk_{key_id}_{secret}"


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex. Secrets are random, so neither a salt nor a slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_key(
    scopes: Collection[str],
    prefixes: Sequence[str] | None,
    rate: float | None,
    name: str | None,
    now_us: int,
    **limits: Unpack[KeyLimits],
) -> tuple[ServiceKey, str]:
    """Return a fresh key and its text. Raises ``ValueError`` if it cannot have these scopes and limits together."""
    if rate is not None and not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"rate: {rate} is not between {MIN_RATE} and {MAX_RATE} messages a second.")
    systems, addresses = limits.get("systems"), limits.get("addresses")
    narrow = None if prefixes is None else normalize_prefixes(prefixes)
    conflict = limits_conflict(scopes, narrow, systems)
    if conflict is not None:
        raise ValueError(f"{conflict[0]}: {conflict[1]}")
    secret = new_secret()
    key = ServiceKey(
        id=new_id(),
        scopes=frozenset(scopes),
        prefixes=narrow,
        rate=rate,
        hashes=((hash_of(secret), None),),
        created_us=now_us,
        name=name,
        # Unlike prefixes, "" stays: without it, a key with prefixes could not be given all systems.
        systems=None if systems is None else normalize_prefixes(systems) or (("",) if "" in systems else ()),
        expires_us=limits.get("expires_us"),
        addresses=None if addresses is None else tuple(sorted({str(ip_network(each)) for each in addresses})),
    )
    return key, text_of(key.id, secret)


def limits_conflict(
    scopes: Collection[str], prefixes: Prefixes, systems: Sequence[str] | None
) -> tuple[str, str] | None:
    """Return the field and the reason if a key cannot have these scopes and limits together, else ``None``."""
    held = ", ".join(sorted(set(scopes) - LIMITABLE_SCOPES))
    field = "prefixes" if prefixes is not None else "systems"
    if not held or (prefixes is None and (systems is None or "" in systems)):
        return None
    return field, f"The scope {held} cannot be limited to {field}. Remove {field}, or make a second key for {held}."


def audit_target(key: ServiceKey) -> dict[str, str]:
    """Return what a new key may do, for its audit event: its scopes, and the limits that it has."""
    target = {"scopes": ",".join(sorted(key.scopes))}
    for name, values in (("prefixes", key.prefixes), ("systems", key.systems), ("addresses", key.addresses)):
        if values is not None:
            # A system "" stands for all systems, and an empty list for none.
            target[name] = ",".join(value or '""' for value in values) or "[]"
    if key.rate is not None:
        target["rate"] = f"{key.rate:g}"
    if key.expires_us is not None:
        target["expires"] = format_time(key.expires_us).decode()
    return {name: _shortened(redact_text(value)) for name, value in target.items()}


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[: MAX_NAME_LENGTH - 1]}…"


def effective_scopes(key: ServiceKey) -> frozenset[str]:
    """Return the scopes that count. A limited key from before ``limits_conflict`` keeps those that apply its limits."""
    if key.prefixes is None and key.systems is None:
        return key.scopes
    is_possible = limits_conflict(key.scopes, key.prefixes, key.systems) is None
    return key.scopes if is_possible else key.scopes & LIMITABLE_SCOPES


@lru_cache(1_024)
def _networks(addresses: tuple[str, ...]) -> tuple[IpNetwork, ...]:
    return tuple(ip_network(each) for each in addresses)


def may_come_from(key: ServiceKey, address: IpAddress | None) -> bool:
    """Return whether a key may be used from an address. An unknown address (``None``) is in no network."""
    if key.addresses is None:
        return True
    return address is not None and any(address in network for network in _networks(key.addresses))


def is_within_addresses(addresses: Sequence[str] | None, limit: Sequence[str] | None) -> bool:
    """Return whether each network of ``addresses`` lies in one of ``limit``. ``None`` is every address."""
    if limit is None or addresses is None:
        return limit is None
    outer = _networks(tuple(limit))
    inner = _networks(tuple(addresses))
    return all(any(each.version == net.version and each.subnet_of(net) for net in outer) for each in inner)  # type: ignore[arg-type]


def is_expired(key: ServiceKey, now_us: int) -> bool:
    """Return whether the whole key has expired."""
    return key.expires_us is not None and key.expires_us <= now_us


def rotation_fault(key: ServiceKey, now_us: int) -> str | None:
    """Return why a key cannot get a new secret, or ``None`` if it can."""
    if key.expires_us is None or not is_expired(key, now_us):
        return None
    return f"The key expired at {date_text(key.expires_us)}; create a new key."


def is_id(text: str) -> bool:
    """Return whether a text has the form of a key id."""
    return _ID.fullmatch(text) is not None


def parse(text: str) -> tuple[str, str] | None:
    """Return id and secret of a key's text, or ``None`` if it is malformed."""
    match = _TEXT.match(text)
    return (match[1], match[2]) if match else None


def mark_of(secret: str) -> str:
    """Return a short mark that identifies a secret among those of its key. It is too short to be attacked as a hash."""
    return hash_of(secret)[:_MARK_LENGTH]


def is_mark_valid(key: ServiceKey | None, mark: str | None, now_us: int) -> bool:
    """Return whether the key still exists and its secret with this mark is valid at ``now_us``.

    With ``mark`` ``None`` the secret is unknown, and the key only has to exist.
    """
    if key is not None and is_expired(key, now_us):
        return False
    if key is None or mark is None:
        return key is not None
    return any(known.startswith(mark) and (until_us is None or now_us < until_us) for known, until_us in key.hashes)


def rotate(key: ServiceKey, now_us: int, keep_us: int) -> tuple[ServiceKey, str]:
    """Return the key with a new secret, and that secret.

    The old secret remains valid for ``keep_us``. Earlier secrets keep their expiry, so repeating a rotation locks no
    backend out.
    """
    secret = new_secret()
    return replace(key, hashes=add_secret(hash_of(secret), key.hashes, now_us, keep_us)), secret


def add_secret(
    new: str, known: Sequence[tuple[str, int | None]], now_us: int, keep_us: int
) -> tuple[tuple[str, int | None], ...]:
    """Return the secrets (or their hashes) with their expiries after a rotation, newest first.

    The current secret expires after ``keep_us``; earlier ones keep their expiry. Expired secrets are removed, and the
    oldest ones above ``MAX_SECRETS``.
    """
    ending = [(each, now_us + keep_us if until_us is None else until_us) for each, until_us in known]
    kept = [(each, until_us) for each, until_us in ending if until_us > now_us]
    return ((new, None), *kept[: MAX_SECRETS - 1])


def is_valid(key: ServiceKey, secret: str, now_us: int) -> bool:
    """Return whether ``secret`` belongs to the key and is valid at ``now_us``."""
    mine = hash_of(secret)
    matching = [until_us for known, until_us in key.hashes if hmac.compare_digest(known, mine)]
    return any(until_us is None or now_us < until_us for until_us in matching)
