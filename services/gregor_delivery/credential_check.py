"""`python -m gregor_delivery.credential_check [SECONDS]`: check the providers' credentials, for `gregor doctor`.

Prints a JSON array with one object per provider: `provider`, `state` (`good`, `not set up` or `wrong`) and, if wrong,
`fix`: a sentence that says how to fix it. SECONDS is the time limit of one provider. Sends no notification. Exits with
status 1 and one line on stderr if the settings are invalid.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, Final

import structlog

from gregor.clock import SystemClock
from gregor.config.settings import Settings, SettingsError, load_settings
from gregor.core.notify.intents import WEBHOOK

from .channels.contract import DeliveryChannel
from .channels.registry import channels

TIMEOUT_S: Final = 30.0
"""Default time limit of the whole check of one provider; the steps within have shorter limits."""


def main() -> None:
    """Check all providers at once and print the result."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output carries the JSON
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"gregor delivery: {error}")
    timeout_s = float(sys.argv[1]) if len(sys.argv) > 1 else TIMEOUT_S
    sys.stdout.write(json.dumps(asyncio.run(check(settings, timeout_s))) + "\n")


async def check(settings: Settings, timeout_s: float = TIMEOUT_S) -> list[dict[str, str]]:
    """Return the result for each provider, in the order of the documentation."""
    without_console = settings.model_copy(update={"delivery_console": False})
    found = channels(without_console, SystemClock(settings.clock_offset_s))
    del found[WEBHOOK]  # webhooks have no shared credentials: each has its own endpoint and secret
    return list(await asyncio.gather(*(_check_one(name, channel, timeout_s) for name, channel in found.items())))


async def _check_one(name: str, channel: DeliveryChannel[Any] | None, timeout_s: float) -> dict[str, str]:
    if channel is None:
        return {"provider": name, "state": "not set up"}
    fix = await _problem(channel, timeout_s)
    return {"provider": name, "state": "good"} if fix is None else {"provider": name, "state": "wrong", "fix": fix}


async def _problem(channel: DeliveryChannel[Any], timeout_s: float) -> str | None:
    try:
        async with asyncio.timeout(timeout_s):
            await channel.open()
            try:
                return await channel.check()
            finally:
                await channel.close()
    except ValueError as error:
        return str(error)
    except TimeoutError:
        return (
            f"no response within {timeout_s:g} s: check the firewall and the URL of the provider, "
            "or give it more time (gregor doctor --timeout 20)"
        )


if __name__ == "__main__":
    main()
