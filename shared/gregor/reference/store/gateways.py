"""Executable specification: never runs in production. The leases of the gateways."""

from __future__ import annotations

from gregor.store.contract.gateways import GATEWAY_LEASE_US

from .data import MemoryData


class MemoryGateways:
    """``contract.Gateways`` in memory: every process knows each renewal at once."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    async def renew(self, gateway: str, now_us: int) -> bool:
        """See ``contract.Gateways.renew``."""
        alive_us = self._data.gateways.get(gateway, 0)
        self._data.gateways[gateway] = now_us
        return alive_us > 0

    async def refresh(self, now_us: int) -> None:
        """See ``contract.Gateways.refresh``."""


def is_alive(data: MemoryData, gateway: str, now_us: int) -> bool:
    """Return whether a gateway renewed its lease in time."""
    return data.gateways.get(gateway, 0) > now_us - GATEWAY_LEASE_US
