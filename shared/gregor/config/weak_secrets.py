"""Finds guessable secrets in the settings. A service refuses them at its start; they are never printed."""

from __future__ import annotations

from dataclasses import dataclass

from .secret_strength import ALLOWING, FIX, weakness_of
from .settings import Settings, SettingsError, variable_name


@dataclass(frozen=True, slots=True)
class WeakSecret:
    """The variable of a weak secret, and the reason, which reveals nothing of the secret."""

    variable: str
    why: str


def weak_secrets(settings: Settings) -> list[WeakSecret]:
    """Return the weak secrets of the settings."""
    secrets = [("token_secret", each) for each in settings.token_secrets]
    secrets += [("link_secret", each) for each in settings.link_secrets]
    checked = ((_source(settings, field), weakness_of(secret.encode())) for field, secret in secrets)
    return [WeakSecret(variable, why) for variable, why in dict.fromkeys(checked) if why is not None]


def refuse_weak_secrets(settings: Settings) -> None:
    """Raise `SettingsError` if a secret can be guessed, unless ALLOW_WEAK_SECRETS is set."""
    weak = [] if settings.allow_weak_secrets else weak_secrets(settings)
    if weak:
        raise SettingsError([f"{each.variable}: it {each.why}; {FIX}; {ALLOWING}" for each in weak])


def _source(settings: Settings, field: str) -> str:
    """Return the variable that an operator must correct."""
    return variable_name(field) + ("" if getattr(settings, f"{field}_file") is None else "_FILE")
