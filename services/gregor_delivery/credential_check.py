"""`python -m gregor_delivery.check`: are the providers of the settings fit to send by? For `gregor doctor`.

Prints a JSON array with one object a provider: `provider`, `state` (`good`, `not set up` or `wrong`) and, where it is
wrong, `mend`: one sentence. Sends nothing to anybody. Settings that are bad: exit status 1, and one line on stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import structlog

from gregor.clock import SystemClock
from gregor.config.settings import Settings, SettingsError, load_settings
from gregor.core.notify.intents import WEBHOOK

from .channels.contract import DeliveryChannel
from .channels.registry import channels

LONGEST_S = 30.0
"""How long one provider may take in all; its own deadlines are shorter."""


def main() -> None:
    """Check all of them at once, and print what was found."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is the answer's
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"gregor delivery: {error}")
    sys.stdout.write(json.dumps(asyncio.run(check(settings))) + "\n")


async def check(settings: Settings) -> list[dict[str, str]]:
    """What is found of each provider, in the order of the documentation."""
    real = settings.model_copy(update={"delivery_console": False})
    found = channels(real, SystemClock(settings.clock_offset_s))
    del found[WEBHOOK]  # each has a receiver of its own
    return list(await asyncio.gather(*(_checked(name, channel) for name, channel in found.items())))


async def _checked(name: str, channel: DeliveryChannel[Any] | None) -> dict[str, str]:
    if channel is None:
        return {"provider": name, "state": "not set up"}
    mend = await _mend(channel)
    return {"provider": name, "state": "good"} if mend is None else {"provider": name, "state": "wrong", "mend": mend}


async def _mend(channel: DeliveryChannel[Any]) -> str | None:
    try:
        async with asyncio.timeout(LONGEST_S):
            await channel.open()
            try:
                return await channel.check()
            finally:
                await channel.close()
    except ValueError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {LONGEST_S:g} s"


if __name__ == "__main__":
    main()
