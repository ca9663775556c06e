"""Findings about the settings alone: credentials, exposure to the network, and settings that belong together."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, get_args
from urllib.parse import urlsplit

from gregor.auth.device_tokens import parse_jwks
from gregor.auth.vapid import subject_problem
from gregor.config.risky_settings import Risk, is_loopback, risky_settings
from gregor.config.secret_strength import FIX
from gregor.config.settings import Settings
from gregor.config.weak_secrets import weak_secrets
from gregor.core.errors import FieldError, Problem
from gregor.registries.category_files import check_file

from .finding import Finding

_WITHOUT_RISK: Final[Mapping[Risk, str]] = {
    "plaintext": "no credentials are sent in clear",
    # Secrets that are mounted into a container are often readable there by every account.
    "config-file": "others can read no TOML file with secrets; the modes of secrets in files (GREGOR_…_FILE) are not "
    "checked",
    "development": "no setting for development is set",
}


def settings_findings(
    settings: Settings, environ: Mapping[str, str], *, public_address: str | None = None
) -> list[Finding]:
    """Return the findings about the settings. ``public_address``: see ``Host``."""
    return [
        tokens_finding(settings),
        secrets_finding(settings),
        *risk_findings(settings, environ),
        origins_finding(settings),
        admin_port_finding(settings, public_address),
        metrics_finding(settings),
        proxies_finding(settings),
        public_url_finding(settings),
        app_url_finding(settings),
        vapid_finding(settings),
        categories_finding(settings),
    ]


# ---- credentials


def tokens_finding(settings: Settings) -> Finding:
    """Return whether the gateways can verify device tokens."""
    if settings.token_secret is not None or settings.token_jwks is not None:
        return Finding("tokens", "ok", "a key for device tokens is set")
    found = "no key for device tokens is set: every device is refused (4501)"
    return Finding("tokens", "fail", found, "set GREGOR_TOKEN_SECRET or GREGOR_TOKEN_JWKS")


def secrets_finding(settings: Settings) -> Finding:
    """Return whether a secret of the settings can be guessed. The secret itself is not shown."""
    weak = weak_secrets(settings)
    if not weak:
        return Finding("secrets", "ok", "none is weak" if settings.token_secret is not None else "none is set")
    found = "; ".join(f"{each.variable} {each.why}" for each in weak)
    return Finding("secrets", "warn" if settings.allow_weak_secrets else "fail", found, FIX)


def risk_findings(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Return one finding for each risk of the settings."""
    without_risk = {"token-audience": _accepted_tokens(settings), **_WITHOUT_RISK}
    all_risky = risky_settings(settings, environ)
    findings = []
    for risk in get_args(Risk):
        risky = [each for each in all_risky if each.risk == risk]
        found = "; ".join(f"{each.variable} {each.why}" for each in risky)
        fix = "; ".join(dict.fromkeys(each.fix for each in risky))
        findings.append(Finding(risk, "warn", found, fix) if risky else Finding(risk, "ok", without_risk[risk]))
    return findings


def _accepted_tokens(settings: Settings) -> str:
    """Return which device tokens are accepted."""
    audience = "" if settings.token_aud is None else f" with the audience {settings.token_aud}"
    issuer = "" if settings.token_iss is None else f" of the issuer {settings.token_iss}"
    if settings.token_secret is None and settings.token_jwks is None:
        return "no key for device tokens is set, so none is accepted"
    if audience or issuer:
        return f"only tokens{audience}{issuer} are accepted"
    return "every token that is signed with GREGOR_TOKEN_SECRET is accepted"


def jwks_finding(raw: bytes, *, allows_weak: bool) -> Finding:
    """Return whether the key set of device tokens has a usable key. Raises ``ValueError`` if it is not a key set."""
    keys, unusable = parse_jwks(raw, allows_weak=allows_weak)
    ignored = "; ".join(f"{kid}: {why}" for kid, why in unusable.items())
    if not keys:
        found = f"GREGOR_TOKEN_JWKS has no usable key{': ' if ignored else ''}{ignored}"
        return Finding("jwks", "fail", found, "publish a key with kid for verifying signatures")
    if unusable:
        return Finding("jwks", "warn", f"{len(keys)} keys are usable; ignored are {ignored}", "replace these keys")
    return Finding("jwks", "ok", f"{len(keys)} keys are usable")


# ---- exposure


def origins_finding(settings: Settings) -> Finding:
    """Return whether a page without TLS, which anybody on its network can change, may open connections."""
    clear = [each for each in settings.origins if each.startswith("http://") and not _is_local(each)]
    if clear:
        found = f"pages of {', '.join(clear)} are loaded without TLS, and may connect with the token of a user"
        return Finding("origins", "warn", found, "allow the https:// origins only")
    listed = ", ".join(settings.origins) or "none: a page in a browser is refused, apps are not"
    return Finding("origins", "ok", listed)


