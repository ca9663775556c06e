"""Judges whether a secret can be guessed. It needs no settings, so a thin installation has it too."""

from typing import Final

MIN_BYTES: Final = 32
"""The size of the HS256 hash (RFC 7518 §3.2). One token is enough to test guesses of its secret offline."""
MIN_CHARACTERS: Final = 8
"""Distinct characters: 32 random bytes have more in every encoding."""
FIX: Final = "use 32 random bytes: openssl rand -base64 32"
ALLOWING: Final = "GREGOR_ALLOW_WEAK_SECRETS=true allows it, for development only"


def weakness_of(secret: bytes) -> str | None:
    """Return why a secret is weak; ``None`` if it is not."""
    if len(secret) < MIN_BYTES:
        return f"is shorter than {MIN_BYTES} bytes"
    if len(set(secret)) < MIN_CHARACTERS:
        return f"has fewer than {MIN_CHARACTERS} distinct characters"
    # If the first half occurs again after n bytes, the secret repeats its first n bytes; 32 of them suffice.
    if 0 < secret.find(secret[: len(secret) // 2], 1) < MIN_BYTES:
        return f"repeats a text that is shorter than {MIN_BYTES} bytes"
    return None
