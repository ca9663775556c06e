"""Secrets of the settings that somebody may guess: told at the start and by `gregor doctor`, and never shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gregor.config.settings import Settings

from .unsubscribe_links import link_secrets

LEAST_BYTES: Final = 32
"""As many as what HS256 makes of it (RFC 7518 §3.2): one token shows whether a guess of its secret is right."""
LEAST_CHARACTERS: Final = 8
"""Different ones: 32 random bytes, however they are written, always have more."""
FIX: Final = "take 32 random bytes: openssl rand -base64 32"


@dataclass(frozen=True, slots=True)
class WeakSecret:
    """The variable that holds it, and why it is weak, in words that show nothing of it."""

    variable: str
    why: str


def weak_secrets(settings: Settings) -> list[WeakSecret]:
    """Those that are set and weak."""
    token_secret = [] if settings.token_secret is None else [settings.token_secret.get_secret_value()]
    held = [("GREGOR_TOKEN_SECRET", each) for each in token_secret]
    held += [("GREGOR_LINK_SECRET", each) for each in link_secrets(settings)]
    judged = ((variable, weakness_of(secret)) for variable, secret in held)
    return [WeakSecret(variable, why) for variable, why in dict.fromkeys(judged) if why is not None]


def weakness_of(secret: str) -> str | None:
    """Why somebody may guess it; ``None``: nobody will."""
    if len(secret.encode()) < LEAST_BYTES:
        return f"is shorter than {LEAST_BYTES} bytes"
    if len(set(secret)) < LEAST_CHARACTERS:
        return "is a few characters, repeated"
    return None
