"""What the hub asks of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gregor.core.items.announcement import CreationFrame
from gregor.core.items.sync import SyncResult
from gregor.store.contract.devices import DeviceSession
from gregor_gateway.protocol.hello import Position


class Subscriber(Protocol):
    """One connection in a room. Every method returns at once."""

    @property
    def device(self) -> str:
        """The device, or empty for an onlooker at the backend's view."""
        ...

    @property
    def session_name(self) -> str:
        """The name of its session."""
        ...

    @property
    def name(self) -> str:
        """The name of the connection, unique."""
        ...

    @property
    def observes(self) -> bool:
        """Whether it only looks on."""
        ...

    @property
    def is_present(self) -> bool:
        """Whether the store was told that it is there: it is no onlooker, and has joined."""
        ...

    @property
    def issued_us(self) -> int:
        """When its token was issued; 0 where that is not known."""
        ...

    @property
    def opened_us(self) -> int:
        """When it was opened, by the clock of this gateway."""
        ...

    def deliver(self, seq: int, frame: bytes) -> None:
        """A live frame of its view."""
        ...

    def deliver_run(self, run: Sequence[CreationFrame]) -> int:
        """Live frames of its view, in order; how many bytes were written at once, 0 where they wait. The hot path."""
        ...

    def epoch_changed(self, epoch: bytes) -> None:
        """The next frame carries a cursor of this epoch."""
        ...

    def resync(self, position: Position | None, reached: int) -> None:
        """Sync anew: from what was sent and told (up to ``reached``), or from this position."""
        ...

    def resync_within(self, spread_s: float, seq: int) -> None:
        """Send a full copy at a random moment of the spread, unless a sync above ``seq`` comes first."""
        ...

    def synced(self, serial: int, answer: SyncResult, frame: bytes) -> None:
        """What a read gave."""
        ...

    def sync_failed(self, serial: int) -> None:
        """The store could not be read."""
        ...

    def counting_changed(self) -> None:
        """Other items count in the badge now."""
        ...

    def release_receipts(self, reached: int) -> None:
        """The channel has told of everything up to ``reached``."""
        ...

    def receive_document(self, document: object) -> None:
        """A frame that came another way (`POST /v1/frames` at another gateway)."""
        ...

    def post(self, document: object) -> bytes | None:
        """A frame that came by `POST /v1/frames` here: what is answered there, if anything."""
        ...

    def lease(self, gateway: str) -> DeviceSession:
        """Its session, as all gateways know it."""
        ...

    def close(self, code: int) -> None:
        """Close it."""
        ...
