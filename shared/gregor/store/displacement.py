"""The weight of a registration beyond the most devices of a user, which removes another device."""

from __future__ import annotations

import asyncio

from gregor.core.items.read_cost import displacement_weight

from .contract.store import Store


async def weigh_displacement(store: Store, uid: str) -> int:
    """Return the weight of removing a device of a user to make room for another one. Raises ``Unavailable``."""
    sizes, sessions = await asyncio.gather(store.users.sizes(uid), store.devices.count_sessions(uid))
    return displacement_weight(sizes.live, sizes.live_bytes, sizes.device_dismissals, sessions)
