"""The checks of the providers, and of the key set of device tokens.

A process of delivery checks the providers, since the command line imports no service.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Final, cast

import httpx

from gregor.auth.device_tokens import fetch_jwks
from gregor.config.settings import Settings
from gregor.dev.processes import end_with_parent, module_command

from .finding import CheckName, Finding
from .remote_checks import Deadline
from .settings_findings import jwks_finding

PROVIDER_FIELDS: Final[Mapping[str, CheckName]] = {
    "apns_key_file": "apns",
    "apns_cert_file": "apns",
    "fcm_credentials_file": "fcm",
    "vapid_key_file": "webpush",
    "smtp_url": "email",
}
"""The settings that set up a provider."""
_START_S: Final = 1.1
"""Time for the start and the end of the process that checks the providers."""


async def provider_findings(settings: Settings, environ: Mapping[str, str], deadline: Deadline) -> list[Finding]:
    """Return one finding for each provider."""
    if any(getattr(settings, field) for field in PROVIDER_FIELDS):
        return await _checked_by_delivery(environ, max(0.1, deadline.remaining_s() - _START_S))
    # A process takes half a second of CPU to start.
    return [Finding(provider, "ok", "not set up") for provider in dict.fromkeys(PROVIDER_FIELDS.values())]


async def _checked_by_delivery(environ: Mapping[str, str], timeout_s: float) -> list[Finding]:
    """Return the findings of `python -m gregor_delivery.credential_check`."""
    process = await asyncio.create_subprocess_exec(
        *module_command("gregor_delivery.credential_check"),
        f"{timeout_s:.1f}",
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=end_with_parent(),
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"]
        return [Finding("providers", "fail", "the check of the providers crashed", lines[-1])]
    return [provider_finding(found) for found in json.loads(output)]


def provider_finding(found: Mapping[str, str]) -> Finding:
    """Return the finding for one provider: good, not set up (which is fine), or wrong, with the fix."""
    provider = cast(CheckName, found["provider"])
    if found["state"] != "wrong":
        return Finding(provider, "ok", found["state"])
    return Finding(provider, "fail", "it cannot be used: no push or e-mail leaves", found["fix"])


async def key_set_findings(settings: Settings) -> list[Finding]:
    """Return the finding about the key set of device tokens, if one is set."""
    if settings.token_jwks is None:
        return [Finding("jwks", "ok", "not set")]
    try:
        return [jwks_finding(await fetch_jwks(settings.token_jwks), allows_weak=settings.allow_weak_secrets)]
    except (OSError, ValueError, httpx.HTTPError) as error:
        found = f"GREGOR_TOKEN_JWKS cannot be read: {error}"
        return [Finding("jwks", "fail", found, "correct it: an https URL that this host reaches, or a readable file")]