def admin_port_finding(settings: Settings, public_address: str | None) -> Finding:
    """Return whether probes and metrics can be reached from outside."""
    if settings.admin_port is None:
        if is_loopback(settings.host):
            return Finding("admin-port", "ok", f"the services listen on {settings.host}")
        found = f"the ports for clients, on {settings.host}, have the probes too: anybody learns what is not ready"
        return Finding("admin-port", "warn", found, "set GREGOR_ADMIN_PORT, and GREGOR_ADMIN_HOST to a private address")
    host = settings.admin_address
    address = _address(public_address if _is_unspecified(host) else host)
    if address is not None and address.is_global:
        found = f"probes and metrics are served on the public address {address}, without a login"
        return Finding("admin-port", "warn", found, "set GREGOR_ADMIN_HOST to a private address, or close the port")
    place = f"{host}:{settings.admin_port}"
    if _is_unspecified(host):
        place = f"every address of this host, port {settings.admin_port}: permit the port to probes and Prometheus only"
    return Finding("admin-port", "ok", f"probes and metrics are on {place}")


def metrics_finding(settings: Settings) -> Finding:
    """Return whether everybody may read the metrics on the ports for clients."""
    if settings.metrics_public and settings.admin_port is None and not is_loopback(settings.host):
        found = "GREGOR_METRICS_PUBLIC serves /metrics to everybody: names of channels, rates, versions"
        return Finding("metrics-public", "warn", found, "unset it, and set GREGOR_ADMIN_PORT")
    return Finding("metrics-public", "ok", "the ports for clients serve no metrics to everybody")


def proxies_finding(settings: Settings) -> Finding:
    """Return whether the addresses of clients are known, and cannot be forged."""
    everybody = [network for network in settings.trusted_proxies if network.endswith("/0")]
    if everybody:
        found = f"GREGOR_TRUSTED_PROXIES has {', '.join(everybody)}: every client can choose its own address"
        return Finding("trusted-proxies", "fail", found, "list the networks of your proxies only")
    is_behind_proxy = (settings.public_url or "").startswith("https://")
    if is_behind_proxy and not settings.trusted_proxies and not settings.proxy_protocol:
        found = "a proxy ends TLS (GREGOR_PUBLIC_URL is https), but none is trusted: all clients share its limits"
        return Finding("trusted-proxies", "warn", found, "set GREGOR_TRUSTED_PROXIES, or GREGOR_PROXY_PROTOCOL")
    return Finding("trusted-proxies", "ok", ", ".join(settings.trusted_proxies) or "none is trusted")


# ---- settings that belong together


def public_url_finding(settings: Settings) -> Finding:
    """Return whether the links of e-mails work and are safe."""
    url = settings.public_url
    if url is None and settings.smtp_url is not None:
        found = "e-mail is set up without GREGOR_PUBLIC_URL, the base of its unsubscribe links: none is sent"
        return Finding("public-url", "fail", found, "set GREGOR_PUBLIC_URL=https://gregor.example.com")
    if url is not None and url.startswith("http://") and not _is_local(url):
        found = f"the links of e-mails, and tokens of devices, go to {url} in clear"
        return Finding("public-url", "warn", found, "serve it by https://, and change GREGOR_PUBLIC_URL")
    return Finding("public-url", "ok", url or "not set: only e-mail needs it")


def app_url_finding(settings: Settings) -> Finding:
    """Return whether a click on a Web Push opens the app."""
    if settings.vapid_key_file is not None and settings.app_url is None:
        found = "Web Push is set up without GREGOR_APP_URL: Safari needs a service worker then, to open the app"
        return Finding("app-url", "warn", found, "set GREGOR_APP_URL to the URL of your web app")
    return Finding("app-url", "ok", settings.app_url or "not set: only Web Push needs it")


def vapid_finding(settings: Settings) -> Finding:
    """Return whether push services can reach the operator at the subject. Apple refuses pushes otherwise."""
    if settings.vapid_key_file is None:
        return Finding("vapid-subject", "ok", "not set: only Web Push needs it")
    subject = settings.vapid_subject or ""
    problem = subject_problem(subject)
    if problem is None:
        return Finding("vapid-subject", "ok", subject)
    found, _, fix = problem.partition("; ")
    is_allowed = settings.allow_weak_secrets and subject_problem(subject, allows_private=True) is None
    return Finding("vapid-subject", "warn" if is_allowed else "fail", found, fix)


def categories_finding(settings: Settings) -> Finding:
    """Return whether the file of notification types can be applied."""
    if settings.categories is None:
        return Finding("categories", "ok", "no file: gregor categories apply stores them")
    fix = f"gregor categories check {settings.categories} names each error"
    try:
        faults: Sequence[FieldError] = check_file(Path(settings.categories))
    except Problem as problem:
        return Finding("categories", "fail", f"GREGOR_CATEGORIES: {problem.detail}", fix)
    if faults:
        found = f"GREGOR_CATEGORIES has {len(faults)} errors; the first, at {faults[0].pointer}: {faults[0].detail}"
        return Finding("categories", "fail", found, fix)
    return Finding("categories", "ok", f"{settings.categories} has no error")


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url.replace(":*", "")).hostname or "")


def _address(text: str | None) -> IPv4Address | IPv6Address | None:
    try:
        return None if text is None else ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _is_unspecified(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_unspecified
