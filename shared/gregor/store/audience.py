"""The audience of a notification: a user's devices, acknowledgements and presence (`core.notify.escalation`).

One read of it takes Redis 10 ms, and the process 40 ms, if the user has 512 connections with long category filters.
Each item that notifies needs two decisions, so their reads are paced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gregor.cooperative import KeyedSemaphore
from gregor.core.items.sync import View
from gregor.core.limits import KIB, MIB, SECOND_US
from gregor.core.notify.escalation import Audience, AudienceDevice

from .contract.devices import Devices, PresenceStatus, Registration

FREE_BYTES: Final = 64 * KIB
"""Audiences up to this size are always read: one takes Redis 0.05 ms. An ordinary connection has 0.3 KB."""
PAUSE_US_PER_KIB: Final = 160
"""Pause after a read, for each KiB of its result. Redis needs 0.8 µs for each, so the reads take 0.5 % of a core."""
MAX_KEPT_BYTES: Final = 64 * MIB
"""Audiences that a process keeps during their pauses, by their stored size."""


def audience_of(
    devices: Mapping[str, tuple[Registration, PresenceStatus]],
    acks: Mapping[View, int],
    foreground_us: int | None,
    stored_bytes: int,
) -> Audience:
    """Return the audience that follows from the devices of a user and their presence. Pure."""
    recipients = {
        name: AudienceDevice(
            str(kept.push["provider"]) if kept.push else None, presence.foreground_filters, kept.push_filter
        )
        for name, (kept, presence) in devices.items()
    }
    seen_us = [presence.last_seen_us for _, presence in devices.values() if presence.last_seen_us is not None]
    filters = tuple(each for _, presence in devices.values() for each in presence.foreground_filters)
    return Audience(recipients, acks, max(seen_us, default=None), foreground_us, filters, stored_bytes)


# --- the pace of reads


class AudiencePaced(Exception):
    """The audience of a user was read before the work was due. It may be read again at ``retry_us``."""

    def __init__(self, retry_us: int) -> None:
        super().__init__(retry_us)
        self.retry_us = retry_us


@dataclass(frozen=True, slots=True)
class _Reading:
    """A large audience, when it was read, and when it may be read again."""

    audience: Audience
    read_us: int
    next_us: int


class AudienceReader:
    """Reads audiences for decisions. A large one has a pause before its next read, during which decisions share it."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._readings: dict[str, _Reading] = {}
        self._turns = KeyedSemaphore(1)

    async def read(self, uid: str, due_us: int, now_us: int) -> Audience:
        """Return the audience of a user, as of now or of an earlier moment at which the work was due already.

        Raises ``AudiencePaced`` if the work became due during the pause, and ``Unavailable``.
        """
        kept = self._readings.get(uid)
        # The wall clock may have jumped back: then the reading is from the future.
        if kept is not None and kept.read_us <= now_us < kept.next_us:
            # Work that is due later must not use it: presence may have ended in between.
            if kept.read_us < due_us:
                raise AudiencePaced(kept.next_us)
            return kept.audience
        audience = await self._devices.audience(uid, now_us)
        self._keep(uid, audience, now_us)
        return audience

    async def wait_and_read(self, uid: str, due_us: int, now_us: int) -> Audience:
        """Return the audience as ``read`` does, at the end of the pause if necessary. Raises ``Unavailable``."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        # One task of a user at a time: otherwise all that wait would read at the end of the pause.
        async with self._turns.of(uid):
            while True:
                at_us = now_us + round((loop.time() - began_s) * SECOND_US)
                try:
                    # A host whose clock is ahead may have decided: its work is due when it arrives here.
                    return await self.read(uid, min(due_us, now_us), at_us)
                except AudiencePaced as paced:
                    await asyncio.sleep((paced.retry_us - at_us) / SECOND_US)

    def _keep(self, uid: str, audience: Audience, now_us: int) -> None:
        self._readings.pop(uid, None)
        if audience.stored_bytes <= FREE_BYTES:
            return
        kept = {name: each for name, each in self._readings.items() if each.next_us > now_us}
        kept[uid] = _Reading(audience, now_us, now_us + audience.stored_bytes * PAUSE_US_PER_KIB // KIB)
        stored_bytes = sum(each.audience.stored_bytes for each in kept.values())
        while stored_bytes > MAX_KEPT_BYTES and len(kept) > 1:
            stored_bytes -= kept.pop(next(iter(kept))).audience.stored_bytes
        self._readings = kept
