"""Finds settings that are unsafe in production, for the log of a service at its start and for `gregor doctor`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from gregor.redis.url import RedisUrl

from .secret_files import SECRET_FIELDS, is_readable_by_others
from .settings import Settings, has_url, read_toml

Risk = Literal["token-audience", "plaintext", "config-file", "development"]
"""What a setting risks: the name of the check of `gregor doctor`."""


@dataclass(frozen=True, slots=True)
class RiskySetting:
    """The variable of a setting that is unsafe in production, the reason, and the fix. No credentials are shown."""

    risk: Risk
    variable: str
    why: str
    fix: str
    is_expected: bool = False
    """Whether the environment is one for development: a service then logs the setting without a warning."""


def risky_settings(settings: Settings, environ: Mapping[str, str]) -> list[RiskySetting]:
    """Return the settings that accept too much, send credentials in clear, or are for development."""
    return [
        *_any_audience(settings),
        *_clear_redis(settings),
        *_clear_providers(settings),
        *_readable_config(environ.get("GREGOR_CONFIG")),
        *_for_development(settings),
    ]


def _any_audience(settings: Settings) -> Iterator[RiskySetting]:
    unset = [
        name
        for name, value in (("GREGOR_TOKEN_AUD", settings.token_aud), ("GREGOR_TOKEN_ISS", settings.token_iss))
        if value is None
    ]
    if settings.token_jwks is not None and unset:
        why = "accepts the tokens that the login service issues for other applications"
        yield RiskySetting("token-audience", "GREGOR_TOKEN_JWKS", why, f"set {' and '.join(unset)}")


def _clear_redis(settings: Settings) -> Iterator[RiskySetting]:
    for variable, url in (("GREGOR_REDIS_URL", settings.redis_url), ("GREGOR_QUEUE_URL", settings.queue_url)):
        address = None if url is None else RedisUrl.parse(url)
        if address is None or address.password is None or address.tls is not None or address.path is not None:
            continue
        if not all(is_loopback(host) for host, _ in address.hosts):
            why = "sends the password of Redis in clear over the network"
            yield RiskySetting("plaintext", variable, why, "use rediss://, or a private network")


def _clear_providers(settings: Settings) -> Iterator[RiskySetting]:
    for variable, url in (("GREGOR_APNS_URL", settings.apns_url), ("GREGOR_FCM_URL", settings.fcm_url)):
        if url is not None and url.startswith("http://") and not is_loopback(urlsplit(url).hostname or ""):
            why = "sends credentials and notifications in clear over the network"
            yield RiskySetting("plaintext", variable, why, "use https://")
    relay = urlsplit("" if settings.smtp_url is None else settings.smtp_url.get_secret_value())
    if parse_qs(relay.query).get("tls") == ["none"] and not is_loopback(relay.hostname or ""):
        sent = "the password of the relay" if relay.password else "e-mails"
        why = f"sends {sent} in clear over the network (tls=none)"
        yield RiskySetting("plaintext", "GREGOR_SMTP_URL", why, "use tls=starttls or tls=implicit")


def _readable_config(path: str | None) -> Iterator[RiskySetting]:
    """Yield a TOML file with secrets that every account can read."""
    if not path or not is_readable_by_others(Path(path)):
        return
    given = read_toml(Path(path), [])
    # A URL without credentials may be read by everybody.
    secrets = [field for field in SECRET_FIELDS if field in given]
    if any(not has_url(field) or "@" in str(given[field]) for field in secrets):
        fix = f"chmod 600 {path}, or move the secrets into files (GREGOR_…_FILE)"
        why = "contains secrets, and every account of this machine can read it"
        yield RiskySetting("config-file", "GREGOR_CONFIG", why, fix)


def _for_development(settings: Settings) -> Iterator[RiskySetting]:
    found = {
        "GREGOR_CLOCK_OFFSET": settings.clock_offset_s != 0,
        "GREGOR_WEBHOOK_LOOPBACK": settings.webhook_loopback,
        "GREGOR_DELIVERY_CONSOLE": settings.delivery_console,
        "GREGOR_DEMO": settings.demo is not None,
        "GREGOR_ALLOW_WEAK_SECRETS": settings.allow_weak_secrets,
    }
    names = [variable for variable, is_set in found.items() if is_set]
    if names:
        why = f"{'is' if len(names) == 1 else 'are'} for development only"
        # ALLOW_WEAK_SECRETS declares a development environment; `gregor dev` sets it.
        is_expected = settings.allow_weak_secrets
        yield RiskySetting("development", ", ".join(names), why, "unset in production", is_expected)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
