"""Gateways: each renews one lease, which carries all its sessions. The part of the store contract about them.

A session names the gateway that holds it. It is open as long as that gateway is alive, or until its own lease ends. Its
own lease covers the time until every process knows a new gateway, and a session that no gateway holds (between two
polls).
See docs/decisions/0017-gateway-leases.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

GATEWAY_LEASE_US: Final = 15_000_000
"""A gateway that renewed nothing for this time is dead."""
RENEW_S: Final = 5.0
"""Interval at which a gateway renews its lease, in seconds: two renewals may be lost."""
REFRESH_S: Final = 4.0
"""Interval at which a process reads the gateways, in seconds. With the lease, a death is noticed within 19 s."""
HELD_LEASE_US: Final = 10_000_000
"""The own lease of a session that a gateway holds: longer than any process needs to learn of a new gateway."""
NO_GATEWAY: Final = ""
"""The gateway of a session that no gateway holds at the moment."""


class LiveGateways:
    """What this process knows of the gateways: when each was last alive (µs, by the clock of this process).

    If the gateways cannot be read, the last known ones stay alive (fail static).
    """

    def __init__(self) -> None:
        self._alive_us: dict[str, int] = {}
        self._read_us = 0
        self.names = ""
        """The live gateways for scripts: each name between two spaces."""
        self.count = 0
        """How many gateways are live."""

    def observe(self, alive_us: Mapping[str, int], now_us: int, retention_us: int) -> None:
        """Add what was read at ``now_us``. Gateways that are dead for longer than the retention are dropped."""
        self._read_us = now_us
        known = self._alive_us | dict(alive_us)
        self._alive_us = {name: at_us for name, at_us in known.items() if at_us > now_us - retention_us}
        self._list_live()

    def note(self, gateway: str, now_us: int) -> None:
        """Add a renewal of this process's own gateway, between two reads."""
        self._alive_us[gateway] = now_us
        self._list_live()

    def _list_live(self) -> None:
        live = [name for name in sorted(self._alive_us) if self.is_live(name)]
        self.names, self.count = f" {' '.join(live)} ", len(live)

    def is_live(self, gateway: str) -> bool:
        """Return whether a gateway was alive when the gateways were last read."""
        alive_us = self._alive_us.get(gateway)
        return alive_us is not None and alive_us > self._read_us - GATEWAY_LEASE_US

    def alive_us(self, gateway: str) -> int:
        """Return when a gateway was last known to be alive; 0 if it is unknown."""
        return self._alive_us.get(gateway, 0)

    def ends_of(self, gateways: Iterable[str]) -> str:
        """Return when dead gateways were last alive, for scripts: ``name=µs`` between two spaces each."""
        return f" {' '.join(f'{name}={self.alive_us(name)}' for name in gateways)} "


class Gateways(Protocol):
    """The leases of the gateways. Every method may raise ``Unavailable``."""

    @property
    def live_count(self) -> int:
        """How many gateways were alive when this process last read or renewed them."""
        ...

    async def renew(self, gateway: str, now_us: int) -> bool:
        """Renew the lease of this gateway. Returns whether what it wrote before is kept, as far as is known.

        False if the lease was missing or had ended, or if a server was replaced since the last renewal. A failover may
        lose the last writes. Each such change is reported once.
        """
        ...

    async def refresh(self, now_us: int) -> None:
        """Read the gateways again; the processes of services do it every ``REFRESH_S`` seconds."""
        ...
