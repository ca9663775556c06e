"""Finds guessable secrets in the settings. They are reported at start and by ``gregor doctor``, and never printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gregor.config.settings import Settings

from .unsubscribe_links import link_secrets

MIN_BYTES: Final = 32
"""The size of the HS256 hash (RFC 7518 §3.2). One token is enough to test guesses of its secret offline."""
MIN_CHARACTERS: Final = 8
"""Distinct characters: 32 random bytes have more in every encoding."""
FIX: Final = "use 32 random bytes: openssl rand -base64 32"


@dataclass(frozen=True, slots=True)
class WeakSecret:
    """The variable of a weak secret, and the reason, which reveals nothing of the secret."""

    variable: str
    why: str


def weak_secrets(settings: Settings) -> list[WeakSecret]:
    """Return the weak secrets of the settings."""
    token_secret = [] if settings.token_secret is None else [settings.token_secret.get_secret_value()]
    secrets = [("GREGOR_TOKEN_SECRET", each) for each in token_secret]
    secrets += [("GREGOR_LINK_SECRET", each) for each in link_secrets(settings)]
    checked = ((variable, weakness_of(secret)) for variable, secret in secrets)
    return [WeakSecret(variable, why) for variable, why in dict.fromkeys(checked) if why is not None]


def weakness_of(secret: str) -> str | None:
    """Return why a secret is weak; ``None`` if it is not."""
    if len(secret.encode()) < MIN_BYTES:
        return f"is shorter than {MIN_BYTES} bytes"
    if len(set(secret)) < MIN_CHARACTERS:
        return f"has fewer than {MIN_CHARACTERS} distinct characters"
    return None
