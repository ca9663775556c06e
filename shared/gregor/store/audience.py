"""The audience of a notification: a user's devices, acknowledgements and presence (`core.notify.escalation`)."""

from __future__ import annotations

import asyncio

from gregor.core.notify.escalation import Audience, AudienceDevice
from gregor.cpu_meter import metered

from .contract.devices import Devices


async def load_audience(devices: Devices, uid: str, now_us: int) -> Audience:
    """Return the devices of a user, their acknowledgements and presence, as of now."""
    known, acks, foreground_us = await asyncio.gather(
        metered(devices.list_devices(uid, now_us)),
        metered(devices.acknowledged(uid)),
        metered(devices.foreground_until(uid, now_us)),
    )
    recipients = {
        name: AudienceDevice(
            str(kept.push["provider"]) if kept.push else None, presence.foreground_filters, kept.push_filter
        )
        for name, (kept, presence) in known.items()
    }
    seen_us = [presence.last_seen_us for _, presence in known.values() if presence.last_seen_us is not None]
    filters = tuple(each for _, presence in known.values() for each in presence.foreground_filters)
    return Audience(recipients, acks, max(seen_us, default=None), foreground_us, filters)
