"""Device tokens signed with a shared secret (HS256), for login services and development (docs/reference/http.md)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import jwt

from .messages import seconds_of


def mint_device_token(
    secret: str,
    uid: str,
    device: str,
    *,
    expires_in: timedelta | float = timedelta(days=1),
    category_prefixes: Sequence[str] | None = None,
    systems: Sequence[str] | None = None,
    audience: str | None = None,
    issuer: str | None = None,
    now: float | None = None,
) -> str:
    """Return a device token: a JWT that the gateways accept if `secret` is their `GREGOR_TOKEN_SECRET`.

    `category_prefixes` and `systems` limit the view of the device. `audience` and `issuer` must match
    `GREGOR_TOKEN_AUD` and `GREGOR_TOKEN_ISS`, if those are set. `now`: Unix seconds, if not those of this host.
    """
    issued_at = time.time() if now is None else now
    claims: dict[str, Any] = {
        "sub": uid,
        "device": device,
        "iat": issued_at,  # with its fraction: a token minted right after a revocation must be newer than it
        "exp": int(issued_at) + round(seconds_of(expires_in)),
        "aud": audience,
        "iss": issuer,
        "cats": None if category_prefixes is None else list(category_prefixes),
        "systems": None if systems is None else list(systems),
    }
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, "HS256")
